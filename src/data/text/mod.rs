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
pub use tokenizer::{SPECIAL, Tokenizer};

use super::pairs::{SentencePairs, Sentences};
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
         the limit, or check that a line is a sentence", .files[0], .files[1]
    )]
    AllTooLong {
        /// Both files.
        files: [PathBuf; 2],
        /// Pairs before the filter.
        pairs: usize,
        /// Most tokens a side may have.
        limit: usize,
    },
    /// A sentence to evaluate that the network has no room for.
    #[error(
        "{path:?}, line {line}: {tokens} tokens, more than the {limit} that the network has \
         places for; shorten or remove the line, or raise the limit"
    )]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Tokens it has, the end included.
        tokens: usize,
        /// Most it may have.
        limit: usize,
    },
    /// A pair that is a batch too large by itself.
    #[error(
        "a pair of sentences of {source_tokens} and {target_tokens} tokens does not fit into a \
         batch of {max_tokens} padded tokens; raise --max-tokens, or leave out long sentences"
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
    /// Pairs left out because a side was empty.
    pub empty: usize,
    /// Pairs left out because a side was too long.
    pub long: usize,
}

/// Most tokens a sentence may have, its end included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthLimits {
    /// Training pairs with a longer side are left out and counted.
    pub train: usize,
    /// What the network has places for: a longer sentence to evaluate is an error.
    pub evaluate: usize,
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
    /// Tokenises training, validation and test text.
    ///
    /// # Errors
    /// [`TextError::AllTooLong`] if no training pair is left, [`TextError::TooLong`] for the first
    /// sentence of the other two that the network has no room for.
    pub fn new(
        name: impl Into<String>,
        texts: [Parallel; 3],
        tokenizer: &Tokenizer,
        limits: LengthLimits,
    ) -> Result<Translation, TextError> {
        let [train, valid, test] = texts;
        Ok(Translation {
            name: name.into(),
            train: Corpus::filtered(train, tokenizer, limits.train)?,
            valid: Corpus::whole(valid, tokenizer, limits.evaluate)?,
            test: Corpus::whole(test, tokenizer, limits.evaluate)?,
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
    /// Without the pairs that have a side of more than `limit` tokens.
    fn filtered(text: Parallel, tokenizer: &Tokenizer, limit: usize) -> Result<Corpus, TextError> {
        let pairs = text.len();
        let (from, to) = (
            tokenizer.encode_all(&text.source)?,
            tokenizer.encode_all(&text.target)?,
        );
        let keep: Vec<usize> = (0..pairs)
            .filter(|&i| from.get(i).len() <= limit && to.get(i).len() <= limit)
            .collect();
        if keep.is_empty() {
            return Err(TextError::AllTooLong {
                files: text.files,
                pairs,
                limit,
            });
        }
        let tokens = |all: &Sentences| keep.iter().map(|&i| all.get(i)).collect();
        let kept = |mut all: Vec<String>| -> Vec<String> {
            keep.iter().map(|&i| std::mem::take(&mut all[i])).collect()
        };
        Ok(Corpus {
            pairs: Arc::new(SentencePairs::new(tokens(&from), tokens(&to))),
            source: kept(text.source),
            target: kept(text.target),
            empty: text.empty,
            long: pairs - keep.len(),
        })
    }

    /// All pairs, none of which may have a side of more than `limit` tokens.
    fn whole(text: Parallel, tokenizer: &Tokenizer, limit: usize) -> Result<Corpus, TextError> {
        let sides = [
            tokenizer.encode_all(&text.source)?,
            tokenizer.encode_all(&text.target)?,
        ];
        for (index, &line) in text.lines.iter().enumerate() {
            for (side, path) in sides.iter().zip(&text.files) {
                let tokens = side.get(index).len();
                if tokens > limit {
                    return Err(TextError::TooLong {
                        path: path.clone(),
                        line,
                        tokens,
                        limit,
                    });
                }
            }
        }
        let [from, to] = sides;
        Ok(Corpus {
            pairs: Arc::new(SentencePairs::new(from, to)),
            source: text.source,
            target: text.target,
            empty: text.empty,
            long: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pairs: &[(&str, &str)], first: usize) -> Parallel {
        Parallel {
            source: pairs.iter().map(|p| p.0.to_owned()).collect(),
            target: pairs.iter().map(|p| p.1.to_owned()).collect(),
            lines: (first..).take(pairs.len()).collect(),
            files: [format!("{first}.de").into(), format!("{first}.en").into()],
            empty: 1,
        }
    }

    const TRAIN: [(&str, &str); 4] = [
        ("ein Hund", "a dog"),
        ("zwei Hunde laufen", "two dogs run"),
        ("drei", "three cats and three dogs"),
        ("eine Katze", "a cat"),
    ];

    /// Every word is a token.
    fn translation(
        valid: (&str, &str),
        test: (&str, &str),
        train: usize,
        evaluate: usize,
    ) -> Result<Translation, TextError> {
        let all = TRAIN.iter().flat_map(|&(a, b)| [a, b]);
        let tokenizer = Tokenizer::train(all, 1000).unwrap();
        let texts = [text(&TRAIN, 10), text(&[valid], 20), text(&[test], 30)];
        Translation::new("tiny", texts, &tokenizer, LengthLimits { train, evaluate })
    }

    #[test]
    fn long_training_pairs_are_left_out_and_counted() {
        let short = ("ein", "a");
        let data = translation(short, short, 4, 3).unwrap();
        let train = &data.train;
        // "three cats and three dogs" has five words, and its end.
        assert_eq!((train.long, train.empty, train.pairs.len()), (1, 1, 3));
        assert_eq!(
            train.source,
            ["ein Hund", "zwei Hunde laufen", "eine Katze"]
        );
        assert_eq!(train.target, ["a dog", "two dogs run", "a cat"]);
        assert_eq!(train.pairs.source().get(1).len(), 4);
        assert_eq!((data.valid.long, data.valid.pairs.len()), (0, 1));
        assert_eq!(translation(short, short, 6, 3).unwrap().train.long, 0);

        let error = translation(short, short, 2, 3).unwrap_err().to_string();
        for says in ["10.de", "10.en", "every one of 4 pairs", "2 tokens"] {
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn long_sentences_to_evaluate_are_an_error() {
        let (short, long) = (("ein", "a"), ("zwei Hunde", "two cats and a dog"));
        let error = translation(short, long, 9, 5).unwrap_err().to_string();
        for says in ["30.en", "line 30", "6 tokens", "the 5 that"] {
            assert!(error.contains(says), "{error}");
        }
        let error = translation((long.1, "a"), short, 9, 5).unwrap_err();
        assert!(error.to_string().contains("20.de"), "{error}");
        assert!(translation(long, long, 9, 6).is_ok());
    }

    #[test]
    fn the_fingerprint_changes_with_the_text() {
        let of = |valid| {
            translation(valid, ("ein", "a"), 9, 9)
                .unwrap()
                .fingerprint()
        };
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
