//! How much is kept: the budget and its phases, and the threshold that makes the keep rate come
//! out.

use super::error::AssistError;
use super::instances::Instances;
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

/// An operation budget: `β` of what E sweeps over all instances cost, laid out by what has been
/// spent of it. It is rounded up to whole batches of mean cost, and so are its phases. Behind its
/// end batches go on in [`Phase::Anneal`]: when to stop is the trainer's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    batch: u64,
    instances: u64,
    /// Cost of a sweep.
    sweep: u64,
    /// Cost of E sweeps.
    candidates: u64,
    /// The budget in batches of mean cost.
    steps: u64,
    /// What is spent when the first phase ends, and when the last begins.
    burn_in: u64,
    anneal: u64,
    /// Cost of the last phase.
    reserve: u64,
}

/// Cost of `epochs` sweeps, a whole number or not, where one costs `sweep`: exact where they are
/// whole.
pub fn sweeps(sweep: u64, epochs: f64) -> u64 {
    epochs as u64 * sweep + (epochs.fract() * sweep as f64).round() as u64
}

impl Plan {
    /// For `epochs` sweeps over the instances in batches of `batch`, at the share `budget` of their
    /// cost.
    ///
    /// # Errors
    /// If the budget is not in (0, 1], a number is zero, the batch is larger than the data, or
    /// costs are missing, zero, or of a sum beyond 64 bits.
    pub fn new(
        instances: &Instances,
        batch: usize,
        epochs: f64,
        budget: f64,
    ) -> Result<Plan, AssistError> {
        if !(budget > 0.0 && budget <= 1.0) {
            return Err(AssistError::Budget(budget));
        }
        if !(epochs > 0.0 && epochs.is_finite()) {
            return Err(AssistError::NoEpochs);
        }
        let (n, costs) = (instances.len(), &instances.costs);
        if batch == 0 || batch > n {
            let instances = n;
            return Err(AssistError::Batch { batch, instances });
        }
        if costs.len() != n || costs.contains(&0) {
            return Err(AssistError::Instances("costs are missing or zero"));
        }
        let sum: u128 = costs.iter().map(|&c| u128::from(c)).sum();
        // One sweep more than there are, for the rounding up of the budget.
        let most = (epochs.ceil() as u128).saturating_add(1);
        if u64::try_from(sum.saturating_mul(most)).is_err() {
            return Err(AssistError::Instances("all sweeps together cost too much"));
        }
        let sweep = sum as u64;
        let candidates = epochs * n as f64;
        // The tolerance is for budgets like 0.65, which no f64 is: a whole number of batches must
        // stay one.
        let steps = (budget * candidates / batch as f64 * (1.0 - 1e-12)).ceil() as u64;
        let plan = Plan {
            batch: batch as u64,
            instances: n as u64,
            sweep,
            candidates: sweeps(sweep, epochs),
            steps,
            burn_in: 0,
            anneal: 0,
            reserve: 0,
        };
        let full = plan.share(FULL_DATA);
        Ok(Plan {
            burn_in: full,
            ..plan.annealed(full)
        })
    }

    /// With InfoBatch's phases: a first whole sweep, and all data in the last eighth of the budget.
    /// Its pruning rate is fixed, so how many sweeps it makes of the budget, fewer or more than E,
    /// is what comes out.
    pub fn infobatch(self) -> Plan {
        Plan {
            burn_in: self.sweep,
            ..self.annealed(self.share(INFOBATCH_ANNEAL))
        }
    }

    /// With a last phase of cost `reserve`.
    fn annealed(self, reserve: u64) -> Plan {
        Plan {
            anneal: self.cost(self.steps) - reserve,
            reserve,
            ..self
        }
    }

    /// Cost of a share of the budget, in whole batches of mean cost.
    fn share(&self, share: f64) -> u64 {
        self.cost((self.steps as f64 * share).round() as u64)
    }

