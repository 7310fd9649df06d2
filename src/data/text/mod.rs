//! Text for translation: parallel files, tokens, batches by length, and scores.

pub mod bleu;
pub mod bucket;
mod reader;
mod synthetic;
pub mod tfidf;
mod tokenizer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub use reader::Parallel;
pub use synthetic::{SYNTHETIC_VOCAB, synthetic};
pub use tokenizer::{SPECIAL, Tokenizer, digest};

use super::pairs::{EOS, SentencePairs, Sentences};
use crate::files::WriteError;

/// Why text cannot be used: what, where, and what to do, in one line. Nothing but other arguments
/// or other files helps, so programs exit with 2 (but 1 for [`TextError::Write`]).
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file that is missing, forbidden, or damaged gzip.
    #[error("cannot read {path:?}: {source}; check that it exists, is whole, and its permissions")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that holds text only once it is unpacked.
    #[error("{path:?} is {what}, not text: unpack it first (gzip alone is read as it is)")]
    Packed {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// A line in another encoding.
    #[error("{path:?}, line {line}: not UTF-8; convert the file, for example with iconv")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first such line, from 1.
        line: usize,
    },
    /// Files that are not translations of each other line by line.
    #[error(
        "{:?} has {} lines but {:?} has {}: line n of one must be the translation of line n of \
         the other", .files[0], .lines[0], .files[1], .lines[1]
    )]
    UnequalLines {
        /// Both files.
        files: [PathBuf; 2],
        /// Their lines.
        lines: [usize; 2],
    },
    /// Nothing to learn from or to measure on.
    #[error(
        "{:?} and {:?}: no pair of sentences in {lines} lines, each is empty on one side or both",
        .files[0], .files[1]
    )]
    NoSentences {
        /// Both files.
        files: [PathBuf; 2],
        /// Their lines.
        lines: usize,
    },
    /// The length filter left nothing.
    #[error(
        "{:?} and {:?}: every one of {pairs} pairs has a side of more than {limit} tokens; raise \
         --max-length, or check that a line is a sentence", .files[0], .files[1]
    )]
    AllTooLong {
        /// Both files.
        files: [PathBuf; 2],
        /// Pairs before the filter.
        pairs: usize,
        /// Most tokens a side may have.
        limit: usize,
    },
    /// A pair that is a batch too large by itself.
    #[error(
        "a pair of sentences of {source_tokens} and {target_tokens} tokens does not fit into a \
         batch of {max_tokens} padded tokens; raise --max-tokens, or lower --max-length"
    )]
    PairTooLarge {
        /// Tokens of the first side.
        source_tokens: usize,
        /// Tokens of the second.
        target_tokens: usize,
        /// Padded tokens a batch may have.
        max_tokens: usize,
    },
    /// More characters than tokens.
    #[error(
        "a vocabulary of {vocab} tokens is too small for this text: its characters alone need \
         {needed}; raise --vocab"
    )]
    SmallVocabulary {
        /// Tokens asked for.
        vocab: usize,
        /// Least that would do.
        needed: usize,
    },
    /// A file that is something else, or a tokenizer made for something else.
    #[error("{path:?} is not a tokenizer of this program ({reason}); put the right one back")]
    NotATokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tokenizer that belongs to another network.
    #[error(
        "{path:?} has {found} tokens, but the network {expected}: put back the tokenizer that it \
         was trained with"
    )]
    OtherVocabulary {
        /// The file.
        path: PathBuf,
        /// Its tokens.
        found: usize,
        /// What was expected.
        expected: usize,
    },
    /// A tokenizer that belongs to other weights.
    #[error(
        "{path:?} is not the tokenizer that {weights:?} was trained with: put that one back, or move \
         this one away (those of this program have theirs inside, too)"
    )]
    OtherTokenizer {
        /// The file.
        path: PathBuf,
        /// The weights.
        weights: PathBuf,
    },
    /// Weights that come without their tokenizer.
    #[error(
        "{weights:?} comes without the tokenizer that it was trained with, and there is no \
         {beside:?}: put it there; a new one would number the words otherwise"
    )]
    NoTokenizer {
        /// The weights.
        weights: PathBuf,
        /// Where the tokenizer was looked for.
        beside: PathBuf,
    },
    /// The tokenizer itself failed.
    #[error("cannot tokenise: {reason}")]
    Tokenizer {
        /// What it said.
        reason: String,
    },
    /// The tokenizer could not be saved.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// One part of a data set: tokens for the network, and the text itself for references and reports.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// Tokenised.
    pub pairs: Arc<SentencePairs>,
    /// The sentences of the first language as they were written; the same order.
    pub source: Vec<String>,
    /// Their translations.
    pub target: Vec<String>,
    /// Pairs of which a side was empty; in a test set they are there.
    pub empty: usize,
    /// Pairs of which a side had too many tokens. In training they are left out, else the side was
    /// cut.
    pub long: usize,
}

