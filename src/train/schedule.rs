//! The learning rate as a function of the share of the budget that is spent: of operations, not of
//! sweeps, so that a run that skips instances goes through the whole schedule.

use serde::{Deserialize, Serialize};

/// Share of the budget over which the learning rate rises to its peak.
const WARMUP: f64 = 0.1;

/// How the learning rate falls after a straight line up to its peak. Both end at 0 with the
/// budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// A straight line (Smith, 2018, without the long tail).
    Linear,
    /// By `1/√spent` (Vaswani et al., 2017), lowered to meet 0 at the end.
    InverseSqrt,
}

impl Schedule {
    /// The rate where the share `spent` of the budget is gone, 0 to 1.
    pub fn rate(self, peak: f64, spent: f64) -> f64 {
        let spent = spent.clamp(0.0, 1.0);
        let fall = match self {
            Schedule::Linear => (1.0 - spent) / (1.0 - WARMUP),
            Schedule::InverseSqrt => {
                ((WARMUP / spent).sqrt() - WARMUP.sqrt()) / (1.0 - WARMUP.sqrt())
            }
        };
        peak * (spent / WARMUP).min(fall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_to_the_peak_and_ends_at_zero() {
        for schedule in [Schedule::Linear, Schedule::InverseSqrt] {
            assert_eq!(schedule.rate(0.2, WARMUP), 0.2);
            assert_eq!(schedule.rate(0.2, 0.0), 0.0);
            assert_eq!(schedule.rate(0.2, 1.0), 0.0);
            assert_eq!(schedule.rate(0.2, 1.5), 0.0);
            let rates: Vec<f64> = (0..=100)
                .map(|i| schedule.rate(1.0, f64::from(i) / 100.0))
                .collect();
            assert!(rates[..=10].is_sorted() && rates[10..].is_sorted_by(|a, b| a >= b));
            assert!(rates.iter().all(|r| (0.0..=1.0).contains(r)));
        }
        // Half-way down one is lower: it has fallen faster.
        let middle = |schedule: Schedule| schedule.rate(1.0, 0.55);
        assert!(middle(Schedule::InverseSqrt) < middle(Schedule::Linear));
    }
}
