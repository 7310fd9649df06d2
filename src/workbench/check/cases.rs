//! What the check launches.

use super::case::{Case, case, tensor};
use super::{attention, linear, pairs, tokens};
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::{
    Augment, BatchNorm, DeviceError, Executor, Grad, InputGrad, Kind, Load, LossOutputs, Pass, Sgd,
    StepInputs, Window,
};
use crate::data::Images;
use crate::nn::{Architecture, InputShape, ResNet};
use crate::rng::Stream;
use std::sync::Arc;

const SGD: Sgd = Sgd {
    momentum: 0.9,
    nesterov: true,
    weight_decay: 1e-4,
};

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // Every step of a ladder; where it has one, that is all the same.
    for step in 1..=Ladder::ALL.map(Ladder::last).into_iter().max().unwrap_or(1) {
        let at = |ladder: Ladder| step <= ladder.last();
        let limited = |case: Case| -> Case {
            Arc::new(move |gpu, random| {
                for ladder in Ladder::ALL {
                    gpu.limit(ladder, step);
                }
                case(gpu, random)
            })
        };
        if at(Ladder::Conv) {
            cases.extend(CONVOLUTIONS.map(|sizes| limited(case(move |g, r| conv(g, r, sizes)))));
        }
        if at(Ladder::BatchNorm) {
            cases.extend(NORMS.map(|sizes| limited(case(move |g, r| norm(g, r, sizes)))));
        }
        if at(Ladder::SoftmaxXent) {
            cases.extend(LOSSES.map(|sizes| limited(case(move |g, r| loss(g, r, sizes)))));
        }
        if at(Ladder::Gather) {
            cases.extend(GATHERS.map(|sizes| limited(case(move |g, r| gather(g, r, sizes)))));
        }
        if at(Ladder::Sgd) {
            cases.extend(LENGTHS.map(|len| limited(case(move |g, r| sgd(g, r, len)))));
        }
        if at(Ladder::Copy) {
            cases.extend(LENGTHS.map(|len| limited(case(move |g, r| copy(g, r, len)))));
        }
        if at(Ladder::Gemm) {
            cases.extend(PRODUCTS.map(|sizes| limited(case(move |g, r| product(g, r, sizes)))));
        }
        // No network multiplies by the matrix product, which has more steps.
        if at(Ladder::Conv) {
            cases.push(limited(case(|g, r| network(g, r, 8, false))));
            cases.push(limited(case(pairs::network)));
        }
        for more in [
            linear::cases(step),
            attention::cases(step),
            tokens::cases(step),
        ] {
            cases.extend(more.into_iter().map(limited));
        }
    }
    cases.extend(LINEARS.map(|sizes| case(move |g, r| head(g, r, sizes))));
    cases.extend(pairs::cases());
    cases.push(case(|g, r| network(g, r, 8, true)));
    cases.push(case(|g, _| share(g)));
    cases
}

/// A step of 7 rows on 3 ranks.
fn share(gpu: &mut Gpu) -> Result<(), DeviceError> {
    let ring = gpu.create_ring(4, 8)?;
    let inputs = StepInputs {
        total: 7,
        ..StepInputs::default()
    };
    gpu.step(Pass::Train, inputs, &|_| ())?;
    gpu.store_of_ranks(3, &[0; 3 * 4])?;
    gpu.block(|driver| driver.synchronize())?;
    drop(ring);
    Ok(())
}

