//! Forward convolution, and what its backward pass ([`super::conv_backward`]) shares with it.

use std::cell::Cell;

use rayon::prelude::*;

use super::tile::{Ahead, Ends, Grid, Load, Padded, Run, padded, read, vector};
use crate::backend::cpu::simd::{Buffer, Isa, Kernel, LANES, Simd};

/// Sizes of a convolution: `x` is `[n, h, w, ci]`, the weights `[co, kernel, kernel, ci]`, `y`
/// `[n, ho, wo, co]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Images.
    pub n: usize,
    /// Rows of the input.
    pub h: usize,
    /// Columns of the input.
    pub w: usize,
    /// Channels of the input.
    pub ci: usize,
    /// Channels of the output.
    pub co: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Step between neighbouring outputs.
    pub stride: usize,
    /// Zeros on all four sides.
    pub pad: usize,
}

impl ConvShape {
    /// Rows of the output.
    pub fn ho(&self) -> usize {
        (self.h + 2 * self.pad - self.kernel) / self.stride + 1
    }

    /// Columns of the output.
    pub fn wo(&self) -> usize {
        (self.w + 2 * self.pad - self.kernel) / self.stride + 1
    }

    /// Floats of one input image.
    pub(super) fn x_image(&self) -> usize {
        self.h * self.w * self.ci
    }

    /// Floats of one output image.
    pub(super) fn y_image(&self) -> usize {
        self.ho() * self.wo() * self.co
    }

    /// Floats of the weights.
    pub(super) fn weights(&self) -> usize {
        self.co * self.kernel * self.kernel * self.ci
    }

    /// Images worth doing together so that small ones do not reload the weights for a few pixels.
    pub(super) fn group(&self) -> usize {
        256_usize.div_ceil(self.ho() * self.wo()).min(self.n)
    }

    /// The scratch image that windows of output rows `from..from + rows` read, and the stride in
    /// it: a 1×1 kernel skips pixels once, on the way to scratch.
    pub(super) fn scratch(&self, from: usize, rows: usize) -> (Padded, usize) {
        let (sample, stride) = match self.kernel {
            1 => (self.stride, 1),
            _ => (1, self.stride),
        };
        let reach = |outputs: usize| (outputs - 1) * stride + self.kernel;
        let image = Padded {
            channels: self.ci,
            rows: reach(rows),
            cols: reach(self.wo()),
            width: self.ci.min(LANES),
            sample,
            top: self.pad as isize - (from * self.stride) as isize,
            left: self.pad as isize,
        };
        (image, stride)
    }

    pub(super) fn check(&self) {
        let sizes = [
            self.n,
            self.h,
            self.w,
            self.ci,
            self.co,
            self.kernel,
            self.stride,
        ];
        assert!(!sizes.contains(&0), "empty convolution: {self:?}");
        let smallest = self.h.min(self.w) + 2 * self.pad;
        assert!(
            self.kernel <= smallest,
            "kernel larger than image: {self:?}"
        );
    }
}

/// How a convolution reads its input: `scale·x + shift` per channel if there is an `affine`, then
/// ReLU if asked for.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// `[n, h, w, ci]`.
    pub x: &'a [f32],
    /// `scale` and `shift`, `[ci]` each.
    pub affine: Option<(&'a [f32], &'a [f32])>,
    /// ReLU after the transform.
    pub relu: bool,
}

/// The coefficients of a [`Source`], in whole vectors.
pub(super) struct Coefficients {
    scale: Buffer,
    shift: Buffer,
    floor: f32,
}

impl Coefficients {
    pub fn new(source: &Source, channels: usize) -> Coefficients {
        if let Some((scale, shift)) = source.affine {
            assert_eq!((scale.len(), shift.len()), (channels, channels));
        }
        let (scale, shift) = match source.affine {
            Some((scale, shift)) => (
                padded(channels, |c| scale[c]),
                padded(channels, |c| shift[c]),
            ),
            None => (padded(channels, |_| 1.0), padded(channels, |_| 0.0)),
        };
        let floor = if source.relu { 0.0 } else { f32::NEG_INFINITY };
        Coefficients {
            scale,
            shift,
            floor,
        }
    }
}

/// One image of a [`Source`].
pub(super) struct SourceImage<'a> {
    pub x: &'a [f32],
    pub coefficients: &'a Coefficients,
}

