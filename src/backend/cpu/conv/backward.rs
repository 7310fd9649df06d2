//! Backward convolution: `dw`, and `dx` with what becomes of it, in one pass over the images.
//!
//! A task takes a fixed chunk of images. Image by image, while all of it is in cache, it pads
//! `load(x)` and `dy` (with the batch norm's backward pass on the way), adds the image's `dw` to
//! the chunk's partial sum, computes `dx` with the forward pass's tiles, masks it and sums it.

use std::ops::Range;

use rayon::prelude::*;

use super::dgrad::{Add, InputGrad};
use super::shape::ConvShape;
use super::source::{Coefficients, Source, SourceImage, add_lanes};
use super::tile::{Ahead, Load, padded, read, vector, write};
use super::wgrad::WeightGrad;
use crate::backend::cpu::scratch::{CALL, TASK};
use crate::backend::cpu::simd::{Buffer, Element, Isa, Kernel, LANES, Simd};

/// How the gradient of the output is read: as it lies in memory, or through the backward pass of
/// the batch norm that followed the convolution.
#[derive(Clone, Copy, Debug)]
pub struct GradSource<'a, E = f32> {
    /// `[n, ho, wo, co]`; of the batch norm's output if there is one.
    pub g: &'a [E],
    /// `dy = scale·(g − dbeta/M − x̂·dgamma/M)` with `x̂ = (y − mean)·invstd`, `M = n·ho·wo`.
    pub norm: Option<NormBackward<'a, E>>,
}

/// What the backward pass of a batch norm reads; all but `y` are `[co]`.
#[derive(Clone, Copy, Debug)]
pub struct NormBackward<'a, E = f32> {
    /// Its input, the convolution's raw output: `[n, ho, wo, co]`.
    pub y: &'a [E],
    /// Batch mean of `y`.
    pub mean: &'a [f32],
    /// `1/√(var + ε)`.
    pub invstd: &'a [f32],
    /// `γ·invstd`.
    pub scale: &'a [f32],
    /// Gradient of γ.
    pub dgamma: &'a [f32],
    /// Gradient of β.
    pub dbeta: &'a [f32],
}

/// What becomes of an input gradient: `dx = (dgrad + add)·[load(x) > 0]`, then sums of it.
#[derive(Debug)]
pub struct InputGradOut<'a, E = f32> {
    /// `[n, h, w, ci]`.
    pub dx: &'a mut [E],
    /// The gradient from another branch.
    pub add: Add<'a, E>,
    /// Whether to multiply by `[load(x) > 0]`.
    pub relu: bool,
    /// Sums for the batch norm before.
    pub sums: Option<Sums<'a, E>>,
}

/// `dbeta = Σ dx` and `dgamma = Σ dx·x̂` over N, H, W, with `x̂ = (raw − mean)·invstd`.
#[derive(Debug)]
pub struct Sums<'a, E = f32> {
    /// Input of the batch norm: `[n, h, w, ci]`.
    pub raw: &'a [E],
    /// Its batch mean, `[ci]`.
    pub mean: &'a [f32],
    /// `1/√(var + ε)`, `[ci]`.
    pub invstd: &'a [f32],
    /// Set: `[ci]`.
    pub dgamma: &'a mut [f32],
    /// Set: `[ci]`.
    pub dbeta: &'a mut [f32],
}

/// Images in a chunk, each of which has its own partial `dw`: so many chunks as keep many threads
/// busy, but fewer where the weights are large and adding them up would take a while. A function of
/// the shape alone, so that sums do not depend on the number of threads.
pub(super) fn chunk_images(shape: &ConvShape) -> usize {
    let chunks = ((1 << 19) / shape.weights()).clamp(8, 32);
    shape.n.div_ceil(chunks).next_multiple_of(shape.group())
}

