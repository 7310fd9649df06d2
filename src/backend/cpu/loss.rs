//! Softmax cross-entropy with its gradient, each row's loss and right bit, in one pass over the
//! rows.

use super::math::{exp, largest, sum};
use super::simd::{Isa, Kernel, Simd};
use rayon::prelude::*;

/// Label of a row that does not count.
pub use crate::data::pairs::IGNORED;

/// Input of [`softmax_xent`].
pub struct Rows<'a> {
    /// `[n, classes]`.
    pub logits: &'a [f32],
    /// `[n]`, [`IGNORED`] or a class.
    pub labels: &'a [i32],
    /// `[n]`.
    pub weights: &'a [f32],
    /// Share ε of the target that is spread over all classes.
    pub smoothing: f32,
}

/// See [`Executor::softmax_xent`](crate::backend::Executor::softmax_xent).
pub fn softmax_xent(
    isa: Isa,
    rows: &Rows,
    dlogits: &mut [f32],
    loss: &mut [f32],
    right: &mut [f32],
) {
    let n = rows.labels.len();
    assert!(n > 0, "a batch has rows");
    let classes = rows.logits.len() / n;
    assert_eq!(
        [rows.logits.len(), dlogits.len()],
        [n * classes; 2],
        "logits and their gradient are rows of {classes} classes"
    );
    assert_eq!(
        [rows.weights.len(), loss.len(), right.len()],
        [n; 3],
        "labels, weights, losses and right bits belong to the same rows"
    );
    let valid = rows.labels.iter().filter(|l| **l != IGNORED).count();
    let outputs = dlogits.par_chunks_mut(classes).zip(loss).zip(right);
    let inputs = rows
        .logits
        .par_chunks(classes)
        .zip(rows.labels)
        .zip(rows.weights);
    // Rows of few classes are not worth a task each.
    outputs
        .zip(inputs)
        .with_min_len(32)
        .for_each(|(((d, loss), right), ((z, label), weight))| {
            if *label == IGNORED {
                d.fill(0.0);
                (*loss, *right) = (0.0, 0.0);
                return;
            }
            d.copy_from_slice(z);
            let guess = isa.run(Row {
                z: d,
                label: class(*label, classes),
                smoothing: rows.smoothing,
                scale: weight / valid as f32,
            });
            *loss = guess.loss;
            *right = if guess.right { 1.0 } else { 0.0 };
        });
}

/// The class that a label names.
///
/// # Panics
/// If there is none: a bug in the data's reader.
pub fn class(label: i32, classes: usize) -> usize {
    let class = usize::try_from(label).ok().filter(|l| *l < classes);
    class.unwrap_or_else(|| panic!("label {label} of {classes} classes"))
}

/// Loss of one row; its logits become their gradient, `scale·(softmax(z) − q)`.
pub struct Row<'a> {
    /// `[classes]`.
    pub z: &'a mut [f32],
    pub label: usize,
    /// As in [`Rows`].
    pub smoothing: f32,
    pub scale: f32,
}

/// What a network makes of one row.
pub struct Guess {
    pub loss: f32,
    /// Whether the first of the largest logits is the label's.
    pub right: bool,
}

