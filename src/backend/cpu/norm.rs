//! Batch norm apart from convolutions: moments, coefficients, the block's output with its shortcut
//! and ReLU, and the backward pass.
//!
//! The passes are bound by memory: each goes once over its tensors, in chunks of whole pixels that
//! depend on the shape alone, 16 channels at a time with their coefficients in registers.

use super::conv::{NormBackward, PowerSums, Source, add_lanes, read, write};
use super::simd::{Element, Isa, Kernel, LANES, Simd};
use crate::backend::BN_EPS;
use rayon::prelude::*;
use std::ops::Range;

/// Floats in a task's chunk, about.
const CHUNK: usize = 1 << 14;

/// Floats in a task's chunk of whole pixels. Wide pixels get more, so that the partial sums of a
/// chunk stay small beside it.
fn chunk(channels: usize) -> usize {
    (CHUNK / channels).max(64) * channels
}

/// Floats in a band: it stays in the first-level cache from one block of channels to the next.
const BAND: usize = 1 << 11;

/// A pass over pixels, one block of at most 16 channels after the other.
trait Pass {
    /// Does the channels `first..first + lanes` (16 of them if `FULL`) of the pixels in `floats`.
    fn block<S: Simd, const FULL: bool>(
        &mut self,
        s: S,
        floats: Range<usize>,
        first: usize,
        lanes: usize,
    );
}

/// Runs a pass over a task's `len` floats.
#[inline(always)]
fn run<S: Simd>(s: S, len: usize, channels: usize, pass: &mut impl Pass) {
    let band = (BAND / channels).max(1) * channels;
    for start in (0..len).step_by(band) {
        let floats = start..len.min(start + band);
        for first in (0..channels).step_by(LANES) {
            match channels - first {
                lanes @ ..LANES => pass.block::<S, false>(s, floats.clone(), first, lanes),
                _ => pass.block::<S, true>(s, floats.clone(), first, LANES),
            }
        }
    }
}

/// The partial sums of chunks, `[2][channels]` each, added up in order.
fn total(partials: &[f64], channels: usize) -> [Vec<f64>; 2] {
    [0, channels].map(|first| {
        let sum = |c| partials[first + c..].iter().step_by(2 * channels).sum();
        (0..channels).map(sum).collect()
    })
}

/// Sets mean and biased variance, `[channels]`, from `x`, `[…, channels]`.
pub fn moments<E: Element>(isa: Isa, x: &[E], mean: &mut [f32], var: &mut [f32]) {
    let channels = mean.len();
    assert!(!x.is_empty() && x.len().is_multiple_of(channels) && var.len() == channels);
    let mut partials = vec![0.0; x.len().div_ceil(chunk(channels)) * 2 * channels];
    x.par_chunks(chunk(channels))
        .zip(partials.par_chunks_mut(2 * channels))
        .for_each(|(x, sums)| {
            let (sum, squares) = sums.split_at_mut(channels);
            isa.run(PowerSums { x, sum, squares });
        });
    let count = (x.len() / channels) as f64;
    let [sums, squares] = total(&partials, channels);
    for c in 0..channels {
        let m = sums[c] / count;
        mean[c] = m as f32;
        // In f64 the difference is good to 1e-6 of the variance even for a mean of 1000·std. Not
        // `max`, which would turn a NaN into 0.
        let v = squares[c] / count - m * m;
        var[c] = if v < 0.0 { 0.0 } else { v as f32 };
    }
}

/// `1/√(var + ε)`.
pub fn invstd(var: f32) -> f64 {
    1.0 / (f64::from(var) + f64::from(BN_EPS)).sqrt()
}

/// `γ·invstd` and `β − mean·γ·invstd`, each rounded once.
pub fn affine(gamma: f32, beta: f32, mean: f32, invstd: f64) -> (f32, f32) {
    let scale = f64::from(gamma) * invstd;
    let shift = f64::from(beta) - f64::from(mean) * scale;
    (scale as f32, shift as f32)
}

/// `y = act(load(x) [+ load(shortcut)])`, all `[…, channels]`.
pub fn apply<E: Element>(
    isa: Isa,
    x: Source<E>,
    shortcut: Option<Source<E>>,
    relu: bool,
    channels: usize,
    y: &mut [E],
) {
    let size = chunk(channels);
    for source in [Some(x), shortcut].into_iter().flatten() {
        assert_eq!(source.x.len(), y.len());
        let fits = |(a, b): (&[f32], &[f32])| a.len() == channels && b.len() == channels;
        assert!(source.affine.is_none_or(fits));
    }
    y.par_chunks_mut(size).enumerate().for_each(|(i, y)| {
        let part = i * size..i * size + y.len();
        isa.run(Apply {
            x: Addend::new(x, part.clone()),
            shortcut: shortcut.map(|s| Addend::new(s, part)),
            floor: floor(relu),
            channels,
            y,
        });
    });
}

