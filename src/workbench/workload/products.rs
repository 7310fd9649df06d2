//! Copies, matrix products and linear layers.

use super::{Op, Work, activation, noise};
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::sequence::{Act, Linear, LinearGrad, LinearInputGrad};
use crate::backend::{DeviceError, Executor, Kind};

type Result = std::result::Result<Work, DeviceError>;

pub(super) static OPS: &[Op] = &[
    Op {
        name: "copy",
        ladder: Some(Ladder::Copy),
        steps: &[1, 2, 3],
        folders: &["copy"],
        dims: &["elements"],
        shape: &[64 << 20],
        aside: None,
        flops: |_| 0,
        bytes: |s| 8 * s[0],
        make: copy,
    },
    Op {
        name: "gemm",
        ladder: Some(Ladder::Gemm),
        steps: &[1, 2, 3, 4, 5, 6, 7],
        folders: &["gemm"],
        dims: &["m", "n", "k"],
        shape: &[4096, 4096, 1024],
        aside: None,
        flops: |s| 2 * s[0] * s[1] * s[2],
        bytes: |s| 2 * (s[0] * s[2] + s[1] * s[2] + s[0] * s[1]),
        make: gemm,
    },
    Op {
        name: "linear",
        ladder: Some(Ladder::Linear),
        steps: &[1, 2, 3],
        folders: &["linear"],
        dims: &["rows", "inputs", "outputs"],
        shape: &[4096, 512, 2048],
        aside: None,
        flops: |s| 2 * s[0] * s[1] * s[2],
        bytes: |s| 2 * s[0] * (s[1] + 2 * s[2]) + 4 * s[1] * s[2],
        make: linear,
    },
    Op {
        name: "linear_backward",
        ladder: Some(Ladder::Linear),
        steps: &[1, 2, 4],
        folders: &["linear"],
        dims: &["rows", "inputs", "outputs"],
        shape: &[4096, 512, 2048],
        aside: None,
        flops: |s| 4 * s[0] * s[1] * s[2],
        bytes: |s| 2 * s[0] * (2 * s[1] + s[2]) + 8 * s[1] * s[2],
        make: linear_backward,
    },
];

fn copy(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let from = noise(gpu, Kind::Float, [1, 1, 1, shape[0]])?;
    let to = gpu.alloc(Kind::Float, from.dims);
    Ok(Work::Gpu(Box::new(move |gpu| gpu.copy(from, to))))
}

fn gemm(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let [m, n, k] = [shape[0], shape[1], shape[2]];
    let a = activation(gpu, [1, 1, m, k])?;
    let b = activation(gpu, [1, 1, n, k])?;
    let c = gpu.alloc(Kind::Activation, [1, 1, m, n]);
    Ok(Work::Gpu(Box::new(move |gpu| gpu.gemm(a, b, c))))
}

/// With bias and GELU, as in a feed-forward block.
fn linear(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let [rows, inputs, outputs] = [shape[0], shape[1], shape[2]];
    let x = activation(gpu, [1, 1, rows, inputs])?;
    let w = noise(gpu, Kind::Float, [1, 1, outputs, inputs])?;
    let b = Some(noise(gpu, Kind::Float, [1, 1, 1, outputs])?);
    let [pre, y] = [(); 2].map(|()| gpu.alloc(Kind::Activation, [1, 1, rows, outputs]));
    Ok(Work::Op(Box::new(move |exec| {
        let ops = exec.sequence().expect("a GPU has them");
        ops.linear(x, Linear { w, b }, Act::GeluErf, Some(pre), y);
    })))
}

fn linear_backward(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let [rows, inputs, outputs] = [shape[0], shape[1], shape[2]];
    let x = activation(gpu, [1, 1, rows, inputs])?;
    let w = noise(gpu, Kind::Float, [1, 1, outputs, inputs])?;
    let dz = activation(gpu, [1, 1, rows, outputs])?;
    let dx = gpu.alloc(Kind::Activation, x.dims);
    let dw = gpu.alloc(Kind::Float, w.dims);
    let db = Some(gpu.alloc(Kind::Float, [1, 1, 1, outputs]));
    Ok(Work::Op(Box::new(move |exec| {
        let ops = exec.sequence().expect("a GPU has them");
        let grad = LinearGrad {
            dw,
            db,
            accumulate: false,
        };
        let input = LinearInputGrad {
            dx,
            through: None,
            accumulate: false,
        };
        ops.linear_backward(x, w, dz, grad, Some(input));
    })))
}
