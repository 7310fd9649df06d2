//! The kernels, run by the SIMT executor, against the `cpu` executor.
//!
//! All inputs are small multiples of powers of two, chosen so that every transform on load is exact
//! in bf16: the kernels then differ from exact arithmetic only in the last rounding of what they
//! store.

use super::parts::{ADDERS, MERGERS};
use super::tiles::{FMA, PIXELS, TENSOR_CORES};
use super::*;
use crate::backend::cpu::Cpu;
use crate::backend::gpu::Ladder;
use crate::backend::{Executor, Kind};
use crate::simt::{Landing, Schedule};
use proptest::prelude::*;

/// Sizes: n, h, w, ci, co, kernel, stride, pad.
type Sizes = [usize; 8];

/// Which parts of the ops are used.
#[derive(Clone, Copy, Debug)]
struct Options {
    affine: bool,
    relu: bool,
    moments: bool,
    norm: bool,
    dx: bool,
    add: Add,
    mask: bool,
    sums: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Add {
    None,
    InPlace,
    Other,
}

const ALL: Options = Options {
    affine: true,
    relu: true,
    moments: true,
    norm: true,
    dx: true,
    add: Add::InPlace,
    mask: true,
    sums: true,
};

/// Multiples of `step` in `-most..=most`.
fn values(len: usize, seed: u64, step: f32, most: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let half = (most / step) as u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) % (2 * half + 1)) as f32 * step - most
    };
    (0..len).map(|_| next()).collect()
}

/// What an input is.
#[derive(Clone, Debug)]
struct Inputs {
    x: Vec<f32>,
    w: Vec<f32>,
    g: Vec<f32>,
    y: Vec<f32>,
    add: Vec<f32>,
    raw: Vec<f32>,
}

/// All outputs of both passes; what an option leaves out is empty.
#[derive(Clone, Debug, Default)]
struct Outputs {
    y: Vec<f32>,
    mean: Vec<f32>,
    var: Vec<f32>,
    dw: Vec<f32>,
    dx: Vec<f32>,
    dgamma: Vec<f32>,
    dbeta: Vec<f32>,
}

impl Outputs {
    fn bits(&self) -> Vec<u32> {
        [
            &self.y,
            &self.mean,
            &self.var,
            &self.dw,
            &self.dx,
            &self.dgamma,
            &self.dbeta,
        ]
        .into_iter()
        .flatten()
        .map(|v| v.to_bits())
        .collect()
    }
}

struct Case {
    sizes: Sizes,
    options: Options,
    inputs: Inputs,
}

impl Case {
    fn new(sizes: Sizes, options: Options) -> Case {
        let [n, h, w, ci, co, kernel, ..] = sizes;
        let [ho, wo] = outputs(sizes);
        let (x, y) = (n * h * w * ci, n * ho * wo * co);
        Case {
            sizes,
            options,
            inputs: Inputs {
                x: values(x, 1, 0.125, 1.0),
                w: values(co * kernel * kernel * ci, 2, 0.0625, 1.0),
                g: values(y, 3, 0.25, 1.0),
                y: values(y, 4, 0.25, 1.0),
                add: values(x, 5, 0.25, 1.0),
                raw: values(x, 6, 0.25, 1.0),
            },
        }
    }

