//! The ways to choose instances.

use super::policy::Phase;
use serde::{Deserialize, Serialize};

/// How instances are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// By a logistic model of what each instance's losses were, its class and a few input features.
    Memory,
    /// By a logistic model of the input (and the class), as published.
    Paper,
    /// At the same rate without information: the control.
    Random,
    /// By pruning half of those whose last loss is below the mean, weighting the rest of them by
    /// two: InfoBatch. It has no keep rate to meet, so floor and rescaling are nothing to it.
    InfoBatch,
    /// Not at all: sweeps over everything, as far as the budget goes.
    Off,
}

impl Preset {
    /// Whether it skips instances in a phase.
    pub fn selects(self, phase: Phase) -> bool {
        self != Preset::Off && phase == Phase::Select
    }
}