/// Sets `dw` (`[co, k, k, ci]`), and `dx` if it is wanted, from `load(x)` and the output gradient.
///
/// # Panics
/// If a slice's length is not the shape's.
pub fn backward(
    isa: Isa,
    shape: &ConvShape,
    source: Source,
    w: &[f32],
    dy: GradSource,
    dw: &mut [f32],
    dx: Option<InputGradOut>,
) {
    shape.check();
    let (x_len, y_len) = (shape.n * shape.x_image(), shape.n * shape.y_image());
    assert_eq!(source.x.len(), x_len, "x of {shape:?}");
    assert_eq!(w.len(), shape.weights(), "weights of {shape:?}");
    assert_eq!(dw.len(), shape.weights(), "dw of {shape:?}");
    assert_eq!(dy.g.len(), y_len, "output gradient of {shape:?}");
    let mut whole = Whole {
        shape,
        source: &source,
        coefficients: Coefficients::new(&source, shape.ci),
        dy: &dy,
        grads: GradCoefficients::new(&dy, shape),
        wgrad: WeightGrad::new(shape),
        dgrad: InputGrad::new(shape),
        weights: &[],
        add: Add::None,
        relu: false,
        norm: None,
    };
    let images = chunk_images(shape);
    let chunks = shape.n.div_ceil(images);
    let mut scratch = CALL.take();
    let partials = scratch.1.resize(chunks * whole.wgrad.len());
    let mut tasks: Vec<_> = partials
        .chunks_mut(whole.wgrad.len())
        .enumerate()
        .map(|(i, dw)| {
            let images = i * images..shape.n.min((i + 1) * images);
            Chunk {
                images,
                dw,
                dx: None,
                sums: None,
            }
        })
        .collect();
    let mut sums = None;
    let mut partial_sums = Vec::new();
    if let Some(out) = dx {
        assert_eq!(out.dx.len(), x_len, "dx of {shape:?}");
        if let Add::From(add) = out.add {
            assert_eq!(add.len(), x_len, "add of {shape:?}");
        }
        (whole.add, whole.relu) = (out.add, out.relu);
        whole.weights = whole.dgrad.pack(w, &mut scratch.0);
        for (task, dx) in tasks
            .iter_mut()
            .zip(out.dx.chunks_mut(images * shape.x_image()))
        {
            task.dx = Some(dx);
        }
        if let Some(sums) = &out.sums {
            assert_eq!(sums.raw.len(), x_len, "raw of {shape:?}");
            whole.norm = Some((sums.raw, padded(shape.ci, |c| sums.mean[c])));
            partial_sums = vec![0.0; chunks * 2 * shape.ci];
            for (task, sums) in tasks.iter_mut().zip(partial_sums.chunks_mut(2 * shape.ci)) {
                task.sums = Some(sums);
            }
        }
        sums = out.sums;
    }

    let whole = &whole;
    tasks
        .into_par_iter()
        .for_each(|chunk| isa.run(Backward { whole, chunk }));
    whole.wgrad.reduce(isa, partials, dw);
    if let Some(sums) = sums {
        for c in 0..shape.ci {
            let total = |first: usize| -> f64 {
                partial_sums[first + c..].iter().step_by(2 * shape.ci).sum()
            };
            sums.dbeta[c] = total(0) as f32;
            sums.dgamma[c] = (total(shape.ci) * f64::from(sums.invstd[c])) as f32;
        }
    }
    CALL.set(scratch);
}

/// `dy = scale·g + slope·(y − mean) + offset`, in whole vectors; none where there is no norm.
pub(super) struct GradCoefficients(pub Option<[Buffer; 4]>);

impl GradCoefficients {
    pub fn new<E: Copy>(dy: &GradSource<E>, shape: &ConvShape) -> GradCoefficients {
        let m = (shape.n * shape.ho() * shape.wo()) as f32;
        GradCoefficients(dy.norm.map(|norm| {
            assert_eq!(norm.y.len(), dy.g.len(), "raw output of {shape:?}");
            [
                padded(shape.co, |c| norm.scale[c]),
                padded(shape.co, |c| {
                    -norm.scale[c] * norm.invstd[c] * norm.dgamma[c] / m
                }),
                padded(shape.co, |c| norm.mean[c]),
                padded(shape.co, |c| -norm.scale[c] * norm.dbeta[c] / m),
            ]
        }))
    }
}

/// One image of a [`GradSource`] with a norm.
pub(super) struct NormGradImage<'a, E = f32> {
    pub g: &'a [E],
    pub y: &'a [E],
    pub coefficients: &'a [Buffer; 4],
}

