//! Convolutions against a naive reference in f64.

use proptest::prelude::*;

use half::bf16;

use super::{Add, ConvShape, Convolved, GradSource, InputGradOut, NormBackward, Source, Sums};
use crate::backend::cpu::simd::Isa;

/// How much of a number rounding may change.
trait Kind: Convolved {
    const ROUNDING: f64;
}

impl Kind for f32 {
    const ROUNDING: f64 = 0.0;
}

impl Kind for bf16 {
    const ROUNDING: f64 = 1.0 / 256.0;
}

/// Every instruction set, with multiply-adds that round once: bits in bf16 must be equal on all.
fn fused() -> impl Iterator<Item = Isa> {
    Isa::available().into_iter().map(Isa::fused)
}

fn stored<E: Kind>(x: &[f32]) -> Vec<E> {
    x.iter().map(|x| E::from_f32(*x)).collect()
}

fn read<E: Kind>(x: Vec<E>) -> Vec<f32> {
    x.into_iter().map(E::to_f32).collect()
}

/// Which parts of the ops are used.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Options {
    affine: bool,
    relu: bool,
    norm: bool,
    /// `dx` wanted.
    dx: bool,
    /// 0 none, 1 in place, 2 from another tensor.
    add: usize,
    mask: bool,
    sums: bool,
}

const ALL: Options = Options {
    affine: true,
    relu: true,
    norm: true,
    dx: true,
    add: 1,
    mask: true,
    sums: true,
};

/// Multiples of 1/16 in ±1, so that `scale·x + shift` is exact and no mask is a matter of rounding.
fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) % 33) as f32 / 16.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Inputs of both passes.
struct Case {
    shape: ConvShape,
    options: Options,
    x: Vec<f32>,
    w: Vec<f32>,
    g: Vec<f32>,
    y: Vec<f32>,
    add: Vec<f32>,
    raw: Vec<f32>,
    /// Per input channel: scale, shift, mean, invstd.
    input: [Vec<f32>; 4],
    /// Per output channel: mean, invstd, scale, dgamma, dbeta.
    output: [Vec<f32>; 5],
}

/// All outputs of both passes. What an option leaves out is empty.
#[derive(Debug, Default, PartialEq)]
struct Outputs<T> {
    y: Vec<T>,
    mean: Vec<T>,
    var: Vec<T>,
    dw: Vec<T>,
    dx: Vec<T>,
    dgamma: Vec<T>,
    dbeta: Vec<T>,
}

impl<T> Outputs<T> {
    fn all(&self) -> [(&str, &[T]); 7] {
        [
            ("y", &self.y),
            ("mean", &self.mean),
            ("var", &self.var),
            ("dw", &self.dw),
            ("dx", &self.dx),
            ("dgamma", &self.dgamma),
            ("dbeta", &self.dbeta),
        ]
    }
}

impl Case {
    fn new(shape: ConvShape, options: Options) -> Case {
        let x_len = shape.n * shape.h * shape.w * shape.ci;
        let y_len = shape.n * shape.ho() * shape.wo() * shape.co;
        Case {
            shape,
            options,
            x: values(x_len, 1),
            w: values(shape.co * shape.kernel * shape.kernel * shape.ci, 2),
            g: values(y_len, 3),
            y: values(y_len, 4),
            add: values(x_len, 5),
            raw: values(x_len, 6),
            input: [7, 8, 9, 10].map(|seed| values(shape.ci, seed)),
            output: [11, 12, 13, 14, 15].map(|seed| values(shape.co, seed)),
        }
    }

    fn source<'a, E>(&'a self, x: &'a [E]) -> Source<'a, E> {
        Source {
            x,
            affine: self
                .options
                .affine
                .then_some((&self.input[0], &self.input[1])),
            relu: self.options.relu,
        }
    }

