//! The ops of residual networks.

use super::{Aside, Op, Work, activation, labels, noise};
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::{
    Augment, BatchNorm, DeviceError, Executor, Grad, InputGrad, Kind, Load, LossOutputs, Sgd,
    Tensor, Window,
};
use crate::data::Images;
use std::sync::Arc;

type Result<T = Work> = std::result::Result<T, DeviceError>;

const CONV: &[&str] = &["n", "h", "w", "inputs", "outputs", "kernel", "stride"];
/// The first stage of ResNet-20.
const STAGE: &[usize] = &[1024, 32, 32, 16, 16, 3, 1];
const IMAGE: &[&str] = &["n", "h", "w", "channels"];
const ACTIVATION: &[usize] = &[1024, 32, 32, 16];

fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

pub(super) static OPS: &[Op] = &[
    Op {
        name: "gather",
        ladder: Some(Ladder::Gather),
        steps: &[1, 2, 3],
        folders: &["gather"],
        dims: IMAGE,
        shape: &[1024, 32, 32, 3],
        aside: None,
        flops: |_| 0,
        bytes: |s| 3 * elements(s),
        make: gather,
    },
    Op {
        name: "conv",
        ladder: Some(Ladder::Conv),
        steps: &[1, 2, 3, 4],
        folders: &["conv_fprop"],
        dims: CONV,
        shape: STAGE,
        aside: None,
        flops: |s| 2 * products(s),
        bytes: |s| 2 * (input(s) + output(s)) + 4 * weights(s),
        make: convolve,
    },
    Op {
        name: "conv_backward",
        ladder: Some(Ladder::Conv),
        steps: &[1, 2, 3, 4, 5],
        folders: &["conv_dgrad", "conv_wgrad", "conv_backward"],
        dims: CONV,
        shape: STAGE,
        aside: Some(Aside {
            step: 1,
            beside: 2,
            shape: &[8, 32, 32, 16, 16, 3, 1],
        }),
        flops: |s| 4 * products(s),
        bytes: |s| 4 * (input(s) + output(s)) + 8 * weights(s),
        make: convolve_backward,
    },
    Op {
        name: "bn_moments",
        ladder: Some(Ladder::BatchNorm),
        steps: &[1, 2, 3],
        folders: &["bn_moments"],
        dims: IMAGE,
        shape: ACTIVATION,
        aside: None,
        flops: |_| 0,
        bytes: |s| 2 * elements(s),
        make: moments,
    },
    Op {
        name: "bn_apply",
        ladder: Some(Ladder::BatchNorm),
        steps: &[1, 2, 3],
        folders: &["bn_apply"],
        dims: IMAGE,
        shape: ACTIVATION,
        aside: None,
        flops: |_| 0,
        bytes: |s| 6 * elements(s),
        make: apply,
    },
    Op {
        name: "softmax_xent",
        ladder: Some(Ladder::SoftmaxXent),
        steps: &[1, 2, 3],
        folders: &["softmax_xent"],
        dims: &["rows", "classes"],
        shape: &[8192, 4000],
        aside: None,
        flops: |_| 0,
        bytes: |s| 4 * elements(s),
        make: softmax_xent,
    },
    Op {
        name: "bn_backward_sums",
        ladder: Some(Ladder::BatchNorm),
        steps: &[1, 2, 3],
        folders: &["bn_backward_sums"],
        dims: IMAGE,
        shape: ACTIVATION,
        aside: None,
        flops: |_| 0,
        bytes: |s| 8 * elements(s),
        make: backward_sums,
    },
    Op {
        name: "bn_backward",
        ladder: Some(Ladder::BatchNorm),
        steps: &[1, 2, 3],
        folders: &["bn_backward"],
        dims: IMAGE,
        shape: ACTIVATION,
        aside: None,
        flops: |_| 0,
        bytes: |s| 6 * elements(s),
        make: backward,
    },
    Op {
        name: "sgd",
        ladder: Some(Ladder::Sgd),
        steps: &[1, 2],
        folders: &["sgd"],
        dims: &["parameters"],
        shape: &[25_557_032],
        aside: None,
        flops: |_| 0,
        bytes: |s| 20 * s[0],
        make: sgd,
    },
];

fn input(s: &[usize]) -> usize {
    s[0] * s[1] * s[2] * s[3]
}

fn output(s: &[usize]) -> usize {
    s[0] * s[1].div_ceil(s[6]) * s[2].div_ceil(s[6]) * s[4]
}

fn weights(s: &[usize]) -> usize {
    s[4] * s[5] * s[5] * s[3]
}

/// Multiply-adds.
fn products(s: &[usize]) -> usize {
    output(s) * s[5] * s[5] * s[3]
}

fn batch_norm(gpu: &mut Gpu, channels: usize) -> Result<BatchNorm> {
    let mut vector = || noise(gpu, Kind::Float, [1, 1, 1, channels]);
    Ok(BatchNorm {
        gamma: vector()?,
        beta: vector()?,
        dgamma: vector()?,
        dbeta: vector()?,
        running_mean: vector()?,
        running_var: vector()?,
        mean: vector()?,
        var: vector()?,
        invstd: vector()?,
        scale: vector()?,
        shift: vector()?,
    })
}

fn dims(shape: &[usize]) -> [usize; 4] {
    [shape[0], shape[1], shape[2], shape[3]]
}

