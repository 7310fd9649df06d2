//! Layer norm with the residual sum and dropout before it: a task is a chunk of whole rows, each of
//! which stays in the first-level cache between the passes over it.

use super::dropout::Mask;
use super::math::sum;
use super::simd::{Isa, Kernel, LANES, Simd};
use super::slice::{Slice, SliceMut};
use crate::backend::sequence::NORM_EPS;
use rayon::prelude::*;

/// Floats in a task's chunk, about.
const CHUNK: usize = 1 << 14;

/// Rows in a task's chunk.
fn rows(width: usize) -> usize {
    (CHUNK / width).max(16)
}

/// What [`forward`] reads. `R` rows of `D`.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// `[R, D]`.
    pub x: Slice<'a>,
    /// `[R, D]` to be added, and its dropout.
    pub branch: Option<(Slice<'a>, Option<Mask>)>,
    /// `[D]`.
    pub gamma: &'a [f32],
    /// `[D]`.
    pub beta: &'a [f32],
}

/// What [`forward`] writes.
pub struct Output<'a> {
    /// `[R, D]`: `x` with the branch, where there is one.
    pub h: Option<SliceMut<'a>>,
    /// `[R, D]`.
    pub y: SliceMut<'a>,
    /// `[R]`.
    pub mean: &'a mut [f32],
    /// `[R]`.
    pub rstd: &'a mut [f32],
}

/// `h = x + dropout(branch)`, `y = γ·(h − mean)·rstd + β`.
pub fn forward(isa: Isa, input: Input, out: Output) {
    let width = input.gamma.len();
    let n = out.mean.len();
    assert_eq!([input.x.len(), out.y.len()], [n * width; 2]);
    assert_eq!((input.beta.len(), out.rstd.len()), (width, n));
    let branch = input.branch.map(|(branch, _)| branch.len());
    assert_eq!(branch, out.h.as_ref().map(|h| h.len()));
    assert!(branch.is_none_or(|len| len == n * width));
    let size = rows(width) * width;
    let statistics = out
        .mean
        .par_chunks_mut(rows(width))
        .zip(out.rstd.par_chunks_mut(rows(width)));
    let y = out.y.pieces(size).into_par_iter();
    let tasks = y.zip(statistics).enumerate();
    let run = |i: usize, out: Output| {
        let first = i * size;
        isa.run(Forward { input, first, out });
    };
    match out.h {
        None => tasks.for_each(|(i, (y, (mean, rstd)))| {
            let h = None;
            run(i, Output { h, y, mean, rstd });
        }),
        Some(h) => tasks
            .zip(h.pieces(size))
            .for_each(|((i, (y, (mean, rstd))), h)| {
                let h = Some(h);
                run(i, Output { h, y, mean, rstd });
            }),
    }
}

/// A chunk of rows.
struct Forward<'a> {
    /// Of all rows.
    input: Input<'a>,
    /// The chunk's first element.
    first: usize,
    out: Output<'a>,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Input {
            x,
            branch,
            gamma,
            beta,
        } = self.input;
        let width = gamma.len();
        let Output {
            mut h,
            mut y,
            mean,
            rstd,
        } = self.out;
        // The dropout's, and rows in f32: of x, of the branch, of h, and of y.
        let mut factors = vec![1.0; width];
        let [mut x_room, mut branch_room, mut h_room, mut y_room] =
            std::array::from_fn(|_| vec![0.0; width]);
        for (r, (mean, rstd)) in mean.iter_mut().zip(rstd).enumerate() {
            let at = self.first + r * width;
            let part = r * width..(r + 1) * width;
            let x = x.floats(s, at, &mut x_room);
            let mut both = None;
            let row = match (&mut h, branch) {
                (Some(h), Some((branch, mask))) => {
                    if let Some(mask) = mask {
                        mask.factors(at, &mut factors);
                    }
                    let branch = branch.floats(s, at, &mut branch_room);
                    let h = h.part(part.clone()).floats(s, &mut h_room);
                    for (((h, x), b), f) in h.values.iter_mut().zip(x).zip(branch).zip(&factors) {
                        *h = x + f * b;
                    }
                    &*both.insert(h).values
                }
                _ => x,
            };
            *mean = (sum(s, row, 0.0) / width as f64) as f32;
            let variance = squares(s, row, *mean) / width as f64;
            *rstd = (1.0 / (variance + f64::from(NORM_EPS)).sqrt()) as f32;
            let (mean, rstd) = (*mean, *rstd);
            let y = y.part(part).floats(s, &mut y_room);
            let values = y.values.iter_mut().zip(row).zip(gamma).zip(beta);
            for (((y, h), gamma), beta) in values {
                *y = (h - mean) * rstd * gamma + beta;
            }
            y.store(s);
            if let Some(h) = both {
                h.store(s);
            }
        }
    }
}