    fn run<E: Kind>(&self, isa: Isa) -> Outputs<f32> {
        let (shape, options) = (&self.shape, self.options);
        let [x, g, y, add, raw] =
            [&self.x, &self.g, &self.y, &self.add, &self.raw].map(|x| stored::<E>(x));
        let nan = E::from_f32(f32::NAN);
        let mut out_y = vec![nan; y.len()];
        let mut out_dx = Vec::new();
        let mut out = Outputs {
            // What is there before must not matter.
            mean: vec![f32::NAN; shape.co],
            var: vec![f32::NAN; shape.co],
            dw: vec![f32::NAN; self.w.len()],
            ..Outputs::default()
        };
        let moments = Some((&mut out.mean[..], &mut out.var[..]));
        E::forward(isa, shape, self.source(&x), &self.w, &mut out_y, moments);
        let [mean, invstd, scale, dgamma, dbeta] = &self.output;
        let norm = NormBackward {
            y: &y,
            mean,
            invstd,
            scale,
            dgamma,
            dbeta,
        };
        let dy = GradSource {
            g: &g,
            norm: options.norm.then_some(norm),
        };
        let mut dx = None;
        if options.dx {
            out_dx = match options.add {
                1 => add.clone(),
                _ => vec![nan; x.len()],
            };
            if options.sums {
                out.dgamma = vec![f32::NAN; shape.ci];
                out.dbeta = vec![f32::NAN; shape.ci];
            }
            dx = Some(InputGradOut {
                dx: &mut out_dx,
                add: match options.add {
                    0 => Add::None,
                    1 => Add::InPlace,
                    _ => Add::From(&add),
                },
                relu: options.mask,
                sums: options.sums.then_some(Sums {
                    raw: &raw,
                    mean: &self.input[2],
                    invstd: &self.input[3],
                    dgamma: &mut out.dgamma,
                    dbeta: &mut out.dbeta,
                }),
            });
        }
        E::backward(isa, shape, self.source(&x), &self.w, dy, &mut out.dw, dx);
        Outputs {
            y: read(out_y),
            dx: read(out_dx),
            ..out
        }
    }

    /// The definitions, term by term.
    fn reference(&self) -> Outputs<Sum> {
        let ConvShape {
            n,
            h,
            w,
            ci,
            co,
            kernel,
            stride,
            pad,
        } = self.shape;
        let (ho, wo) = (self.shape.ho(), self.shape.wo());
        let options = self.options;
        let m = (n * ho * wo) as f64;
        let loaded = |i: usize| {
            let [scale, shift, ..] = self.input.each_ref().map(|v| f64::from(v[i % ci]));
            let x = f64::from(self.x[i]);
            let x = if options.affine { x * scale + shift } else { x };
            if options.relu { x.max(0.0) } else { x }
        };
        let dy = |i: usize| {
            let [mean, invstd, scale, dgamma, dbeta] =
                self.output.each_ref().map(|v| f64::from(v[i % co]));
            let xhat = (f64::from(self.y[i]) - mean) * invstd;
            let g = f64::from(self.g[i]);
            if options.norm {
                scale * (g - dbeta / m - xhat * dgamma / m)
            } else {
                g
            }
        };
        let mut y = vec![Sum::default(); self.y.len()];
        let mut dw = vec![Sum::default(); self.w.len()];
        let mut dx = vec![Sum::default(); self.x.len()];
        for (image, i, j) in indices([n, ho, wo]) {
            for (a, b, c) in indices([kernel, kernel, ci]) {
                let (row, col) = (i * stride + a, j * stride + b);
                if row < pad || col < pad || row - pad >= h || col - pad >= w {
                    continue;
                }
                let x = ((image * h + row - pad) * w + col - pad) * ci + c;
                for o in 0..co {
                    let out = ((image * ho + i) * wo + j) * co + o;
                    let weight = ((o * kernel + a) * kernel + b) * ci + c;
                    y[out].add(loaded(x) * f64::from(self.w[weight]));
                    dw[weight].add(loaded(x) * dy(out));
                    dx[x].add(dy(out) * f64::from(self.w[weight]));
                }
            }
        }
        let mut mean = vec![Sum::default(); co];
        for (i, y) in y.iter().enumerate() {
            mean[i % co].add(y.value / m);
        }
        let mut var = vec![Sum::default(); co];
        for (i, y) in y.iter().enumerate() {
            var[i % co].add((y.value - mean[i % co].value).powi(2) / m);
        }
        let mut dgamma = vec![Sum::default(); ci];
        let mut dbeta = vec![Sum::default(); ci];
        for (i, dx) in dx.iter_mut().enumerate() {
            if options.add > 0 {
                dx.add(f64::from(self.add[i]));
            }
            if options.mask && loaded(i) <= 0.0 {
                *dx = Sum::default();
            }
            let [_, _, mean, invstd] = self.input.each_ref().map(|v| f64::from(v[i % ci]));
            dbeta[i % ci].add(dx.value);
            dgamma[i % ci].add(dx.value * (f64::from(self.raw[i]) - mean) * invstd);
        }
        if !options.dx {
            dx.clear();
        }
        if !options.dx || !options.sums {
            dgamma.clear();
            dbeta.clear();
        }
        Outputs {
            y,
            mean,
            var,
            dw,
            dx,
            dgamma,
            dbeta,
        }
    }

