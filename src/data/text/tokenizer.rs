//! Byte pair encoding over both languages (Sennrich et al., 2016), by Hugging Face's `tokenizers`:
//! what is saved is a `tokenizer.json` that their libraries read, too.
//!
//! Text is normalised to NFC with single spaces, and nothing else: what a user wrote comes back
//! from [`Tokenizer::decode`]. Words begin with `▁`, as in SentencePiece; runs of punctuation are
//! words of their own. Word beginnings are marked rather than ends because the trainer numbers
//! marked ends in the order of a hash table, so that equal runs would differ.

use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::{NFC, Sequence as Normalizers, Strip};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::{
    AddedToken, DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper, SplitDelimiterBehavior, TokenizerImpl,
};

use super::TextError;
use crate::data::pairs::{EOS, Sentences};
use crate::files;

/// The special tokens, in the order of fairseq's dictionaries.
pub const SPECIAL: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];

/// Turns text into tokens and back.
#[derive(Clone, Debug)]
pub struct Tokenizer(
    TokenizerImpl<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >,
);

/// What the crate says of something that this module got wrong or does not know.
fn other(e: impl std::fmt::Display) -> TextError {
    TextError::Tokenizer {
        reason: e.to_string(),
    }
}

/// SHA-256 of what [`Tokenizer::json`] gave, in hexadecimal digits.
pub fn digest(json: &str) -> String {
    let digest = Sha256::digest(json);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Tokenizer {
    /// Learns at most `vocab` tokens, the special ones included, from these sentences: every
    /// character that occurs, then the pairs that are most frequent. A small text may have fewer.
    /// Equal sentences, in any order, give equal tokenizers.
    ///
    /// # Errors
    /// [`TextError::SmallVocabulary`] if there are more characters than `vocab` has room for.
    pub fn train<'a>(
        sentences: impl Iterator<Item = &'a str> + Send,
        vocab: usize,
    ) -> Result<Tokenizer, TextError> {
        let [.., unknown] = SPECIAL;
        let model = BPE::builder().unk_token(unknown.to_owned());
        let mut inner = TokenizerImpl::new(model.build().map_err(other)?);
        let spaces = ReplacePattern::Regex(r"\s+".to_owned());
        let normalizers = Normalizers::new(vec![
            NFC.into(),
            Replace::new(spaces, " ").map_err(other)?.into(),
            Strip::new(true, true).into(),
        ]);
        let words = Metaspace::new('▁', PrependScheme::Always, true);
        let punctuation = Punctuation::new(SplitDelimiterBehavior::Contiguous);
        inner
            .with_normalizer(Some(normalizers))
            .map_err(other)?
            .with_pre_tokenizer(Some(PreTokenizers::new(vec![
                words.clone().into(),
                punctuation.into(),
            ])))
            .with_decoder(Some(words));
        let mut trainer = BpeTrainerBuilder::new()
            .show_progress(false)
            .vocab_size(vocab)
            .special_tokens(SPECIAL.map(|s| AddedToken::from(s, true)).to_vec())
            .build();
        inner.train(&mut trainer, sentences).map_err(other)?;
        // Text that reads `</s>` is text, not the end of a sentence.
        inner.set_encode_special_tokens(true);
        let tokenizer = Tokenizer(inner);
        if tokenizer.vocab() > vocab {
            return Err(TextError::SmallVocabulary {
                vocab,
                needed: tokenizer.vocab(),
            });
        }
        Ok(tokenizer)
    }

    /// Reads a file that [`save`](Tokenizer::save) wrote, of `vocab` tokens where that is known.
    ///
    /// # Errors
    /// The file cannot be read, is no tokenizer of this kind, or has another vocabulary.
    pub fn load(path: &Path, vocab: Option<usize>) -> Result<Tokenizer, TextError> {
        let json = std::fs::read(path).map_err(|source| TextError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Tokenizer::from_json(&json, path, vocab)
    }

    /// As [`load`](Tokenizer::load), from what is in the file at `path`.
    ///
    /// # Errors
    /// It is no tokenizer of this kind, or has another vocabulary.
    pub fn from_json(
        json: &[u8],
        path: &Path,
        vocab: Option<usize>,
    ) -> Result<Tokenizer, TextError> {
        let none = |reason: String| TextError::NotATokenizer {
            path: path.to_owned(),
            reason,
        };
        let mut inner = TokenizerImpl::from_bytes(json).map_err(|e| none(e.to_string()))?;
        // Sentences are never cut in silence, nor filled up here.
        inner.with_truncation(None).map_err(other)?;
        inner.with_padding(None);
        inner.set_encode_special_tokens(true);
        let tokenizer = Tokenizer(inner);
        for (id, token) in (0..).zip(SPECIAL) {
            let found = tokenizer.0.get_model().token_to_id(token);
            if found != Some(id) {
                return Err(none(format!("{token} is not token {id}")));
            }
        }
        if tokenizer.0.get_model().get_unk_token().as_deref() != Some(SPECIAL[3]) {
            return Err(none("it has no unknown token".to_owned()));
        }
        let found = tokenizer.vocab();
        if let Some(expected) = vocab.filter(|vocab| *vocab != found) {
            return Err(TextError::OtherVocabulary {
                path: path.to_owned(),
                found,
                expected,
            });
        }
        let all = tokenizer.0.get_vocab(true);
        if all.values().any(|&id| id as usize >= found) {
            return Err(none("its tokens are not numbered from 0 on".to_owned()));
        }
        Ok(tokenizer)
    }

    /// Writes a `tokenizer.json`, or leaves what is there as it was.
    ///
    /// # Errors
    /// Whatever the system says, with the path.
    pub fn save(&self, path: &Path) -> Result<(), TextError> {
        Ok(files::write(path, self.json()?.as_bytes())?)
    }

    /// What [`save`](Tokenizer::save) writes.
    ///
    /// # Errors
    /// None for a tokenizer that was trained here.
    pub fn json(&self) -> Result<String, TextError> {
        self.0.to_string(true).map_err(other)
    }

    /// SHA-256 of [`json`](Tokenizer::json) in hexadecimal digits: what two tokenizers have in common
    /// only if they are the same.
    ///
    /// # Errors
    /// As for `json`.
    pub fn digest(&self) -> Result<String, TextError> {
        Ok(digest(&self.json()?))
    }

    /// How many tokens there are, the special ones included.
    pub fn vocab(&self) -> usize {
        self.0.get_vocab_size(true)
    }

    /// The tokens of a sentence, with [`EOS`] at the end. Characters that the training text did
    /// not have become `<unk>`.
    ///
    /// # Errors
    /// None for a tokenizer that was trained here; a loaded one may have rules that fail.
    pub fn encode(&self, sentence: &str) -> Result<Vec<i32>, TextError> {
        let encoding = self.0.encode_fast(sentence, false).map_err(other)?;
        let tokens = encoding.get_ids().iter().map(|&id| id as i32);
        Ok(tokens.chain([EOS]).collect())
    }

    /// All of them, by as many threads as there are.
    ///
    /// # Errors
    /// As for one.
    pub fn encode_all(&self, sentences: &[String]) -> Result<Sentences, TextError> {
        let encoded = sentences.par_iter().map(|s| self.encode(s));
        let encoded = encoded.collect::<Result<Vec<_>, _>>()?;
        Ok(encoded.iter().map(Vec::as_slice).collect())
    }

    /// The sentence that these tokens spell: normalised, without the special tokens, but with
    /// `<unk>` where one is.
    ///
    /// # Errors
    /// None for a tokenizer that was trained here; a loaded one may have rules that fail.
    pub fn decode(&self, tokens: &[i32]) -> Result<String, TextError> {
        let spelled = tokens.iter().filter(|&&token| token > EOS);
        let spelled: Vec<u32> = spelled.map(|&token| token as u32).collect();
        self.0.decode(&spelled, false).map_err(other)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SENTENCES: [&str; 6] = [
        "Ein Hund läuft über die Wiese.",
        "A dog runs across the meadow, doesn't it?",
        "„Schön!“ rief sie – und lief um 12:30 Uhr 3,5 km (bergauf).",
        "She paid $1,299.99 for a 20\" e-bike; it's been 100% worth it...",
        "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche.",
        "Two young, white males are outside near many bushes & trees.",
    ];

    fn trained(vocab: usize) -> Tokenizer {
        Tokenizer::train(SENTENCES.into_iter(), vocab).unwrap()
    }

    #[test]
    fn sentences_come_back() {
        let tokenizer = trained(200);
        assert_eq!(tokenizer.vocab(), 200);
        for sentence in SENTENCES {
            let tokens = tokenizer.encode(sentence).unwrap();
            assert_eq!(tokens.last(), Some(&EOS));
            assert!(
                tokens[..tokens.len() - 1]
                    .iter()
                    .all(|&t| (4..200).contains(&t))
            );
            assert_eq!(tokenizer.decode(&tokens).unwrap(), sentence);
        }
        // White space is one thing, and composed letters are.
        let tokens = tokenizer.encode(" Scho\u{308}n\u{a0} \t ist  es ").unwrap();
        assert_eq!(tokenizer.decode(&tokens).unwrap(), "Schön ist es");
        // Unknown characters are seen to be unknown.
        let tokens = tokenizer.encode("Ein 犬 läuft").unwrap();
        assert_eq!(tokens.iter().filter(|&&t| t == 3).count(), 1);
        assert_eq!(tokenizer.decode(&tokens).unwrap(), "Ein <unk> läuft");
        assert_eq!(tokenizer.encode("").unwrap(), [EOS]);
        assert_eq!(tokenizer.decode(&[1, 0, EOS]).unwrap(), "");
    }

    #[test]
    fn text_that_looks_special_is_text() {
        let text = "</s> <pad><s> a <unk>";
        let tokenizer = Tokenizer::train(SENTENCES.into_iter().chain([text]), 100).unwrap();
        let tokens = tokenizer.encode(text).unwrap();
        assert!(
            tokens[..tokens.len() - 1].iter().all(|&t| t > 3),
            "{tokens:?}"
        );
        assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
    }

    #[test]
    fn training_and_saving_are_deterministic() {
        let json = |tokenizer: &Tokenizer| tokenizer.0.to_string(true).unwrap();
        let first = trained(300);
        for _ in 0..8 {
            assert_eq!(json(&trained(300)), json(&first));
        }
        let reversed = Tokenizer::train(SENTENCES.into_iter().rev(), 300).unwrap();
        assert_eq!(json(&reversed), json(&first));

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        first.save(&path).unwrap();
        let loaded = Tokenizer::load(&path, Some(first.vocab())).unwrap();
        assert_eq!(json(&loaded), json(&first));
        let text = "</s> Der Hund, 犬.";
        let cut = concat!(
            r#""truncation":{"direction":"Right","max_length":2,"#,
            r#""strategy":"LongestFirst","stride":0}"#,
        );
        let cutting = first.0.to_string(false).unwrap();
        let cutting = cutting.replace(r#""truncation":null"#, cut);
        assert!(cutting.contains(cut));
        std::fs::write(&path, cutting).unwrap();
        let cutting = Tokenizer::load(&path, Some(first.vocab())).unwrap();
        assert_eq!(cutting.encode(text).unwrap(), first.encode(text).unwrap());
        assert_eq!(loaded.encode(text).unwrap(), first.encode(text).unwrap());
    }

    #[test]
    fn what_is_no_tokenizer_of_ours_is_told_apart() {
        let error = Tokenizer::train(SENTENCES.into_iter(), 40).unwrap_err();
        let needed = trained(1000)
            .0
            .get_vocab(true)
            .keys()
            .filter(|k| k.chars().count() == 1)
            .count()
            + 4;
        assert!(
            matches!(error, TextError::SmallVocabulary { vocab: 40, needed: n } if n == needed),
            "{error}"
        );
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        let missing = Tokenizer::load(&path, Some(200)).unwrap_err();
        assert!(matches!(missing, TextError::Unreadable { .. }), "{missing}");
        let tokenizer = trained(200);
        tokenizer.save(&path).unwrap();
        let error = Tokenizer::load(&path, Some(8000)).unwrap_err().to_string();
        assert!(error.contains("200") && error.contains("8000"), "{error}");

        let json = tokenizer.0.to_string(false).unwrap();
        let swapped = json.replace(r#""<s>":0,"<pad>":1"#, r#""<s>":1,"<pad>":0"#);
        let hole = json.replace(":199", ":1990000");
        let mute = json.replace(r#""unk_token":"<unk>""#, r#""unk_token":null"#);
        for bad in [&swapped, &hole, &mute, "", "{}", &json[..json.len() / 2]] {
            assert_ne!(*bad, json);
            std::fs::write(&path, bad).unwrap();
            let error = Tokenizer::load(&path, Some(200)).unwrap_err();
            assert!(matches!(error, TextError::NotATokenizer { .. }), "{error}");
        }
        assert!(tokenizer.save(&dir.path().join("no/t.json")).is_err());
    }

    proptest! {
        /// Words, numbers and punctuation of the training text, put together anyhow.
        #[test]
        fn any_sentence_of_known_characters_comes_back(
            words in prop::collection::vec("[A-Zaäöüß]?[a-zäöü]{1,7}|[0-9]{1,4}", 1..12),
            ends in prop::collection::vec(prop::sample::select(vec![
                " ", ", ", ". ", "... ", " – ", "'", "-", " (", ") ", "! „", "“ ", ":", "% ", " $",
            ]), 12),
        ) {
            let mut letters: Vec<char> = ('a'..='z').chain('A'..='Z').chain('0'..='9').collect();
            letters.extend("äöüß".chars());
            let letters: String = letters.into_iter().collect();
            let all = SENTENCES.into_iter().chain([letters.as_str()]);
            let tokenizer = Tokenizer::train(all, 250).unwrap();
            let text: String = words.iter().zip(&ends).flat_map(|(w, e)| [w.as_str(), e]).collect();
            let tokens = tokenizer.encode(&text).unwrap();
            prop_assert!(!tokens.contains(&3));
            let normal = text.split_whitespace().collect::<Vec<_>>().join(" ");
            prop_assert_eq!(tokenizer.decode(&tokens).unwrap(), normal);
        }
    }
}