fn batch_norm(
    gpu: &mut Gpu,
    random: &mut Stream,
    channels: usize,
) -> Result<BatchNorm, DeviceError> {
    let mut vector = || tensor(gpu, random, Kind::Float, [1, 1, 1, channels]);
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

/// m, n, k.
const PRODUCTS: [[usize; 3]; 6] = [
    [1, 1, 1],
    [65, 100, 72],
    [17, 9, 5],
    [130, 140, 72],
    [65, 257, 136],
    [130, 520, 72],
];

fn product(gpu: &mut Gpu, random: &mut Stream, [m, n, k]: [usize; 3]) -> Result<(), DeviceError> {
    let a = tensor(gpu, random, Kind::Activation, [1, 1, m, k])?;
    let b = tensor(gpu, random, Kind::Activation, [1, 1, n, k])?;
    let c = gpu.alloc(Kind::Activation, [1, 1, m, n]);
    gpu.gemm(a, b, c);
    gpu.check()
}

/// For a single multiprocessor: steps whose blocks stay, at so many tiles that blocks take three and
/// more, and what they copy into is used again.
pub(super) fn staying() -> Vec<Case> {
    let staying = |sizes| {
        case(move |gpu, random| {
            gpu.limit(Ladder::Conv, 4);
            conv(gpu, random, sizes)
        })
    };
    STAYING.map(staying).into()
}

/// n, h, w, ci, co, kernel, stride, pad.
const CONVOLUTIONS: [[usize; 8]; 19] = [
    [2, 7, 5, 3, 16, 3, 1, 1],
    [1, 1, 1, 1, 1, 1, 1, 0],
    [3, 5, 6, 16, 16, 3, 1, 1],
    [2, 8, 8, 16, 32, 3, 2, 1],
    [2, 7, 7, 16, 32, 1, 2, 0],
    [1, 6, 5, 32, 64, 3, 2, 1],
    [2, 4, 4, 64, 64, 3, 1, 1],
    [1, 5, 4, 17, 33, 3, 1, 1],
    [1, 4, 3, 70, 72, 1, 1, 0],
    [5, 6, 6, 32, 32, 3, 1, 1],
    [2, 8, 8, 32, 64, 3, 2, 1],
    [3, 11, 9, 5, 16, 3, 1, 1],
    // Whole tiles, more than one a block, and one that is not full.
    [11, 8, 8, 16, 16, 3, 1, 1],
    [5, 8, 8, 32, 32, 3, 1, 1],
    [19, 8, 8, 3, 16, 3, 1, 1],
    [3, 8, 8, 7, 32, 3, 1, 1],
    [11, 8, 8, 1, 64, 3, 2, 1],
    [2, 8, 8, 16, 32, 1, 2, 0],
    [25, 8, 8, 32, 64, 1, 2, 0],
];

const STAYING: [[usize; 8]; 4] = [
    [50, 8, 8, 16, 16, 3, 1, 1],
    [11, 16, 16, 16, 32, 3, 2, 1],
    [17, 8, 8, 32, 64, 1, 2, 0],
    [25, 8, 8, 16, 32, 1, 2, 0],
];

fn conv(gpu: &mut Gpu, random: &mut Stream, sizes: [usize; 8]) -> Result<(), DeviceError> {
    let [n, h, w, ci, co, kernel, stride, pad] = sizes;
    let window = Window { stride, pad };
    let [ho, wo] = [h, w].map(|size| window.output(size, kernel));
    let x = tensor(gpu, random, Kind::Activation, [n, h, w, ci])?;
    let weights = tensor(gpu, random, Kind::Float, [co, kernel, kernel, ci])?;
    let dw = gpu.alloc(Kind::Float, weights.dims);
    let y = gpu.alloc(Kind::Activation, [n, ho, wo, co]);
    let g = tensor(gpu, random, Kind::Activation, y.dims)?;
    let dx = gpu.alloc(Kind::Activation, x.dims);
    let (before, after) = (batch_norm(gpu, random, ci)?, batch_norm(gpu, random, co)?);
    // With nothing around it.
    gpu.conv2d(Load::plain(x), weights, window, y, None);
    let plain = Grad { g, norm: None };
    let alone = InputGrad {
        dx,
        add: None,
        relu: false,
        sums: None,
    };
    gpu.conv2d_backward(Load::plain(x), weights, window, plain, dw, None);
    gpu.conv2d_backward(Load::plain(x), weights, window, plain, dw, Some(alone));
    // With all that a network has.
    let load = Load::norm_relu(x, before);
    gpu.conv2d(load, weights, window, y, Some(after));
    gpu.bn_train(after, n * ho * wo);
    let normed = Grad {
        g,
        norm: Some((after, y)),
    };
    let all = InputGrad {
        dx,
        add: Some(dx),
        relu: true,
        sums: Some((before, x)),
    };
    gpu.conv2d_backward(load, weights, window, normed, dw, Some(all));
    gpu.check()
}

/// Pixels, channels.
const NORMS: [[usize; 2]; 8] = [
    [1, 1],
    [7, 3],
    [50, 8],
    [300, 16],
    [129, 64],
    [65, 130],
    [40, 17],
    [700, 5],
];

fn norm(gpu: &mut Gpu, random: &mut Stream, sizes: [usize; 2]) -> Result<(), DeviceError> {
    let [pixels, channels] = sizes;
    let dims = [1, 1, pixels, channels];
    let x = tensor(gpu, random, Kind::Activation, dims)?;
    let g = tensor(gpu, random, Kind::Activation, dims)?;
    let residual = tensor(gpu, random, Kind::Activation, dims)?;
    let y = gpu.alloc(Kind::Activation, dims);
    let dx = gpu.alloc(Kind::Activation, dims);
    let bn = batch_norm(gpu, random, channels)?;
    let shortcut = batch_norm(gpu, random, channels)?;
    gpu.moments(x, bn);
    gpu.bn_train(bn, pixels);
    gpu.bn_apply(x, bn, None, false, y);
    gpu.bn_apply(x, bn, Some(Load::plain(residual)), true, y);
    gpu.bn_apply(x, bn, Some(Load::norm(residual, shortcut)), true, y);
    gpu.bn_backward_sums(g, None, x, bn);
    gpu.bn_backward_sums(g, Some(y), x, bn);
    let grad = Grad {
        g,
        norm: Some((bn, x)),
    };
    gpu.bn_backward(grad, dx);
    gpu.bn_eval(bn);
    gpu.check()
}

/// n, h, w, c, outputs.
const LINEARS: [[usize; 5]; 5] = [
    [1, 1, 1, 1, 1],
    [3, 2, 5, 16, 10],
    [5, 4, 4, 64, 10],
    [2, 3, 3, 70, 33],
    [129, 1, 2, 9, 20],
];

fn head(gpu: &mut Gpu, random: &mut Stream, sizes: [usize; 5]) -> Result<(), DeviceError> {
    let [n, h, width, c, outputs] = sizes;
    let x = tensor(gpu, random, Kind::Activation, [n, h, width, c])?;
    let w = tensor(gpu, random, Kind::Float, [1, 1, outputs, c])?;
    let b = tensor(gpu, random, Kind::Float, [1, 1, 1, outputs])?;
    let dy = tensor(gpu, random, Kind::Activation, [1, 1, n, outputs])?;
    let pooled = gpu.alloc(Kind::Activation, [1, 1, n, c]);
    let y = gpu.alloc(Kind::Activation, dy.dims);
    let dx = gpu.alloc(Kind::Activation, x.dims);
    let dw = gpu.alloc(Kind::Float, w.dims);
    let db = gpu.alloc(Kind::Float, b.dims);
    gpu.gap_linear(x, w, b, pooled, y);
    gpu.gap_linear_backward(pooled, w, dy, dx, dw, db);
    gpu.check()
}

/// Rows, classes.
const LOSSES: [[usize; 2]; 7] = [
    [1, 1],
    [5, 10],
    [33, 3],
    [9, 100],
    [3, 1000],
    [2, 1030],
    [130, 7],
];

fn loss(gpu: &mut Gpu, random: &mut Stream, sizes: [usize; 2]) -> Result<(), DeviceError> {
    let [rows, classes] = sizes;
    let row = [1, 1, 1, rows];
    let ring = gpu.create_ring(4, rows)?;
    let logits = tensor(gpu, random, Kind::Activation, [1, 1, rows, classes])?;
    let weights = tensor(gpu, random, Kind::Float, row)?;
    let labels = gpu.alloc(Kind::Label, row);
    let out = LossOutputs {
        dlogits: gpu.alloc(Kind::Activation, logits.dims),
        loss: gpu.alloc(Kind::Float, row),
        right: gpu.alloc(Kind::Float, row),
    };
    let classes = classes as u64;
    let named = |i| {
        if i % 5 == 4 {
            -100
        } else {
            random.below(classes) as i32
        }
    };
    let named: Vec<i32> = (0..rows).map(named).collect();
    gpu.write_labels(labels, &named)?;
    gpu.softmax_xent(logits, labels, weights, 0.1, out, true);
    gpu.softmax_xent(logits, labels, weights, 0.0, out, false);
    gpu.check()?;
    gpu.block(|driver| driver.synchronize())?;
    drop(ring);
    Ok(())
}

fn images(random: &mut Stream, [height, width, channels]: [usize; 3], count: usize) -> Images {
    let pixels = count * height * width * channels;
    Images {
        pixels: (0..pixels).map(|_| random.below(256) as u8).collect(),
        labels: (0..count).map(|i| (i % 5) as u32).collect(),
        height,
        width,
        channels,
        mean: vec![0.4; channels],
        std: vec![0.2; channels],
    }
}

fn inputs(random: &mut Stream, step: u64, count: usize, rows: usize) -> StepInputs {
    StepInputs {
        step,
        ids: (0..rows)
            .map(|_| random.below(count as u64) as u32)
            .collect(),
        weights: (0..rows).map(|_| random.f32()).collect(),
        lr: 0.1,
        seed: 7,
        ..StepInputs::default()
    }
}

/// Height, width, channels, batch.
const GATHERS: [[usize; 4]; 4] = [[1, 1, 1, 1], [5, 7, 3, 4], [8, 8, 1, 5], [32, 32, 3, 2]];

fn gather(gpu: &mut Gpu, random: &mut Stream, sizes: [usize; 4]) -> Result<(), DeviceError> {
    let [h, w, c, batch] = sizes;
    let data = gpu.attach_images(Arc::new(images(random, [h, w, c], 9)));
    let x = gpu.alloc(Kind::Activation, [batch, h, w, c]);
    let labels = gpu.alloc(Kind::Label, [1, 1, 1, batch]);
    let weights = gpu.alloc(Kind::Float, [1, 1, 1, batch]);
    let augment = Augment {
        crop: 2,
        flip: true,
    };
    // The second step has an empty row.
    for step in 0..2 {
        let inputs = inputs(random, step, 9, batch - step as usize);
        gpu.step(Pass::Train, inputs, &|exec| {
            exec.gather(data, augment, x, labels, weights);
        })?;
    }
    Ok(())
}

const LENGTHS: [usize; 4] = [1, 7, 260, 5001];

fn sgd(gpu: &mut Gpu, random: &mut Stream, len: usize) -> Result<(), DeviceError> {
    let dims = [1, 1, 1, len];
    let params = tensor(gpu, random, Kind::Float, dims)?;
    let grads = tensor(gpu, random, Kind::Float, dims)?;
    let buf = tensor(gpu, random, Kind::Float, dims)?;
    let scale = tensor(gpu, random, Kind::Float, [1; 4])?;
    gpu.sgd(params, grads, buf, SGD, Some(scale));
    gpu.check()
}

fn copy(gpu: &mut Gpu, random: &mut Stream, len: usize) -> Result<(), DeviceError> {
    let from = tensor(gpu, random, Kind::Float, [1, 1, 1, len])?;
    let to = gpu.alloc(Kind::Float, from.dims);
    gpu.copy(from, to);
    // From the middle of a vector, as far as there is one.
    let rest = [1, 1, 1, len.div_ceil(2)];
    gpu.copy(from.view(len / 2, rest), to.view(0, rest));
    gpu.check()
}

/// A step of training, one of evaluation, and two more.
fn network(
    gpu: &mut Gpu,
    random: &mut Stream,
    size: usize,
    bottleneck: bool,
) -> Result<(), DeviceError> {
    let arch = Architecture {
        blocks: vec![1, 1],
        widths: vec![16, 32],
        bottleneck,
    };
    let input = InputShape {
        batch: 3,
        height: size,
        width: size,
        channels: 3,
    };
    let ring = gpu.create_ring(4, input.batch)?;
    let data = gpu.attach_images(Arc::new(images(random, [size, size, 3], 9)));
    let net = ResNet::new(gpu, &arch, input, 5);
    net.params.initialise(gpu, 1)?;
    let augment = Augment {
        crop: 1,
        flip: true,
    };
    for (step, pass) in [Pass::Train, Pass::Eval, Pass::Train, Pass::Train]
        .into_iter()
        .enumerate()
    {
        let inputs = inputs(
            random,
            step.saturating_sub(1) as u64,
            9,
            input.batch - step / 3,
        );
        gpu.step(pass, inputs, &|exec| match pass {
            Pass::Train => net.train_step(exec, data, augment, 0.1, SGD),
            Pass::Eval => net.eval_step(exec, data),
        })?;
    }
    gpu.block(|driver| driver.synchronize())?;
    drop(ring);
    Ok(())
}