fn floor(relu: bool) -> f32 {
    if relu { 0.0 } else { f32::NEG_INFINITY }
}

/// A chunk of a [`Source`].
struct Addend<'a, E> {
    x: &'a [E],
    affine: Option<(&'a [f32], &'a [f32])>,
    floor: f32,
}

impl<'a, E: Element> Addend<'a, E> {
    fn new(source: Source<'a, E>, part: Range<usize>) -> Addend<'a, E> {
        Addend {
            x: &source.x[part],
            affine: source.affine,
            floor: floor(source.relu),
        }
    }

    /// Scale, shift and floor of some channels.
    #[inline(always)]
    fn coefficients<S: Simd, const FULL: bool>(
        &self,
        s: S,
        first: usize,
        lanes: usize,
    ) -> [S::V; 3] {
        let [scale, shift] = match self.affine {
            Some((scale, shift)) => [
                read::<S, _, FULL>(s, scale, first, lanes),
                read::<S, _, FULL>(s, shift, first, lanes),
            ],
            None => [s.splat(1.0), s.splat(0.0)],
        };
        [scale, shift, s.splat(self.floor)]
    }

    #[inline(always)]
    fn at<S: Simd, const FULL: bool>(
        &self,
        s: S,
        [scale, shift, floor]: [S::V; 3],
        at: usize,
        lanes: usize,
    ) -> S::V {
        let x = read::<S, _, FULL>(s, self.x, at, lanes);
        s.at_least(floor, s.fma(x, scale, shift))
    }
}

struct Apply<'a, E> {
    x: Addend<'a, E>,
    shortcut: Option<Addend<'a, E>>,
    floor: f32,
    channels: usize,
    y: &'a mut [E],
}

impl<E: Element> Kernel for Apply<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        run(s, self.y.len(), self.channels, &mut self);
    }
}

impl<E: Element> Pass for Apply<'_, E> {
    #[inline(always)]
    fn block<S: Simd, const FULL: bool>(
        &mut self,
        s: S,
        floats: Range<usize>,
        first: usize,
        lanes: usize,
    ) {
        let floor = s.splat(self.floor);
        let x = self.x.coefficients::<S, FULL>(s, first, lanes);
        let mut at = floats.start + first;
        match &self.shortcut {
            None => {
                while at < floats.end {
                    let y = self.x.at::<S, FULL>(s, x, at, lanes);
                    write::<S, _, FULL>(s, self.y, at, lanes, s.at_least(floor, y));
                    at += self.channels;
                }
            }
            Some(shortcut) => {
                let other = shortcut.coefficients::<S, FULL>(s, first, lanes);
                while at < floats.end {
                    let y = self.x.at::<S, FULL>(s, x, at, lanes);
                    let y = s.add(y, shortcut.at::<S, FULL>(s, other, at, lanes));
                    write::<S, _, FULL>(s, self.y, at, lanes, s.at_least(floor, y));
                    at += self.channels;
                }
            }
        }
    }
}

/// Batch statistics, `[channels]` each, of a batch norm's input `x`, `[…, channels]`.
#[derive(Clone, Copy)]
pub struct Normalised<'a, E = f32> {
    pub x: &'a [E],
    pub mean: &'a [f32],
    pub invstd: &'a [f32],
}

/// In place `g ← g·[y > 0]` if `y` is given; then `dbeta = Σ g`, `dgamma = Σ g·x̂`.
pub fn backward_sums<E: Element>(
    isa: Isa,
    g: &mut [E],
    y: Option<&[E]>,
    n: Normalised<E>,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let channels = n.mean.len();
    let size = chunk(channels);
    assert!(n.x.len() == g.len() && y.is_none_or(|y| y.len() == g.len()));
    assert!([n.invstd.len(), dgamma.len(), dbeta.len()] == [channels; 3]);
    let mut partials = vec![0.0; g.len().div_ceil(size) * 2 * channels];
    g.par_chunks_mut(size)
        .zip(partials.par_chunks_mut(2 * channels))
        .enumerate()
        .for_each(|(i, (g, sums))| {
            let part = i * size..i * size + g.len();
            let (products, sums) = sums.split_at_mut(channels);
            isa.run(GradSums {
                y: y.map(|y| &y[part.clone()]),
                x: &n.x[part],
                mean: n.mean,
                g,
                products,
                sums,
            });
        });
    let [products, sums] = total(&partials, channels);
    for c in 0..channels {
        dgamma[c] = (products[c] * f64::from(n.invstd[c])) as f32;
        dbeta[c] = sums[c] as f32;
    }
}