    /// Both passes on an executor.
    fn run(&self, exec: &mut dyn Executor) -> Outputs {
        let (options, inputs) = (self.options, &self.inputs);
        let [n, h, w, ci, co, kernel, stride, pad] = self.sizes;
        let window = Window { stride, pad };
        let [ho, wo] = outputs(self.sizes);
        let (x_dims, y_dims) = ([n, h, w, ci], [n, ho, wo, co]);
        let mut activation = |dims| exec.alloc(Kind::Activation, dims);
        let [x, dx, other, raw] = [(); 4].map(|()| activation(x_dims));
        let [out, g, y] = [(); 3].map(|()| activation(y_dims));
        let [weights, dw] = [(); 2].map(|()| exec.alloc(Kind::Float, [co, kernel, kernel, ci]));
        let before = batch_norm(exec, ci, 1.0, 20);
        let after = batch_norm(exec, co, (n * ho * wo) as f32, 40);
        let nans = vec![f32::NAN; dx.len().max(out.len()).max(dw.len())];
        let mut write = |t: Tensor, v: &[f32]| exec.write(t, v).expect("writes");
        for (t, v) in [
            (x, &inputs.x),
            (weights, &inputs.w),
            (g, &inputs.g),
            (y, &inputs.y),
            (other, &inputs.add),
            (raw, &inputs.raw),
        ] {
            write(t, v);
        }
        // What is there before must not matter.
        for t in [out, dw] {
            write(t, &nans[..t.len()]);
        }
        match options.add {
            Add::InPlace => write(dx, &inputs.add),
            _ => write(dx, &nans[..dx.len()]),
        }

        let load = Load {
            x,
            norm: options.affine.then_some(before),
            relu: options.relu,
        };
        let moments = batch_norm(exec, co, 1.0, 60);
        exec.conv2d(
            load,
            weights,
            window,
            out,
            options.moments.then_some(moments),
        );
        let grad = Grad {
            g,
            norm: options.norm.then_some((after, y)),
        };
        let sums = batch_norm(exec, ci, 1.0, 80);
        let input_grad = InputGrad {
            dx,
            add: match options.add {
                Add::None => None,
                Add::InPlace => Some(dx),
                Add::Other => Some(other),
            },
            relu: options.mask,
            sums: options.sums.then_some((sums, raw)),
        };
        let wanted = options.dx.then_some(input_grad);
        exec.conv2d_backward(load, weights, window, grad, dw, wanted);

        let mut read = |wanted: bool, t: Tensor| match wanted {
            true => exec.read(t).expect("reads"),
            false => Vec::new(),
        };
        Outputs {
            y: read(true, out),
            mean: read(options.moments, moments.mean),
            var: read(options.moments, moments.var),
            dw: read(true, dw),
            dx: read(options.dx, dx),
            dgamma: read(options.dx && options.sums, sums.dgamma),
            dbeta: read(options.dx && options.sums, sums.dbeta),
        }
    }

    fn simt(&self, step: u32, schedule: Schedule) -> Outputs {
        let mut gpu = Gpu::simt_scheduled(schedule, Landing::Randomly);
        gpu.limit(Ladder::Conv, step);
        self.run(&mut gpu)
    }

    /// Every step.
    fn check(&self) {
        let want = self.run(&mut Cpu::new().expect("opens"));
        for step in STEPS {
            self.compare(&self.simt(step, Schedule::Low), &want);
        }
    }

    fn compare(&self, got: &Outputs, want: &Outputs) {
        self.near("y", &got.y, &want.y, BF16);
        self.near("dw", &got.dw, &want.dw, F32);
        self.near("dx", &got.dx, &want.dx, BF16);
        // Statistics are those of what was stored.
        if self.options.moments {
            let channels = self.sizes[4];
            let count = (got.y.len() / channels) as f64;
            let mean = sums(channels, &got.y, |_, y| y / count);
            let var = sums(channels, &got.y, |c, y| (y - mean[c]).powi(2) / count);
            self.near("mean", &got.mean, &narrow(&mean), F32);
            self.near("var", &got.var, &narrow(&var), F32);
        }
        if self.options.dx && self.options.sums {
            let channels = self.sizes[3];
            let [mean, invstd, ..] = coefficients(channels, 1.0, 80);
            let mut raw = self.inputs.raw.iter();
            let product = |c: usize, dx: f64| {
                let raw = f64::from(*raw.next().expect("as long as dx"));
                dx * (raw - f64::from(mean[c])) * f64::from(invstd[c])
            };
            self.near(
                "dgamma",
                &got.dgamma,
                &narrow(&sums(channels, &got.dx, product)),
                F32,
            );
            self.near(
                "dbeta",
                &got.dbeta,
                &narrow(&sums(channels, &got.dx, |_, dx| dx)),
                F32,
            );
        }
    }

    /// Equal up to a rounding of each value, and up to what f32 sums lose of the largest.
    fn near(&self, name: &str, got: &[f32], want: &[f32], rounding: f32) {
        assert_eq!(got.len(), want.len(), "{name}");
        let most = want.iter().fold(1.0, |m: f32, x| m.max(x.abs()));
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let tolerance = rounding * want.abs() + F32 * most;
            // Not `>`, which would let a NaN pass.
            assert!(
                (got - want).abs() <= tolerance,
                "{name}[{i}] is {got}, not {want}: {:?} {:?}",
                self.sizes,
                self.options
            );
        }
    }
}

