//! Launches of the convolution kernels: `kernels/conv_{fprop,dgrad,wgrad}`.

use super::Gpu;
use super::driver::Arg;
use crate::backend::{BatchNorm, Grad, InputGrad, Load, Tensor, Window};

#[cfg(all(test, simt))]
#[path = "conv_tests.rs"]
mod tests;

// The tiles' sizes, as in kernels/include/conv.cuh.

/// `PIXELS`: pixels of a tile of the forward pass or of the input gradient.
const PIXELS: usize = 128;
/// `WEIGHTS`: weights of one output channel in a tile of the weights' gradient.
const WEIGHTS: usize = 64;
/// `DEPTH`: what a block adds up in a step.
const DEPTH: usize = 16;
/// `THREADS_PER_COLUMN / COLS`.
const THREADS_PER_CHANNEL: usize = 4;

/// Blocks of the weights' gradient to aim at: a few for every multiprocessor of any GPU.
const BLOCKS: usize = 1024;
/// Pixels that are worth a block, and the writing and reading of its partial sum.
const LEAST_CHUNK: usize = 256;
/// Threads of `conv_wgrad_add`.
const ADD_THREADS: usize = 256;

/// A tile's width in channels: the smallest that holds them all, or the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    W16,
    W32,
    W64,
}

impl Width {
    fn of(channels: usize) -> Width {
        match channels {
            ..=16 => Width::W16,
            17..=32 => Width::W32,
            33.. => Width::W64,
        }
    }

    fn channels(self) -> usize {
        match self {
            Width::W16 => 16,
            Width::W32 => 32,
            Width::W64 => 64,
        }
    }

    fn threads(self) -> u32 {
        (THREADS_PER_CHANNEL * self.channels()) as u32
    }

    /// Tiles that cover so many channels.
    fn tiles(self, channels: usize) -> u32 {
        count(channels.div_ceil(self.channels()))
    }

