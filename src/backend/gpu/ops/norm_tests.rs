//! The kernels, run by the SIMT executor, against the `cpu` executor. Every op starts from the same
//! numbers on both, so that only its own error counts.

use super::*;
use crate::backend::cpu::Cpu;
use crate::backend::{Executor, Kind};
use crate::rng::Stream;
use crate::simt::{Landing, Schedule};
use half::bf16;
use proptest::prelude::*;

/// Half of the distance between neighbours in bf16, and a little.
const BF16: f32 = 1.01 / 256.0;
/// What an f32 formula of a few terms may lose of the largest.
const F32: f32 = 4e-6;
/// What an f32 sum may lose of the sum of what it adds up: at most half a last bit for each
/// addition on an element's way (some 50), and far less where their signs differ.
const SUM: f64 = 1e-6;

fn random(len: usize, seed: u64, mean: f32, std: f32) -> Vec<f32> {
    let mut random = Stream::new(seed, 0, 0);
    (0..len)
        .map(|_| mean + std * 3.46 * (random.f32() - 0.5))
        .collect()
}

fn rounded(values: Vec<f32>) -> Vec<f32> {
    let round = |v: f32| bf16::from_f32(v).to_f32();
    values.into_iter().map(round).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Every step of the ladder.
fn steps() -> std::ops::RangeInclusive<u32> {
    1..=Ladder::BatchNorm.last()
}

fn gpu(step: u32, schedule: Schedule) -> Gpu {
    let mut gpu = Gpu::simt_scheduled(schedule, Landing::Randomly);
    gpu.limit(Ladder::BatchNorm, step);
    gpu
}

/// What the ops are given beside the input.
#[derive(Clone, Copy, Debug)]
struct Options {
    residual: bool,
    /// The residual has a batch norm and a ReLU.
    transform: bool,
    relu: bool,
    mask: bool,
}

const ALL: Options = Options {
    residual: true,
    transform: true,
    relu: true,
    mask: true,
};

struct Case {
    pixels: usize,
    channels: usize,
    options: Options,
    x: Vec<f32>,
    g: Vec<f32>,
    residual: Vec<f32>,
    /// The output whose sign is the mask.
    out: Vec<f32>,
}

/// What the ops leave.
#[derive(Debug)]
struct Results {
    mean: Vec<f32>,
    var: Vec<f32>,
    /// Of `bn_train`, then of `bn_eval`.
    coefficients: Vec<f32>,
    y: Vec<f32>,
    g: Vec<f32>,
    dgamma: Vec<f32>,
    dbeta: Vec<f32>,
    dx: Vec<f32>,
}

impl Results {
    fn bits(&self) -> Vec<u32> {
        let all = [
            &self.mean,
            &self.var,
            &self.coefficients,
            &self.y,
            &self.g,
            &self.dgamma,
            &self.dbeta,
            &self.dx,
        ];
        all.into_iter().flat_map(|v| bits(v)).collect()
    }
}

/// A batch norm with these learned vectors and running statistics.
fn batch_norm(exec: &mut dyn Executor, channels: usize, seed: u64) -> BatchNorm {
    let mut vector = |i: u64, mean, std| {
        let t = exec.alloc(Kind::Float, [1, 1, 1, channels]);
        let values = random(channels, seed + i, mean, std);
        exec.write(t, &values).expect("writes");
        t
    };
    let mut unset = || vector(0, f32::NAN, 0.0);
    let [dgamma, dbeta, mean, var, invstd, scale, shift] = [(); 7].map(|()| unset());
    BatchNorm {
        gamma: vector(1, 0.7, 0.3),
        beta: vector(2, 0.0, 0.5),
        dgamma,
        dbeta,
        running_mean: vector(3, 0.0, 1.0),
        running_var: vector(4, 1.0, 0.2),
        mean,
        var,
        invstd,
        scale,
        shift,
    }
}

impl Case {
    fn new(pixels: usize, channels: usize, options: Options, seed: u64) -> Case {
        let len = pixels * channels;
        let mut x = random(len, seed, 0.3, 1.0);
        // Channel 0 punishes E[x²] − E[x]² in f32.
        for pixel in x.chunks_mut(channels) {
            pixel[0] = 8.0 + 0.5 * pixel[0];
        }
        Case {
            pixels,
            channels,
            options,
            x: rounded(x),
            g: rounded(random(len, seed + 1, 0.1, 1.0)),
            residual: rounded(random(len, seed + 2, 0.0, 1.0)),
            out: rounded(random(len, seed + 3, 0.2, 1.0)),
        }
    }

    /// Mean and biased variance.
    fn statistics(&self) -> [Vec<f64>; 2] {
        let count = self.pixels as f64;
        let mean = self.sums(|i, _| f64::from(self.x[i]) / count);
        let var = self.sums(|i, c| (f64::from(self.x[i]) - mean[c]).powi(2) / count);
        [mean, var]
    }

    /// Sum over pixels of `f(index, channel)`.
    fn sums(&self, f: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        let mut sums = vec![0.0; self.channels];
        for i in 0..self.x.len() {
            let c = i % self.channels;
            sums[c] += f(i, c);
        }
        sums
    }

    /// Every op, each from exact inputs.
    fn run(&self, exec: &mut dyn Executor) -> Results {
        let Options {
            residual,
            transform,
            relu,
            mask,
        } = self.options;
        let dims = [1, 1, self.pixels, self.channels];
        let [x, g, r, out, y, dx] = [(); 6].map(|()| exec.alloc(Kind::Activation, dims));
        let bn = batch_norm(exec, self.channels, 10);
        let other = batch_norm(exec, self.channels, 20);
        let inputs = [
            (x, &self.x),
            (g, &self.g),
            (r, &self.residual),
            (out, &self.out),
        ];
        for (t, values) in inputs {
            exec.write(t, values).expect("writes");
        }
        for t in [y, dx] {
            exec.write(t, &vec![f32::NAN; t.len()]).expect("writes");
        }
        let read = |exec: &mut dyn Executor, t| exec.read(t).expect("reads");

        exec.moments(x, bn);
        let [mean, var] = [bn.mean, bn.var].map(|t| read(exec, t));
        // From here on exact statistics (NaN where the input has one).
        let exact = self.statistics();
        for (t, exact) in [bn.mean, bn.var].into_iter().zip(exact) {
            let narrow: Vec<f32> = exact.into_iter().map(|v| v as f32).collect();
            exec.write(t, &narrow).expect("writes");
        }
        exec.bn_train(bn, self.pixels);
        exec.bn_eval(other);
        let vectors = [
            bn.invstd,
            bn.scale,
            bn.shift,
            bn.running_mean,
            bn.running_var,
            other.scale,
            other.shift,
        ];
        let coefficients = vectors.map(|t| read(exec, t)).concat();

        let shortcut = match transform {
            true => Load::norm_relu(r, other),
            false => Load::plain(r),
        };
        exec.bn_apply(x, bn, residual.then_some(shortcut), relu, y);
        exec.bn_backward_sums(g, mask.then_some(out), x, bn);
        let [dgamma, dbeta] = [bn.dgamma, bn.dbeta].map(|t| read(exec, t));
        let scale = self.pixels as f32;
        for (t, sums, seed) in [(bn.dgamma, &dgamma, 30), (bn.dbeta, &dbeta, 31)] {
            let mut values = random(self.channels, seed, 0.0, scale);
            // A NaN is to go on.
            for (value, sum) in values.iter_mut().zip(sums) {
                *value = if sum.is_nan() { f32::NAN } else { *value };
            }
            exec.write(t, &values).expect("writes");
        }
        let norm = Some((bn, x));
        exec.bn_backward(Grad { g, norm }, dx);
        Results {
            mean,
            var,
            coefficients,
            y: read(exec, y),
            g: read(exec, g),
            dgamma,
            dbeta,
            dx: read(exec, dx),
        }
    }

    fn simt(&self, step: u32, schedule: Schedule) -> Results {
        self.run(&mut gpu(step, schedule))
    }

    fn check(&self) {
        let want = self.run(&mut Cpu::new().expect("opens"));
        steps().for_each(|step| self.check_step(step, &want));
    }

    fn check_step(&self, step: u32, want: &Results) {
        let got = self.simt(step, Schedule::Low);
        let [mean, var] = self.statistics();
        let x_sums = self.sums(|i, _| f64::from(self.x[i].abs()) / self.pixels as f64);
        self.near("mean", &got.mean, &mean, &x_sums);
        self.near("var", &got.var, &var, &var);
        // The same steps in f64.
        assert_eq!(bits(&got.coefficients), bits(&want.coefficients));
        self.close("y", &got.y, &want.y);
        assert_eq!(bits(&got.g), bits(&want.g), "the mask only selects");
        let invstd = &got.coefficients[..self.channels];
        let size = |i: usize, c: usize| -> f64 {
            let x_hat = (f64::from(self.x[i]) - mean[c]) * f64::from(invstd[c]);
            f64::from(want.g[i].abs()) * x_hat.abs()
        };
        // The mean that both were given is rounded to f32.
        let offset = |c: usize| mean[c].abs() * f64::from(invstd[c]);
        let products = self.sums(|i, c| size(i, c) + f64::from(want.g[i].abs()) * offset(c));
        let sums = self.sums(|i, _| f64::from(want.g[i].abs()));
        let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        self.near("dgamma", &got.dgamma, &wide(&want.dgamma), &products);
        self.near("dbeta", &got.dbeta, &wide(&want.dbeta), &sums);
        self.close("dx", &got.dx, &want.dx);
    }

    /// Sums in f32 of so much.
    fn near(&self, name: &str, got: &[f32], want: &[f64], added: &[f64]) {
        for (c, got) in got.iter().enumerate() {
            let error = (f64::from(*got) - want[c]).abs();
            // Not `>`, which would let a NaN pass.
            let fits = error <= SUM * added[c] + 1e-12;
            assert!(fits, "{name}[{c}] is {got}, not {}: {self:?}", want[c]);
        }
    }

    /// Formulas in f32, rounded to bf16.
    fn close(&self, name: &str, got: &[f32], want: &[f32]) {
        let most = want.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let fits = (got - want).abs() <= BF16 * want.abs() + F32 * most;
            assert!(fits, "{name}[{i}] is {got}, not {want}: {self:?}");
        }
    }
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Case {
            pixels,
            channels,
            options,
            ..
        } = self;
        write!(f, "{pixels} pixels, {channels} channels, {options:?}")
    }
}