/// `Σ (x − mean)²`, about a mean that is near enough for f32.
#[inline(always)]
fn squares<S: Simd>(s: S, x: &[f32], mean: f32) -> f64 {
    let (vectors, tail) = x.as_chunks::<LANES>();
    let mut sum = s.splat(0.0);
    for v in vectors {
        let d = s.sub(s.load(v), s.splat(mean));
        sum = s.fma(d, d, sum);
    }
    let tail = tail.iter().map(|x| f64::from(x - mean).powi(2));
    lanes_sum(s, sum) + tail.sum::<f64>()
}

#[inline(always)]
fn lanes_sum<S: Simd>(s: S, v: S::V) -> f64 {
    let mut lanes = [0.0; LANES];
    s.store(&mut lanes, v);
    lanes.iter().map(|v| f64::from(*v)).sum()
}

/// What [`backward`] reads.
#[derive(Clone, Copy)]
pub struct GradInput<'a> {
    /// `[R, D]`.
    pub h: Slice<'a>,
    /// `[D]`.
    pub gamma: &'a [f32],
    /// `[R]`.
    pub mean: &'a [f32],
    /// `[R]`.
    pub rstd: &'a [f32],
    /// `[R, D]`; without it, what lies in `dx`.
    pub dy: Option<Slice<'a>>,
    /// What is added to `dx`.
    pub dh: Add<'a>,
    /// The branch's.
    pub mask: Option<Mask>,
}

/// The gradient of `h` that comes from elsewhere, `[R, D]`.
#[derive(Clone, Copy)]
pub enum Add<'a> {
    /// There is none.
    None,
    /// What lies in `dx`.
    InPlace,
    /// From another tensor.
    From(Slice<'a>),
}

/// What [`backward`] writes.
pub struct GradOutput<'a> {
    /// `[R, D]`.
    pub dx: SliceMut<'a>,
    /// `[R, D]`, where the branch has a dropout.
    pub branch: Option<SliceMut<'a>>,
    /// `[D]`.
    pub dgamma: &'a mut [f32],
    /// `[D]`.
    pub dbeta: &'a mut [f32],
}

/// With `g = γ·dy`, `ĥ = (h − mean)·rstd`: `dx = rstd·(g − mean(g) − ĥ·mean(g·ĥ)) + dh`, the same
/// through the mask, `dgamma = Σ dy·ĥ` and `dbeta = Σ dy` over the rows.
pub fn backward(isa: Isa, input: GradInput, out: GradOutput) {
    let width = input.gamma.len();
    let n = input.mean.len();
    let GradOutput {
        dx,
        branch,
        dgamma,
        dbeta,
    } = out;
    assert_eq!([input.h.len(), dx.len()], [n * width; 2]);
    assert_eq!((input.rstd.len(), dgamma.len()), (n, width));
    assert_eq!(
        (branch.is_some(), dbeta.len()),
        (input.mask.is_some(), width)
    );
    let same = |len: usize| len == n * width;
    assert!(branch.as_ref().is_none_or(|b| same(b.len())));
    assert!(input.dy.is_none_or(|dy| same(dy.len())));
    assert!(input.dy.is_some() || !matches!(input.dh, Add::InPlace));
    let size = rows(width) * width;
    let mut partials = vec![0.0; (n * width).div_ceil(size) * 2 * width];
    let tasks = dx
        .pieces(size)
        .into_par_iter()
        .zip(partials.par_chunks_mut(2 * width))
        .enumerate();
    let run = |(i, (dx, sums)): (usize, (SliceMut, &mut [f32])), branch: Option<SliceMut>| {
        let (dgamma, dbeta) = sums.split_at_mut(width);
        isa.run(Backward {
            input,
            first: i * size,
            out: GradOutput {
                dx,
                branch,
                dgamma,
                dbeta,
            },
        });
    };
    match branch {
        None => tasks.for_each(|task| run(task, None)),
        Some(branch) => tasks
            .zip(branch.pieces(size))
            .for_each(|(task, branch)| run(task, Some(branch))),
    }
    for (first, total) in [(0, dgamma), (width, dbeta)] {
        for (c, total) in total.iter_mut().enumerate() {
            let column = partials[first + c..].iter().step_by(2 * width);
            *total = column.map(|v| f64::from(*v)).sum::<f64>() as f32;
        }
    }
}

