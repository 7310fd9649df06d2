//! Online logistic regression: a batch of feature columns in, logits out, and a step of SGD on the
//! records that came back.

use serde::{Deserialize, Serialize};

/// `1/(1 + e^−x)` to about 1e-6, without branches or calls so that loops over it become vector
/// code.
#[inline]
pub fn sigmoid(x: f32) -> f32 {
    // e^−x = 2^t; adding and subtracting 1.5·2²³ rounds t to a whole number, which the low bits of
    // the sum hold.
    const ROUND: f32 = 12_582_912.0;
    let t = x.clamp(-80.0, 80.0) * -std::f32::consts::LOG2_E;
    let rounded = t + ROUND;
    let f = (t - (rounded - ROUND)) * std::f32::consts::LN_2;
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits());
    let power = f32::from_bits(exponent.wrapping_add(127) << 23);
    // Taylor's series of e^f, |f| ≤ ln 2 / 2.
    let series = 1.0
        + f * (1.0
            + f * (0.5 + f * (1.0 / 6.0 + f * (1.0 / 24.0 + f * (1.0 / 120.0 + f / 720.0)))));
    1.0 / (1.0 + series * power)
}

/// Operations of one [`sigmoid`] (and, by the same count, of one logarithm): each +, ×, ÷ and bit
/// operation is one.
pub const SIGMOID_OPS: u64 = 24;

/// Features of a block of instances: `columns[j·n + i]` is feature `j` of instance `i`, and each
/// instance has a class.
///
/// Columns because sums over features then run over instances in the inner loop: vector code, with
/// a fixed order of summation.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// `[D, n]`.
    pub columns: Vec<f32>,
    /// `[n]`.
    pub classes: Vec<u32>,
}

/// `logit = w·x + v[class]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logistic {
    weights: Vec<f32>,
    prior: Vec<f32>,
    classes: Vec<f32>,
}

/// Step size. The diagonal Newton step would be 4 or more; several features tell much the same, and
/// records are noisy.
const RATE: f32 = 0.1;
/// Pull towards the prior, beside a curvature of at most 1/4 from the data.
const PULL: f32 = 0.01;
/// Pseudo-count that keeps a feature which is rare in a batch (a class, "never seen") from jumping.
const SHRINK: f32 = 8.0;

impl Logistic {
    /// Starts at the weights `prior` (`[D]`), to which it is also regularised, and zero for each of
    /// `n_classes` classes.
    pub fn new(prior: Vec<f32>, n_classes: usize) -> Logistic {
        Logistic {
            weights: prior.clone(),
            prior,
            classes: vec![0.0; n_classes],
        }
    }

    /// Number of features, D, and of classes.
    pub fn shape(&self) -> (usize, usize) {
        (self.weights.len(), self.classes.len())
    }

    /// Whether every number in it is finite and the sizes agree.
    pub fn is_sound(&self) -> bool {
        let all = self.weights.iter().chain(&self.prior).chain(&self.classes);
        self.weights.len() == self.prior.len() && all.into_iter().all(|w| w.is_finite())
    }

    /// Logits of a block, `[n]`.
    pub fn logits(&self, block: &Block) -> Vec<f32> {
        let n = block.classes.len();
        let mut logits: Vec<f32> = block
            .classes
            .iter()
            .map(|&c| self.classes[c as usize])
            .collect();
        for (&w, column) in self
            .weights
            .iter()
            .zip(block.columns.chunks_exact(n.max(1)))
        {
            for (logit, &x) in logits.iter_mut().zip(column) {
                *logit += w * x;
            }
        }
        logits
    }

    /// Operations of [`logits`](Logistic::logits) on `n` instances: a multiply and an add a
    /// feature, and a look-up of the class.
    pub fn logits_ops(&self, n: usize) -> u64 {
        (n * (2 * self.weights.len() + 1)) as u64
    }

    /// One step towards `labels` (`[n]`): `w_j −= rate·(Σ r_i·x_ij / (shrink + Σ x_ij²) +
    /// pull·(w_j − prior_j))` with `r = σ(logit) − label`. Dividing by the feature's own sum of
    /// squares makes one rate fit features of any scale and rarity.
    pub fn learn(&mut self, block: &Block, labels: &[bool]) {
        let n = labels.len();
        let mut residuals = self.logits(block);
        for (r, &label) in residuals.iter_mut().zip(labels) {
            *r = sigmoid(*r) - f32::from(label);
        }
        let columns = block.columns.chunks_exact(n.max(1));
        for ((w, &prior), column) in self.weights.iter_mut().zip(&self.prior).zip(columns) {
            let (slope, square) = correlate(&residuals, column);
            *w -= RATE * (slope / (SHRINK + square) + PULL * (*w - prior));
        }
        let mut sums = vec![(0.0f32, 0.0f32); self.classes.len()];
        for (&r, &class) in residuals.iter().zip(&block.classes) {
            let sum = &mut sums[class as usize];
            sum.0 += r;
            sum.1 += 1.0;
        }
        for (w, (slope, count)) in self.classes.iter_mut().zip(sums) {
            *w -= RATE * (slope / (SHRINK + count) + PULL * *w);
        }
    }

