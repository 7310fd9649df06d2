//! What a translator's weights are worth nothing without: the sizes, and the tokenizer.

use super::options::{TranslationConfig, TranslationOptions};
use super::{TOKENIZER, TransformerProgram};
use crate::data::text::{TextError, Tokenizer, digest};
use crate::nn::{About, TABLE, WeightFile, WeightsError};
use crate::train::TrainError;
use crate::train::program::{Program, settings_of_run};
use std::path::Path;

/// The flags that make the network, of which each kind has its own.
const FLAGS: [&str; 7] = [
    "arch", "preset", "d-model", "layers", "heads", "ffn", "norm",
];
/// Those of how it was evaluated.
const FACTS: [&str; 2] = ["max-length", "beam"];
/// Under this key is the digest of the tokenizer.
const DIGEST: &str = "tokenizer-sha256";
/// Under this key is the tokenizer, word for word as in its file.
const INSIDE: &str = "tokenizer";

/// What weight files say.
///
/// # Errors
/// None for a tokenizer that was trained or loaded here.
pub fn about(config: &TranslationConfig, tokenizer: &Tokenizer) -> Result<About, TextError> {
    let settings = toml::Table::try_from(config).expect("settings are plain values");
    let said = |key: &'static str| {
        let value = settings.get(key)?;
        Some((key, value.as_str().map_or(value.to_string(), String::from)))
    };
    let own = [
        ("vocab", tokenizer.vocab().to_string()),
        (DIGEST, tokenizer.digest()?),
        (INSIDE, tokenizer.json()?),
    ];
    Ok(About {
        program: TransformerProgram::NAME,
        flags: FLAGS.into_iter().filter_map(said).collect(),
        facts: FACTS.into_iter().filter_map(said).chain(own).collect(),
    })
}

/// The tokenizer that weights were trained with: the one beside them, or the one inside. Both must
/// be the same, and that of the digest.
///
/// # Errors
/// There is none, or another, or one that is damaged.
pub fn tokenizer(weights: &WeightFile) -> Result<Tokenizer, TextError> {
    let rows = weights
        .shape(TABLE)
        .and_then(|shape| shape.first().copied());
    let (path, said) = (weights.path(), weights.says(DIGEST));
    let inside = match weights.says(INSIDE) {
        Some(json) if said.is_some_and(|said| said != digest(json)) => {
            return Err(TextError::NotATokenizer {
                path: path.to_owned(),
                reason: format!("the one inside is not that of its {DIGEST}"),
            });
        }
        Some(json) => Some(Tokenizer::from_json(json.as_bytes(), path, rows)?),
        None => None,
    };
    let beside = path.with_file_name(TOKENIZER);
    if !beside.exists() {
        return inside.ok_or_else(|| TextError::NoTokenizer {
            weights: path.to_owned(),
            beside,
        });
    }
    let tokenizer = Tokenizer::load(&beside, rows)?;
    let theirs = inside.map(|inside| inside.digest()).transpose()?;
    match theirs.as_deref().or(said) {
        Some(theirs) if theirs != tokenizer.digest()? => Err(TextError::OtherTokenizer {
            path: beside,
            weights: path.to_owned(),
        }),
        _ => Ok(tokenizer),
    }
}

/// The settings of the network that weights belong to, which they say themselves, or the run in
/// whose folder they are.
///
/// # Errors
/// They say nothing and there is no run either, or nonsense.
pub fn config(weights: &WeightFile) -> Result<TranslationConfig, TrainError> {
    let path = || weights.path().to_owned();
    if FLAGS.iter().all(|key| weights.says(key).is_none()) {
        let beside = path().with_file_name("config.toml");
        if !beside.exists() {
            let path = path();
            return Err(TrainError::unusable(WeightsError::NoSizes { path, beside }));
        }
        let dir = weights.path().parent().unwrap_or(Path::new("."));
        return Ok(settings_of_run::<TransformerProgram>(dir)?.1);
    }
    let said = FLAGS.iter().chain(&FACTS);
    let said = said.filter_map(|key| Some((key, weights.says(key)?)));
    let table: toml::Table = said
        .map(|(key, text)| {
            let number = text.parse().map(toml::Value::Integer);
            (key.to_string(), number.unwrap_or_else(|_| text.into()))
        })
        .collect();
    let options: Result<TranslationOptions, toml::de::Error> = table.try_into();
    let options = options.map_err(|e| {
        let (path, reason) = (path(), e.message().to_string());
        TrainError::unusable(WeightsError::Damaged { path, reason })
    })?;
    let config = options.resolve(false);
    config.check()?;
    Ok(config)
}
