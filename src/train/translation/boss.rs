//! The Boss for translation: a Transformer on an executor, with its data.

use super::Translator;
use super::options::{MOST_TOKENS, TranslationConfig};
use crate::assist::LossRing;
use crate::backend::sequence::Adam;
use crate::backend::{self, DataId, DeviceError, Executor, Pass, StepInputs, Tensor};
use crate::data::pairs::{PairShape, SentencePairs};
use crate::data::text::bucket::{self, BatchLimits, padded};
use crate::data::text::{Corpus, Tokenizer, Translation, bleu};
use crate::files;
use crate::nn::{Params, TrainSpec, Transformer};
use crate::train::task::{Boss, Evaluation, Planned, SLOTS, Score};
use crate::train::{Config, TrainError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where translations of the test set are, in a run's folder.
pub const TRANSLATIONS: &str = "translations.txt";
/// Test sets drawn for the standard error of BLEU.
const BOOTSTRAP: u32 = 500;

/// A Transformer on an executor.
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

/// The padded shape that has room for all batches.
fn largest(batches: &[(Vec<u32>, PairShape)], corpora: [&Corpus; 3], batch: usize) -> PairShape {
    let longest = |side: fn(&SentencePairs) -> usize| {
        let lengths = corpora.map(|corpus| side(&corpus.pairs));
        padded(lengths.into_iter().max().unwrap_or(1))
    };
    let rows = batches.iter().map(|(_, shape)| shape.sentences);
    PairShape {
        sentences: rows.max().unwrap_or(0).max(batch),
        source: longest(|pairs| pairs.source().longest()),
        // Translations may be longer than any that is known.
        target: longest(|pairs| pairs.target().longest()).max(MOST_TOKENS),
    }
}

impl TranslationBoss {
    /// Opens the device and allocates the network, with all parameters zero, and a ring.
    pub fn new(
        config: &Config,
        own: &TranslationConfig,
        data: &Translation,
        tokenizer: &Tokenizer,
        limits: BatchLimits,
    ) -> Result<TranslationBoss, TrainError> {
        let exec = backend::open(&config.device).map_err(TrainError::unusable)?;
        let all: Vec<u32> = (0..data.valid.pairs.len() as u32).collect();
        let valid_batches = bucket::batches(&data.valid.pairs, &all, limits);
        let valid_batches = valid_batches.map_err(TrainError::unusable)?;
        let corpora = [&data.train, &data.valid, &data.test];
        let largest = largest(&valid_batches, corpora, limits.sentences);
        let mut translator = Translator::new(exec, own, tokenizer.clone(), largest)
            .map_err(|e| TrainError::unusable(e.at_batch(config.batch)))?;
        let exec = translator.exec();
        let ops = exec.sequence().expect("the network has its ops");
        let [train, valid] =
            [&data.train, &data.valid].map(|corpus| ops.attach_pairs(corpus.pairs.clone()));
        let ring = exec.create_ring(SLOTS, config.batch);
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
                adam: Adam {
                    betas: [0.9, 0.98],
                    eps: 1e-9,
                    weight_decay: config.weight_decay as f32,
                    decoupled: true,
                },
            },
            batch: config.batch,
        })
    }

    fn net(&self) -> &Transformer {
        &self.translator.net
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
        self.translator.net.config.dropout = 0.0;
        self.spec.smoothing = 0.0;
    }

    fn prepare(&mut self) -> Result<(), TrainError> {
        // The first shape of each pass claims all memory; the others are captured as they come.
        let first: Vec<u32> = (0..self.batch.min(self.pairs.len()) as u32).collect();
        let train_shape = shape(self.plan(&first)[0].shape);
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
        let (shape, train, spec) = (shape(inputs.shape), self.train, self.spec);
        let (exec, net) = self.translator.parts();
        exec.step(Pass::Train, inputs, &|exec| {
            let ops = exec.sequence().expect("the network has its ops");
            net.bind(shape).train_step(ops, train, spec);
        })
    }

    /// Loss a token of the validation set, without label smoothing, and the share of its sentences
    /// of which every token is right, given those before it.
    fn evaluate(&mut self, stop: &AtomicBool) -> Result<Option<Evaluation>, DeviceError> {
        let (mut loss, mut tokens, mut right) = (0.0, 0.0, 0.0);
        for (ids, shape) in self.valid_batches.clone() {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
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
        Ok(Some(Evaluation {
            loss: loss / tokens,
            accuracy: right / self.valid_pairs.len() as f64,
        }))
    }

    fn score(&mut self, dir: Option<&Path>) -> Result<Score, TrainError> {
        let all = self.evaluate(&AtomicBool::new(false));
        let valid_loss = all.map_err(TrainError::failed)?.expect("all seen").loss;
        let translations = self.translator.translate(self.test.pairs.source())?;
        if let Some(dir) = dir {
            let text: String = translations.iter().map(|t| format!("{t}\n")).collect();
            files::write(&dir.join(TRANSLATIONS), text.as_bytes()).map_err(TrainError::failed)?;
        }
        let references = &self.test.target;
        Ok(Score {
            bleu: Some(bleu::bleu(&translations, references).score),
            valid_loss: Some(valid_loss),
            standard_error: bleu::standard_error(&translations, references, BOOTSTRAP),
            test_accuracy: None,
        })
    }
}