struct GradSums<'a, E> {
    g: &'a mut [E],
    y: Option<&'a [E]>,
    x: &'a [E],
    mean: &'a [f32],
    /// `Σ g·(x − mean)`: 1/std is taken out of the sum.
    products: &'a mut [f64],
    /// `Σ g`.
    sums: &'a mut [f64],
}

impl<E: Element> Kernel for GradSums<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        run(s, self.g.len(), self.mean.len(), &mut self);
    }
}

impl<E: Element> Pass for GradSums<'_, E> {
    #[inline(always)]
    fn block<S: Simd, const FULL: bool>(
        &mut self,
        s: S,
        floats: Range<usize>,
        first: usize,
        lanes: usize,
    ) {
        let channels = self.mean.len();
        let mean = read::<S, _, FULL>(s, self.mean, first, lanes);
        let (mut products, mut sum) = (s.wide_zero(), s.wide_zero());
        let mut at = floats.start + first;
        while at < floats.end {
            let mut g = read::<S, _, FULL>(s, self.g, at, lanes);
            if let Some(y) = self.y {
                g = s.where_positive(read::<S, _, FULL>(s, y, at, lanes), g);
                write::<S, _, FULL>(s, self.g, at, lanes, g);
            }
            let x = read::<S, _, FULL>(s, self.x, at, lanes);
            products = s.wide_fma(g, s.sub(x, mean), products);
            sum = s.wide_add(sum, g);
            at += channels;
        }
        let channels = first..first + lanes;
        add_lanes(&mut self.products[channels.clone()], s.wide_lanes(products));
        add_lanes(&mut self.sums[channels], s.wide_lanes(sum));
    }
}

/// `dx = scale·(g − dbeta/M − x̂·dgamma/M)` with `x̂ = (y − mean)·invstd`, `M` pixels.
pub fn backward<E: Element>(isa: Isa, g: &[E], norm: NormBackward<E>, dx: &mut [E]) {
    let channels = norm.mean.len();
    let size = chunk(channels);
    assert!(g.len() == dx.len() && norm.y.len() == dx.len());
    let pixels = (g.len() / channels) as f64;
    let per_pixel = |sum: f32| f64::from(sum) / pixels;
    let offset: Vec<f32> = norm.dbeta.iter().map(|d| per_pixel(*d) as f32).collect();
    let slopes = norm.dgamma.iter().zip(norm.invstd);
    let slope: Vec<f32> = slopes
        .map(|(d, i)| (per_pixel(*d) * f64::from(*i)) as f32)
        .collect();
    dx.par_chunks_mut(size).enumerate().for_each(|(i, dx)| {
        let part = i * size..i * size + dx.len();
        isa.run(Backward {
            g: &g[part.clone()],
            y: &norm.y[part],
            mean: norm.mean,
            scale: norm.scale,
            offset: &offset,
            slope: &slope,
            dx,
        });
    });
}

struct Backward<'a, E> {
    g: &'a [E],
    y: &'a [E],
    mean: &'a [f32],
    scale: &'a [f32],
    /// `dbeta/M`.
    offset: &'a [f32],
    /// `invstd·dgamma/M`.
    slope: &'a [f32],
    dx: &'a mut [E],
}

impl<E: Element> Kernel for Backward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        run(s, self.dx.len(), self.mean.len(), &mut self);
    }
}

impl<E: Element> Pass for Backward<'_, E> {
    #[inline(always)]
    fn block<S: Simd, const FULL: bool>(
        &mut self,
        s: S,
        floats: Range<usize>,
        first: usize,
        lanes: usize,
    ) {
        let mean = read::<S, _, FULL>(s, self.mean, first, lanes);
        let scale = read::<S, _, FULL>(s, self.scale, first, lanes);
        let offset = read::<S, _, FULL>(s, self.offset, first, lanes);
        let slope = read::<S, _, FULL>(s, self.slope, first, lanes);
        let mut at = floats.start + first;
        while at < floats.end {
            let y = read::<S, _, FULL>(s, self.y, at, lanes);
            let g = read::<S, _, FULL>(s, self.g, at, lanes);
            let average = s.fma(s.sub(y, mean), slope, offset);
            write::<S, _, FULL>(s, self.dx, at, lanes, s.mul(scale, s.sub(g, average)));
            at += self.mean.len();
        }
    }
}

#[cfg(test)]
#[path = "norm_tests.rs"]
mod tests;