    fn pick(self, names: [&'static str; 3]) -> &'static str {
        names[self as usize]
    }
}

/// A size as kernels take it.
fn int(size: usize) -> i32 {
    i32::try_from(size).expect("a size of a convolution fits in 31 bits")
}

fn count(blocks: usize) -> u32 {
    u32::try_from(blocks).expect("a number of blocks fits in 32 bits")
}

/// Sizes of a convolution, as in [`Executor`](crate::backend::Executor).
#[derive(Clone, Copy)]
struct Shape {
    n: usize,
    h: usize,
    w: usize,
    ci: usize,
    co: usize,
    ho: usize,
    wo: usize,
    kernel: usize,
    window: Window,
}

impl Shape {
    fn new(x: Tensor, w: Tensor, window: Window, y: Tensor) -> Shape {
        let [n, h, width, ci] = x.dims;
        let [co, kernel, kw, wi] = w.dims;
        assert_eq!(
            (kernel, ci),
            (kw, wi),
            "weights {:?} do not fit an input {:?}",
            w.dims,
            x.dims
        );
        let [ho, wo] = [h, width].map(|size| window.output(size, kernel));
        assert_eq!(y.dims, [n, ho, wo, co], "output of {:?}", x.dims);
        assert!(!y.is_empty() && !x.is_empty(), "empty convolution");
        Shape {
            n,
            h,
            w: width,
            ci,
            co,
            ho,
            wo,
            kernel,
            window,
        }
    }

    /// Pixels of the output.
    fn outputs(&self) -> usize {
        self.n * self.ho * self.wo
    }

    /// Weights of an output channel.
    fn taps(&self) -> usize {
        self.kernel * self.kernel * self.ci
    }

    /// The last arguments of every convolution kernel.
    fn args(&self) -> [Arg; 10] {
        // Indices of pixels run up to a tile past the last.
        int((self.n * self.h * self.w).max(self.outputs()) + PIXELS);
        int(self.taps() + WEIGHTS);
        let Window { stride, pad } = self.window;
        let Shape {
            n,
            h,
            w,
            ci,
            co,
            ho,
            wo,
            kernel,
            ..
        } = *self;
        [n, h, w, ci, co, ho, wo, kernel, stride, pad].map(|size| Arg::I32(int(size)))
    }

    /// Tiles of the input gradient: as many for each class of pixels (see
    /// `kernels/conv_dgrad/1_tiles.cu`) as the largest has.
    fn input_tiles(&self) -> usize {
        let stride = self.window.stride;
        let classes = stride.min(self.h) * stride.min(self.w);
        let largest = self.n * self.h.div_ceil(stride) * self.w.div_ceil(stride);
        classes * largest.div_ceil(PIXELS)
    }

    /// Chunks of output pixels that blocks of the weights' gradient take, and pixels in each, a
    /// multiple of [`DEPTH`].
    fn chunks(&self, width: Width) -> (usize, usize) {
        let tiles = self.taps().div_ceil(WEIGHTS) * self.co.div_ceil(width.channels());
        let pixels = self.outputs();
        let chunks = BLOCKS.div_ceil(tiles).min(pixels.div_ceil(LEAST_CHUNK));
        let chunk = pixels.div_ceil(chunks).next_multiple_of(DEPTH);
        (pixels.div_ceil(chunk), chunk)
    }
}

/// Arguments of `Activation` (`kernels/include/conv.cuh`).
fn activation(gpu: &Gpu, load: Load) -> [Arg; 4] {
    let [scale, shift] = match load.norm {
        Some(bn) => [bn.scale, bn.shift].map(|t| gpu.address(t)),
        None => [Arg::NULL; 2],
    };
    [
        gpu.address(load.x),
        scale,
        shift,
        Arg::I32(i32::from(load.relu)),
    ]
}

/// Arguments of `Gradient`.
fn gradient(gpu: &Gpu, dy: Grad, pixels: usize) -> [Arg; 8] {
    let g = gpu.address(dy.g);
    let inverse = Arg::F32((1.0 / pixels as f64) as f32);
    let [y, mean, invstd, scale, dgamma, dbeta] = match dy.norm {
        Some((bn, y)) => {
            [y, bn.mean, bn.invstd, bn.scale, bn.dgamma, bn.dbeta].map(|t| gpu.address(t))
        }
        None => [Arg::NULL; 6],
    };
    [g, y, mean, invstd, scale, dgamma, dbeta, inverse]
}

/// See [`Executor::conv2d`](crate::backend::Executor::conv2d).
pub(super) fn conv2d(
    gpu: &mut Gpu,
    x: Load,
    w: Tensor,
    window: Window,
    y: Tensor,
    moments: Option<BatchNorm>,
) {
    let shape = Shape::new(x.x, w, window, y);
    let width = Width::of(shape.co);
    let blocks = shape.outputs().div_ceil(PIXELS);
    let partial = match moments {
        Some(_) => Arg::Ptr(gpu.scratch(4 * 2 * shape.co * blocks)),
        None => Arg::NULL,
    };
    let args = [
        &activation(gpu, x)[..],
        &[gpu.address(w), gpu.address(y), partial],
        &shape.args(),
    ]
    .concat();
    let name = width.pick(["conv_fprop_16", "conv_fprop_32", "conv_fprop_64"]);
    let grid = [count(blocks), width.tiles(shape.co), 1];
    gpu.launch(name, grid, width.threads(), 0, &args);
    if let Some(bn) = moments {
        let args = [
            partial,
            int(blocks).into(),
            int(shape.outputs()).into(),
            int(shape.co).into(),
            gpu.address(bn.mean),
            gpu.address(bn.var),
        ];
        gpu.launch("conv_moments", [count(shape.co), 1, 1], 32, 0, &args);
    }
}

/// See [`Executor::conv2d_backward`](crate::backend::Executor::conv2d_backward).
pub(super) fn conv2d_backward(
    gpu: &mut Gpu,
    x: Load,
    w: Tensor,
    window: Window,
    dy: Grad,
    dw: Tensor,
    dx: Option<InputGrad>,
) {
    let shape = Shape::new(x.x, w, window, dy.g);
    assert_eq!(dw.dims, w.dims, "gradient of the weights");
    let width = Width::of(shape.co);
    let (chunks, _) = shape.chunks(width);
    // One after the other, the two passes use the same scratch.
    let weight_scratch = if chunks > 1 { chunks * w.len() } else { 0 };
    let input_scratch = match dx {
        Some(InputGrad { sums: Some(_), .. }) => 2 * shape.ci * shape.input_tiles(),
        _ => 0,
    };
    let scratch = gpu.scratch(4 * weight_scratch.max(input_scratch));
    weight_gradient(gpu, &shape, x, dy, dw, scratch);
    if let Some(dx) = dx {
        input_gradient(gpu, &shape, x, w, dy, dx, scratch);
    }
}

fn weight_gradient(gpu: &mut Gpu, shape: &Shape, x: Load, dy: Grad, dw: Tensor, scratch: u64) {
    let width = Width::of(shape.co);
    let (chunks, chunk) = shape.chunks(width);
    let out = gpu.address(dw);
    let partial = if chunks > 1 { Arg::Ptr(scratch) } else { out };
    let args = [
        &gradient(gpu, dy, shape.outputs())[..],
        &activation(gpu, x),
        &[partial, int(chunk).into()],
        &shape.args(),
    ]
    .concat();
    let name = width.pick(["conv_wgrad_16", "conv_wgrad_32", "conv_wgrad_64"]);
    let grid = [
        count(chunks),
        count(shape.taps().div_ceil(WEIGHTS)),
        width.tiles(shape.co),
    ];
    gpu.launch(name, grid, width.threads(), 0, &args);
    if chunks > 1 {
        // With few elements and many chunks, threads share an element's.
        let slices = if chunks >= 32 { 8 } else { 1 };
        let args = [
            partial,
            int(chunks).into(),
            int(slices).into(),
            int(dw.len()).into(),
            out,
        ];
        let blocks = dw.len().div_ceil(ADD_THREADS / slices);
        let grid = [count(blocks), 1, 1];
        gpu.launch("conv_wgrad_add", grid, ADD_THREADS as u32, 0, &args);
    }
}

fn input_gradient(
    gpu: &mut Gpu,
    shape: &Shape,
    x: Load,
    w: Tensor,
    dy: Grad,
    out: InputGrad,
    scratch: u64,
) {
    assert_eq!(out.dx.dims, x.x.dims, "gradient of the input");
    let width = Width::of(shape.ci);
    let tiles = shape.input_tiles();
    let add = out.add.map_or(Arg::NULL, |t| gpu.address(t));
    let [raw, mean, invstd, partial] = match out.sums {
        Some((bn, raw)) => [
            gpu.address(raw),
            gpu.address(bn.mean),
            gpu.address(bn.invstd),
            Arg::Ptr(scratch),
        ],
        None => [Arg::NULL; 4],
    };
    let args = [
        &gradient(gpu, dy, shape.outputs())[..],
        &[gpu.address(w)],
        &activation(gpu, x),
        &[Arg::I32(i32::from(out.relu)), add, gpu.address(out.dx)],
        &[raw, mean, invstd, partial],
        &shape.args(),
    ]
    .concat();
    let name = width.pick(["conv_dgrad_16", "conv_dgrad_32", "conv_dgrad_64"]);
    let grid = [count(tiles), width.tiles(shape.ci), 1];
    gpu.launch(name, grid, width.threads(), 0, &args);
    if let Some((bn, _)) = out.sums {
        let args = [
            partial,
            int(tiles).into(),
            int(shape.ci).into(),
            gpu.address(bn.dgamma),
            gpu.address(bn.dbeta),
        ];
        gpu.launch("conv_dgrad_sums", [count(shape.ci), 1, 1], 32, 0, &args);
    }
}
