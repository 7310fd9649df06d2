//! The Boss for translation: a network on an executor, with its data.

use super::Translator;
use super::options::{MOST_TOKENS, TranslationConfig};
use super::translator::open;
use crate::assist::LossRing;
use crate::backend::sequence::Adam;
use crate::backend::{DataId, DeviceError, Executor, Pass, Precision, StepInputs, Tensor};
use crate::data::pairs::{PairShape, SentencePairs, Sentences};
use crate::data::text::bucket::{self, BatchLimits, padded};
use crate::data::text::{Corpus, Tokenizer, Translation, bleu};
use crate::files;
use crate::nn::{Network, Optimiser, Params, Room, TrainSpec, longest_translation};
use crate::train::task::{Boss, Evaluation, Planned, SLOTS, Score, own_part};
use crate::train::{Config, Guess, TrainError};
use crate::world::world;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where translations of the test set are, in a run's folder.
pub const TRANSLATIONS: &str = "translations.txt";
/// Test sets drawn for the standard error of BLEU.
const BOOTSTRAP: u32 = 500;

/// A network on an executor.
pub struct TranslationBoss {
    translator: Translator,
    ring: Arc<LossRing>,
    pairs: Arc<SentencePairs>,
    train: DataId,
    valid: DataId,
    limits: BatchLimits,
    /// Batches of the validation set.
    valid_batches: Vec<(Vec<u32>, PairShape)>,
    valid_pairs: Arc<SentencePairs>,
    test: Corpus,
    spec: TrainSpec,
    batch: usize,
}

/// What all batches of training and validation data need, and the search for translations of the
/// test data.
fn room(data: &Translation, limits: BatchLimits, beams: usize) -> Room {
    let longest = |corpora: &[&Corpus], side: fn(&SentencePairs) -> usize| {
        let lengths = corpora.iter().map(|corpus| side(&corpus.pairs));
        padded(lengths.max().unwrap_or(1))
    };
    let sources = |corpora: &[&Corpus]| longest(corpora, |pairs| pairs.source().longest());
    let seen = [&data.train, &data.valid];
    let [source, target] = [
        sources(&seen),
        longest(&seen, |pairs| pairs.target().longest()),
    ];
    let translated = sources(&[&data.test]);
    // A pair that alone has more tokens than a batch may have was refused when the data were read.
    let tokens = |length: usize| (limits.sentences * length).min(limits.max_tokens);
    Room {
        sentences: limits.sentences,
        source: tokens(source).max(translated),
        target: tokens(target).max(beams),
        places: source
            .max(target)
            .max(longest_translation(translated).min(MOST_TOKENS)),
    }
}

/// What one of the ranks that share a batch has of it, at most: a sentence more than an equal part of
/// few long ones.
fn own_limits(data: &Translation, limits: BatchLimits) -> BatchLimits {
    let world = world();
    if !world.is_shared() {
        return limits;
    }
    let longest = |side: fn(&SentencePairs) -> usize| {
        padded(side(&data.train.pairs).max(side(&data.valid.pairs)).max(1))
    };
    let pair =
        longest(|pairs| pairs.source().longest()) + longest(|pairs| pairs.target().longest());
    BatchLimits {
        sentences: world.largest_part(limits.sentences),
        max_tokens: world.largest_part(limits.max_tokens) + pair,
    }
}

/// This rank's part of a batch of that shape: all ranks' are of one shape.
fn own_shape(shape: PairShape) -> PairShape {
    PairShape {
        sentences: world().largest_part(shape.sentences),
        ..shape
    }
}

impl TranslationBoss {
    /// Opens the device, with activations as settings say or else as usual, and allocates the
    /// network, with all parameters zero, and a ring.
    pub fn new(
        (config, usual): (&Config, Precision),
        own: &TranslationConfig,
        data: &Translation,
        tokenizer: &Tokenizer,
        limits: BatchLimits,
    ) -> Result<TranslationBoss, TrainError> {
        let exec = open((&config.device, config.precision, usual), own)?;
        let all: Vec<u32> = (0..data.valid.pairs.len() as u32).collect();
        let own_limits = own_limits(data, limits);
        let valid_batches = bucket::batches(&data.valid.pairs, &all, own_limits);
        let valid_batches = valid_batches.map_err(TrainError::unusable)?;
        let room = room(data, own_limits, own.beam);
        let mut translator = Translator::new(exec, own, tokenizer.clone(), room)
            .map_err(|e| TrainError::unusable(e.at_batch(config.batch)))?;
        let exec = translator.exec();
        let ops = exec.sequence().expect("the network has its ops");
        let [train, valid] =
            [&data.train, &data.valid].map(|corpus| ops.attach_pairs(corpus.pairs.clone()));
        let ring = exec.create_ring(SLOTS, world().ring_rows(config.batch));
        Ok(TranslationBoss {
            ring: ring.map_err(TrainError::unusable)?,
            translator,
            pairs: data.train.pairs.clone(),
            train,
            valid,
            limits,
            valid_batches,
            valid_pairs: data.valid.pairs.clone(),
            test: data.test.clone(),
            spec: TrainSpec {
                smoothing: config.label_smoothing as f32,
                clip: own.clip_norm as f32,
                optimiser: Optimiser::Adam(Adam {
                    betas: [0.9, 0.98],
                    eps: 1e-9,
                    weight_decay: config.weight_decay as f32,
                    decoupled: true,
                }),
            },
            batch: config.batch,
        })
    }