impl<E: Element> Load for NormGradImage<'_, E> {
    type Block<S: Simd> = [S::V; 4];

    #[inline(always)]
    fn block<S: Simd>(&self, s: S, b: usize) -> [S::V; 4] {
        let c = self.coefficients;
        [
            vector(s, &c[0], b),
            vector(s, &c[1], b),
            vector(s, &c[2], b),
            vector(s, &c[3], b),
        ]
    }

    #[inline(always)]
    fn at<S: Simd, const FULL: bool>(
        &self,
        s: S,
        [scale, slope, mean, offset]: &[S::V; 4],
        at: usize,
        lanes: usize,
    ) -> S::V {
        let g = read::<S, _, FULL>(s, self.g, at, lanes);
        let y = read::<S, _, FULL>(s, self.y, at, lanes);
        s.fma(g, *scale, s.fma(s.sub(y, *mean), *slope, *offset))
    }

    #[inline(always)]
    fn ahead<S: Simd>(&self, s: S, at: usize) {
        s.prefetch(self.g.as_ptr().wrapping_add(at).cast());
        s.prefetch(self.y.as_ptr().wrapping_add(at).cast());
    }
}

/// One image of a [`GradSource`] without.
pub(super) struct GradImage<'a, E = f32>(pub &'a [E]);

impl<E: Element> Load for GradImage<'_, E> {
    type Block<S: Simd> = ();

    #[inline(always)]
    fn block<S: Simd>(&self, _: S, _: usize) {}

    #[inline(always)]
    fn at<S: Simd, const FULL: bool>(&self, s: S, _: &(), at: usize, lanes: usize) -> S::V {
        read::<S, _, FULL>(s, self.0, at, lanes)
    }

    #[inline(always)]
    fn ahead<S: Simd>(&self, s: S, at: usize) {
        s.prefetch(self.0.as_ptr().wrapping_add(at).cast());
    }
}

/// What all chunks read.
struct Whole<'a> {
    shape: &'a ConvShape,
    source: &'a Source<'a>,
    coefficients: Coefficients,
    dy: &'a GradSource<'a>,
    grads: GradCoefficients,
    wgrad: WeightGrad,
    dgrad: InputGrad,
    /// Packed for `dgrad`.
    weights: &'a [f32],
    add: Add<'a>,
    relu: bool,
    /// Raw input and mean (in whole vectors) of the batch norm before.
    norm: Option<(&'a [f32], Buffer)>,
}

/// A chunk of images, and where its results go.
struct Chunk<'a> {
    images: Range<usize>,
    /// Partial sum.
    dw: &'a mut [f32],
    dx: Option<&'a mut [f32]>,
    /// `Σ dx` and `Σ dx·(raw − mean)`, `[2][ci]`.
    sums: Option<&'a mut [f64]>,
}