/// A chunk of rows; `dgamma` and `dbeta` are its own.
struct Backward<'a> {
    /// Of all rows.
    input: GradInput<'a>,
    /// The chunk's first element.
    first: usize,
    out: GradOutput<'a>,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let GradInput {
            h,
            gamma,
            mean,
            rstd,
            dy,
            dh,
            mask,
        } = self.input;
        let GradOutput {
            mut dx,
            mut branch,
            dgamma,
            dbeta,
        } = self.out;
        let width = gamma.len();
        // ĥ, g, and what is added.
        let [mut hat, mut g, mut add] = std::array::from_fn(|_| vec![0.0; width]);
        // Rows in f32.
        let [mut room, mut dx_room, mut branch_room] = std::array::from_fn(|_| vec![0.0; width]);
        for r in 0..dx.len() / width {
            let at = self.first + r * width;
            let part = r * width..(r + 1) * width;
            let (mean, rstd) = (mean[at / width], rstd[at / width]);
            let dx = dx.part(part.clone()).floats(s, &mut dx_room);
            match dh {
                Add::None => (),
                Add::InPlace => add.copy_from_slice(dx.values),
                Add::From(dh) => add.copy_from_slice(dh.floats(s, at, &mut room)),
            }
            match dy {
                Some(dy) => g.copy_from_slice(dy.floats(s, at, &mut room)),
                None => g.copy_from_slice(dx.values),
            }
            let sums = dgamma.iter_mut().zip(dbeta.iter_mut()).zip(gamma);
            let h = h.floats(s, at, &mut room);
            for (((hat, g), h), ((dgamma, dbeta), gamma)) in
                hat.iter_mut().zip(&mut g).zip(h).zip(sums)
            {
                *hat = (h - mean) * rstd;
                *dgamma += *g * *hat;
                *dbeta += *g;
                *g *= gamma;
            }
            let [offset, slope] = averages(s, &g, &hat);
            for (((dx, g), hat), add) in dx.values.iter_mut().zip(&g).zip(&hat).zip(&add) {
                *dx = rstd * (g - offset - hat * slope) + add;
            }
            if let (Some(branch), Some(mask)) = (&mut branch, mask) {
                let branch = branch.part(part).floats(s, &mut branch_room);
                mask.factors(at, branch.values);
                for (b, dx) in branch.values.iter_mut().zip(&*dx.values) {
                    *b *= *dx;
                }
                branch.store(s);
            }
            dx.store(s);
        }
    }
}

/// Means of `g` and of `g·hat`.
#[inline(always)]
fn averages<S: Simd>(s: S, g: &[f32], hat: &[f32]) -> [f32; 2] {
    let (gs, g_tail) = g.as_chunks();
    let (hats, hat_tail) = hat.as_chunks();
    let (tail, tail_hat) = (s.load_first(g_tail), s.load_first(hat_tail));
    let (mut sum, mut products) = (tail, s.mul(tail, tail_hat));
    for (g, hat) in gs.iter().zip(hats) {
        let g = s.load(g);
        sum = s.add(sum, g);
        products = s.fma(g, s.load(hat), products);
    }
    [lanes_sum(s, sum), lanes_sum(s, products)].map(|sum| (sum / g.len() as f64) as f32)
}

#[cfg(test)]
#[path = "layer_norm_tests.rs"]
mod tests;