    fn net(&self) -> &Network {
        &self.translator.net
    }

    /// Translations of the test set, of which each rank finds a part.
    fn translations(&mut self) -> Result<Vec<String>, TrainError> {
        let (world, sources) = (world(), self.test.pairs.source());
        let own = world.part(self.test.pairs.len()).map(|i| sources.get(i));
        let own = own.collect::<Sentences>();
        let found = self.translator.translate(&own)?;
        let found = postcard::to_stdvec(&found).expect("plain data");
        let all = world
            .exchange("translations", &found)
            .map_err(TrainError::failed)?;
        let all = all
            .iter()
            .map(|found| postcard::from_bytes::<Vec<String>>(found));
        let all: Result<Vec<_>, _> = all.collect();
        Ok(all.map_err(TrainError::failed)?.concat())
    }

    /// A step of evaluation on validation sentences.
    fn look(&mut self, ids: Vec<u32>, shape: PairShape) -> Result<(), DeviceError> {
        let inputs = StepInputs {
            ids,
            shape: key(shape),
            ..StepInputs::default()
        };
        let valid = self.valid;
        let (exec, net) = self.translator.parts();
        exec.step(Pass::Eval, inputs, &|exec| {
            let ops = exec.sequence().expect("the network has its ops");
            net.bind(shape).eval_step(ops, valid);
        })
    }
}

/// What tells steps of one shape from those of another.
fn key(shape: PairShape) -> [u32; 3] {
    [shape.sentences, shape.source, shape.target].map(|n| n as u32)
}

/// And back.
fn shape(key: [u32; 3]) -> PairShape {
    let [sentences, source, target] = key.map(|n| n as usize);
    PairShape {
        sentences,
        source,
        target,
    }
}

impl Boss for TranslationBoss {
    fn parts(&mut self) -> (&mut dyn Executor, &Params) {
        let (exec, net) = self.translator.parts();
        (exec, &net.params)
    }

    fn ring(&self) -> Arc<LossRing> {
        self.ring.clone()
    }

    fn state(&self) -> Vec<(&'static str, Tensor)> {
        let net = self.net();
        vec![
            ("values", net.params.values),
            ("momentum", net.params.momentum),
            ("second_moment", net.second_moment),
        ]
    }

    /// Padded batches of sentences of about one length.
    fn plan(&self, ids: &[u32]) -> Vec<Planned> {
        // Which place of the pool each id came from; ids are different.
        let mut places: Vec<u32> = (0..ids.len() as u32).collect();
        places.sort_unstable_by_key(|place| ids[*place as usize]);
        let place = |id: &u32| {
            let found = places.binary_search_by_key(id, |place| ids[*place as usize]);
            places[found.expect("an id of the pool")]
        };
        let batches = bucket::batches(&self.pairs, ids, self.limits);
        let batches = batches.expect("checked when the data were read");
        let planned = batches.into_iter().map(|(ids, shape)| Planned {
            places: ids.iter().map(place).collect(),
            shape: key(shape),
            ops: self.net().config.train_ops(shape),
        });
        planned.collect()
    }

    fn plain(&mut self) {
        self.translator.net.stop_dropout();
        self.spec.smoothing = 0.0;
    }

    fn prepare(&mut self) -> Result<(), TrainError> {
        // The first shape of each pass claims all memory; the others are captured as they come.
        let first: Vec<u32> = (0..self.batch.min(self.pairs.len()) as u32).collect();
        let train_shape = own_shape(shape(self.plan(&first)[0].shape));
        let valid_shape = self.valid_batches[0].1;
        let (train, valid, spec, batch) = (self.train, self.valid, self.spec, self.batch);
        let (exec, net) = self.translator.parts();
        let trained = exec.prepare(Pass::Train, key(train_shape), &|exec| {
            let ops = exec.sequence().expect("the network has its ops");
            net.bind(train_shape).train_step(ops, train, spec);
        });
        let prepared = trained.and_then(|()| {
            exec.prepare(Pass::Eval, key(valid_shape), &|exec| {
                let ops = exec.sequence().expect("the network has its ops");
                net.bind(valid_shape).eval_step(ops, valid);
            })
        });
        prepared.map_err(|e| TrainError::unusable(e.at_batch(batch)))
    }