struct Backward<'a> {
    whole: &'a Whole<'a>,
    chunk: Chunk<'a>,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Backward { whole, mut chunk } = self;
        let shape = whole.shape;
        let (x_image, y_image) = (shape.x_image(), shape.y_image());
        let (x_pad, _) = shape.scratch(0, shape.ho());
        let dy_pad = &whole.dgrad.dy;
        chunk.dw.fill(0.0);
        let mut scratch = TASK.take();
        for first in chunk.images.clone().step_by(shape.group()) {
            let last = chunk.images.end.min(first + shape.group());
            let images = last - first;
            let xs = scratch.0.resize(images * x_pad.len());
            let dys = scratch.1.resize(images * dy_pad.len());
            for i in 0..images {
                let image = whole.source_images(first + i..first + i + 1);
                let to = &mut xs[i * x_pad.len()..][..x_pad.len()];
                x_pad.fill(s, &image, shape.h, shape.w, to);

                let range = (first + i) * y_image..(first + i + 1) * y_image;
                let g = &whole.dy.g[range.clone()];
                let to = &mut dys[i * dy_pad.len()..][..dy_pad.len()];
                match (&whole.grads.0, whole.dy.norm) {
                    (Some(coefficients), Some(norm)) => {
                        let image = NormGradImage {
                            g,
                            y: &norm.y[range],
                            coefficients,
                        };
                        dy_pad.fill(s, &image, shape.ho(), shape.wo(), to);
                    }
                    _ => dy_pad.fill(s, &GradImage(g), shape.ho(), shape.wo(), to),
                }
            }
            // What the next images need comes nearer meanwhile: first that of `dy`, then the rest.
            let next = last..shape.n.min(last + images);
            let next_x = next.start * x_image..next.end * x_image;
            let next_y = next.start * y_image..next.end * y_image;
            let ahead = Ahead::new([
                &whole.dy.g[next_y.clone()],
                whole.dy.norm.map_or(&[], |norm| &norm.y[next_y]),
                if chunk.dx.is_none() {
                    &whole.source.x[next_x.clone()]
                } else {
                    &[]
                },
            ]);
            whole
                .wgrad
                .add(s, (&x_pad, xs), (dy_pad, dys), chunk.dw, ahead);

            let Some(dx) = &mut chunk.dx else { continue };
            let range = first * x_image..last * x_image;
            let from = (first - chunk.images.start) * x_image;
            let (dx, next_dx) = dx[from..].split_at_mut(range.len());
            let add = match whole.add {
                Add::From(add) => Add::From(&add[range.clone()]),
                other => other,
            };
            let ahead = Ahead::new([
                &whole.source.x[next_x.clone()],
                &next_dx[..next_x.len().min(next_dx.len())],
                match whole.add {
                    Add::From(add) => &add[next_x],
                    _ => &[],
                },
            ]);
            whole.dgrad.run(s, whole.weights, dys, add, dx, ahead);
            s.call(Finish {
                source: whole.source_images(first..last),
                channels: shape.ci,
                relu: whole.relu,
                norm: whole
                    .norm
                    .as_ref()
                    .map(|(raw, mean)| (&raw[range], &**mean)),
                dx,
                sums: chunk.sums.as_deref_mut(),
            });
        }
        TASK.set(scratch);
    }
}

impl Whole<'_> {
    fn source_images(&self, images: Range<usize>) -> SourceImage<'_> {
        let image = self.shape.x_image();
        let x = &self.source.x[images.start * image..images.end * image];
        SourceImage {
            x,
            coefficients: &self.coefficients,
        }
    }
}

/// Masks `dx` by `[load(x) > 0]` and adds up its sums.
struct Finish<'a> {
    source: SourceImage<'a>,
    channels: usize,
    relu: bool,
    /// Raw input and mean of the batch norm before.
    norm: Option<(&'a [f32], &'a [f32])>,
    dx: &'a mut [f32],
    /// `Σ dx` and `Σ dx·(raw − mean)`, `[2][channels]`.
    sums: Option<&'a mut [f64]>,
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        if !self.relu && self.norm.is_none() {
            return;
        }
        for b in 0..self.channels.div_ceil(LANES) {
            if self.channels - b * LANES >= LANES {
                self.block::<S, true>(s, b);
            } else {
                self.block::<S, false>(s, b);
            }
        }
    }
}

impl Finish<'_> {
    #[inline(always)]
    fn block<S: Simd, const FULL: bool>(&mut self, s: S, b: usize) {
        let lanes = LANES.min(self.channels - b * LANES);
        let coefficients = self.source.block(s, b);
        let mean = self
            .norm
            .map_or(s.splat(0.0), |(_, mean)| vector(s, mean, b));
        let (mut sum, mut product) = (s.wide_zero(), s.wide_zero());
        let mut at = b * LANES;
        while at < self.dx.len() {
            let mut dx = read::<S, _, FULL>(s, self.dx, at, lanes);
            if self.relu {
                dx = s.where_positive(self.source.at::<S, FULL>(s, &coefficients, at, lanes), dx);
                write::<S, _, FULL>(s, self.dx, at, lanes, dx);
            }
            if let Some((raw, _)) = self.norm {
                let raw = read::<S, _, FULL>(s, raw, at, lanes);
                sum = s.wide_add(sum, dx);
                product = s.wide_fma(dx, s.sub(raw, mean), product);
            }
            at += self.channels;
        }
        if let Some(sums) = &mut self.sums {
            let (dbeta, dgamma) = sums.split_at_mut(self.channels);
            add_lanes(&mut dbeta[b * LANES..][..lanes], s.wide_lanes(sum));
            add_lanes(&mut dgamma[b * LANES..][..lanes], s.wide_lanes(product));
        }
    }
}