const STEPS: std::ops::RangeInclusive<u32> = 1..=5;

/// Half of the distance between neighbours, and a little.
const BF16: f32 = 1.01 / 256.0;
/// What a sum in f32 may lose.
const F32: f32 = 4e-6;

fn outputs([_, h, w, .., kernel, stride, pad]: Sizes) -> [usize; 2] {
    [h, w].map(|size| Window { stride, pad }.output(size, kernel))
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|x| *x as f32).collect()
}

/// Sum over all pixels of `f(channel, value)`.
fn sums(channels: usize, x: &[f32], mut f: impl FnMut(usize, f64) -> f64) -> Vec<f64> {
    let mut sums = vec![0.0; channels];
    for pixel in x.chunks_exact(channels) {
        for (c, (sum, x)) in sums.iter_mut().zip(pixel).enumerate() {
            *sum += f(c, f64::from(*x));
        }
    }
    sums
}

/// mean, invstd, scale, shift, dgamma, dbeta: the last two are `count` times something simple.
fn coefficients(channels: usize, count: f32, seed: u64) -> [Vec<f32>; 6] {
    let powers = |seed| -> Vec<f32> {
        let exponents = values(channels, seed, 1.0, 1.0);
        exponents.iter().map(|x| x.exp2()).collect()
    };
    let multiples = |seed| -> Vec<f32> {
        let units = values(channels, seed, 0.5, 1.0);
        units.iter().map(|x| x * count).collect()
    };
    [
        values(channels, seed, 0.25, 1.0),
        powers(seed + 1),
        powers(seed + 2),
        values(channels, seed + 3, 0.125, 1.0),
        multiples(seed + 4),
        multiples(seed + 5),
    ]
}

/// A batch norm of these coefficients; all else is NaN.
fn batch_norm(exec: &mut dyn Executor, channels: usize, count: f32, seed: u64) -> BatchNorm {
    let mut vector = |values: &[f32]| {
        let t = exec.alloc(Kind::Float, [1, 1, 1, channels]);
        exec.write(t, values).expect("writes");
        t
    };
    let [mean, invstd, scale, shift, dgamma, dbeta] =
        coefficients(channels, count, seed).map(|v| vector(&v));
    let nan = vec![f32::NAN; channels];
    let [gamma, beta, running_mean, running_var, var] = [(); 5].map(|()| vector(&nan));
    BatchNorm {
        gamma,
        beta,
        dgamma,
        dbeta,
        running_mean,
        running_var,
        mean,
        var,
        invstd,
        scale,
        shift,
    }
}

/// `NAME = VALUE;` in a kernels' header.
fn constant(header: &str, name: &str) -> usize {
    let (_, rest) = header
        .split_once(&format!("constexpr int {name} = "))
        .expect(name);
    let (value, _) = rest.split_once(';').expect(name);
    value.parse().expect(name)
}

#[test]
fn tiles_are_those_of_the_kernels() {
    let header = include_str!("../../../../../kernels/include/conv.cuh");
    assert_eq!(PIXELS, constant(header, "PIXELS"));
    assert_eq!(FMA.weights, [constant(header, "WEIGHTS"); 3]);
    assert_eq!(FMA.depth, constant(header, "DEPTH"));
    let per_channel = constant(header, "THREADS_PER_COLUMN") / constant(header, "COLS");
    assert_eq!(FMA.threads, [16, 32, 64].map(|w| (w * per_channel) as u32));
    let source = include_str!("../../../../../kernels/conv_wgrad/2_tiles.cu");
    assert_eq!(ADDERS, constant(source, "ADDERS"));
    let header = include_str!("../../../../../kernels/include/conv_moments.cuh");
    assert_eq!(MERGERS as usize, constant(header, "MERGERS"));
    let header = include_str!("../../../../../kernels/include/conv_mma.cuh");
    assert_eq!(TENSOR_CORES.depth, constant(header, "STEP"));
    let threads = constant(header, "MMA_THREADS") as u32;
    assert_eq!(TENSOR_CORES.threads, [threads; 3]);
    let source = include_str!("../../../../../kernels/conv_wgrad/3_tensor_cores.cu");
    let warps = constant(source, "WGRAD_WARPS");
    assert_eq!(TENSOR_CORES.wgrad_threads, [32 * warps as u32; 3]);
    assert_eq!(TENSOR_CORES.weights, [3, 3, 2].map(|m| 16 * m * warps));
}

