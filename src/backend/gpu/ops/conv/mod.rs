//! Launches of the convolution kernels: `kernels/conv_{fprop,dgrad,wgrad}`.

mod fused;
mod naive;
mod parts;
mod resident;
mod tiles;

use crate::backend::gpu::Gpu;
use crate::backend::gpu::driver::Arg;
use crate::backend::{BatchNorm, Grad, InputGrad, Load, Tensor, Window};
use tiles::{Tiles, input_tiles};

#[cfg(all(test, simt))]
mod tests;

/// No tile has more rows.
const MARGIN: usize = 256;

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
        // Indices run up to a tile past the last.
        int((self.n * self.h * self.w).max(self.outputs()) + MARGIN);
        int(self.taps() + MARGIN);
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

/// What a backward pass reads.
#[derive(Clone, Copy)]
struct Read {
    x: Load,
    w: Tensor,
    dy: Grad,
}

/// See [`Executor::conv2d`](crate::backend::Executor::conv2d).
pub(crate) fn conv2d(
    gpu: &mut Gpu,
    x: Load,
    w: Tensor,
    window: Window,
    y: Tensor,
    moments: Option<BatchNorm>,
) {
    let shape = Shape::new(x.x, w, window, y);
    if let Some(kernel) = resident::Fprop::fitting(gpu, &shape) {
        return kernel.launch(gpu, &shape, x, w, y, moments);
    }
    match Tiles::allowed(gpu) {
        None => naive::fprop(gpu, &shape, x, w, y, moments),
        Some(tiles) => tiles.fprop(gpu, &shape, x, w, y, moments),
    }
}

/// See [`Executor::conv2d_backward`](crate::backend::Executor::conv2d_backward).
pub(crate) fn conv2d_backward(
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
    if let Some(dx) = dx {
        assert_eq!(dx.dx.dims, x.x.dims, "gradient of the input");
    }
    let from = Read { x, w, dy };
    if let Some(dx) = dx
        && let Some(kernel) = fused::Backward::fitting(gpu, &shape)
    {
        return kernel.launch(gpu, &shape, from, dw, dx);
    }
    match Tiles::allowed(gpu) {
        None => naive::backward(gpu, &shape, from, dw, dx),
        Some(tiles) => gradients(gpu, tiles, &shape, from, dw, dx),
    }
}

/// Both gradients one after the other, each by its highest step, and one launch for what both leave.
fn gradients(
    gpu: &mut Gpu,
    tiles: &Tiles,
    shape: &Shape,
    from: Read,
    dw: Tensor,
    dx: Option<InputGrad>,
) {
    let wgrad = resident::Wgrad::fitting(gpu, shape);
    let chunks = match &wgrad {
        Some(kernel) => kernel.chunks(),
        None => shape.outputs().div_ceil(tiles.chunk(gpu, shape)),
    };
    let dgrad = resident::Dgrad::fitting(gpu, shape);
    let blocks = match &dgrad {
        Some(kernel) => kernel.blocks(),
        None => input_tiles(shape),
    };
    let sums = dx.and_then(|dx| dx.sums);
    // In floats.
    let weights = if chunks > 1 { chunks * dw.len() } else { 0 };
    let of_sums = sums.map_or(0, |_| 2 * shape.ci * blocks);
    let scratch = gpu.scratch(4 * (weights + of_sums));
    let sum_parts = Arg::Ptr(scratch + 4 * weights as u64);
    let weight_parts = match chunks {
        1 => gpu.address(dw),
        _ => Arg::Ptr(scratch),
    };
    match wgrad {
        Some(kernel) => kernel.launch(gpu, shape, from, weight_parts),
        None => tiles.weight_gradient(gpu, shape, from, weight_parts),
    }
    if let Some(dx) = dx {
        let mut args = input_gradient(gpu, shape, from, dx, sum_parts);
        args.extend(shape.args());
        match dgrad {
            Some(kernel) => kernel.launch(gpu, &args),
            None => tiles.input_gradient(gpu, shape, blocks, &args),
        }
    }
    parts::finish(
        gpu,
        (chunks > 1).then_some((weight_parts, chunks, dw)),
        sums.map(|(bn, _)| (sum_parts, blocks, bn)),
    );
}

/// First arguments of all kernels of the input gradient, which leave parts of sums at `partial`.
fn input_gradient(
    gpu: &Gpu,
    shape: &Shape,
    Read { x, w, dy }: Read,
    out: InputGrad,
    partial: Arg,
) -> Vec<Arg> {
    let add = out.add.map_or(Arg::NULL, |t| gpu.address(t));
    let [raw, mean, invstd, partial] = match out.sums {
        Some((bn, raw)) => [
            gpu.address(raw),
            gpu.address(bn.mean),
            gpu.address(bn.invstd),
            partial,
        ],
        None => [Arg::NULL; 4],
    };
    [
        &gradient(gpu, dy, shape.outputs())[..],
        &[gpu.address(w)],
        &activation(gpu, x),
        &[Arg::I32(i32::from(out.relu)), add, gpu.address(out.dx)],
        &[raw, mean, invstd, partial],
    ]
    .concat()
}
