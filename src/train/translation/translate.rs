//! `transformer translate`: sentences from standard input.

use super::options::{MOST_TOKENS, TranslationConfig};
use super::{TOKENIZER, TransformerProgram, Translator};
use crate::backend;
use crate::data::pairs::{PairShape, Sentences};
use crate::data::text::{TextError, Tokenizer};
use crate::nn::{self, TABLE, shape_of};
use crate::train::program::settings_of_run;
use crate::train::{ConfigError, TrainError};
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

/// Translates lines of standard input with a trained model.
#[derive(Debug, clap::Args)]
pub struct TranslateFlags {
    /// Folder of a finished run
    #[arg(long, value_name = "RUN_DIR")]
    model: PathBuf,
    /// auto, cpu, simt, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Hypotheses of a sentence; 1 is greedy [default: as the run was evaluated]
    #[arg(long)]
    beam: Option<usize>,
}

/// Lines that are translated together where nobody waits for each.
const TOGETHER: usize = 64;

/// A line that cannot be translated.
#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error("standard input, line {line}: {source}; those before it are translated")]
    Read { line: usize, source: std::io::Error },
    #[error(
        "standard input, line {line}: {tokens} tokens, more than the {MOST_TOKENS} that the network \
         has places for; split the sentence (those before it are translated)"
    )]
    TooLong { line: usize, tokens: usize },
}

/// Translates each line of standard input into one of standard output. Empty lines stay empty.
///
/// # Errors
/// A folder without a trained model, a line that cannot be translated, a failure of the device.
pub fn translate(flags: &TranslateFlags) -> Result<(), TrainError> {
    let mut translator = load(flags)?;
    let (input, mut output) = (std::io::stdin().lock(), std::io::stdout());
    // Somebody who types waits for an answer to each line.
    let together = if std::io::stdin().is_terminal() {
        1
    } else {
        TOGETHER
    };
    let mut lines = input.lines().enumerate();
    loop {
        let mut waiting: Vec<String> = Vec::new();
        let mut failed = None;
        while waiting.len() < together {
            match lines.next() {
                None => break,
                Some((number, line)) => match check(&translator, number + 1, line) {
                    Ok(line) => waiting.push(line),
                    Err(e) => {
                        failed = Some(e);
                        break;
                    }
                },
            }
        }
        let last = waiting.len() < together;
        let text: String = translate_lines(&mut translator, &waiting)?;
        let written = output
            .write_all(text.as_bytes())
            .and_then(|()| output.flush());
        written.map_err(TrainError::failed)?;
        if let Some(e) = failed {
            return Err(e);
        }
        if last {
            return Ok(());
        }
    }
}

/// The line, if it can be translated.
fn check(
    translator: &Translator,
    number: usize,
    line: std::io::Result<String>,
) -> Result<String, TrainError> {
    let line = line.map_err(|source| {
        TrainError::unusable(LineError::Read {
            line: number,
            source,
        })
    })?;
    let tokens = translator.tokenizer().encode(&line);
    let tokens = tokens.map_err(TrainError::unusable)?.len();
    if tokens > MOST_TOKENS {
        return Err(TrainError::unusable(LineError::TooLong {
            line: number,
            tokens,
        }));
    }
    Ok(line)
}

fn translate_lines(translator: &mut Translator, lines: &[String]) -> Result<String, TrainError> {
    let blank = |line: &String| line.trim().is_empty();
    let full: Vec<String> = lines.iter().filter(|l| !blank(l)).cloned().collect();
    let sources: Sentences = translator
        .tokenizer()
        .encode_all(&full)
        .map_err(TrainError::unusable)?;
    let mut translations = translator.translate(&sources)?.into_iter();
    let line = |line: &String| match blank(line) {
        true => "\n".to_string(),
        false => translations.next().expect("one for each full line") + "\n",
    };
    Ok(lines.iter().map(line).collect())
}

/// Puts the model of a run's folder onto a device.
fn load(flags: &TranslateFlags) -> Result<Translator, TrainError> {
    let dir = &flags.model;
    let weights = dir.join("model.safetensors");
    if !weights.exists() {
        let remedy = format!(
            "--model {0}: no trained model is there; give the folder of a finished run (of a \
             comparison, that of one of its arms)",
            dir.display()
        );
        return Err(ConfigError::Together(remedy).into());
    }
    let (_, config) = settings_of_run::<TransformerProgram>(dir)?;
    let config = TranslationConfig {
        beam: flags.beam.unwrap_or(config.beam),
        ..config
    };
    config.check()?;
    let table = shape_of(&weights, TABLE).map_err(TrainError::unusable)?;
    let tokenizer: Result<Tokenizer, TextError> =
        Tokenizer::load(&dir.join(TOKENIZER), Some(table[0]));
    let tokenizer = tokenizer.map_err(TrainError::unusable)?;
    let exec = backend::open(&flags.device).map_err(TrainError::unusable)?;
    let largest = PairShape {
        sentences: TOGETHER,
        source: MOST_TOKENS,
        target: MOST_TOKENS,
    };
    let translator = Translator::new(exec, &config, tokenizer, largest);
    let mut translator = translator.map_err(|e| TrainError::unusable(e.at_batch(TOGETHER)))?;
    let (exec, net) = translator.parts();
    nn::import(exec, &net.params, &weights).map_err(TrainError::unusable)?;
    Ok(translator)
}