#[test]
fn layers_of_resnets() {
    for sizes in [
        [3, 16, 16, 3, 16, 3, 1, 1],
        [2, 16, 16, 16, 16, 3, 1, 1],
        [2, 16, 16, 16, 32, 3, 2, 1],
        [2, 8, 8, 32, 32, 3, 1, 1],
        [3, 4, 4, 64, 64, 3, 1, 1],
        // With tiles of whole rows or images, and blocks that take several.
        [3, 32, 32, 3, 16, 3, 1, 1],
        [3, 32, 32, 16, 16, 3, 1, 1],
        [5, 16, 16, 16, 32, 3, 2, 1],
        [3, 16, 16, 32, 32, 3, 1, 1],
        [7, 8, 8, 64, 64, 3, 1, 1],
        [5, 16, 16, 32, 64, 3, 2, 1],
        [1, 128, 256, 16, 16, 3, 2, 1],
        [5, 2, 2, 64, 128, 3, 1, 1],
        // Images, at the start of other networks.
        [3, 8, 8, 7, 32, 3, 1, 1],
        [13, 8, 8, 3, 64, 3, 1, 1],
        [5, 16, 16, 1, 16, 3, 2, 1],
        // Weights' gradients in several tiles, with blocks that take several of pixels.
        [19, 8, 8, 32, 64, 3, 1, 1],
        [33, 16, 16, 16, 32, 3, 2, 1],
        [2, 4, 4, 96, 64, 3, 2, 1],
        // The input's gradient of a stride, with blocks that take several tiles.
        [9, 16, 16, 32, 64, 3, 2, 1],
        [33, 8, 8, 32, 64, 1, 2, 0],
        [113, 8, 8, 16, 32, 1, 2, 0],
        [5, 8, 8, 96, 96, 3, 1, 1],
        [17, 8, 8, 16, 128, 3, 1, 1],
        [5, 8, 8, 16, 32, 1, 2, 0],
        [3, 8, 8, 32, 64, 1, 2, 0],
        [2, 7, 7, 64, 32, 1, 1, 0],
        [1, 17, 21, 3, 32, 7, 2, 3],
        [2, 4, 4, 512, 8, 1, 1, 0],
        [8, 8, 8, 4, 8, 3, 1, 1],
    ] {
        Case::new(sizes, ALL).check();
    }
}

#[test]
fn every_combination_of_options() {
    for bits in 0_u32..1 << 7 {
        let bit = |i: u32| bits >> i & 1 == 1;
        for add in [Add::None, Add::InPlace, Add::Other] {
            let options = Options {
                affine: bit(0),
                relu: bit(1),
                norm: bit(2),
                dx: bit(3),
                add,
                mask: bit(4),
                sums: bit(5),
                moments: bit(6),
            };
            if !options.dx && (add != Add::None || options.mask || options.sums) {
                continue;
            }
            // Whole tiles, and one that is not full.
            Case::new([3, 8, 8, 16, 16, 3, 1, 1], options).check();
            Case::new([3, 8, 8, 16, 32, 3, 2, 1], options).check();
            // Vector and scalar loads by turns.
            let (ci, co) = if bits.count_ones() % 2 == 0 {
                (5, 17)
            } else {
                (8, 24)
            };
            Case::new([2, 5, 4, ci, co, 3, 2, 1], options).check();
        }
    }
}

/// More tiles and chunks than one, and the last of them not full.
#[test]
fn many_tiles() {
    for sizes in [
        [3, 33, 31, 8, 70, 1, 1, 0],
        [2, 40, 40, 9, 10, 3, 3, 2],
        [41, 16, 16, 1, 1, 1, 1, 0],
    ] {
        Case::new(sizes, ALL).check();
    }
}

