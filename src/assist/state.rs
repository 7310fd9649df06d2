//! Figures of the Assistant's work, and all that a checkpoint holds of it.

use super::assistant::{AssistConfig, Assistant, Batch, Feedback, Mind};
use super::error::AssistError;
use super::features::Memory;
use super::quality::Quality;
use super::sweep::Sweeps;
use serde::{Deserialize, Serialize};

/// How trainer and Assistant are coupled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeederConfig {
    /// Slots of the loss ring, K.
    pub slots: usize,
    /// Whether equal runs must give equal batches; then the trainer may wait.
    pub deterministic: bool,
}

/// Figures of the Assistant's work.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FeedStats {
    /// Operations of scoring and learning up to the last composed batch that was taken, see
    /// [`Assistant::ops`].
    pub assist_ops: u64,
    /// Candidates looked at for the batches taken.
    pub candidates_seen: u64,
    /// What these cost.
    pub offered: u64,
    /// Records that the Assistant never saw because its queue was full.
    pub loss_records_dropped: u64,
    /// Batches that the Assistant would have chosen but that were not ready, so that the trainer
    /// took candidates as they came.
    pub batches_unscored: u64,
    /// Seconds that the trainer spent in `Feeder::next` and `Feeder::feedback`: waiting for
    /// batches and for locks included.
    pub feed_stall_seconds: f64,
    /// Mean number of steps between a batch and the last feedback that it is composed from.
    pub feedback_lag_steps: f64,
    /// CPU seconds of the Assistant's thread at work.
    pub assist_cpu_seconds: f64,
}

/// Everything a run's Assistant, sweeps and queues hold: what a checkpoint stores. All numbers are
/// finite; floats must be stored exactly for a resumed run to be bit-equal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssistState {
    pub(super) config: AssistConfig,
    pub(super) coupling: FeederConfig,
    pub(super) mind: Mind,
    pub(super) sweeps: Sweeps,
    pub(super) ready: Vec<Ready>,
    /// As of the last batch taken.
    pub(super) quality: Quality,
    pub(super) v: Option<f64>,
    pub(super) feedback: Vec<Feedback>,
    pub(super) next: u64,
    pub(super) received: u64,
    pub(super) counters: Counters,
    pub(super) stall_nanos: u64,
}

impl AssistState {
    /// What training has shown of each instance, with what the Assistant has not read yet.
    pub fn memory(&self) -> Memory {
        let mut memory = self.mind.memory.clone();
        for unread in &self.feedback {
            memory.observe(unread.step, &unread.ids, &unread.losses, &unread.right);
        }
        memory
    }

    /// From here on for more sweeps, E: what is spent then is a smaller share of the budget. Fewer
    /// than there were to be change nothing.
    pub fn lengthen(&mut self, epochs: f64) {
        self.config.epochs = self.config.epochs.max(epochs);
    }

    /// The step that the trainer takes next: number of the first batch not handed out.
    pub fn step(&self) -> u64 {
        self.next - self.ready.len() as u64
    }
}

/// A batch that is ready to be taken, and the Assistant's figures as of then. They count only when
/// it is taken: so in equal deterministic runs they are equal at each step, however far ahead the
/// Assistant is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ready {
    pub(super) batch: Batch,
    pub(super) ops: u64,
    pub(super) quality: Quality,
    pub(super) v: Option<f64>,
}

/// What is counted from batch to batch, across resumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Counters {
    pub(super) assist_ops: u64,
    pub(super) candidates: u64,
    pub(super) offered: u64,
    pub(super) dropped: u64,
    pub(super) unscored: u64,
    /// Over the batches taken that were composed with some feedback.
    pub(super) lag_steps: u64,
    pub(super) lag_batches: u64,
    pub(super) cpu_seconds: f64,
}

impl Counters {
    /// Enters a batch that was taken.
    pub(super) fn count(&mut self, batch: &Batch) {
        self.candidates += batch.candidates;
        self.offered += batch.offered;
    }
}

impl AssistState {
    /// Whether an Assistant could go on from here.
    pub(super) fn check(
        &self,
        assistant: &Assistant,
        coupling: FeederConfig,
    ) -> Result<(), AssistError> {
        let config = assistant.config();
        if self.config != config || self.coupling != coupling {
            return Err(AssistError::State("it is of another configuration"));
        }
        let n = self.mind.memory.len() as u32;
        let known = |ids: &[u32]| ids.iter().all(|&id| id < n);
        let first = self.next.checked_sub(self.ready.len() as u64);
        let numbered = first.is_some_and(|first| {
            let numbers = self.ready.iter().map(|r| r.batch.number);
            numbers.eq(first..self.next)
        });
        let sound = self.sweeps.is_sound(config.seed, n)
            && numbered
            && self.v.is_none_or(|v| (0.0..=1.0).contains(&v))
            && self.ready.iter().all(|Ready { batch, quality, .. }| {
                let full = batch.ids.len() == config.batch;
                full && known(&batch.ids) && quality.is_sound()
            })
            && self.quality.is_sound()
            && self.feedback.iter().all(|f| {
                let lengths = [f.losses.len(), f.right.len()] == [f.ids.len(); 2];
                lengths && known(&f.ids) && f.losses.iter().all(|x| x.is_finite())
            });
        if sound {
            Ok(())
        } else {
            Err(AssistError::State("it is damaged"))
        }
    }
}
