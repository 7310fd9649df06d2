//! What has happened since the last line of metrics.

use crate::assist::Quality;
use serde::{Deserialize, Serialize};

/// Sums since the last line of metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The Assistant's at that line.
    pub(super) quality: Quality,
    pub(super) instances: u64,
    /// Cost of the instances taken, and of the candidates for them.
    pub(super) cost: u64,
    pub(super) offered: u64,
    pub(super) losses: u64,
    pub(super) loss: f64,
    pub(super) right: u64,
    pub(super) seconds: f64,
    pub(super) lr: f64,
}

impl Interval {
    /// Of the pools taken since, if any was.
    pub(super) fn keep_rate(&self) -> Option<f64> {
        (self.offered > 0).then(|| self.cost as f64 / self.offered as f64)
    }

    /// For people; `short` is what instances are called.
    pub(super) fn message(&self, short: &str) -> String {
        format!(
            "loss {:.3}  {:.0} {}/s  kept {:.0} %",
            self.loss / self.losses.max(1) as f64,
            self.instances as f64 / self.seconds.max(1e-9),
            short,
            100.0 * self.keep_rate().unwrap_or(1.0),
        )
    }
}