/// A class of input pixels may have no pixel, or no weight.
#[test]
fn strides_larger_than_kernel_or_image() {
    for sizes in [
        [2, 2, 3, 4, 4, 1, 5, 0],
        [2, 7, 6, 8, 8, 2, 5, 0],
        [1, 1, 1, 3, 2, 4, 2, 2],
        [1, 2, 9, 3, 2, 5, 3, 2],
    ] {
        Case::new(sizes, ALL).check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, rng_seed: proptest::test_runner::RngSeed::Fixed(0), ..ProptestConfig::default() })]

    #[test]
    fn odd_shapes(
        n in 1usize..4,
        h in 1usize..9,
        w in 1usize..12,
        ci in prop_oneof![1usize..40, prop::sample::select(vec![8usize, 16, 32])],
        co in prop_oneof![1usize..40, prop::sample::select(vec![8usize, 16, 32])],
        kernel in 1usize..6,
        stride in 1usize..4,
        pad in 0usize..3,
        add in prop::sample::select(vec![Add::None, Add::InPlace, Add::Other]),
        bits in 0u32..64,
    ) {
        prop_assume!(kernel <= h.min(w) + 2 * pad);
        let bit = |i: u32| bits >> i & 1 == 1;
        let options = Options {
            affine: bit(0),
            relu: bit(1),
            moments: bit(2),
            norm: bit(3),
            dx: true,
            add,
            mask: bit(4),
            sums: bit(5),
        };
        Case::new([n, h, w, ci, co, kernel, stride, pad], options).check();
    }
}

#[test]
fn bits_do_not_depend_on_the_schedule() {
    for sizes in [
        [3, 9, 8, 16, 24, 3, 1, 1],
        [5, 11, 6, 3, 40, 3, 2, 1],
        [17, 8, 8, 16, 16, 3, 1, 1],
        [9, 16, 16, 32, 32, 3, 1, 1],
        [9, 16, 16, 32, 64, 3, 2, 1],
    ] {
        let case = Case::new(sizes, ALL);
        for step in STEPS {
            let want = case.simt(step, Schedule::Low).bits();
            for schedule in [Schedule::High, Schedule::Random(1), Schedule::Random(2)] {
                let got = case.simt(step, schedule).bits();
                assert_eq!(got, want, "{sizes:?} step {step} {schedule:?}");
            }
        }
    }
}

/// A mean far above the deviation must not cost the variance its digits.
#[test]
fn moments_are_accurate() {
    let options = Options {
        affine: false,
        relu: false,
        ..ALL
    };
    let mut case = Case::new([40, 8, 8, 1, 1, 1, 1, 0], options);
    case.inputs.w = vec![1.0];
    case.inputs.x.iter_mut().for_each(|x| *x += 60.0);
    for step in STEPS {
        let out = case.simt(step, Schedule::Low);
        let count = out.y.len() as f64;
        let mean = sums(1, &out.y, |_, y| y / count)[0];
        let var = sums(1, &out.y, |_, y| (y - mean).powi(2) / count)[0];
        assert!(
            (f64::from(out.mean[0]) / mean - 1.0).abs() < 1e-6,
            "{out:?}"
        );
        assert!((f64::from(out.var[0]) / var - 1.0).abs() < 1e-5, "{out:?}");
    }
}

/// A NaN reaches the outputs whose windows hold it, through ReLU too, and the statistics.
#[test]
fn nan_stays() {
    // Of the second all steps have kernels.
    let sizes = [(5, 6), (16, 8)].into_iter();
    for ((channels, side), step) in sizes.flat_map(|c| STEPS.map(move |s| (c, s))) {
        let mut case = Case::new([1, side, side, channels, channels, 3, 1, 1], ALL);
        case.inputs.x[0] = f32::NAN;
        let out = case.simt(step, Schedule::Low);
        let pixel = |i: usize| out.y[i * channels];
        assert!(pixel(0).is_nan() && pixel(1).is_nan() && !pixel(2).is_nan());
        assert!(out.mean[0].is_nan() && out.var[0].is_nan());
        assert!(out.dw[0].is_nan());

        case.inputs.x[0] = 0.5;
        case.inputs.g[0] = f32::NAN;
        let out = case.simt(step, Schedule::Low);
        assert!(out.dx.iter().any(|x| x.is_nan()));
        assert!(out.dgamma.iter().any(|x| x.is_nan()));
        assert!(out.dbeta.iter().any(|x| x.is_nan()));
    }
}