#[test]
fn it_is_the_cpu_s_on_all_kinds_of_shapes() {
    // One vector and many, one tile of channels and several, the last one short; one block and
    // several, the last one short.
    let shapes = [
        (1, 1),
        (1, 8),
        (7, 3),
        (1, 17),
        (50, 16),
        (1100, 5),
        (1300, 16),
        (300, 64),
        (70, 136),
        (40, 259),
        (130, 512),
        (65, 2048),
    ];
    for (pixels, channels) in shapes {
        Case::new(pixels, channels, ALL, 1).check();
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
    fn it_is_the_cpu_s(
        pixels in 1_usize..900,
        channels in prop_oneof![1_usize..40, (1_usize..9).prop_map(|c| 8 * c)],
        [residual, transform, relu, mask] in any::<[bool; 4]>(),
        seed in 0_u64..1000,
    ) {
        let options = Options { residual, transform, relu, mask };
        Case::new(pixels, channels, options, seed).check();
    }
}

#[test]
fn equal_inputs_give_equal_bits_in_whatever_order_threads_run() {
    for channels in [5, 24] {
        let case = Case::new(1500, channels, ALL, 3);
        for step in steps() {
            let first = case.simt(step, Schedule::Low).bits();
            for schedule in [Schedule::Low, Schedule::High, Schedule::Random(7)] {
                let bits = case.simt(step, schedule).bits();
                assert!(bits == first, "step {step}, {schedule:?}");
            }
        }
    }
}

/// Mean and variance on the SIMT executor.
fn moments_of(step: u32, x: &[f32], channels: usize) -> [Vec<f32>; 2] {
    let mut gpu = gpu(step, Schedule::Low);
    let dims = [1, 1, x.len() / channels, channels];
    let t = gpu.alloc(Kind::Activation, dims);
    let bn = batch_norm(&mut gpu, channels, 0);
    gpu.write(t, x).expect("writes");
    gpu.moments(t, bn);
    [bn.mean, bn.var].map(|t| gpu.read(t).expect("reads"))
}

#[test]
fn a_large_mean_does_not_spoil_the_variance() {
    // In bf16 the neighbours of 768 are 4 apart; one in 30 is the next: a deviation of 0.7.
    for (pixels, channels) in [(20_000, 1), (3000, 8), (700, 64)] {
        let mut case = Case::new(pixels, channels, ALL, 5);
        for x in &mut case.x {
            *x = 768.0 + if *x > 1.9 { 4.0 } else { 0.0 };
        }
        // One that differs, so that one chunk is unlike the others.
        case.x[0] = -768.0;
        let [want_mean, want_var] = case.statistics();
        for step in steps() {
            let [mean, var] = moments_of(step, &case.x, channels);
            for c in 0..channels {
                assert!((f64::from(mean[c]) / want_mean[c] - 1.0).abs() < 3e-7);
                // A part's mean is off by up to 6e-8 of itself, 6e-5 of the deviation. Only what
                // lies between parts is computed from means, and little of the variance does.
                let error = (f64::from(var[c]) / want_var[c] - 1.0).abs();
                assert!(error < 1e-5, "{} instead of {}", var[c], want_var[c]);
            }
        }
    }
}

#[test]
fn blocks_with_more_than_a_batch_of_pixels_a_thread() {
    // Past 1024 blocks, each gets more pixels.
    let pixels = 1_100_000;
    let case = Case::new(pixels, 8, ALL, 2);
    let [want_mean, want_var] = case.statistics();
    let sizes = case.sums(|i, _| f64::from(case.x[i].abs()) / pixels as f64);
    // In step 1 a thread adds up thousands of pixels, one after the other: more than SUM allows for.
    for step in steps().skip(1) {
        let [mean, var] = moments_of(step, &case.x, 8);
        case.near("mean", &mean, &want_mean, &sizes);
        case.near("var", &var, &want_var, &want_var);
    }
}

#[test]
fn a_nan_goes_through_everything() {
    for (channels, step) in [18, 24]
        .into_iter()
        .flat_map(|c| steps().map(move |s| (c, s)))
    {
        let mut case = Case::new(100, channels, ALL, 1);
        case.x[55 * channels + 17] = f32::NAN;
        let results = case.simt(step, Schedule::Low);
        for c in 0..channels {
            let nan = c == 17;
            let per_channel = [results.mean[c], results.var[c], results.dgamma[c]];
            assert!(per_channel.iter().all(|v| v.is_nan() == nan), "channel {c}");
            let column = |t: &'_ Vec<f32>| {
                let mut column = t.iter().skip(c).step_by(channels);
                column.all(|v| v.is_nan() == nan)
            };
            assert!(column(&results.y) && column(&results.dx), "channel {c}");
        }
    }
}

#[test]
fn relu_lets_a_nan_pass_and_a_mask_an_infinite_gradient() {
    for (channels, step) in [3, 8]
        .into_iter()
        .flat_map(|c| steps().map(move |s| (c, s)))
    {
        let mut case = Case::new(2, channels, ALL, 4);
        case.residual[1] = f32::NAN;
        case.g[2] = f32::INFINITY;
        case.out[2] = 1.0;
        let results = case.simt(step, Schedule::Low);
        assert!(results.y[1].is_nan() && results.y[0].is_finite());
        assert_eq!(
            (results.g[2], results.dbeta[2]),
            (f32::INFINITY, f32::INFINITY)
        );
    }
}
