//! How much is kept: the budget and its phases, and the threshold that makes the keep rate come
//! out.

use super::error::AssistError;
use super::model::{SIGMOID_OPS, sigmoid};
use serde::{Deserialize, Serialize};

/// Share of the budget trained on all data at the start, and again at the end.
const FULL_DATA: f64 = 0.1;
/// The authors' share at the end for InfoBatch.
const INFOBATCH_ANNEAL: f64 = 0.125;
/// Least share of the candidates kept. Bounds the scoring that a batch can cost.
const LEAST_RATE: f64 = 0.01;
/// From here on all is kept, unscored: there is nothing to choose.
pub const KEEP_ALL: f32 = 0.999;

/// What a batch is chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All data: the Assistant watches.
    BurnIn,
    /// The Assistant chooses.
    Select,
    /// All data, so that the end state is that of the whole distribution.
    Anneal,
}

/// An operation budget in batches. Every instance costs the same, so `β` of the operations of E
/// sweeps over N instances are `⌈β·E·N / B⌉` batches of B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    batch: u64,
    /// Candidates in E sweeps.
    candidates: u64,
    steps: u64,
    /// Batches of the first and of the last phase.
    burn_in: u64,
    anneal: u64,
}

impl Plan {
    /// For `epochs` sweeps over `instances` in batches of `batch`, at the share `budget` of their
    /// operations.
    ///
    /// # Errors
    /// If the budget is not in (0, 1], a number is zero, or the batch is larger than the data.
    pub fn new(
        instances: usize,
        batch: usize,
        epochs: usize,
        budget: f64,
    ) -> Result<Plan, AssistError> {
        if !(budget > 0.0 && budget <= 1.0) {
            return Err(AssistError::Budget(budget));
        }
        if epochs == 0 {
            return Err(AssistError::NoEpochs);
        }
        if batch == 0 || batch > instances {
            return Err(AssistError::Batch { batch, instances });
        }
        let candidates = (epochs as u64).saturating_mul(instances as u64);
        // The tolerance is for budgets like 0.65, which no f64 is: a whole number of batches must
        // stay one.
        let steps = (budget * candidates as f64 / batch as f64 * (1.0 - 1e-12)).ceil();
        let full = (steps * FULL_DATA).round() as u64;
        Ok(Plan {
            batch: batch as u64,
            candidates,
            steps: steps as u64,
            burn_in: full,
            anneal: full,
        })
    }

    /// With InfoBatch's phases: a first whole sweep over `instances`, and all data in the last
    /// eighth of the budget. Its pruning rate is fixed, so how many sweeps it makes of the budget,
    /// fewer or more than E, is what comes out; training ends with the budget all the same.
    pub fn infobatch(self, instances: usize) -> Plan {
        Plan {
            burn_in: (instances as u64).div_ceil(self.batch),
            anneal: (self.steps as f64 * INFOBATCH_ANNEAL).round() as u64,
            ..self
        }
    }

    /// Batches in all.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Phase of the batch `number`.
    pub fn phase(&self, number: u64) -> Phase {
        if number >= self.steps - self.anneal {
            Phase::Anneal
        } else if number < self.burn_in {
            Phase::BurnIn
        } else {
            Phase::Select
        }
    }

    /// Share of candidates to keep from batch `number` on, with `drawn` candidates seen, so that
    /// both the instances to train on and the candidates of the sweeps are used up when the anneal
    /// starts.
    pub fn target(&self, number: u64, drawn: u64) -> f32 {
        let train = (self.steps - self.anneal).saturating_sub(number) * self.batch;
        let see = self
            .candidates
            .saturating_sub(self.anneal * self.batch + drawn);
        (train as f64 / see.max(1) as f64).clamp(LEAST_RATE, 1.0) as f32
    }
}

/// The exploration floor at a target rate: `floor`, but at most half the target, so that the scores
/// always have a say.
pub fn exploration(floor: f32, target: f32) -> f32 {
    floor.min(0.5 * target)
}

