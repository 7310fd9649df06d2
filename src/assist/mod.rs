//! The Assistant: learns online which instances still teach the Boss, on a thread of its own, and
//! never makes anyone wait.
//!
//! Losses come back through the [`LossRing`], whose protocol the trainer's [`Drain`] keeps. The
//! [`Feeder`] owns the thread: feedback in, [`Batch`]es out. The [`Assistant`] composes them:
//! candidates come from shuffled [sweeps](Sweeps), a logistic model scores them by
//! what is remembered of each (or, as published, by the input: pixels or
//! words), and the [plan](Plan) keeps as many as the budget allows. How well it
//! tells what is hard is [measured](Quality) all along. Its rivals, from no choice at all to
//! InfoBatch, are [presets](Preset) of the same Assistant.

mod assistant;
mod error;
mod features;
mod feeder;
mod infobatch;
mod instances;
mod judge;
mod model;
mod paper;
mod policy;
mod preset;
mod quality;
mod ring;
#[cfg(test)]
mod ring_tests;
mod state;
mod sweep;
mod terms;

/// The ring's atomics: `tests/loom_ring.rs` compiles the ring with loom's in their place.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
}

pub use assistant::{AssistConfig, Assistant, Batch, Feedback};
pub use error::AssistError;
pub use features::Memory;
pub use feeder::Feeder;
pub use instances::{Inputs, Instances};
pub use policy::{Phase, Plan, sweeps};
pub use preset::Preset;
pub use quality::{Calibration, Quality};
pub use ring::{Drain, LossRing, Record, StepRecords};
pub use state::{AssistState, FeedStats, FeederConfig};
pub use sweep::Sweeps;
pub use terms::Terms;
