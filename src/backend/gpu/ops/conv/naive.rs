//! Step 1: a thread an output, and batch norm's sums in passes of their own.

use super::super::norm;
use super::{Read, Shape, activation, count, gradient};
use crate::backend::gpu::Gpu;
use crate::backend::gpu::driver::Arg;
use crate::backend::{BatchNorm, InputGrad, Load, Tensor};

const THREADS: usize = 256;

fn launch(gpu: &mut Gpu, kernel: &'static str, outputs: usize, args: &[&[Arg]]) {
    let grid = [count(outputs.div_ceil(THREADS)), 1, 1];
    gpu.launch(kernel, grid, THREADS as u32, 0, &args.concat());
}

pub(super) fn fprop(
    gpu: &mut Gpu,
    shape: &Shape,
    x: Load,
    w: Tensor,
    y: Tensor,
    moments: Option<BatchNorm>,
) {
    let load = activation(gpu, x);
    let tensors = [w, y].map(|t| gpu.address(t));
    let args = [&load[..], &tensors, &shape.args()];
    launch(gpu, "conv_fprop_naive", y.len(), &args);
    if let Some(bn) = moments {
        norm::moments(gpu, y, bn);
    }
}

pub(super) fn backward(
    gpu: &mut Gpu,
    shape: &Shape,
    Read { x, w, dy }: Read,
    dw: Tensor,
    dx: Option<InputGrad>,
) {
    let (dy, load) = (gradient(gpu, dy, shape.outputs()), activation(gpu, x));
    let args = [&dy[..], &load, &[gpu.address(dw)], &shape.args()];
    launch(gpu, "conv_wgrad_naive", dw.len(), &args);
    let Some(InputGrad {
        dx,
        add,
        relu,
        sums,
    }) = dx
    else {
        return;
    };
    let add = add.map_or(Arg::NULL, |t| gpu.address(t));
    let out = [Arg::I32(i32::from(relu)), add, gpu.address(dx)];
    let args = [&dy[..], &[gpu.address(w)], &load, &out, &shape.args()];
    launch(gpu, "conv_dgrad_naive", dx.len(), &args);
    if let Some((bn, raw)) = sums {
        norm::bn_backward_sums(gpu, dx, None, raw, bn);
    }
}
