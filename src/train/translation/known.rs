//! What a translator's weights are worth nothing without: the sizes, and the tokenizer.

use super::options::{TranslationConfig, TranslationOptions};
use super::{TOKENIZER, TransformerProgram};
use crate::data::text::{TextError, Tokenizer};
use crate::nn::{About, TABLE, WeightFile, WeightsError};
use crate::train::TrainError;
use crate::train::program::{Program, settings_of_run};
use std::path::Path;

/// The flags that make the network.
const FLAGS: [&str; 6] = ["arch", "d-model", "layers", "heads", "ffn", "norm"];
/// Those of how it was evaluated.
const FACTS: [&str; 2] = ["max-length", "beam"];
/// Under this key is the tokenizer, word for word as in its file.
const INSIDE: &str = "tokenizer";

/// What weight files say.
///
/// # Errors
/// None for a tokenizer that was trained or loaded here.
pub fn about(config: &TranslationConfig, tokenizer: &Tokenizer) -> Result<About, TextError> {
    let settings = toml::Table::try_from(config).expect("settings are plain values");
    let said = |key: &'static str| {
        let value = &settings[key];
        (key, value.as_str().map_or(value.to_string(), String::from))
    };
    let own = [
        ("vocab", tokenizer.vocab().to_string()),
        ("tokenizer-sha256", tokenizer.digest()?),
        (INSIDE, tokenizer.json()?),
    ];
    Ok(About {
        program: TransformerProgram::NAME,
        flags: FLAGS.map(said).to_vec(),
        facts: FACTS.map(said).into_iter().chain(own).collect(),
    })
}

/// The tokenizer that weights were trained with: the one beside them, or the one inside. Both must
/// be the same.
///
/// # Errors
/// There is none, or another, or one that is damaged.
pub fn tokenizer(weights: &WeightFile) -> Result<Tokenizer, TextError> {
    let rows = weights
        .shape(TABLE)
        .and_then(|shape| shape.first().copied());
    let path = weights.path();
    let inside = weights.says(INSIDE);
    let inside = inside.map(|json| Tokenizer::from_json(json.as_bytes(), path, rows));
    let beside = path.with_file_name(TOKENIZER);
    if !beside.exists() {
        return inside.unwrap_or_else(|| {
            Err(TextError::NoTokenizer {
                weights: path.to_owned(),
                beside,
            })
        });
    }
    let tokenizer = Tokenizer::load(&beside, rows)?;
    match inside.transpose()? {
        Some(inside) if inside.digest()? != tokenizer.digest()? => Err(TextError::OtherTokenizer {
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
/// They say nothing or nonsense, and there is no run either.
pub fn config(weights: &WeightFile) -> Result<TranslationConfig, TrainError> {
    let said = FLAGS.iter().chain(&FACTS);
    let said = said.filter_map(|key| Some((key, weights.says(key)?)));
    let table: toml::Table = said
        .map(|(key, text)| {
            let number = text.parse().map(toml::Value::Integer);
            (key.to_string(), number.unwrap_or_else(|_| text.into()))
        })
        .collect();
    if table.is_empty() {
        let dir = weights.path().parent().unwrap_or(Path::new("."));
        return Ok(settings_of_run::<TransformerProgram>(dir)?.1);
    }
    let options: TranslationOptions = table.try_into().map_err(|e: toml::de::Error| {
        TrainError::unusable(WeightsError::Damaged {
            path: weights.path().to_owned(),
            reason: e.message().to_string(),
        })
    })?;
    let config = options.resolve(false);
    config.check()?;
    Ok(config)
}
