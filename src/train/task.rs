//! What the training loop does not know: a network with its data.

use super::report::{Sample, Shown};
use super::{Answers, Config, Guess, TrainError};
use crate::assist::{Instances, LossRing};
use crate::backend::{DeviceError, Executor, Precision, StepInputs, Tensor};
use crate::files::WriteError;
use crate::nn::{About, Params};
use crate::world::world;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Steps that may be under way at once (K in the protocol of the loss ring).
pub const SLOTS: usize = 4;

/// How a task speaks of its instances and of its result.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// An instance: image.
    pub one: &'static str,
    /// Several.
    pub many: &'static str,
    /// Several, in a crowded line.
    pub short: &'static str,
    /// What the result is called.
    pub score: &'static str,
    /// What stands behind its points.
    pub unit: &'static str,
    /// How exactly it is computed.
    pub signature: Option<&'static str>,
    /// What evaluations during training are judged by.
    pub curve: Curve,
}

/// What evaluations during training are judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// Accuracy on the images that training does not see.
    Accuracy,
    /// Loss on the validation sentences.
    ValidLoss,
}

impl Words {
    /// A result, for a line on a terminal.
    pub fn result(&self, score: &Score) -> String {
        let signature = self.signature.map(|s| format!(" ({s})"));
        let signature = signature.unwrap_or_default();
        format!(
            "{} {:.2}{}{signature}",
            self.score,
            score.points(),
            self.unit
        )
    }

    /// An evaluation, for a line on a terminal.
    pub fn evaluation(&self, result: Evaluation) -> String {
        match self.curve {
            Curve::Accuracy => format!("{} {:.2} %", self.score, 100.0 * result.accuracy),
            Curve::ValidLoss => format!("validation loss {:.3}", result.loss),
        }
    }
}

/// Data to learn, and how a network for it is made.
pub trait Task: Sync {
    /// Network and data, for a heading.
    fn title(&self) -> String;
    /// The data with its sizes.
    fn data(&self) -> String;
    /// How to speak of it.
    fn words(&self) -> &'static Words;
    /// What files with its network's weights say of them.
    fn about(&self) -> About;
    /// Its own settings, as keys of `config.toml`.
    fn settings(&self) -> toml::Table;
    /// Training instances.
    fn size(&self) -> usize;
    /// Changes with anything in the data: a checkpoint goes on with the same or not at all.
    fn fingerprint(&self) -> u64;
    /// How many instances the Assistant is asked for at a time where steps take `batch`.
    fn pool(&self, batch: usize) -> usize;
    /// The training set as the Assistant sees it.
    fn instances(&self) -> Instances;
    /// The learning rate, see [`learning_rate`](super::Schedule::rate).
    fn schedule(&self) -> super::Schedule;
    /// Opens the device and allocates the network, with all parameters zero. Where settings name no
    /// precision, a device with a choice takes `usual`.
    ///
    /// # Errors
    /// No such device, or no memory.
    fn boss(&self, config: &Config, usual: Precision) -> Result<Box<dyn Boss>, TrainError>;
    /// Writes what a trained model needs beside its weights.
    ///
    /// # Errors
    /// A full disk.
    fn write_into(&self, dir: &Path) -> Result<(), WriteError>;
    /// What a training instance looks like.
    fn show(&self, id: usize) -> Shown;
    /// For a report: what a trained network makes of some of the test set, from its run's folder.
    fn samples(&self, dir: &Path) -> Vec<Sample>;
}

/// One step of those that train on a pool of instances.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Which of the pool's instances: the step's rows.
    pub places: Vec<u32>,
    /// See [`StepInputs::shape`].
    pub shape: [u32; 3],
    /// Operations of forward and backward passes, padding included.
    pub ops: u64,
}

/// This rank's part of a training step, where several share it: its rows, with weights by which the
/// mean over the ranks is that over all rows. `counts` is what instances count in a step's loss.
pub fn own_part(inputs: StepInputs, counts: impl Fn(&[u32]) -> u64) -> StepInputs {
    let world = world();
    if !world.is_shared() {
        return inputs;
    }
    let StepInputs { ids, weights, .. } = &inputs;
    let rows = match world.part(ids.len()) {
        // With nothing to do it keeps the others company.
        part if part.is_empty() => 0..1,
        part => part,
    };
    let own = counts(&ids[world.part(ids.len())]) as f64;
    let scale = (world.size() as f64 * own / counts(ids) as f64) as f32;
    let scaled = |row: usize| scale * weights.get(row).unwrap_or(&1.0);
    StepInputs {
        weights: rows.clone().map(scaled).collect(),
        ids: ids[rows].to_vec(),
        ..inputs
    }
}

/// Mean loss and share of right answers on the data that training does not see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Cross entropy, nats.
    pub loss: f64,
    /// 0 to 1.
    pub accuracy: f64,
}

/// The result of training, on the test set, or, where one was held out, on the validation set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Share of the test images that the network has right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_accuracy: Option<f64>,
    /// Share of the images held out for validation that the network has right: then it has not seen
    /// the test images, and neither has whoever reads this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_accuracy: Option<f64>,
    /// BLEU of its translations of the test set, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bleu: Option<f64>,
    /// Mean loss a token of the validation set, nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_loss: Option<f64>,
    /// Standard error of the score that the finite test set leaves, in the score's own unit.
    #[serde(default)]
    pub standard_error: f64,
    /// Image by image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
}

impl Score {
    /// Percent of right answers, or BLEU. NaN if there is none.
    pub fn points(&self) -> f64 {
        let accuracy = self.test_accuracy.or(self.valid_accuracy);
        self.bleu
            .unwrap_or(self.per_point() * accuracy.unwrap_or(f64::NAN))
    }

    /// Points in one of the score's own unit.
    pub fn per_point(&self) -> f64 {
        if self.bleu.is_some() { 1.0 } else { 100.0 }
    }
}

/// A network on an executor, with its data.
pub trait Boss {
    /// The executor, and the network's parameters on it.
    fn parts(&mut self) -> (&mut dyn Executor, &Params);
    /// Where the losses of training steps arrive.
    fn ring(&self) -> Arc<LossRing>;
    /// All that a checkpoint holds of the network, by name.
    fn state(&self) -> Vec<(&'static str, Tensor)>;
    /// The steps that train on these instances.
    fn plan(&self, ids: &[u32]) -> Vec<Planned>;
    /// From now on sees the same at every step: no augmentation, dropout or smoothing.
    fn plain(&mut self);
    /// Claims the memory of steps to come.
    ///
    /// # Errors
    /// There is not enough: says which batch would fit.
    fn prepare(&mut self) -> Result<(), TrainError>;
    /// Launches one training step.
    ///
    /// # Errors
    /// A failure of the device that is already known.
    fn step(&mut self, inputs: StepInputs) -> Result<(), DeviceError>;
    /// Loss and accuracy on the data that training does not see; `None` if `stop` is set before all
    /// of it is seen.
    ///
    /// # Errors
    /// A failure of the device.
    fn evaluate(&mut self, stop: &AtomicBool) -> Result<Option<Evaluation>, DeviceError>;
    /// What the network, as it is, answers to training instances.
    ///
    /// # Errors
    /// A failure of the device.
    fn guess(&mut self, ids: &[u32]) -> Result<Vec<Guess>, TrainError>;
    /// The result of training. What there is to look at goes into `dir`.
    ///
    /// # Errors
    /// A failure of the device, or a full disk.
    fn score(&mut self, dir: Option<&Path>) -> Result<Score, TrainError>;
}
