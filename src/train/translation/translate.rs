//! `transformer translate`: sentences from standard input.

use super::options::{MOST_TOKENS, TranslationConfig};
use super::translator::open;
use super::{TransformerProgram, Translator, known};
use crate::backend::Precision;
use crate::data::pairs::Sentences;
use crate::data::text::cut;
use crate::nn::{self, Room, WeightFile};
use crate::train::TrainError;
use crate::train::program::Program;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::PathBuf;

/// Translates lines of standard input with a trained model.
#[derive(Debug, clap::Args)]
pub struct TranslateFlags {
    /// Folder of a finished run, or a weight file
    #[arg(long, value_name = "RUN_DIR")]
    model: PathBuf,
    /// auto, cpu, simt, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// What the CPU stores activations as [default: f32]
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Hypotheses of a sentence; 1 is greedy [default: as the run was evaluated]
    #[arg(long)]
    beam: Option<usize>,
    /// Tokens of a line, at most 1024 (convs2s: 1022); what is longer is cut [default: as in training]
    #[arg(long)]
    max_length: Option<usize>,
}

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "standard output: {0}; free some space or choose another place, and go on behind what is there"
)]
struct WriteError(std::io::Error);

/// Lines that are translated together where so many are waiting.
const TOGETHER: usize = 64;
/// Tokens of lines that are translated together.
const TOKENS: usize = 64 * 128;
/// Bytes that are read ahead.
const AHEAD: usize = 1 << 16;

/// Standard input cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("standard input, line {line}: {source}; the lines before it are translated")]
struct ReadError {
    line: usize,
    source: std::io::Error,
}

/// Translates each line of standard input into one of standard output, as soon as it is there.
/// Empty lines stay empty; of lines that are too long the beginning is translated, in lines that are
/// not UTF-8 what is stands for `�`, and standard error says so. Ends when the input does or when
/// nobody reads the output any more.
///
/// # Errors
/// A folder without a trained model, unreadable input, a failure of the device.
pub fn translate(flags: &TranslateFlags) -> Result<(), TrainError> {
    let (mut translator, lengths) = load(flags)?;
    // Standard input has a buffer of its own, which does not say what is in it.
    let mut input = Lines {
        input: BufReader::with_capacity(AHEAD, std::io::stdin().lock()),
        number: 0,
    };
    let mut output = std::io::stdout();
    loop {
        let (lines, failed) = input.waiting();
        if lines.is_empty() && failed.is_none() {
            return Ok(());
        }
        let text = translate_lines(&mut translator, lengths, &lines)?;
        let written = output.write_all(text.as_bytes());
        match written.and_then(|()| output.flush()) {
            // A reader who has seen enough is no failure.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(|e| TrainError::failed(WriteError(e)))?,
        }
        if let Some(e) = failed {
            return Err(TrainError::unusable(e));
        }
    }
}

/// Numbered lines as they come.
struct Lines<R> {
    input: BufReader<R>,
    /// Of the last that was read, from 1.
    number: usize,
}

impl<R: Read> Lines<R> {
    /// Waits for a line, and takes those that are there already with it, with their numbers; none
    /// at the end.
    fn waiting(&mut self) -> (Vec<(usize, String)>, Option<ReadError>) {
        let mut lines = Vec::new();
        while lines.is_empty() || lines.len() < TOGETHER && self.input.buffer().contains(&b'\n') {
            let mut bytes = Vec::new();
            let read = self.input.read_until(b'\n', &mut bytes);
            self.number += 1;
            match read {
                Ok(0) => break,
                Ok(_) => lines.push((self.number, self.text(bytes))),
                Err(source) => {
                    let line = self.number;
                    return (lines, Some(ReadError { line, source }));
                }
            }
        }
        (lines, None)
    }

    /// A line without its end.
    fn text(&self, mut bytes: Vec<u8>) -> String {
        for end in [b'\n', b'\r'] {
            bytes.pop_if(|byte| *byte == end);
        }
        let mark = "\u{feff}".as_bytes();
        let first = if self.number == 1 { mark } else { b"" };
        let bytes = bytes.strip_prefix(first).unwrap_or(&bytes);
        let text = String::from_utf8_lossy(bytes);
        if let std::borrow::Cow::Owned(_) = text {
            note(self.number, "not UTF-8; what is not is translated as �");
        }
        text.into_owned()
    }
}

/// Says what was done to a line. Nobody need listen.
fn note(line: usize, what: &str) {
    let _ = writeln!(std::io::stderr(), "standard input, line {line}: {what}");
}

fn translate_lines(
    translator: &mut Translator,
    [longest, most]: [usize; 2],
    lines: &[(usize, String)],
) -> Result<String, TrainError> {
    let mut sources = Sentences::default();
    for (number, line) in lines {
        let tokens = translator.tokenizer().encode(line);
        let tokens = tokens.map_err(TrainError::unusable)?;
        if tokens.len() > longest {
            let remedy = match longest < most {
                true => "split the sentence, or raise --max-length",
                false => "split the sentence",
            };
            let what = format!(
                "{} tokens, of which the first {longest} are translated; {remedy}",
                tokens.len()
            );
            note(*number, &what);
        }
        sources.push(&cut(&tokens, longest));
    }
    let translations = translator.translate(&sources)?;
    Ok(translations.iter().map(|t| format!("{t}\n")).collect())
}

/// Puts a trained model onto a device, and says how long lines may be, and how long they could be.
fn load(flags: &TranslateFlags) -> Result<(Translator, [usize; 2]), TrainError> {
    let weights = WeightFile::of_program(&flags.model, TransformerProgram::NAME);
    let weights = weights.map_err(TrainError::unusable)?;
    let config = known::config(&weights)?;
    let config = TranslationConfig {
        beam: flags.beam.unwrap_or(config.beam),
        max_length: flags.max_length.unwrap_or(config.max_length),
        ..config
    };
    config.check()?;
    let tokenizer = known::tokenizer(&weights).map_err(TrainError::unusable)?;
    let about = known::about(&config, &tokenizer).map_err(TrainError::unusable)?;
    let device = (&*flags.device, flags.precision, Precision::F32);
    let exec = open(device, &config)?;
    let room = Room {
        sentences: TOGETHER,
        source: TOKENS.max(config.max_length),
        target: TOGETHER * config.beam,
        places: nn::longest_translation(config.max_length).min(MOST_TOKENS),
    };
    let translator = Translator::new(exec, &config, tokenizer, room);
    let mut translator = translator.map_err(|e| TrainError::unusable(e.at_batch(TOGETHER)))?;
    let (exec, net) = translator.parts();
    nn::import(exec, &net.params, &weights, &about).map_err(TrainError::unusable)?;
    Ok((translator, [config.max_length, config.arch.most_tokens()]))
}