    /// Operations of [`learn`](Logistic::learn) on `n` instances: the logits, σ and residual, two
    /// multiply-adds a feature and two adds for the class; then 7 for each weight.
    pub fn learn_ops(&self, n: usize) -> u64 {
        let (features, classes) = self.shape();
        let instance = SIGMOID_OPS + 1 + 4 * features as u64 + 2;
        self.logits_ops(n) + n as u64 * instance + 7 * (features + classes) as u64
    }
}

/// `(Σ r·x, Σ x²)` in eight interleaved sums.
fn correlate(residuals: &[f32], column: &[f32]) -> (f32, f32) {
    let (mut slope, mut square) = ([0.0f32; 8], [0.0f32; 8]);
    let (r, x) = (residuals.chunks_exact(8), column.chunks_exact(8));
    let rest = r.remainder().iter().zip(x.remainder());
    for (r, x) in r.zip(x) {
        for lane in 0..8 {
            slope[lane] += r[lane] * x[lane];
            square[lane] += x[lane] * x[lane];
        }
    }
    for (lane, (r, x)) in rest.enumerate() {
        slope[lane] += r * x;
        square[lane] += x * x;
    }
    (slope.iter().sum(), square.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{hash, unit_f64};

    #[test]
    fn sigmoid_is_accurate_and_never_leaves_its_range() {
        for i in -2000..=2000 {
            let x = i as f32 * 0.05;
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(sigmoid(x)) - exact).abs() < 1e-6, "{x}");
        }
        for x in [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -1e30] {
            assert!((0.0..=1.0).contains(&sigmoid(x)));
        }
        assert!(sigmoid(f32::NAN).is_nan());
    }

    /// A block with two informative features of different scale, a constant one, and classes.
    fn block(seed: u64, n: usize) -> Block {
        let draw = |i: usize, j: u64| (unit_f64(hash(seed, i as u64, j)) * 2.0 - 1.0) as f32;
        let mut columns = vec![1.0; n];
        columns.extend((0..n).map(|i| 3.0 * draw(i, 1)));
        columns.extend((0..n).map(|i| 0.5 * draw(i, 2)));
        let classes = (0..n)
            .map(|i| (hash(seed, i as u64, 3) % 4) as u32)
            .collect();
        Block { columns, classes }
    }

    fn labels(seed: u64, block: &Block, truth: &Logistic) -> Vec<bool> {
        let logits = truth.logits(block);
        let uniform = (0..).map(|i| unit_f64(hash(seed, i, 9)) as f32);
        logits
            .iter()
            .zip(uniform)
            .map(|(&l, u)| u < sigmoid(l))
            .collect()
    }

    #[test]
    fn it_learns_within_a_few_hundred_batches_and_tracks_drift() {
        let mut truth = Logistic::new(vec![-0.5, 0.8, 2.0], 4);
        truth.classes = vec![-1.0, 1.0, 0.0, 0.0];
        let mut model = Logistic::new(vec![0.0; 3], 4);
        for round in 0..2 {
            for batch in 0..400 {
                let seed = hash(1, round, batch);
                let block = block(seed, 128);
                model.learn(&block, &labels(seed, &block, &truth));
            }
            let test = block(5 + round, 2000);
            let error = model.logits(&test).into_iter().zip(truth.logits(&test));
            let error = error
                .map(|(a, b)| (sigmoid(a) - sigmoid(b)).abs())
                .sum::<f32>()
                / 2000.0;
            assert!(error < 0.05, "round {round}: {error}");
            // Drift: the second feature turns round.
            truth.weights[2] = -2.0;
        }
    }

    #[test]
    fn a_lone_class_does_not_jump_and_an_empty_block_changes_little() {
        let mut model = Logistic::new(vec![0.0], 1000);
        let one = Block {
            columns: vec![1.0],
            classes: vec![7],
        };
        model.learn(&one, &[true]);
        assert!(model.classes[7] > 0.0 && model.classes[7] < 0.05);
        let before = model.clone();
        assert!(model.logits(&Block::default()).is_empty());
        model.learn(&Block::default(), &[]);
        assert!((model.weights[0] - before.weights[0]).abs() < 1e-3 && model.is_sound());
    }
}
