//! Linear layers: three matrix products, with bias and activation in their epilogues.

use super::activation;
use super::gemm::{Epilogue, Matrix, Out, WIDEST, gemm};
use super::simd::{Element, Isa, Kernel, LANES, Simd};
use super::slice::{Slice, SliceMut};
use crate::backend::sequence::Act;
use rayon::prelude::*;

/// What both passes read: `R` rows, and a matrix `[out, in]`.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    /// `[R, in]`.
    pub x: Slice<'a>,
    /// `[out, in]`.
    pub w: &'a [f32],
    /// R, in, out.
    pub shape: [usize; 3],
}

impl Layer<'_> {
    fn check(&self) {
        let [rows, inputs, outputs] = self.shape;
        assert_eq!(self.x.len(), rows * inputs, "x of {:?}", self.shape);
        assert_eq!(self.w.len(), outputs * inputs, "w of {:?}", self.shape);
    }
}

/// `pre = x·wᵀ + b`, `y = act(pre)`; `pre` is stored if it is wanted.
pub fn forward(
    isa: Isa,
    layer: Layer,
    bias: Option<&[f32]>,
    act: Act,
    pre: Option<SliceMut>,
    y: SliceMut,
) {
    layer.check();
    let [rows, inputs, outputs] = layer.shape;
    assert_eq!(y.shared().len(), rows * outputs);
    assert!(bias.is_none_or(|b| b.len() == outputs));
    // What is stored before the epilogue must have the bias already.
    let (first, last) = match pre {
        Some(_) => (bias, None),
        None => (None, bias),
    };
    let out = Out {
        bias: first,
        before: pre,
        ..Out::new(y, outputs)
    };
    let finish = Forward { bias: last, act };
    let (x, w) = (Matrix::new(layer.x, inputs), Matrix::new(layer.w, inputs));
    gemm(isa, [rows, outputs, inputs], x, w.t(), out, &finish);
}

struct Forward<'a> {
    bias: Option<&'a [f32]>,
    act: Act,
}

impl Epilogue for Forward<'_> {
    #[inline(always)]
    fn finish<S: Simd>(&self, _: S, _: usize, column: usize, c: &mut [f32]) {
        if let Some(bias) = self.bias {
            for (c, b) in c.iter_mut().zip(&bias[column..]) {
                *c += b;
            }
        }
        activation::apply(self.act, c);
    }
}

/// What becomes of a layer's output.
pub struct Residual<'a> {
    /// `[out]`.
    pub bias: Option<&'a [f32]>,
    /// `[R, out]`.
    pub residual: Slice<'a>,
    /// Of all three together.
    pub scale: f32,
}

/// `y = (x·wᵀ + b + residual)·scale`.
pub fn forward_residual(isa: Isa, layer: Layer, finish: Residual, y: SliceMut) {
    layer.check();
    let [rows, inputs, outputs] = layer.shape;
    let lens = [y.shared().len(), finish.residual.len()];
    assert_eq!(lens, [rows * outputs; 2]);
    assert!(finish.bias.is_none_or(|b| b.len() == outputs));
    let (x, w) = (Matrix::new(layer.x, inputs), Matrix::new(layer.w, inputs));
    let (out, finish) = (Out::new(y, outputs), AddResidual { finish, outputs });
    gemm(isa, [rows, outputs, inputs], x, w.t(), out, &finish);
}

struct AddResidual<'a> {
    finish: Residual<'a>,
    outputs: usize,
}

impl Epilogue for AddResidual<'_> {
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, row: usize, column: usize, c: &mut [f32]) {
        let Residual {
            bias,
            residual,
            scale,
        } = &self.finish;
        if let Some(bias) = bias {
            for (c, b) in c.iter_mut().zip(&bias[column..]) {
                *c += b;
            }
        }
        let mut room = [0.0; WIDEST];
        let residual = residual.floats(s, row * self.outputs + column, &mut room[..c.len()]);
        for (c, r) in c.iter_mut().zip(residual) {
            *c = (*c + r) * scale;
        }
    }
}

/// Gradients of the parameters.
pub struct ParamGrad<'a> {
    /// `[out, in]`.
    pub dw: &'a mut [f32],
    /// `[out]`.
    pub db: Option<&'a mut [f32]>,
    /// Add to what is there.
    pub accumulate: bool,
}

/// `dw = dzᵀ·x`, `db = Σ dz`; `dz` is `[R, out]`.
pub fn backward_params(isa: Isa, layer: Layer, dz: Slice, grad: ParamGrad) {
    layer.check();
    let [rows, inputs, outputs] = layer.shape;
    assert_eq!(
        (dz.len(), grad.dw.len()),
        (rows * outputs, outputs * inputs)
    );
    let out = Out {
        accumulate: grad.accumulate,
        ..Out::new(grad.dw, inputs)
    };
    let (x, z) = (Matrix::new(layer.x, inputs), Matrix::new(dz, outputs));
    gemm(isa, [outputs, inputs, rows], z.t(), x, out, &());
    if let Some(db) = grad.db {
        column_sums(isa, dz, grad.accumulate, db);
    }
}

