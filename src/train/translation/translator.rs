//! A network that translates sentences: the search on an executor, and the tokenizer around it.

use super::options::{Arch, TranslationConfig};
use crate::backend::{self, DeviceError, Executor, Precision};
use crate::data::pairs::Sentences;
use crate::data::text::Tokenizer;
use crate::nn::{BeamSearch, Hypothesis, Network, Room, SearchSpec};
use crate::train::TrainError;

/// Hypotheses are compared by their log-probability over their length, as fairseq does unless told
/// otherwise.
const LENGTH_PENALTY: f32 = 1.0;

/// A device that lacks what a network is made of.
#[derive(Debug, thiserror::Error)]
#[error("--device {device}: --arch {arch} runs on cpu only so far; give --device cpu")]
struct OnlyCpu {
    device: String,
    arch: &'static str,
}

/// Opens the device for a network: its name, the precision asked for, and the usual one.
///
/// # Errors
/// It is not there, or does not run such networks.
pub fn open(
    (device, precision, usual): (&str, Option<Precision>, Precision),
    config: &TranslationConfig,
) -> Result<Box<dyn Executor>, TrainError> {
    let exec = backend::open(device, precision, usual);
    let mut exec = exec.map_err(TrainError::unusable)?;
    let ops = exec.sequence().expect("all executors have the ops");
    let able = match config.arch {
        Arch::Transformer => true,
        Arch::Lstm => ops.recurrent().is_some(),
        Arch::Convs2s => ops.convolutional().is_some(),
    };
    if !able {
        let (device, arch) = (device.to_string(), config.arch.flag());
        return Err(TrainError::unusable(OnlyCpu { device, arch }));
    }
    Ok(exec)
}

/// A network on an executor, with what turns sentences into tokens and back.
pub struct Translator {
    exec: Box<dyn Executor>,
    /// The network.
    pub net: Network,
    search: BeamSearch,
    tokenizer: Tokenizer,
}

impl Translator {
    /// Allocates a network, with all parameters zero, for batches that fit into `room`, and a search
    /// that fills its places.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(
        mut exec: Box<dyn Executor>,
        config: &TranslationConfig,
        tokenizer: Tokenizer,
        room: Room,
    ) -> Result<Translator, DeviceError> {
        let ops = exec.sequence().expect("all executors have the ops");
        let net = Network::new(ops, config.network(tokenizer.vocab()), room)?;
        let spec = SearchSpec {
            beams: config.beam,
            most: room.places.min(config.arch.most_tokens()),
            penalty: LENGTH_PENALTY,
        };
        let search = BeamSearch::new(ops, &net, spec);
        Ok(Translator {
            exec,
            net,
            search,
            tokenizer,
        })
    }

    /// The executor.
    pub fn exec(&mut self) -> &mut dyn Executor {
        &mut *self.exec
    }

    /// The executor and the network.
    pub fn parts(&mut self) -> (&mut dyn Executor, &Network) {
        (&mut *self.exec, &self.net)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The best translation found of each sentence; of an empty one, nothing.
    ///
    /// # Errors
    /// A failure of the device.
    ///
    /// # Panics
    /// If there is no room for a sentence: a bug in the caller.
    pub fn translate(&mut self, sources: &Sentences) -> Result<Vec<String>, TrainError> {
        let found = self.search(sources)?;
        let texts = found.iter().map(|found| self.text(&found.tokens));
        texts.collect()
    }

    /// Tokens as text.
    ///
    /// # Errors
    /// Tokens of another vocabulary.
    pub fn text(&self, tokens: &[i32]) -> Result<String, TrainError> {
        self.tokenizer.decode(tokens).map_err(TrainError::failed)
    }

    /// The same as [`translate`](Translator::translate), as tokens.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn search(&mut self, sources: &Sentences) -> Result<Vec<Hypothesis>, TrainError> {
        // Sentences of about one length beside each other, the longest first: what does not fit
        // into memory fails at once.
        let full = |i: &usize| sources.get(*i).len() > 1;
        let mut order: Vec<usize> = (0..sources.len()).filter(full).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(sources.get(i).len()));
        let sorted: Vec<Vec<i32>> = order.iter().map(|&i| sources.get(i).to_vec()).collect();
        let ops = self.exec.sequence().expect("the network has its ops");
        let found = self.search.translate(ops, &self.net, &sorted);
        let found = found.map_err(TrainError::failed)?;
        let nothing = Hypothesis {
            tokens: Vec::new(),
            score: 0.0,
        };
        let mut translations = vec![nothing; sources.len()];
        for (place, hypothesis) in order.into_iter().zip(found) {
            translations[place] = hypothesis;
        }
        Ok(translations)
    }
}