    fn check<E: Kind>(&self, isa: Isa, want: &Outputs<Sum>) {
        let got = self.run::<E>(isa);
        // Whether loads and gradients are numbers that are stored exactly.
        let exact = !self.options.affine && !self.options.norm;
        for ((name, got), (_, want)) in got.all().into_iter().zip(want.all()) {
            assert_eq!(got.len(), want.len(), "{name} {:?}", self.options);
            // Where everything cancels, what is left has the error of the terms.
            let scale = |m: f64, x: &Sum| m.max(x.value.abs()).max(0.1 * x.terms);
            let largest = want.iter().fold(0.0, scale);
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                // Not `>`, which would let a NaN pass.
                let rounded = match exact {
                    true => want.value.abs(),
                    false => want.value.abs() + want.terms,
                };
                let tolerance = 1e-5 * largest + E::ROUNDING * rounded;
                let near = (f64::from(*got) - want.value).abs() <= tolerance;
                let case = (self.shape, self.options);
                assert!(near, "{isa} {name}[{i}] {got} not {}: {case:?}", want.value);
            }
        }
    }
}

/// A sum, and that of its terms' magnitudes.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    value: f64,
    terms: f64,
}

impl Sum {
    fn add(&mut self, term: f64) {
        self.value += term;
        self.terms += term.abs();
    }
}

fn indices([a, b, c]: [usize; 3]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a * b * c).map(move |i| (i / (b * c), i / c % b, i % c))
}

fn check(shape: ConvShape, options: Options) {
    let case = Case::new(shape, options);
    let want = case.reference();
    for isa in Isa::available() {
        case.check::<f32>(isa, &want);
    }
    let exact = Case::new(
        shape,
        Options {
            affine: false,
            norm: false,
            ..options
        },
    );
    let best = *Isa::available().last().expect("there is a portable one");
    exact.check::<bf16>(best, &exact.reference());
    let bits = fused().map(|isa| {
        case.check::<bf16>(isa, &want);
        case.run::<bf16>(isa)
    });
    let bits: Vec<_> = bits.collect();
    assert!(bits.windows(2).all(|two| two[0] == two[1]), "{shape:?}");
}

fn shape([n, h, w, ci, co, kernel, stride, pad]: [usize; 8]) -> ConvShape {
    ConvShape {
        n,
        h,
        w,
        ci,
        co,
        kernel,
        stride,
        pad,
    }
}

#[test]
fn layers_of_resnets() {
    for sizes in [
        [3, 32, 32, 3, 16, 3, 1, 1],
        [2, 32, 32, 16, 16, 3, 1, 1],
        [2, 32, 32, 16, 32, 3, 2, 1],
        [2, 16, 16, 32, 32, 3, 1, 1],
        [3, 8, 8, 64, 64, 3, 1, 1],
        [5, 4, 4, 64, 128, 3, 1, 1],
        [9, 2, 2, 48, 80, 3, 1, 1],
        [3, 16, 16, 32, 64, 1, 2, 0],
        [2, 14, 14, 64, 32, 1, 1, 0],
        [1, 37, 41, 3, 32, 7, 2, 3],
    ] {
        check(shape(sizes), ALL);
    }
}

#[test]
fn every_combination_of_options() {
    for bits in 0..1 << 6 {
        let bit = |i: usize| bits >> i & 1 == 1;
        for add in 0..3 {
            let options = Options {
                affine: bit(0),
                relu: bit(1),
                norm: bit(2),
                dx: bit(3),
                add,
                mask: bit(4),
                sums: bit(5),
            };
            check(shape([3, 5, 4, 5, 17, 3, 2, 1]), options);
        }
    }
}