/// Gradient of the input.
pub struct InputGrad<'a> {
    /// `[R, in]`.
    pub dx: SliceMut<'a>,
    /// The activation that made the input, and what went into it, `[R, in]`.
    pub through: Option<(Act, Slice<'a>)>,
    /// Add to what is there.
    pub accumulate: bool,
}

/// `dx = dz·w`, back through the activation.
pub fn backward_input(isa: Isa, w: &[f32], dz: Slice, shape: [usize; 3], grad: InputGrad) {
    let [rows, inputs, outputs] = shape;
    assert_eq!((dz.len(), w.len()), (rows * outputs, outputs * inputs));
    assert_eq!(grad.dx.shared().len(), rows * inputs);
    assert!(grad.through.is_none_or(|(_, at)| at.len() == rows * inputs));
    assert!(
        grad.through.is_none() || !grad.accumulate,
        "an input that is an activation's output has one reader"
    );
    let out = Out {
        accumulate: grad.accumulate,
        ..Out::new(grad.dx, inputs)
    };
    let (z, w) = (Matrix::new(dz, outputs), Matrix::new(w, inputs));
    let size = [rows, inputs, outputs];
    match grad.through {
        None => gemm(isa, size, z, w, out, &()),
        Some((act, at)) => gemm(isa, size, z, w, out, &Through { act, at, inputs }),
    }
}

struct Through<'a> {
    act: Act,
    at: Slice<'a>,
    inputs: usize,
}

impl Epilogue for Through<'_> {
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, row: usize, column: usize, c: &mut [f32]) {
        let mut room = [0.0; WIDEST];
        let start = row * self.inputs + column;
        let at = self.at.floats(s, start, &mut room[..c.len()]);
        activation::through(self.act, at, c);
    }
}

/// `sums (+)= Σ x` over the rows.
pub fn column_sums<'a>(isa: Isa, x: impl Into<Slice<'a>>, accumulate: bool, sums: &mut [f32]) {
    match x.into() {
        Slice::F32(x) => sum_columns(isa, x, accumulate, sums),
        Slice::Bf16(x) => sum_columns(isa, x, accumulate, sums),
    }
}

fn sum_columns<E: Element>(isa: Isa, x: &[E], accumulate: bool, sums: &mut [f32]) {
    /// Rows of a task.
    const ROWS: usize = 64;
    let width = sums.len();
    let mut partials = vec![0.0; x.len().div_ceil(ROWS * width) * width];
    partials
        .par_chunks_mut(width)
        .zip(x.par_chunks(ROWS * width))
        .for_each(|(to, x)| isa.run(AddRows { to, x }));
    for (c, sum) in sums.iter_mut().enumerate() {
        let column = partials[c..].iter().step_by(width);
        let total: f64 = column.map(|v| f64::from(*v)).sum();
        *sum = if accumulate { *sum } else { 0.0 } + total as f32;
    }
}

struct AddRows<'a, E> {
    to: &'a mut [f32],
    x: &'a [E],
}

impl<E: Element> Kernel for AddRows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for x in self.x.chunks_exact(self.to.len()) {
            let (to, to_rest) = self.to.as_chunks_mut::<LANES>();
            let (x, x_rest) = x.as_chunks::<LANES>();
            for (to, x) in to.iter_mut().zip(x) {
                s.store(to, s.add(s.load(to), E::load(s, x)));
            }
            let rest = s.add(s.load_first(to_rest), E::load_first(s, x_rest));
            s.store_first(to_rest, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        close, loaded, random, rounded, slopes, stored, threads_change_nothing, wide,
    };
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    /// A layer whose input is the activation of `at`.
    struct Case {
        shape: [usize; 3],
        act: Act,
        at: Vec<f32>,
        x: Vec<f32>,
        w: Vec<f32>,
        b: Vec<f32>,
        dz: Vec<f32>,
    }

    #[derive(Debug, PartialEq)]
    struct Results {
        y: Vec<f32>,
        pre: Vec<f32>,
        dw: Vec<f32>,
        db: Vec<f32>,
        dx: Vec<f32>,
    }