impl Load for SourceImage<'_> {
    type Block<S: Simd> = [S::V; 3];

    #[inline(always)]
    fn block<S: Simd>(&self, s: S, b: usize) -> [S::V; 3] {
        let c = self.coefficients;
        [
            vector(s, &c.scale, b),
            vector(s, &c.shift, b),
            s.splat(c.floor),
        ]
    }

    #[inline(always)]
    fn at<S: Simd, const FULL: bool>(
        &self,
        s: S,
        [scale, shift, floor]: &[S::V; 3],
        at: usize,
        lanes: usize,
    ) -> S::V {
        let x = read::<S, FULL>(s, self.x, at, lanes);
        s.at_least(*floor, s.fma(x, *scale, *shift))
    }
}

/// Memory that a thread keeps from call to call. Taken and put back rather than borrowed: a nested
/// call, such as rayon may make on a thread that waits, finds an empty one.
#[derive(Default)]
pub(crate) struct Scratch(pub Buffer, pub Buffer);

thread_local! {
    /// Of a whole call: packed weights, partial sums.
    pub(crate) static CALL: Cell<Scratch> = Cell::default();
    /// Of a task: padded images of the input and of the output gradient.
    pub(crate) static TASK: Cell<Scratch> = Cell::default();
}

/// Images of more scratch than this many floats are done in bands of rows.
const BAND: usize = 1 << 17;

/// `y[n,i,j,o] = Σ_{a,b,c} load(x)[n, i·s+a−p, j·s+b−p, c]·w[o,a,b,c]`, zero padding after the
/// load. `moments`, mean and biased variance `[co]` each, are set from `y` over N, H, W.
///
/// # Panics
/// If a slice's length is not the shape's.
pub fn forward(
    isa: Isa,
    shape: &ConvShape,
    source: Source,
    w: &[f32],
    y: &mut [f32],
    moments: Option<(&mut [f32], &mut [f32])>,
) {
    shape.check();
    assert_eq!(source.x.len(), shape.n * shape.x_image(), "x of {shape:?}");
    assert_eq!(w.len(), shape.weights(), "weights of {shape:?}");
    assert_eq!(y.len(), shape.n * shape.y_image(), "y of {shape:?}");
    let coefficients = Coefficients::new(&source, shape.ci);
    let group = shape.group();
    let mut sums = match moments {
        Some(_) => vec![0.0; shape.n.div_ceil(group) * 2 * shape.co],
        None => Vec::new(),
    };
    let mut scratch = CALL.take();
    let weights = &*pack(shape, w, &mut scratch.0);
    let size = group * shape.x_image();
    let mut tasks: Vec<_> = y
        .chunks_mut(group * shape.y_image())
        .zip(source.x.chunks(size))
        .zip(source.x.chunks(size).skip(1).chain([&[][..]]))
        .map(|((y, x), next)| Forward {
            shape,
            x,
            next,
            coefficients: &coefficients,
            weights,
            y,
            sums: None,
        })
        .collect();
    for (task, sums) in tasks.iter_mut().zip(sums.chunks_mut(2 * shape.co)) {
        task.sums = Some(sums);
    }
    tasks.into_par_iter().for_each(|task| isa.run(task));
    CALL.set(scratch);
    if let Some((mean, var)) = moments {
        assert_eq!((mean.len(), var.len()), (shape.co, shape.co));
        let count = (shape.n * shape.ho() * shape.wo()) as f64;
        for c in 0..shape.co {
            let total =
                |first: usize| -> f64 { sums[first + c..].iter().step_by(2 * shape.co).sum() };
            let m = total(0) / count;
            mean[c] = m as f32;
            // Not `max`, which would turn a NaN into 0.
            let v = total(shape.co) / count - m * m;
            var[c] = if v < 0.0 { 0.0 } else { v as f32 };
        }
    }
}

/// KRSC weights as `[⌈co/16⌉][ci blocks][kernel][kernel·width][16 of co]`, zeros past the last of
/// either kind of channel.
fn pack<'a>(shape: &ConvShape, w: &[f32], to: &'a mut Buffer) -> &'a mut [f32] {
    let (k, ci) = (shape.kernel, shape.ci);
    let width = ci.min(LANES);
    let blocks = ci.div_ceil(width);
    let block = blocks * k * k * width * LANES;
    let to = to.resize(shape.co.div_ceil(LANES) * block);
    to.par_chunks_mut(block).enumerate().for_each(|(b, to)| {
        to.fill(0.0);
        for o in b * LANES..shape.co.min((b + 1) * LANES) {
            for (tap, w) in w[o * k * k * ci..][..k * k * ci]
                .chunks_exact(ci)
                .enumerate()
            {
                for (c, w) in w.iter().enumerate() {
                    let q = ((c / width) * k * k + tap) * width + c % width;
                    to[q * LANES + o % LANES] = *w;
                }
            }
        }
    });
    to
}