    /// Cost of batches of mean cost.
    fn cost(&self, batches: u64) -> u64 {
        let all = u128::from(batches) * u128::from(self.batch) * u128::from(self.sweep);
        (all / u128::from(self.instances)) as u64
    }

    /// A cost relative to the mean: exactly 1 where all are equal.
    pub fn relative(&self, cost: u64) -> f32 {
        (cost as f64 * self.instances as f64 / self.sweep as f64) as f32
    }

    /// Phase of the batch before which `spent` went into batches.
    pub fn phase(&self, spent: u64) -> Phase {
        if spent >= self.anneal {
            Phase::Anneal
        } else if spent < self.burn_in {
            Phase::BurnIn
        } else {
            Phase::Select
        }
    }

    /// A rate at which no batch costs too much to fill.
    pub fn least_rate(rate: f64) -> f32 {
        rate.clamp(LEAST_RATE, 1.0) as f32
    }

    /// Share of E sweeps' operations that is spent if `rate` of the candidates is kept between the
    /// first phase and the last.
    pub fn budget_of(rate: f64) -> f64 {
        // The two take 2·FULL_DATA of what is spent, and see as much.
        rate / (1.0 - 2.0 * FULL_DATA * (1.0 - rate))
    }

    /// Share of candidates to keep, by cost, when `spent` went into batches and candidates of cost
    /// `drawn` were seen, so that both what is to be trained on and the candidates of the sweeps
    /// are used up when the anneal starts.
    pub fn target(&self, spent: u64, drawn: u64) -> f32 {
        let train = self.anneal.saturating_sub(spent);
        let see = self
            .candidates
            .saturating_sub(self.reserve.saturating_add(drawn));
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
/// Operations a logit and iteration.
const SOLVE_OPS: u64 = SIGMOID_OPS + 7;

/// The threshold θ, solved so that the mean score over recent logits, weighted by what the
/// instances cost, is what is wanted. Unweighted, the budget would be overdrawn: what is costly
/// (long) tends to be hard, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// Logits, with the cost relative to the mean.
    recent: Vec<(f32, f32)>,
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

    /// Adds logits, each with its weight above 0, in place of the oldest.
    pub fn push(&mut self, logits: impl IntoIterator<Item = (f32, f32)>) {
        for weighted in logits {
            if self.recent.len() < RECENT {
                self.recent.push(weighted);
            } else {
                self.recent[self.oldest] = weighted;
                self.oldest = (self.oldest + 1) % RECENT;
            }
        }
    }

    /// Sets θ so that the weighted mean of `σ(logit − θ)` over the recent logits is `score`, in
    /// (0, 1). Newton's method from the last θ, kept inside a bracket. Returns the operations it
    /// took.
    pub fn solve(&mut self, score: f32) -> u64 {
        if self.recent.is_empty() {
            return 0;
        }
        // At the one end every score is at least the wanted one, at the other at most.
        let offset = (score / (1.0 - score)).ln();
        let bounds = |(lo, hi): (f32, f32), &(x, _): &(f32, f32)| (lo.min(x), hi.max(x));
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
        // A subtraction, σ, w·g·(1 − g) and three sums a logit and iteration; two comparisons for
        // the bracket.
        self.recent.len() as u64 * (iterations as u64 * SOLVE_OPS + 2)
    }

    /// Weighted mean of the scores g, and of g·(1 − g), which is minus its derivative in θ. In
    /// eight interleaved sums.
    fn mean_score(&self) -> (f32, f32) {
        let [mut sum, mut slope, mut weights] = [[0.0f32; 8]; 3];
        let mut add = |lane: usize, (logit, weight): (f32, f32)| {
            let g = sigmoid(logit - self.theta);
            sum[lane] += weight * g;
            slope[lane] += weight * g * (1.0 - g);
            weights[lane] += weight;
        };
        let chunks = self.recent.chunks_exact(8);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, &weighted) in chunk.iter().enumerate() {
                add(lane, weighted);
            }
        }
        for (lane, &weighted) in rest.iter().enumerate() {
            add(lane, weighted);
        }
        let total = weights.iter().sum::<f32>();
        (
            sum.iter().sum::<f32>() / total,
            slope.iter().sum::<f32>() / total,
        )
    }

    /// Whether all is finite and in range.
    pub(super) fn is_sound(&self) -> bool {
        self.theta.is_finite()
            && self.recent.len() <= RECENT
            && self.oldest < RECENT
            && self
                .recent
                .iter()
                .all(|&(x, w)| x.is_finite() && w.is_finite() && w > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Inputs;
    use super::*;
    use proptest::prelude::*;

    fn plan(
        costs: Vec<u64>,
        batch: usize,
        epochs: impl Into<f64>,
        budget: f64,
    ) -> Result<Plan, AssistError> {
        let instances = Instances {
            classes: vec![0; costs.len()],
            n_classes: 1,
            features: Vec::new(),
            costs,
            inputs: Inputs::None,
        };
        Plan::new(&instances, batch, epochs.into(), budget)
    }

    #[test]
    fn a_rate_and_its_budget_belong_together() {
        for budget in [0.3, 0.6, 1.0] {
            let nominal = 0.8 * budget / (1.0 - 0.2 * budget);
            assert!(
                (Plan::budget_of(nominal) - budget).abs() < 1e-12,
                "{budget}"
            );
        }
    }

    #[test]
    fn the_budget_is_rounded_up_to_batches() {
        let steps = |n, b, e: f64, budget| plan(vec![3; n], b, e, budget).unwrap().steps;
        assert_eq!(steps(10_000, 100, 13.0, 0.65), 845);
        assert_eq!(steps(50_000, 128, 1.0, 1.0), 391);
        assert_eq!(steps(100, 10, 3.0, 0.7), 21);
        assert_eq!(steps(10, 10, 1.0, 0.01), 1);
        assert_eq!(steps(10, 3, 1.0, 1.0), 4);
        // Sweeps need not be whole.
        assert_eq!(steps(10_000, 100, 0.5, 1.0), 50);
        assert_eq!(steps(10_000, 100, 1.3, 0.5), 65);
        assert_eq!(steps(10, 10, 0.001, 1.0), 1);
    }

    #[test]
    fn whole_sweeps_are_exact_and_parts_are_rounded() {
        let large = (1 << 53) + 1;
        assert_eq!(sweeps(large, 3.0), 3 * large);
        assert_eq!(sweeps(1001, 2.5), 2503);
        assert_eq!(sweeps(7, 0.0), 0);
    }

    #[test]
    fn bad_plans_are_errors() {
        for budget in [0.0, -1.0, 1.01, f64::NAN, f64::INFINITY] {
            assert!(plan(vec![1; 10], 2, 1, budget).is_err());
        }
        assert!(plan(vec![1; 10], 0, 1, 1.0).is_err());
        assert!(plan(vec![1; 10], 11, 1, 1.0).is_err());
        for epochs in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(plan(vec![1; 10], 10, epochs, 1.0).is_err());
        }
        assert!(plan(vec![1; 10], 10, 1, 1.0).is_ok());
        assert!(plan(vec![1, 0, 1], 2, 1, 1.0).is_err());
        assert!(plan(vec![u64::MAX / 4; 2], 2, 1, 1.0).is_ok());
        assert!(plan(vec![u64::MAX / 4; 2], 2, 2, 1.0).is_err());
    }

    #[test]
    fn a_tenth_at_each_end_is_full_data() {
        for cost in [1, 7, 1 << 40] {
            let plan = plan(vec![cost; 1000], 10, 10, 0.5).unwrap();
            let phase = |batch: u64| plan.phase(batch * 10 * cost);
            let count = |p| (0..500).filter(|&n| phase(n) == p).count();
            assert_eq!(count(Phase::BurnIn), 50);
            assert_eq!(count(Phase::Select), 400);
            assert_eq!(count(Phase::Anneal), 50);
            assert_eq!(
                [0, 499, 500, 10_000].map(phase),
                [Phase::BurnIn, Phase::Anneal, Phase::Anneal, Phase::Anneal]
            );
            // (500 − 100)·10 instances from 10·1000 − 2·500 candidates.
            let target = |batch: u64, drawn: u64| plan.target(batch * 10 * cost, drawn * cost);
            assert!((target(50, 500) - 4.0 / 9.0).abs() < 1e-6);
            assert_eq!(target(449, 100_000), 1.0, "no candidates left");
        }
    }

    #[test]
    fn phases_are_shares_of_the_cost() {
        // A sweep costs 1,500,000, the budget is 7,500,000, a batch costs 15,000 in the mean.
        let costs: Vec<u64> = (0..1000).map(|i| 1000 + i % 2 * 1000).collect();
        let plan = plan(costs, 10, 10, 0.5).unwrap();
        let [burn_in, anneal] = [750_000, 6_750_000];
        assert_eq!(plan.phase(burn_in - 1), Phase::BurnIn);
        assert_eq!(plan.phase(burn_in), Phase::Select);
        assert_eq!(plan.phase(anneal - 1), Phase::Select);
        assert_eq!(plan.phase(anneal), Phase::Anneal);
        assert!((plan.target(burn_in, burn_in) - 6.0 / 13.5).abs() < 1e-6);
        assert_eq!((plan.relative(1500), plan.relative(3000)), (1.0, 2.0));
    }

    #[test]
    fn infobatch_has_a_whole_sweep_first_and_an_eighth_last() {
        let whole = plan(vec![5; 1000], 16, 10, 0.64).unwrap().infobatch();
        let count = |phase| {
            let batches = (0..400).filter(|&n| whole.phase(n * 16 * 5) == phase);
            batches.count()
        };
        assert_eq!(count(Phase::BurnIn), 63);
        assert_eq!(count(Phase::Anneal), 50);
        // A budget of less than a sweep has no room to choose.
        let short = plan(vec![1; 1000], 10, 1, 0.5).unwrap().infobatch();
        assert!((0..50).all(|n| short.phase(n * 10) != Phase::Select));
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(0), ..ProptestConfig::default() })]
        #[test]
        fn the_mean_keep_rate_meets_its_target(
            logits in prop::collection::vec((-30f32..30.0, 0.1f32..5.0), 1..3000),
            floor in 0f32..0.9, target in 0.01f32..0.99, start in -1e6f32..1e6,
        ) {
            let b = exploration(floor, target);
            let mut threshold = Threshold::new();
            threshold.push(logits.iter().copied());
            threshold.theta = start;
            let ops = threshold.solve((target - b) / (1.0 - b));
            let recent = &logits[logits.len().saturating_sub(RECENT)..];
            let rate = |x: f32| f64::from(keep(b, sigmoid(x - threshold.theta())));
            prop_assert!(recent.iter().all(|&(x, _)| rate(x) >= f64::from(b)));
            let weight = recent.iter().map(|&(_, w)| f64::from(w)).sum::<f64>();
            let mean = recent.iter().map(|&(x, w)| f64::from(w) * rate(x)).sum::<f64>() / weight;
            prop_assert!((mean - f64::from(target)).abs() < 3e-4, "{mean} {target}");
            prop_assert!(ops > 0);
        }
    }

    #[test]
    fn a_warm_start_is_cheap_and_equal_logits_are_no_trouble() {
        let mut threshold = Threshold::new();
        threshold.push((0..RECENT).map(|i| ((i as f32 * 0.7).sin() * 4.0, 1.0)));
        let cold = threshold.solve(0.4);
        let warm = threshold.solve(0.401);
        assert!(warm <= RECENT as u64 * (2 * SOLVE_OPS + 2) && warm <= cold);
        let mut flat = Threshold::new();
        assert_eq!(flat.solve(0.3), 0);
        flat.push([(2.5, 1.0); 100]);
        flat.solve(0.3);
        assert!((sigmoid(2.5 - flat.theta()) - 0.3).abs() < 1e-3);
    }
}