impl Kernel for Row<'_> {
    type Output = Guess;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Guess {
        let Row {
            z,
            label,
            smoothing,
            scale,
        } = self;
        // A comparison with NaN is false, so a NaN is never the largest; it comes back through the
        // sum.
        let max = largest(s, z);
        let first = z[label] == max && !z[..label].contains(&max);
        // lse − Σ q·z with everything taken relative to the maximum, so that nothing large cancels.
        let mut loss = -f64::from(1.0 - smoothing) * f64::from(z[label] - max);
        let share = smoothing / z.len() as f32;
        // Not 0·∞ where nothing is spread over classes that are infinitely unlikely.
        if share > 0.0 {
            loss -= f64::from(share) * sum(s, z, max);
        }
        for z in z.iter_mut() {
            *z = exp(*z - max);
        }
        let sum = sum(s, z, 0.0);
        let loss = (loss + sum.ln()) as f32;
        let inverse = (1.0 / sum) as f32;
        for z in z.iter_mut() {
            *z = scale * (*z * inverse - share);
        }
        z[label] -= scale * (1.0 - smoothing);
        Guess {
            loss,
            right: first && loss.is_finite(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On every instruction set: nothing here is fused, so all give equal bits.
    fn one(z: &[f32], label: i32, smoothing: f32) -> (f32, f32, Vec<f32>) {
        let on = |isa: Isa| {
            let (mut d, mut loss, mut right) = (vec![0.0; z.len()], [0.0], [0.0]);
            let rows = Rows {
                logits: z,
                labels: &[label],
                weights: &[1.0],
                smoothing,
            };
            softmax_xent(isa, &rows, &mut d, &mut loss, &mut right);
            (loss[0], right[0], d)
        };
        let result = on(Isa::PORTABLE);
        for isa in Isa::available() {
            assert_eq!(format!("{:?}", on(isa)), format!("{result:?}"), "{isa}");
        }
        result
    }

    #[test]
    fn extreme_logits_are_exact() {
        assert_eq!(one(&[90.0, -90.0], 1, 0.0).0, 180.0);
        assert_eq!(one(&[1e4, -1e4], 0, 0.0), (0.0, 1.0, vec![0.0, 0.0]));
        assert_eq!(one(&[-1e4, -1e4], 0, 0.0).0, 2.0_f32.ln());
        // Smoothed: the wrong class has half of ε.
        assert!((one(&[1e4, -1e4], 0, 0.1).0 - 1000.0).abs() < 1e-3);
    }

    #[test]
    fn a_nan_is_never_hidden() {
        for at in 0..3 {
            let mut z = [1.0, 2.0, 3.0];
            z[at] = f32::NAN;
            for label in 0..3 {
                let (loss, right, _) = one(&z, label, 0.1);
                assert!(loss.is_nan() && right == 0.0, "NaN at {at}, label {label}");
            }
        }
        let (loss, right, _) = one(&[f32::INFINITY, 0.0], 0, 0.0);
        assert!(!loss.is_finite() && right == 0.0);
    }

    #[test]
    fn ignored_rows_give_zeros_and_do_not_count() {
        let (mut d, mut loss, mut right) = ([9.0; 4], [9.0; 2], [9.0; 2]);
        let rows = Rows {
            logits: &[1.0, 2.0, f32::NAN, 5.0],
            labels: &[1, IGNORED],
            weights: &[1.0, 0.0],
            smoothing: 0.0,
        };
        softmax_xent(Isa::PORTABLE, &rows, &mut d, &mut loss, &mut right);
        let alone = one(&[1.0, 2.0], 1, 0.0);
        assert_eq!((loss[0], right[0], d[..2].to_vec()), alone);
        assert_eq!((loss[1], right[1], &d[2..]), (0.0, 0.0, &[0.0, 0.0][..]));
    }

    #[test]
    fn the_first_of_equal_logits_is_the_guess() {
        assert_eq!(one(&[2.0, 2.0], 0, 0.0).1, 1.0);
        assert_eq!(one(&[2.0, 2.0], 1, 0.0).1, 0.0);
    }

    /// Loss of one row in f64.
    fn exact(z: &[f64], label: usize, smoothing: f64) -> f64 {
        let max = z.iter().copied().fold(f64::MIN, f64::max);
        let lse = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
        let share = smoothing / z.len() as f64;
        let mean: f64 = z.iter().map(|z| lse - z).sum();
        (1.0 - smoothing) * (lse - z[label]) + share * mean
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let mut random = crate::rng::Stream::new(4, 0, 0);
        for (classes, scale) in [(2, 1.0), (3, 90.0), (10, 4.0), (37, 1e4), (1000, 8.0)] {
            for smoothing in [0.0, 0.1] {
                let z: Vec<f32> = (0..classes).map(|_| scale * (random.f32() - 0.5)).collect();
                let wide: Vec<f64> = z.iter().map(|z| f64::from(*z)).collect();
                let label = random.below(classes) as usize;
                let (loss, _, d) = one(&z, label as i32, smoothing);
                let want = exact(&wide, label, f64::from(smoothing));
                let limit = 1e-6 * want.abs().max(1.0);
                assert!(
                    (f64::from(loss) - want).abs() < limit,
                    "{loss} instead of {want}"
                );
                for c in 0..z.len() {
                    let moved = |by: f64| {
                        let mut z = wide.clone();
                        z[c] += by;
                        exact(&z, label, f64::from(smoothing))
                    };
                    let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    assert!(
                        (f64::from(d[c]) - slope).abs() < 2e-6,
                        "{c}: {} {slope}",
                        d[c]
                    );
                }
            }
        }
    }

    #[test]
    fn classes_that_cannot_be_are_no_trouble_without_smoothing() {
        let (loss, right, d) = one(&[1.0, f32::NEG_INFINITY, 1.0], 0, 0.0);
        assert_eq!((loss, right), (2.0_f32.ln(), 1.0));
        assert_eq!(d, [-0.5, 0.0, 0.5]);
        // Their own loss is infinite, and is not hidden.
        let (loss, right, _) = one(&[1.0, f32::NEG_INFINITY], 1, 0.0);
        assert_eq!((loss, right), (f32::INFINITY, 0.0));
    }

    #[test]
    #[should_panic(expected = "label 2 of 2 classes")]
    fn a_label_that_is_no_class_panics() {
        one(&[0.0, 0.0], 2, 0.0);
    }

    #[test]
    fn weights_scale_the_gradient_alone_and_threads_change_nothing() {
        let (n, classes) = (101, 7);
        let mut random = crate::rng::Stream::new(8, 0, 0);
        let logits: Vec<f32> = (0..n * classes).map(|_| 6.0 * random.f32()).collect();
        let labels: Vec<i32> = (0..n as i32)
            .map(|i| if i == 50 { IGNORED } else { i % 7 })
            .collect();
        let run = |threads: usize, weight: f32| {
            let (mut d, mut loss, mut right) = (vec![9.0; n * classes], vec![9.0; n], vec![9.0; n]);
            let rows = Rows {
                logits: &logits,
                labels: &labels,
                weights: &vec![weight; n],
                smoothing: 0.1,
            };
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let isa = Isa::PORTABLE;
            pool.install(|| softmax_xent(isa, &rows, &mut d, &mut loss, &mut right));
            (d, loss, right)
        };
        let (one, twice) = (run(1, 1.0), run(3, 2.0));
        assert_eq!(one, run(3, 1.0));
        assert_eq!((one.1, one.2), (twice.1, twice.2));
        assert!(one.0.iter().zip(&twice.0).all(|(a, b)| 2.0 * a == *b));
    }
}