/// One group of images.
struct Forward<'a> {
    shape: &'a ConvShape,
    x: &'a [f32],
    /// What this thread reads next, most likely.
    next: &'a [f32],
    coefficients: &'a Coefficients,
    weights: &'a [f32],
    y: &'a mut [f32],
    /// Σ y and Σ y², `[2][co]`.
    sums: Option<&'a mut [f64]>,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Forward {
            shape,
            x,
            next,
            coefficients,
            weights,
            y,
            sums,
        } = self;
        let images = x.len() / shape.x_image();
        let (ho, wo, co) = (shape.ho(), shape.wo(), shape.co);
        let whole = shape.scratch(0, ho).0;
        let mut band = ho;
        if images == 1 && whole.len() > BAND {
            band = (BAND / (whole.len() / whole.rows) / shape.stride).clamp(1, ho);
        }
        let mut scratch = TASK.take();
        for from in (0..ho).step_by(band) {
            let rows = band.min(ho - from);
            let (padded, stride) = shape.scratch(from, rows);
            let input = scratch.0.resize(images * padded.len());
            for (x, to) in x
                .chunks_exact(shape.x_image())
                .zip(input.chunks_exact_mut(padded.len()))
            {
                padded.fill(s, &SourceImage { x, coefficients }, shape.h, shape.w, to);
            }
            let run = |i: usize| Run {
                offset: i / shape.kernel * padded.block() + i % shape.kernel * padded.row(),
                len: shape.kernel * padded.width,
            };
            let runs: Vec<_> = (0..padded.blocks() * shape.kernel).map(run).collect();
            let grid = Grid {
                images,
                rows,
                cols: wo,
                input: [padded.len(), stride * padded.row(), stride * padded.width],
                output: [shape.y_image(), wo * co, co],
                channels: co,
                taps: if stride == 1 { shape.kernel } else { 1 },
                runs: &runs,
                weights,
                ahead: Ahead::new([next, &[], &[]]),
            };
            let ends = Ends {
                input: input.as_ptr(),
                add: std::ptr::null(),
                out: y[from * wo * co..].as_mut_ptr(),
            };
            // SAFETY: `padded` has the rows and columns that windows of these outputs reach, and
            // `y` is this task's alone: `images` images of `ho` rows.
            unsafe { grid.run(s, ends) };
        }
        TASK.set(scratch);
        if let Some(sums) = sums {
            let (sum, squares) = sums.split_at_mut(co);
            s.call(PowerSums { x: y, sum, squares });
        }
    }
}

/// Adds each channel's `Σ x` and `Σ x²`, taken in f64, to `sum` and `squares` (`[c]`). `x` is
/// `[…, c]`.
pub struct PowerSums<'a> {
    /// `[…, c]`.
    pub x: &'a [f32],
    /// `[c]`.
    pub sum: &'a mut [f64],
    /// `[c]`.
    pub squares: &'a mut [f64],
}

impl Kernel for PowerSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let channels = self.sum.len();
        assert_eq!((self.squares.len(), self.x.len() % channels), (channels, 0));
        for first in (0..channels).step_by(LANES) {
            let lanes = LANES.min(channels - first);
            let (mut sum, mut squares) = (s.wide_zero(), s.wide_zero());
            let mut at = first;
            while at < self.x.len() {
                let x = if lanes == LANES {
                    read::<S, true>(s, self.x, at, lanes)
                } else {
                    read::<S, false>(s, self.x, at, lanes)
                };
                sum = s.wide_add(sum, x);
                squares = s.wide_fma(x, x, squares);
                at += channels;
            }
            add_lanes(&mut self.sum[first..][..lanes], s.wide_lanes(sum));
            add_lanes(&mut self.squares[first..][..lanes], s.wide_lanes(squares));
        }
    }
}

/// `to[i] += lanes[i]` for as many as `to` has.
#[inline(always)]
pub(crate) fn add_lanes(to: &mut [f64], lanes: [f64; LANES]) {
    for (to, lane) in to.iter_mut().zip(lanes) {
        *to += lane;
    }
}