/// Keep probability `b + (1 − b)·g` of a score `g = σ(logit − θ)`.
pub fn keep(b: f32, g: f32) -> f32 {
    b + (1.0 - b) * g
}

/// Recent logits kept to solve the threshold on.
const RECENT: usize = 2048;
/// How near the mean score must come. Solved anew for each batch, against a closed loop.
const TOLERANCE: f32 = 1e-4;
const MAX_ITERATIONS: usize = 40;

/// The threshold θ, solved so that the mean score over recent logits is what is wanted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    recent: Vec<f32>,
    /// Where the next logit goes once `recent` is full.
    oldest: usize,
    theta: f32,
}

impl Threshold {
    /// With no logits.
    pub fn new() -> Threshold {
        Threshold {
            recent: Vec::new(),
            oldest: 0,
            theta: 0.0,
        }
    }

    /// The threshold last solved.
    pub fn theta(&self) -> f32 {
        self.theta
    }

    /// Adds logits in place of the oldest.
    pub fn push(&mut self, logits: &[f32]) {
        for &logit in logits {
            if self.recent.len() < RECENT {
                self.recent.push(logit);
            } else {
                self.recent[self.oldest] = logit;
                self.oldest = (self.oldest + 1) % RECENT;
            }
        }
    }

    /// Sets θ so that the mean of `σ(logit − θ)` over the recent logits is `score`, in (0, 1).
    /// Newton's method from the last θ, kept inside a bracket. Returns the operations it took.
    pub fn solve(&mut self, score: f32) -> u64 {
        if self.recent.is_empty() {
            return 0;
        }
        // At the one end every score is at least the wanted one, at the other at most.
        let offset = (score / (1.0 - score)).ln();
        let bounds = |(lo, hi): (f32, f32), &x: &f32| (lo.min(x), hi.max(x));
        let (least, most) = self.recent.iter().fold((f32::MAX, f32::MIN), bounds);
        let (mut low, mut high) = (least - offset, most - offset);
        self.theta = self.theta.clamp(low, high);
        let mut iterations = 0;
        while iterations < MAX_ITERATIONS {
            iterations += 1;
            let (mean, slope) = self.mean_score();
            if (mean - score).abs() < TOLERANCE {
                break;
            }
            if mean > score {
                low = self.theta;
            } else {
                high = self.theta;
            }
            let newton = self.theta + (mean - score) / slope;
            // False for a NaN or infinite step too.
            self.theta = if low < newton && newton < high {
                newton
            } else {
                0.5 * (low + high)
            };
        }
        // A subtraction, σ, g·(1 − g) and two sums a logit and iteration; two comparisons for the
        // bracket.
        self.recent.len() as u64 * (iterations as u64 * (SIGMOID_OPS + 5) + 2)
    }