    fn step(&mut self, inputs: StepInputs) -> Result<(), DeviceError> {
        let shape = own_shape(shape(inputs.shape));
        let pairs = self.pairs.target();
        let tokens = |id: &u32| pairs.get(*id as usize).len() as u64;
        let inputs = StepInputs {
            shape: key(shape),
            // For dropout, of which no two ranks have the same.
            seed: world().seed(inputs.seed),
            ..own_part(inputs, |ids| ids.iter().map(tokens).sum())
        };
        let (train, spec) = (self.train, self.spec);
        let (exec, net) = self.translator.parts();
        exec.step(Pass::Train, inputs, &|exec| {
            let ops = exec.sequence().expect("the network has its ops");
            net.bind(shape).train_step(ops, train, spec);
        })
    }

    /// Loss a token of the validation set, without label smoothing, and the share of its sentences
    /// of which every token is right, given those before it.
    fn evaluate(&mut self, stop: &AtomicBool) -> Result<Option<Evaluation>, DeviceError> {
        let (mut loss, mut tokens, mut right, mut stopped) = (0.0, 0.0, 0.0, 0.0);
        let (world, batches) = (world(), self.valid_batches.clone());
        for (ids, shape) in batches.into_iter().skip(world.rank()).step_by(world.size()) {
            if stop.load(Ordering::Relaxed) {
                stopped = 1.0;
                break;
            }
            self.look(ids.clone(), shape)?;
            let results = self.net().bind(shape).results;
            let losses = self.translator.exec().read(results.loss)?;
            let rights = self.translator.exec().read(results.right)?;
            for ((id, mean), all) in ids.iter().zip(losses).zip(rights) {
                let length = self.valid_pairs.target().get(*id as usize).len() as f64;
                loss += f64::from(mean) * length;
                tokens += length;
                right += f64::from(all);
            }
        }
        let sums = world.sums("evaluation", [loss, tokens, right, stopped])?;
        let [loss, tokens, right, stopped] = sums;
        if stopped > 0.0 {
            return Ok(None);
        }
        Ok(Some(Evaluation {
            loss: loss / tokens,
            accuracy: right / self.valid_pairs.len() as f64,
        }))
    }

    /// Translations as those of the test set are found.
    fn guess(&mut self, ids: &[u32]) -> Result<Vec<Guess>, TrainError> {
        let sources = ids.iter().map(|id| self.pairs.source().get(*id as usize));
        let sources: Sentences = sources.collect();
        let found = self.translator.search(&sources)?;
        let guesses = ids.iter().zip(found).map(|(id, found)| {
            let given = self.pairs.target().get(*id as usize);
            Ok(Guess {
                answer: self.translator.text(&found.tokens)?,
                sure: f64::from(found.score).exp(),
                agrees: agreement(&found.tokens, given),
            })
        });
        guesses.collect()
    }

    fn score(&mut self, dir: Option<&Path>) -> Result<Score, TrainError> {
        let all = self.evaluate(&AtomicBool::new(false));
        let valid_loss = all.map_err(TrainError::failed)?.expect("all seen").loss;
        let translations = self.translations()?;
        if let Some(dir) = dir.filter(|_| world().is_first()) {
            let text: String = translations.iter().map(|t| format!("{t}\n")).collect();
            files::write(&dir.join(TRANSLATIONS), text.as_bytes()).map_err(TrainError::failed)?;
        }
        let references = &self.test.target;
        Ok(Score {
            bleu: Some(bleu::bleu(&translations, references).score),
            valid_loss: Some(valid_loss),
            standard_error: bleu::standard_error(&translations, references, BOOTSTRAP),
            ..Score::default()
        })
    }
}

/// 1 for the same tokens, else the share of the given ones, their end aside, that a translation has.
fn agreement(found: &[i32], given: &[i32]) -> f64 {
    let words = &given[..given.len().saturating_sub(1)];
    if found == given || words.is_empty() {
        return f64::from(found == given);
    }
    let mut left = found.to_vec();
    let has = |token: &&i32| {
        let place = left.iter().position(|t| t == *token);
        place.map(|place| left.swap_remove(place)).is_some()
    };
    let shared = words.iter().filter(has).count();
    // All of them in another order is not the same.
    (shared as f64 / words.len() as f64).min(0.99)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translations_agree_by_their_tokens() {
        assert_eq!(agreement(&[7, 8, 2], &[7, 8, 2]), 1.0);
        assert_eq!(agreement(&[8, 9, 2], &[7, 8, 2]), 0.5);
        assert_eq!(agreement(&[8, 7, 2], &[7, 8, 2]), 0.99);
        // One token does for one.
        assert_eq!(agreement(&[7, 2], &[7, 7, 7, 7, 2]), 0.25);
        assert_eq!(agreement(&[], &[7, 2]), 0.0);
        assert_eq!(agreement(&[7, 2], &[2]), 0.0);
    }
}
