//! The task of `transformer`: translation of sentences.

mod boss;
mod known;
mod options;
mod translate;
mod translator;

pub use options::{Arch, Data, MOST_TOKENS, Norm, Preset, TranslationConfig, TranslationOptions};
pub use translate::{TranslateFlags, translate};
pub use translator::Translator;

use super::program::Program;
use super::report::{Sample, Shown};
use super::task::{Boss, Curve, Task, Words};
use super::{Config, ConfigError, Console, Defaults, Schedule, TrainError};
use crate::assist::Instances;
use crate::backend::Precision;
use crate::data::pairs::PairShape;
use crate::data::text::bucket::{self, BatchLimits, padded};
use crate::data::text::{Parallel, TextError, Tokenizer, Translation, bleu, synthetic};
use crate::files::{self, WriteError};
use crate::nn::{About, WeightFile};
use boss::{TRANSLATIONS, TranslationBoss};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Batches that a pool of the Assistant's is cut into: sentences of one length find each other
/// only within a pool, and the Assistant hears of it only as a whole.
const POOL: usize = 8;
/// The synthetic sentences are the same for every `--seed`, as any data set's are.
const SYNTHETIC_SEED: u64 = 0;
/// Translations in a report.
const SAMPLES: usize = 12;
/// What a trained model needs beside its weights.
const TOKENIZER: &str = "tokenizer.json";

/// The program `transformer`.
pub struct TransformerProgram;

impl Program for TransformerProgram {
    const NAME: &'static str = "transformer";
    const ABOUT: &'static str = "Trains a Transformer, an LSTM or a ConvS2S to translate with AutoAssist: a light \
        Assistant learns which sentences still matter and skips the rest.\n\nWithout --data this \
        is a demonstration: built-in sums in words, three arms, under two minutes.";
    const DEMONSTRATION: &'static str = "A demonstration on synthetic sentences, not evidence. Real \
        data: --data parallel --src TRAIN VALID TEST --tgt TRAIN VALID TEST; see --help.";
    const EXAMPLES: &'static str = "Examples:
  transformer                              the demonstration
  transformer --data parallel --src train.de val.de test.de --tgt train.en val.en test.en \
              --out my-run
  transformer --resume my-run              after Ctrl-C, or a kill
  transformer translate --model my-run < sentences.de";
    const WORDS: &'static Words = &WORDS;
    const NAMES: &'static str = "fairseq's";
    type Options = TranslationOptions;
    type Config = TranslationConfig;

    fn has_data(options: &TranslationOptions) -> bool {
        options.data.is_some()
    }

    fn defaults(demonstration: bool) -> Defaults {
        Defaults {
            epochs: if demonstration { 3.0 } else { 6.0 },
            batch: 64,
            lr: if demonstration { 3e-3 } else { 2e-3 },
            weight_decay: 0.0,
            label_smoothing: if demonstration { 0.0 } else { 0.1 },
        }
    }

    fn resolve(options: TranslationOptions, demonstration: bool) -> TranslationConfig {
        options.resolve(demonstration)
    }

    fn check(config: &TranslationConfig) -> Result<(), ConfigError> {
        config.check()
    }

    fn load(
        shared: &Config,
        config: TranslationConfig,
        run: Option<&Path>,
        console: Console,
        _: &AtomicBool,
    ) -> Result<Box<dyn Task>, TrainError> {
        let init = shared.init.as_deref().filter(|_| run.is_none());
        let init = init.map(|file| WeightFile::of_program(file, Self::NAME));
        let init = init.transpose().map_err(TrainError::unusable)?;
        let task = TranslationTask::load(shared, config, run, init.as_ref());
        let task = task.map_err(TrainError::unusable)?;
        task.read().iter().for_each(|line| console.note(line));
        Ok(Box::new(task))
    }
}

/// Sentences to learn to translate, and the network for them.
struct TranslationTask {
    config: TranslationConfig,
    data: Translation,
    tokenizer: Tokenizer,
    about: About,
    limits: BatchLimits,
}

impl TranslationTask {
    fn load(
        shared: &Config,
        config: TranslationConfig,
        run: Option<&Path>,
        init: Option<&WeightFile>,
    ) -> Result<TranslationTask, TextError> {
        let (name, texts) = match config.data {
            Data::Synthetic => ("synthetic".to_string(), synthetic(SYNTHETIC_SEED)),
            Data::Parallel => {
                let read = |part: usize| Parallel::read(&config.src[part], &config.tgt[part]);
                let file = config.src[0].file_name().unwrap_or_default();
                let name = file.to_string_lossy().into_owned();
                (name, [read(0)?, read(1)?, read(2)?])
            }
        };
        // The tokenizer of the run to go on with, of the weights to start from, or a new one.
        let tokenizer = match (run, init) {
            (Some(dir), _) => Tokenizer::load(&dir.join(TOKENIZER), None)?,
            (None, Some(weights)) => known::tokenizer(weights)?,
            (None, None) => Tokenizer::train(texts[0].full().flatten(), config.vocab)?,
        };
        let data = Translation::new(name, texts, &tokenizer, config.max_length)?;
        let limits = BatchLimits {
            sentences: shared.batch,
            max_tokens: config.max_tokens,
        };
        // A pair that no batch has room for is found here, not in the middle of training.
        for pairs in [&data.train.pairs, &data.valid.pairs] {
            let ids: Vec<u32> = (0..pairs.len() as u32).collect();
            bucket::batches(pairs, &ids, limits)?;
        }
        Ok(TranslationTask {
            about: known::about(&config, &tokenizer)?,
            tokenizer,
            config,
            data,
            limits,
        })
    }

