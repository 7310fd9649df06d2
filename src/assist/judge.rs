//! What the choice of instances rests on, for the presets that look at them.

use super::error::AssistError;
use super::features::{self, Memory, Moment};
use super::infobatch::Pruner;
use super::instances::{Inputs, Instances};
use super::model::Logistic;
use super::paper::PixelModel;
use super::preset::Preset;
use super::sweep::Drawn;
use super::terms::{TermModel, Terms};
use crate::data::Images;
use serde::{Deserialize, Serialize};

/// One of them, with what it has learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Judge {
    /// Scores by what is remembered.
    Memory(Logistic),
    /// Scores by the image.
    Pixels(PixelModel),
    /// Scores by the words.
    Terms(TermModel),
    /// Prunes by the last loss; no scores.
    InfoBatch(Pruner),
}

/// What a judge makes of candidates.
#[derive(Clone, Debug, PartialEq)]
pub enum Opinion {
    /// Logits of a high loss, `[n]`.
    Logits(Vec<f32>),
    /// Keep probabilities, `[n]`: there are no scores.
    Keep(Vec<f32>),
}

impl Judge {
    /// One that has learned nothing yet, if the preset has one.
    ///
    /// # Errors
    /// If it needs inputs and there are none, or they are not those of the instances.
    pub fn new(preset: Preset, instances: &Instances) -> Result<Option<Judge>, AssistError> {
        let n_classes = instances.n_classes;
        Ok(match preset {
            Preset::Memory => {
                let model = Logistic::new(features::prior(instances), n_classes);
                Some(Judge::Memory(model))
            }
            Preset::Paper => match &instances.inputs {
                Inputs::Images(images) if images.labels == instances.classes => {
                    let pixels = images.height * images.width * images.channels;
                    Some(Judge::Pixels(PixelModel::new(pixels, n_classes)))
                }
                Inputs::Sentences(terms) if terms.len() == instances.len() => {
                    Some(Judge::Terms(TermModel::new(terms.vocab())))
                }
                _ => return Err(AssistError::Instances("their inputs are missing")),
            },
            Preset::InfoBatch => Some(Judge::InfoBatch(Pruner::default())),
            Preset::Random | Preset::Off => None,
        })
    }

    /// What it makes of some candidates, and the operations it took.
    pub fn opinion(
        &mut self,
        memory: &Memory,
        instances: &Instances,
        Drawn { sweep, ids, .. }: &Drawn,
        at: Moment,
    ) -> (Opinion, u64) {
        let n = ids.len();
        match self {
            Judge::Memory(model) => {
                let block = features::block(memory, instances, ids, at);
                let ops = features::block_ops(n) + model.logits_ops(n);
                (Opinion::Logits(model.logits(&block)), ops)
            }
            Judge::Pixels(model) => {
                let logits = model.logits(images(instances), ids);
                (Opinion::Logits(logits), model.logits_ops(n))
            }
            Judge::Terms(model) => {
                let terms = sentences(instances);
                let logits = Opinion::Logits(model.logits(terms, ids));
                (logits, TermModel::logits_ops(terms, ids))
            }
            Judge::InfoBatch(pruner) => {
                let ops = pruner.begin(*sweep, memory) + Pruner::keep_ops(n);
                (Opinion::Keep(pruner.keep(memory, ids)), ops)
            }
        }
    }

    /// The floor of the keep probability at a target rate, of which the Assistant's own is `floor`.
    pub fn floor(&self, floor: f32, target: f32) -> f32 {
        match self {
            Judge::Terms(model) => floor.max((1.0 - model.confidence()).min(target)),
            _ => floor,
        }
    }

    /// Learns from the losses of a batch, with the features as they stood before it. Returns the
    /// labels, whether each loss was above the mean (none if nothing is learned), and the
    /// operations it took.
    pub fn learn(
        &mut self,
        memory: &Memory,
        instances: &Instances,
        (ids, losses): (&[u32], &[f32]),
        at: Moment,
    ) -> (Vec<bool>, u64) {
        let n = ids.len();
        match self {
            Judge::Memory(model) => {
                let block = features::block(memory, instances, ids, at);
                let labels: Vec<bool> = losses.iter().map(|&x| x > at.mean_loss).collect();
                model.learn(&block, &labels);
                // The labels, and the running mean, cost one comparison and one add a record.
                let own = features::OBSERVE_OPS + 2;
                let ops = features::block_ops(n) + model.learn_ops(n) + n as u64 * own;
                (labels, ops)
            }
            Judge::Pixels(model) => {
                let labels = model.learn(images(instances), ids, losses);
                (labels, model.learn_ops(n))
            }
            Judge::Terms(model) => {
                let terms = sentences(instances);
                let labels = model.learn(terms, ids, losses);
                (labels, model.learn_ops(terms, ids))
            }
            Judge::InfoBatch(_) => (Vec::new(), 0),
        }
    }

    /// Whether `other` is the same kind, of the same size.
    pub fn fits(&self, other: &Judge) -> bool {
        match (self, other) {
            (Judge::Memory(a), Judge::Memory(b)) => a.shape() == b.shape(),
            (Judge::Pixels(a), Judge::Pixels(b)) => a.shape() == b.shape(),
            (Judge::Terms(a), Judge::Terms(b)) => a.vocab() == b.vocab(),
            (Judge::InfoBatch(_), Judge::InfoBatch(_)) => true,
            _ => false,
        }
    }

    /// Whether every number in it is finite and the sizes agree.
    pub fn is_sound(&self) -> bool {
        match self {
            Judge::Memory(model) => model.is_sound(),
            Judge::Pixels(model) => model.is_sound(),
            Judge::Terms(model) => model.is_sound(),
            Judge::InfoBatch(pruner) => pruner.is_sound(),
        }
    }
}

fn images(instances: &Instances) -> &Images {
    match &instances.inputs {
        Inputs::Images(images) => images,
        _ => unreachable!("checked when the judge was made"),
    }
}

fn sentences(instances: &Instances) -> &Terms {
    match &instances.inputs {
        Inputs::Sentences(terms) => terms,
        _ => unreachable!("checked when the judge was made"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::pairs::{EOS, SentencePairs, Sentences};

    #[test]
    fn the_published_floor_for_sentences_sinks_as_the_labels_are_foretold() {
        let all = [[4, EOS], [5, EOS], [6, EOS], [7, EOS]];
        let text: Sentences = all.iter().map(|s| &s[..]).collect();
        let pairs = SentencePairs::new(text.clone(), text);
        let instances = Instances::from_pairs(&pairs, vec![1; 4], 8);
        let mut judge = Judge::new(Preset::Paper, &instances).unwrap().unwrap();
        assert_eq!(
            judge.floor(0.25, 0.5),
            0.5,
            "at first the scores have no say"
        );
        let at = Moment {
            step: 0,
            mean_loss: 1.0,
            pace: 1.0,
        };
        let records = (&[0, 1, 2, 3][..], &[0.0, 2.0, 0.0, 0.0][..]);
        let mut floors = Vec::new();
        for _ in 0..200 {
            judge.learn(&Memory::new(4), &instances, records, at);
            floors.push(judge.floor(0.25, 0.5));
        }
        assert!(floors.is_sorted_by(|a, b| a >= b));
        assert!(floors.iter().any(|&f| 0.25 < f && f < 0.5));
        assert_eq!(floors[199], 0.25);
        let memory = Judge::new(Preset::Memory, &instances).unwrap().unwrap();
        assert_eq!(memory.floor(0.25, 0.5), 0.25);
        assert!(!memory.fits(&judge) && judge.is_sound());
    }
}