fn moments(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let (x, bn) = (activation(gpu, dims(shape))?, batch_norm(gpu, shape[3])?);
    Ok(Work::Op(Box::new(move |exec| exec.moments(x, bn))))
}

fn apply(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let (x, bn) = (activation(gpu, dims(shape))?, batch_norm(gpu, shape[3])?);
    let r = activation(gpu, x.dims)?;
    let y = gpu.alloc(Kind::Activation, x.dims);
    Ok(Work::Op(Box::new(move |exec| {
        exec.bn_apply(x, bn, Some(Load::plain(r)), true, y);
    })))
}

fn backward_sums(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let (x, bn) = (activation(gpu, dims(shape))?, batch_norm(gpu, shape[3])?);
    let (g, y) = (activation(gpu, x.dims)?, activation(gpu, x.dims)?);
    Ok(Work::Op(Box::new(move |exec| {
        exec.bn_backward_sums(g, Some(y), x, bn);
    })))
}

fn backward(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let (x, bn) = (activation(gpu, dims(shape))?, batch_norm(gpu, shape[3])?);
    let g = activation(gpu, x.dims)?;
    let dx = gpu.alloc(Kind::Activation, x.dims);
    let norm = Some((bn, x));
    Ok(Work::Op(Box::new(move |exec| {
        exec.bn_backward(Grad { g, norm }, dx);
    })))
}

/// A convolution that keeps the image's size but for its stride, between two batch norms.
struct Convolution {
    x: Tensor,
    weights: Tensor,
    y: Tensor,
    before: BatchNorm,
    after: BatchNorm,
    window: Window,
}

impl Convolution {
    fn new(gpu: &mut Gpu, s: &[usize]) -> Result<Convolution> {
        let [n, h, w, inputs, outputs, kernel, stride] = s.try_into().expect("checked");
        let out = [n, h.div_ceil(stride), w.div_ceil(stride), outputs];
        Ok(Convolution {
            x: activation(gpu, [n, h, w, inputs])?,
            weights: noise(gpu, Kind::Float, [outputs, kernel, kernel, inputs])?,
            y: activation(gpu, out)?,
            before: batch_norm(gpu, inputs)?,
            after: batch_norm(gpu, outputs)?,
            window: Window {
                stride,
                pad: kernel / 2,
            },
        })
    }
}

/// With its input's transform on load and its output's moments on store.
fn convolve(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let c = Convolution::new(gpu, shape)?;
    Ok(Work::Op(Box::new(move |exec| {
        let load = Load::norm_relu(c.x, c.before);
        exec.conv2d(load, c.weights, c.window, c.y, Some(c.after));
    })))
}

/// Both gradients, with the batch norm's backward pass on load, ReLU's mask and sums on store.
fn convolve_backward(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let c = Convolution::new(gpu, shape)?;
    let g = activation(gpu, c.y.dims)?;
    let dx = gpu.alloc(Kind::Activation, c.x.dims);
    let dw = gpu.alloc(Kind::Float, c.weights.dims);
    let norm = Some((c.after, c.y));
    Ok(Work::Op(Box::new(move |exec| {
        let to = InputGrad {
            dx,
            add: None,
            relu: true,
            sums: Some((c.before, c.x)),
        };
        let load = Load::norm_relu(c.x, c.before);
        exec.conv2d_backward(load, c.weights, c.window, Grad { g, norm }, dw, Some(to));
    })))
}

fn softmax_xent(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let [rows, classes] = [shape[0], shape[1]];
    let row = [1, 1, 1, rows];
    let logits = activation(gpu, [1, 1, rows, classes])?;
    let labels = labels(gpu, row, |i| (i * 7 % classes) as i32)?;
    let weights = noise(gpu, Kind::Float, row)?;
    let out = LossOutputs {
        dlogits: gpu.alloc(Kind::Activation, logits.dims),
        loss: gpu.alloc(Kind::Float, row),
        right: gpu.alloc(Kind::Float, row),
    };
    Ok(Work::Op(Box::new(move |exec| {
        exec.softmax_xent(logits, labels, weights, 0.1, out, false);
    })))
}

fn sgd(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let config = Sgd {
        momentum: 0.9,
        nesterov: true,
        weight_decay: 5e-4,
    };
    let mut floats = || noise(gpu, Kind::Float, [1, 1, 1, shape[0]]);
    let (params, grads, buf) = (floats()?, floats()?, floats()?);
    Ok(Work::Op(Box::new(move |exec| {
        exec.sgd(params, grads, buf, config, None);
    })))
}

/// From as many images as the batch has rows.
fn gather(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let [n, height, width, channels] = dims(shape);
    let pixels = n * height * width * channels;
    let data = gpu.attach_images(Arc::new(Images {
        pixels: (0..pixels).map(|i| (i % 251) as u8).collect(),
        labels: vec![0; n],
        height,
        width,
        channels,
        mean: vec![0.5; channels],
        std: vec![0.25; channels],
    }));
    let x = gpu.alloc(Kind::Activation, dims(shape));
    let [labels, weights] = [Kind::Label, Kind::Float].map(|kind| gpu.alloc(kind, [1, 1, 1, n]));
    let augment = Augment {
        crop: 4,
        flip: true,
    };
    Ok(Work::Op(Box::new(move |exec| {
        exec.gather(data, augment, x, labels, weights);
    })))
}