/// Larger than the scratch of a task may be, so it is done in bands.
#[test]
fn images_larger_than_a_band() {
    check(shape([1, 150, 130, 17, 3, 3, 2, 1]), ALL);
    check(shape([1, 150, 130, 17, 3, 1, 1, 0]), ALL);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, rng_seed: proptest::test_runner::RngSeed::Fixed(0), ..ProptestConfig::default() })]

    #[test]
    fn odd_shapes(
        n in 1usize..6,
        h in 1usize..12,
        w in 1usize..20,
        ci in prop::sample::select(vec![1usize, 2, 3, 5, 15, 16, 17, 33]),
        co in prop::sample::select(vec![1usize, 10, 16, 24, 48, 65]),
        kernel in prop::sample::select(vec![1usize, 2, 3, 5, 7]),
        stride in 1usize..4,
        pad in 0usize..4,
        add in 0usize..3,
    ) {
        prop_assume!(kernel <= h.min(w) + 2 * pad);
        check(shape([n, h, w, ci, co, kernel, stride, pad]), Options { add, ..ALL });
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("starts threads")
    };
    let (one, three) = (pool(1), pool(3));
    for sizes in [
        [70, 8, 8, 16, 24, 3, 1, 1],
        [70, 5, 6, 3, 16, 3, 2, 1],
        [70, 4, 4, 20, 16, 1, 2, 0],
    ] {
        let case = Case::new(shape(sizes), ALL);
        for isa in Isa::available() {
            assert_eq!(
                one.install(|| case.run::<f32>(isa)),
                three.install(|| case.run::<f32>(isa)),
                "{isa}"
            );
            assert_eq!(
                one.install(|| case.run::<bf16>(isa)),
                three.install(|| case.run::<bf16>(isa)),
                "{isa} bf16"
            );
        }
    }
}

/// A mean far above the deviation must not cost the variance its digits.
#[test]
fn moments_are_accurate() {
    let (n, size) = (64, 32);
    let x: Vec<f32> = values(n * size * size, 1)
        .iter()
        .map(|x| 8.0 + x * 0.85)
        .collect();
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
    let square = |x: &f32| (f64::from(*x) - mean).powi(2);
    let var = x.iter().map(square).sum::<f64>() / x.len() as f64;
    for isa in Isa::available() {
        let shape = shape([n, size, size, 1, 1, 1, 1, 0]);
        let source = Source {
            x: &x,
            affine: None,
            relu: false,
        };
        let (mut y, mut got_mean, mut got_var) = (vec![0.0; x.len()], [0.0], [0.0]);
        f32::forward(
            isa,
            &shape,
            source,
            &[1.0],
            &mut y,
            Some((&mut got_mean, &mut got_var)),
        );
        assert!(
            (f64::from(got_mean[0]) / mean - 1.0).abs() < 1e-7,
            "{isa} {got_mean:?}"
        );
        assert!(
            (f64::from(got_var[0]) / var - 1.0).abs() < 1e-7,
            "{isa} {got_var:?}"
        );
    }
}

/// A NaN reaches the outputs whose windows hold it, through ReLU too, and the moments.
#[test]
fn nan_stays() {
    nan_stays_in::<f32>();
    nan_stays_in::<bf16>();
}

fn nan_stays_in<E: Kind>() {
    for isa in Isa::available() {
        let shape = shape([1, 6, 6, 16, 16, 3, 1, 1]);
        let mut case = Case::new(shape, ALL);
        case.x[0] = f32::NAN;
        let out = case.run::<E>(isa);
        assert!(
            out.y[0].is_nan() && out.y[16].is_nan() && !out.y[32].is_nan(),
            "{isa}"
        );
        assert!(out.mean[0].is_nan() && out.var[0].is_nan(), "{isa}");
        assert!(out.dw[0].is_nan(), "{isa}");
        case.x[0] = 0.5;
        case.g[0] = f32::NAN;
        assert!(case.run::<E>(isa).dbeta.iter().any(|x| x.is_nan()), "{isa}");
    }
}