/// What a corpus is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Train,
    Valid,
    /// Line by line as it came: what is translated is compared and scored with the files.
    Test,
}

/// Text to learn translation from, and to measure it on.
#[derive(Clone, Debug)]
pub struct Translation {
    /// What it is, for people.
    pub name: String,
    /// Trained on.
    pub train: Corpus,
    /// Looked at during training.
    pub valid: Corpus,
    /// Looked at in the end.
    pub test: Corpus,
}

impl Translation {
    /// Tokenises training, validation and test text. Sentences have at most `longest` tokens, their
    /// ends included.
    ///
    /// # Errors
    /// [`TextError::AllTooLong`] if no training pair is left.
    pub fn new(
        name: impl Into<String>,
        texts: [Parallel; 3],
        tokenizer: &Tokenizer,
        longest: usize,
    ) -> Result<Translation, TextError> {
        let [train, valid, test] = texts;
        Ok(Translation {
            name: name.into(),
            train: Corpus::new(train, tokenizer, longest, Part::Train)?,
            valid: Corpus::new(valid, tokenizer, longest, Part::Valid)?,
            test: Corpus::new(test, tokenizer, longest, Part::Test)?,
        })
    }

    /// A number that changes with any token: a checkpoint goes on with the same data or not at all.
    pub fn fingerprint(&self) -> u64 {
        let parts = [&self.train, &self.valid, &self.test];
        let numbers = parts.into_iter().flat_map(|corpus| {
            let sides = [corpus.pairs.source(), corpus.pairs.target()];
            sides.into_iter().flat_map(|side| {
                let tokens = side.tokens().iter().map(|&token| token as u32 as u64);
                tokens.chain([u64::MAX, side.len() as u64])
            })
        });
        super::fnv(numbers)
    }
}

impl Corpus {
    fn new(
        text: Parallel,
        tokenizer: &Tokenizer,
        longest: usize,
        part: Part,
    ) -> Result<Corpus, TextError> {
        let sides = [&text.source, &text.target].map(|side| tokenizer.encode_all(side));
        let [from, to] = sides;
        let (from, to) = (from?, to?);
        let (mut empty, mut long) = (0, 0);
        let mut keep = Vec::with_capacity(text.len());
        for i in 0..text.len() {
            let [source, target] = [from.get(i).len(), to.get(i).len()];
            // An end alone is no sentence.
            let nothing = source.min(target) == 1;
            // References are compared as text, whatever their length.
            let measured = match part {
                Part::Test => source,
                _ => source.max(target),
            };
            let too_long = !nothing && measured > longest;
            empty += usize::from(nothing);
            long += usize::from(too_long);
            let kept = match part {
                Part::Train => !nothing && !too_long,
                Part::Valid => !nothing,
                Part::Test => true,
            };
            if kept {
                keep.push(i);
            }
        }
        if keep.is_empty() {
            return Err(TextError::AllTooLong {
                files: text.files,
                pairs: long,
                limit: longest,
            });
        }
        let tokens = |all: &Sentences| -> Sentences {
            let sentences = keep.iter().map(|&i| cut(all.get(i), longest));
            let sentences: Vec<Vec<i32>> = sentences.collect();
            sentences.iter().map(Vec::as_slice).collect()
        };
        let kept = |mut all: Vec<String>| -> Vec<String> {
            keep.iter().map(|&i| std::mem::take(&mut all[i])).collect()
        };
        Ok(Corpus {
            pairs: Arc::new(SentencePairs::new(tokens(&from), tokens(&to))),
            source: kept(text.source),
            target: kept(text.target),
            empty,
            long,
        })
    }
}

