//! Against naive f64 on odd shapes, against finite differences, and one thread against three.

use super::*;
use crate::rng::Stream;
use proptest::prelude::*;

/// Shapes with tails of both kinds, one chunk and many, one pixel and many.
const SHAPES: [(usize, usize); 9] = [
    (1, 1),
    (7, 3),
    (1, 17),
    (50, 16),
    (333, 5),
    (4000, 16),
    (900, 24),
    (300, 64),
    (130, 259),
];

fn random(seed: u64, n: usize, mean: f32, std: f32) -> Vec<f32> {
    let mut random = Stream::new(seed, 0, 0);
    (0..n)
        .map(|_| mean + std * 3.46 * (random.f32() - 0.5))
        .collect()
}

/// All that a batch norm has, in f32, and its input and upstream gradient.
struct Case {
    channels: usize,
    x: Vec<f32>,
    g: Vec<f32>,
    shortcut: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl Case {
    fn new(pixels: usize, channels: usize, seed: u64) -> Case {
        let mut x = random(seed, pixels * channels, 0.3, 1.0);
        // Channel 0 punishes E[x²] − E[x]² in f32.
        for pixel in x.chunks_mut(channels) {
            pixel[0] = 8.0 + 0.5 * pixel[0];
        }
        Case {
            channels,
            x,
            g: random(seed + 1, pixels * channels, 0.1, 1.0),
            shortcut: random(seed + 2, pixels * channels, 0.0, 1.0),
            gamma: random(seed + 3, channels, 0.5, 1.0),
            beta: random(seed + 4, channels, 0.0, 0.5),
        }
    }

    fn pixels(&self) -> usize {
        self.x.len() / self.channels
    }

    /// Mean and biased variance of a channel.
    fn statistics(&self, x: &[f64], c: usize) -> (f64, f64) {
        let n = self.pixels() as f64;
        let column = || x.iter().skip(c).step_by(self.channels);
        let mean = column().sum::<f64>() / n;
        let var = column().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        (mean, var)
    }

    /// `act(γ·x̂ + β + max(0, shortcut))` from scratch.
    fn forward(&self, x: &[f64]) -> Vec<f64> {
        let mut y = vec![0.0; x.len()];
        for c in 0..self.channels {
            let (mean, var) = self.statistics(x, c);
            let invstd = 1.0 / (var + f64::from(BN_EPS)).sqrt();
            for i in (c..x.len()).step_by(self.channels) {
                let normed = f64::from(self.gamma[c]) * (x[i] - mean) * invstd;
                let sum = normed + f64::from(self.beta[c]) + f64::from(self.shortcut[i].max(0.0));
                y[i] = sum.max(0.0);
            }
        }
        y
    }

    /// Everything that the executor computes.
    fn run(&self, isa: Isa) -> Results {
        let empty = || vec![0.0; self.channels];
        let [mut mean, mut var, mut dgamma, mut dbeta] = std::array::from_fn(|_| empty());
        moments(isa, &self.x, &mut mean, &mut var);
        let inverse: Vec<f32> = var.iter().map(|v| invstd(*v) as f32).collect();
        let (scale, shift): (Vec<f32>, Vec<f32>) = (0..self.channels)
            .map(|c| affine(self.gamma[c], self.beta[c], mean[c], invstd(var[c])))
            .unzip();
        let input = Source {
            x: &self.x,
            affine: Some((&scale, &shift)),
            relu: false,
        };
        let shortcut = Source {
            x: &self.shortcut,
            affine: None,
            relu: true,
        };
        let mut y = vec![f32::NAN; self.x.len()];
        apply(isa, input, Some(shortcut), true, self.channels, &mut y);
        let mut g = self.g.clone();
        let n = Normalised {
            x: &self.x,
            mean: &mean,
            invstd: &inverse,
        };
        backward_sums(isa, &mut g, Some(&y), n, &mut dgamma, &mut dbeta);
        let norm = NormBackward {
            y: &self.x,
            mean: &mean,
            invstd: &inverse,
            scale: &scale,
            dgamma: &dgamma,
            dbeta: &dbeta,
        };
        let mut dx = vec![f32::NAN; self.x.len()];
        backward(isa, &g, norm, &mut dx);
        Results {
            mean,
            var,
            y,
            g,
            dgamma,
            dbeta,
            dx,
        }
    }
}

#[derive(PartialEq)]
struct Results {
    mean: Vec<f32>,
    var: Vec<f32>,
    y: Vec<f32>,
    /// Masked.
    g: Vec<f32>,
    dgamma: Vec<f32>,
    dbeta: Vec<f32>,
    dx: Vec<f32>,
}

fn close(what: &str, got: &[f32], want: &[f64], limit: f64) {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(1e-3_f64, |m, v| m.max(v.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs() / largest;
        assert!(error <= limit, "{what}[{i}]: {got} instead of {want}");
    }
}

fn check(case: &Case, isa: Isa) {
    let results = case.run(isa);
    let x: Vec<f64> = case.x.iter().map(|x| f64::from(*x)).collect();
    let (mean, var): (Vec<f64>, Vec<f64>) =
        (0..case.channels).map(|c| case.statistics(&x, c)).unzip();
    for (got, want) in results.var.iter().zip(&var) {
        let error = (f64::from(*got) - want).abs();
        assert!(error <= 1e-6 * want, "variance {got} instead of {want}");
    }
    close("mean", &results.mean, &mean, 2e-7);
    let pixels = case.pixels() as f64;
    // x̂ of one pixel is 0 up to the rounding of the mean, which 1/√ε amplifies.
    if case.pixels() == 1 {
        return;
    }
    close("y", &results.y, &case.forward(&x), 4e-6);
    let masked = case.g.iter().zip(&results.y);
    let masked: Vec<f32> = masked
        .map(|(g, y)| if *y > 0.0 { *g } else { 0.0 })
        .collect();
    assert!(masked == results.g, "mask on {isa}");
    let columns = |c: usize| (c..x.len()).step_by(case.channels);
    let invstd: Vec<f64> = var.iter().map(|v| 1.0 / (v + 1e-5).sqrt()).collect();
    let hat = |i: usize, c: usize| (x[i] - mean[c]) * invstd[c];
    let g = |i: usize| f64::from(masked[i]);
    let sums: Vec<[f64; 2]> = (0..case.channels)
        .map(|c| {
            [
                columns(c).map(|i| g(i) * hat(i, c)).sum(),
                columns(c).map(g).sum(),
            ]
        })
        .collect();
    // Terms may cancel: the error is one of their sizes.
    for (c, (got, want)) in results.dgamma.iter().zip(&sums).enumerate() {
        let terms: f64 = columns(c).map(|i| (g(i) * hat(i, c)).abs()).sum();
        let error = (f64::from(*got) - want[0]).abs();
        assert!(
            error <= 2e-6 * terms.max(1.0),
            "dgamma[{c}]: {got} instead of {}",
            want[0]
        );
    }
    close(
        "dbeta",
        &results.dbeta,
        &sums.iter().map(|s| s[1]).collect::<Vec<_>>(),
        2e-7,
    );
    let dx: Vec<f64> = (0..x.len())
        .map(|i| {
            let c = i % case.channels;
            let average = (sums[c][1] + hat(i, c) * sums[c][0]) / pixels;
            f64::from(case.gamma[c]) * invstd[c] * (g(i) - average)
        })
        .collect();
    close("dx", &results.dx, &dx, 4e-6);
}

#[test]
fn agrees_with_f64_on_odd_shapes() {
    for (pixels, channels) in SHAPES {
        for isa in Isa::available() {
            check(&Case::new(pixels, channels, 11), isa);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(0),
        ..Default::default()
    })]

    #[test]
    fn agrees_with_f64_on_any_shape(pixels in 2..600_usize, channels in 1..70_usize, seed: u64) {
        for isa in Isa::available() {
            check(&Case::new(pixels, channels, seed % 1000), isa);
        }
    }
}

#[test]
fn a_large_mean_does_not_spoil_the_variance() {
    let x = random(5, 100_000, 1000.0, 1.0);
    let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    let mean = wide.iter().sum::<f64>() / 1e5;
    let want = wide.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
    for isa in Isa::available() {
        let (mut mean, mut var) = ([0.0], [0.0]);
        moments(isa, &x, &mut mean, &mut var);
        assert!(
            (f64::from(var[0]) / want - 1.0).abs() < 1e-6,
            "{var:?} {want}"
        );
    }
}

#[test]
fn the_gradient_is_the_slope_of_the_forward_pass() {
    let case = Case::new(23, 5, 3);
    let x: Vec<f64> = case.x.iter().map(|x| f64::from(*x)).collect();
    let objective = |x: &[f64]| -> f64 {
        let y = case.forward(x);
        y.iter().zip(&case.g).map(|(y, g)| y * f64::from(*g)).sum()
    };
    let slopes: Vec<f64> = (0..x.len())
        .map(|i| {
            let moved = |by: f64| {
                let mut x = x.clone();
                x[i] += by;
                objective(&x)
            };
            (moved(1e-6) - moved(-1e-6)) / 2e-6
        })
        .collect();
    for isa in Isa::available() {
        close("dx", &case.run(isa).dx, &slopes, 1e-5);
    }
}

#[test]
fn one_thread_and_three_give_equal_bits() {
    let case = Case::new(5000, 20, 7);
    for isa in Isa::available() {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| case.run(isa))
        };
        assert!(on(1) == on(3), "{isa}");
    }
}

#[test]
fn a_nan_goes_through_everything() {
    let mut case = Case::new(100, 18, 1);
    case.x[55 * 18 + 17] = f32::NAN;
    for isa in Isa::available() {
        let results = case.run(isa);
        for c in 0..18 {
            let nan = c == 17;
            let per_channel = [results.mean[c], results.var[c], results.dgamma[c]];
            assert!(per_channel.iter().all(|v| v.is_nan() == nan), "{isa} {c}");
            let columns = [&results.y, &results.dx].map(|t| t.iter().skip(c).step_by(18));
            assert!(
                columns.into_iter().flatten().all(|v| v.is_nan() == nan),
                "{isa} {c}"
            );
        }
    }
}
