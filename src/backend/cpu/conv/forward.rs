//! Forward convolution.

use rayon::prelude::*;

use super::shape::ConvShape;
use super::source::{Coefficients, PowerSums, Source, SourceImage};
use super::tile::{Ahead, Ends, Grid, Run};
use crate::backend::cpu::scratch::{CALL, TASK};
use crate::backend::cpu::simd::{Buffer, Isa, Kernel, LANES, Simd};

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