/// A sentence of at most `longest` tokens, its end included.
pub fn cut(tokens: &[i32], longest: usize) -> Vec<i32> {
    match tokens.len() > longest {
        true => [&tokens[..longest - 1], &[EOS]].concat(),
        false => tokens.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pairs: &[(&str, &str)], first: usize) -> Parallel {
        Parallel {
            source: pairs.iter().map(|p| p.0.to_owned()).collect(),
            target: pairs.iter().map(|p| p.1.to_owned()).collect(),
            files: [format!("{first}.de").into(), format!("{first}.en").into()],
        }
    }

    const TRAIN: [(&str, &str); 6] = [
        ("ein Hund", "a dog"),
        (" ", "a cat"),
        ("zwei Hunde laufen", "two dogs run"),
        ("", ""),
        ("drei", "three cats and three dogs"),
        ("eine Katze", "a cat"),
    ];

    /// Every word is a token.
    fn translation(
        valid: &[(&str, &str)],
        test: &[(&str, &str)],
        longest: usize,
    ) -> Result<Translation, TextError> {
        let all = TRAIN.iter().flat_map(|&(a, b)| [a, b]);
        let tokenizer = Tokenizer::train(all, 1000).unwrap();
        let texts = [text(&TRAIN, 10), text(valid, 20), text(test, 30)];
        Translation::new("tiny", texts, &tokenizer, longest)
    }

    const SHORT: (&str, &str) = ("ein", "a");

    #[test]
    fn long_and_empty_training_pairs_are_left_out_and_counted() {
        let data = translation(&[SHORT], &[SHORT], 4).unwrap();
        let train = &data.train;
        // "three cats and three dogs" has five words, and its end.
        assert_eq!((train.long, train.empty, train.pairs.len()), (1, 2, 3));
        assert_eq!(
            train.source,
            ["ein Hund", "zwei Hunde laufen", "eine Katze"]
        );
        assert_eq!(train.target, ["a dog", "two dogs run", "a cat"]);
        assert_eq!(train.pairs.source().get(1).len(), 4);
        assert_eq!((data.valid.long, data.valid.pairs.len()), (0, 1));
        assert_eq!(translation(&[SHORT], &[SHORT], 6).unwrap().train.long, 0);

        let error = translation(&[SHORT], &[SHORT], 2).unwrap_err().to_string();
        for says in ["10.de", "10.en", "every one of 4 pairs", "2 tokens"] {
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn what_is_evaluated_is_cut_and_of_a_test_set_every_line_is_kept() {
        let pairs = [
            ("zwei Hunde laufen drei", "a"),
            (" ", "two cats"),
            SHORT,
            ("drei", "\t"),
            ("drei", "two cats and a dog"),
            ("", ""),
        ];
        let data = translation(&pairs, &pairs, 4).unwrap();
        let valid = &data.valid;
        assert_eq!((valid.long, valid.empty, valid.pairs.len()), (2, 3, 3));
        assert_eq!(valid.target, ["a", "a", "two cats and a dog"]);
        let lengths = |side: &Sentences| (0..side.len()).map(|i| side.get(i).len()).collect();
        let [from, to]: [Vec<usize>; 2] = [valid.pairs.source(), valid.pairs.target()].map(lengths);
        assert_eq!((from, to), (vec![4, 2, 2], vec![2, 2, 4]));
        assert_eq!(valid.pairs.source().get(0)[3], EOS);
        // A long reference is no reason to cut anything: it is not translated.
        let test = &data.test;
        assert_eq!((test.long, test.empty, test.pairs.len()), (1, 3, 6));
        assert_eq!(test.source, pairs.map(|p| p.0));
        assert_eq!(test.target, pairs.map(|p| p.1));
        let from: Vec<usize> = lengths(test.pairs.source());
        assert_eq!(from, [4, 1, 2, 2, 2, 1]);
    }

    #[test]
    fn the_fingerprint_changes_with_the_text() {
        let of = |valid| translation(&[valid], &[SHORT], 9).unwrap().fingerprint();
        let all = [
            ("ein", "a"),
            ("a", "ein"),
            ("ein Hund", "a"),
            ("ein", "Hund a"),
        ]
        .map(of);
        let distinct: std::collections::HashSet<_> = all.into_iter().collect();
        assert_eq!(distinct.len(), 4);
        assert_eq!(of(("ein", "a")), all[0]);
    }
}