    /// Mean of the scores g, and of g·(1 − g), which is minus its derivative in θ. In eight
    /// interleaved sums.
    fn mean_score(&self) -> (f32, f32) {
        let (mut sum, mut slope) = ([0.0f32; 8], [0.0f32; 8]);
        let mut add = |lane: usize, logit: f32| {
            let g = sigmoid(logit - self.theta);
            sum[lane] += g;
            slope[lane] += g * (1.0 - g);
        };
        let chunks = self.recent.chunks_exact(8);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, &logit) in chunk.iter().enumerate() {
                add(lane, logit);
            }
        }
        for (lane, &logit) in rest.iter().enumerate() {
            add(lane, logit);
        }
        let n = self.recent.len() as f32;
        (sum.iter().sum::<f32>() / n, slope.iter().sum::<f32>() / n)
    }

    /// Whether all is finite and in range.
    pub(super) fn is_sound(&self) -> bool {
        self.theta.is_finite()
            && self.recent.len() <= RECENT
            && self.oldest < RECENT
            && self.recent.iter().all(|x| x.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn steps_are_the_budget_rounded_up() {
        let steps = |n, b, e, budget| Plan::new(n, b, e, budget).unwrap().steps();
        assert_eq!(steps(10_000, 100, 13, 0.65), 845);
        assert_eq!(steps(50_000, 128, 1, 1.0), 391);
        assert_eq!(steps(100, 10, 3, 0.7), 21);
        assert_eq!(steps(10, 10, 1, 0.01), 1);
        assert_eq!(steps(10, 3, 1, 1.0), 4);
    }

    #[test]
    fn bad_plans_are_errors() {
        for budget in [0.0, -1.0, 1.01, f64::NAN, f64::INFINITY] {
            assert!(Plan::new(10, 2, 1, budget).is_err());
        }
        assert!(Plan::new(10, 0, 1, 1.0).is_err());
        assert!(Plan::new(10, 11, 1, 1.0).is_err());
        assert!(Plan::new(10, 10, 0, 1.0).is_err());
        assert!(Plan::new(10, 10, 1, 1.0).is_ok());
    }

    #[test]
    fn a_tenth_at_each_end_is_full_data() {
        let plan = Plan::new(1000, 10, 10, 0.5).unwrap();
        let count = |phase| (0..500).filter(|&n| plan.phase(n) == phase).count();
        assert_eq!(count(Phase::BurnIn), 50);
        assert_eq!(count(Phase::Select), 400);
        assert_eq!(count(Phase::Anneal), 50);
        assert_eq!(
            (plan.phase(0), plan.phase(499)),
            (Phase::BurnIn, Phase::Anneal)
        );
        // (500 − 100)·10 instances from 10·1000 − 2·500 candidates.
        assert!((plan.target(50, 500) - 4.0 / 9.0).abs() < 1e-6);
        assert_eq!(plan.target(449, 100_000), 1.0, "no candidates left");
    }

    #[test]
    fn infobatch_has_a_whole_sweep_first_and_an_eighth_last() {
        let plan = Plan::new(1000, 16, 10, 0.64).unwrap().infobatch(1000);
        let count = |phase| (0..400).filter(|&n| plan.phase(n) == phase).count();
        assert_eq!(count(Phase::BurnIn), 63);
        assert_eq!(count(Phase::Anneal), 50);
        // A budget of less than a sweep has no room to choose.
        let plan = Plan::new(1000, 10, 1, 0.5).unwrap().infobatch(1000);
        assert!((0..50).all(|n| plan.phase(n) != Phase::Select));
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(0), ..ProptestConfig::default() })]
        #[test]
        fn the_mean_keep_rate_meets_its_target(
            logits in prop::collection::vec(-30f32..30.0, 1..3000),
            floor in 0f32..0.9, target in 0.01f32..0.99, start in -1e6f32..1e6,
        ) {
            let b = exploration(floor, target);
            let mut threshold = Threshold::new();
            threshold.push(&logits);
            threshold.theta = start;
            let ops = threshold.solve((target - b) / (1.0 - b));
            let recent = &logits[logits.len().saturating_sub(RECENT)..];
            let rate = |&x: &f32| f64::from(keep(b, sigmoid(x - threshold.theta())));
            prop_assert!(recent.iter().all(|x| rate(x) >= f64::from(b)));
            let mean = recent.iter().map(rate).sum::<f64>() / recent.len() as f64;
            prop_assert!((mean - f64::from(target)).abs() < 3e-4, "{mean} {target}");
            prop_assert!(ops > 0);
        }
    }

    #[test]
    fn a_warm_start_is_cheap_and_equal_logits_are_no_trouble() {
        let mut threshold = Threshold::new();
        threshold.push(
            &(0..RECENT)
                .map(|i| (i as f32 * 0.7).sin() * 4.0)
                .collect::<Vec<_>>(),
        );
        let cold = threshold.solve(0.4);
        let warm = threshold.solve(0.401);
        assert!(warm <= RECENT as u64 * (2 * (SIGMOID_OPS + 5) + 2) && warm <= cold);
        let mut flat = Threshold::new();
        assert_eq!(flat.solve(0.3), 0);
        flat.push(&[2.5; 100]);
        flat.solve(0.3);
        assert!((sigmoid(2.5 - flat.theta()) - 0.3).abs() < 1e-3);
    }
}