    impl Case {
        fn new(shape: [usize; 3], act: Act) -> Case {
            let [rows, inputs, outputs] = shape;
            let at = random(1, rows * inputs, 0.1, 2.0);
            let mut x = at.clone();
            activation::apply(act, &mut x);
            Case {
                shape,
                act,
                at,
                x,
                w: random(2, outputs * inputs, 0.0, 1.0),
                b: random(3, outputs, 0.0, 1.0),
                dz: random(4, rows * outputs, 0.1, 1.0),
            }
        }

        /// Gradients are added to what `results` holds if `accumulate`.
        fn run(&self, isa: Isa, results: Results, accumulate: bool) -> Results {
            self.run_as::<f32>(isa, results, accumulate)
        }

        /// With activations of a kind.
        fn run_as<E: Element>(&self, isa: Isa, mut results: Results, accumulate: bool) -> Results
        where
            for<'a> Slice<'a>: From<&'a [E]>,
            for<'a> SliceMut<'a>: From<&'a mut [E]>,
        {
            let r = &mut results;
            let [x, at, dz] = [&self.x, &self.at, &self.dz].map(|x| stored::<E>(x));
            let [mut pre, mut y, mut dx] = [&r.pre, &r.y, &r.dx].map(|x| stored::<E>(x));
            let layer = Layer {
                x: x[..].into(),
                w: &self.w,
                shape: self.shape,
            };
            let before = Some(SliceMut::from(&mut pre[..]));
            forward(
                isa,
                layer,
                Some(&self.b),
                self.act,
                before,
                SliceMut::from(&mut y[..]),
            );
            let grad = ParamGrad {
                dw: &mut r.dw,
                db: Some(&mut r.db),
                accumulate,
            };
            backward_params(isa, layer, dz[..].into(), grad);
            let grad = InputGrad {
                dx: SliceMut::from(&mut dx[..]),
                through: (!accumulate).then_some((self.act, at[..].into())),
                accumulate,
            };
            backward_input(isa, &self.w, dz[..].into(), self.shape, grad);
            [r.pre, r.y, r.dx] = [pre, y, dx].map(|x| loaded(&x));
            results
        }

        fn filled(&self, value: f32) -> Results {
            let fill = |like: &[f32]| vec![value; like.len()];
            Results {
                y: fill(&self.dz),
                pre: fill(&self.dz),
                dw: fill(&self.w),
                db: fill(&self.b),
                dx: fill(&self.x),
            }
        }

        /// `Σ dz·(x·wᵀ + b)`, and the sums themselves.
        fn exact(&self, x: &[f64], w: &[f64], b: &[f64]) -> (f64, Vec<f64>) {
            let [_, inputs, outputs] = self.shape;
            let value = |i: usize| {
                let (r, o) = (i / outputs, i % outputs);
                let dot = (0..inputs).map(|c| x[r * inputs + c] * w[o * inputs + c]);
                dot.sum::<f64>() + b[o]
            };
            let all: Vec<f64> = (0..self.dz.len()).map(value).collect();
            let products = all.iter().zip(&self.dz).map(|(z, d)| z * f64::from(*d));
            (products.sum(), all)
        }
    }

    fn check(shape: [usize; 3], act: Act) {
        let case = Case::new(shape, act);
        let (x, w, b) = (wide(&case.x), wide(&case.w), wide(&case.b));
        let pre = case.exact(&x, &w, &b).1;
        // The objective is linear in each, so differences are exact.
        let dw = slopes(&w, |w| case.exact(&x, w, &b).0);
        let db = slopes(&b, |b| case.exact(&x, &w, b).0);
        let dx = slopes(&x, |x| case.exact(x, &w, &b).0);
        for isa in Isa::available() {
            let r = case.run(isa, case.filled(f32::NAN), false);
            close("pre", &r.pre, &pre, 2e-6);
            let mut y = r.pre.clone();
            activation::apply(act, &mut y);
            close("y", &r.y, &wide(&y), 1e-7);
            close("dw", &r.dw, &dw, 4e-6);
            close("db", &r.db, &db, 4e-6);
            let mut through: Vec<f32> = dx.iter().map(|d| *d as f32).collect();
            activation::through(act, &case.at, &mut through);
            close("dx", &r.dx, &wide(&through), 4e-6);

            // Without what is optional: the same values.
            let mut y = vec![f32::NAN; r.y.len()];
            let layer = Layer {
                x: Slice::F32(&case.x),
                w: &case.w,
                shape,
            };
            forward(isa, layer, Some(&case.b), act, None, SliceMut::F32(&mut y));
            close("y without pre", &y, &wide(&r.y), 1e-6);

            // With a residual, at another scale.
            let mut y = vec![f32::NAN; r.y.len()];
            let finish = Residual {
                bias: Some(&case.b),
                residual: Slice::F32(&case.dz),
                scale: 0.5,
            };
            forward_residual(isa, layer, finish, SliceMut::F32(&mut y));
            let sums = pre.iter().zip(&case.dz);
            let want: Vec<f64> = sums.map(|(z, r)| (z + f64::from(*r)) * 0.5).collect();
            close("(pre + residual)/2", &y, &want, 2e-6);

            // On top of something.
            let r = case.run(isa, case.filled(1.0), true);
            let on_top = |grad: &[f64]| grad.iter().map(|g| g + 1.0).collect::<Vec<f64>>();
            close("dw + 1", &r.dw, &on_top(&dw), 4e-6);
            close("db + 1", &r.db, &on_top(&db), 4e-6);
            close("dx + 1", &r.dx, &on_top(&dx), 4e-6);
        }
    }