    /// What was read, and what was left out or cut, a line each.
    fn read(&self) -> Vec<String> {
        let Translation {
            name,
            train,
            valid,
            test,
        } = &self.data;
        let (most, vocab) = (self.config.max_length, self.tokenizer.vocab());
        let mut lines = vec![
            format!(
                "{name}: {} pairs to train on ({} left out: {} with an empty side, {} of more than \
                 {most} tokens), {vocab} tokens in the vocabulary",
                train.pairs.len(),
                train.empty + train.long,
                train.empty,
                train.long,
            ),
            format!(
                "{} pairs to validate on ({} with an empty side left out, {} cut to {most} tokens)",
                valid.pairs.len(),
                valid.empty,
                valid.long,
            ),
            format!(
                "{} pairs to test on ({} with an empty side, {} cut to {most} tokens)",
                test.pairs.len(),
                test.empty,
                test.long,
            ),
        ];
        let long = train.long + valid.long + test.long;
        let places = self.config.arch.most_tokens();
        if long > 0 && most < places {
            let pairs = if long == 1 { "pair is" } else { "pairs are" };
            lines.push(format!(
                "{long} {pairs} longer than --max-length {most}; up to {places} tokens have places"
            ));
        }
        lines
    }
}

/// How it speaks of sentences.
const WORDS: Words = Words {
    one: "sentence",
    many: "sentences",
    short: "sent",
    score: "BLEU",
    unit: "",
    signature: Some(bleu::SIGNATURE),
    curve: Curve::ValidLoss,
};

impl Task for TranslationTask {
    fn title(&self) -> String {
        format!("{} on {}", self.config.arch.title(), self.data.name)
    }

    fn data(&self) -> String {
        let data = &self.data;
        let parts = [&data.train, &data.valid, &data.test];
        let [train, valid, test] = parts.map(|corpus| corpus.pairs.len());
        format!("{}, {train} + {valid} + {test} pairs", data.name)
    }

    fn words(&self) -> &'static Words {
        &WORDS
    }

    fn about(&self) -> About {
        self.about.clone()
    }

    fn settings(&self) -> toml::Table {
        toml::Table::try_from(&self.config).expect("settings are plain values")
    }

    fn size(&self) -> usize {
        self.data.train.pairs.len()
    }

    fn fingerprint(&self) -> u64 {
        self.data.fingerprint()
    }

    fn pool(&self, batch: usize) -> usize {
        (POOL * batch).min(self.size())
    }

    fn instances(&self) -> Instances {
        let network = self.config.network(self.tokenizer.vocab());
        let pairs = &self.data.train.pairs;
        let cost = |id: usize| {
            let [source, target] =
                [pairs.source(), pairs.target()].map(|side| padded(side.get(id).len()));
            network.train_ops(PairShape {
                sentences: 1,
                source,
                target,
            })
        };
        let costs = (0..pairs.len()).map(cost).collect();
        Instances::from_pairs(pairs, costs, network.vocab())
    }

    fn schedule(&self) -> Schedule {
        self.config.schedule
    }

    fn boss(&self, config: &Config, usual: Precision) -> Result<Box<dyn Boss>, TrainError> {
        let (config, own) = ((config, usual), &self.config);
        let boss = TranslationBoss::new(config, own, &self.data, &self.tokenizer, self.limits)?;
        Ok(Box::new(boss))
    }

    /// The tokenizer.
    fn write_into(&self, dir: &Path) -> Result<(), WriteError> {
        let json = self.tokenizer.json().expect("made into JSON before");
        files::write(&dir.join(TOKENIZER), json.as_bytes())
    }

    fn show(&self, id: usize) -> Shown {
        Shown::Pair {
            source: self.data.train.source[id].clone(),
            target: self.data.train.target[id].clone(),
        }
    }

    fn samples(&self, dir: &Path) -> Vec<Sample> {
        let (test, text) = (&self.data.test, files::read(&dir.join(TRANSLATIONS)));
        let text = text.unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let stride = lines.len().div_ceil(SAMPLES).max(1);
        let pairs = test.source.iter().zip(&test.target).zip(lines);
        let sample = |((source, reference), translation): ((&String, &String), &str)| Sample {
            source: source.clone(),
            reference: reference.clone(),
            translation: translation.to_string(),
        };
        pairs.map(sample).step_by(stride).collect()
    }
}