    #[test]
    fn agrees_with_f64_on_odd_shapes() {
        for act in [Act::None, Act::Relu, Act::GeluErf, Act::GeluTanh] {
            for shape in [[1, 1, 1], [3, 5, 2], [9, 17, 33], [130, 3, 4]] {
                check(shape, act);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 12,
            failure_persistence: None,
            rng_seed: proptest::test_runner::RngSeed::Fixed(0),
            ..Default::default()
        })]

        #[test]
        fn agrees_with_f64_on_any_shape(rows in 1..40_usize, inputs in 1..20_usize, outputs in 1..40_usize) {
            check([rows, inputs, outputs], Act::GeluErf);
        }
    }

    #[test]
    fn in_bf16_results_are_rounded_once_and_equal_on_all_instruction_sets() {
        for act in [Act::None, Act::Relu, Act::GeluErf, Act::GeluTanh] {
            for shape in [[1, 1, 1], [3, 5, 2], [9, 17, 33], [130, 3, 4], [40, 70, 50]] {
                let mut case = Case::new(shape, act);
                // Rounded before, so that f64 reads the same.
                for x in [&mut case.at, &mut case.x, &mut case.w, &mut case.dz] {
                    *x = loaded(&stored::<bf16>(x));
                }
                let (x, w, b) = (wide(&case.x), wide(&case.w), wide(&case.b));
                let pre = case.exact(&x, &w, &b).1;
                let dw = slopes(&w, |w| case.exact(&x, w, &b).0);
                let db = slopes(&b, |b| case.exact(&x, &w, b).0);
                let mut y: Vec<f32> = pre.iter().map(|z| *z as f32).collect();
                activation::apply(act, &mut y);
                let slope = slopes(&x, |x| case.exact(x, &w, &b).0);
                let mut dx: Vec<f32> = slope.iter().map(|d| *d as f32).collect();
                activation::through(act, &case.at, &mut dx);
                let portable = case.run_as::<bf16>(Isa::PORTABLE, case.filled(f32::NAN), false);
                for isa in Isa::available() {
                    let r = case.run_as::<bf16>(isa, case.filled(f32::NAN), false);
                    assert_eq!(r, portable, "{isa}");
                    rounded("pre", &r.pre, &pre);
                    rounded("y", &r.y, &wide(&y));
                    rounded("dx", &r.dx, &wide(&dx));
                    close("dw", &r.dw, &dw, 4e-6);
                    close("db", &r.db, &db, 4e-6);
                    let on_top = case.run_as::<bf16>(isa, case.filled(1.0), true);
                    let sums: Vec<f64> = slope.iter().map(|d| d + 1.0).collect();
                    rounded("dx + 1", &on_top.dx, &sums);
                }
            }
        }
    }

    #[test]
    fn one_thread_and_three_give_equal_bits() {
        let case = Case::new([150, 70, 90], Act::GeluTanh);
        threads_change_nothing(
            |isa| case.run(isa, case.filled(0.0), false),
            |r| {
                let all = [&r.y, &r.pre, &r.dw, &r.db, &r.dx].into_iter().flatten();
                all.map(|x| x.to_bits()).collect()
            },
        );
    }

    #[test]
    fn a_nan_is_seen_in_all_that_it_is_part_of() {
        let mut case = Case::new([5, 7, 9], Act::Relu);
        case.x[2 * 7 + 3] = f32::NAN;
        case.dz[4 * 9 + 8] = f32::NAN;
        for isa in Isa::available() {
            let r = case.run(isa, case.filled(0.0), true);
            for (i, y) in r.y.iter().enumerate() {
                assert_eq!(y.is_nan(), i / 9 == 2);
            }
            for (i, dw) in r.dw.iter().enumerate() {
                assert_eq!(dw.is_nan(), i / 7 == 8 || i % 7 == 3);
            }
            for (i, dx) in r.dx.iter().enumerate() {
                assert_eq!(dx.is_nan(), i / 7 == 4);
            }
            assert!(r.db[8].is_nan() && r.db[..8].iter().all(|d| d.is_finite()));
        }
    }
}
