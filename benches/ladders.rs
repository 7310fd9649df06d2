//! Every step of the ladders of kernels, at the shapes of ResNet-20, of a base Transformer and at
//! larger ones: time of a launch, bytes a second, and how much that is of what copying gets.
//!
//! Measures `cuda`: a graph of many launches is replayed, and the host's clock is read before and
//! after. The launches take turns on several sets of tensors, together larger than any cache.
//! Without a device it rehearses on `simt` with tiny shapes, to show that it works; those times
//! mean nothing for a GPU.

#[path = "ladders/sequence.rs"]
mod sequence;

use autoassist::backend::gpu::{Gpu, Ladder};
use autoassist::backend::{
    Augment, BatchNorm, DeviceError, Executor, Grad, InputGrad, Kind, Load, LossOutputs, Pass, Sgd,
    StepInputs, Tensor, Window,
};
use autoassist::data::Images;
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

type Result<T> = std::result::Result<T, DeviceError>;

/// An op with tensors of its own, to be launched again and again.
type Op = Box<dyn Fn(&mut dyn Executor)>;

/// A ladder to measure.
struct Case {
    name: &'static str,
    ladder: Ladder,
    shape: [usize; 4],
    /// What an element of that shape has to move, by whatever kernel.
    bytes: usize,
    make: fn(&mut Gpu, [usize; 4]) -> Result<Op>,
}

/// What copies: one tensor read, one written.
const COPY: Case = Case {
    name: "copy",
    ladder: Ladder::BatchNorm,
    shape: [4096, 32, 32, 64],
    bytes: 4,
    make: copy,
};

/// Cases of one op.
type Row = (
    &'static str,
    Ladder,
    usize,
    fn(&mut Gpu, [usize; 4]) -> Result<Op>,
    &'static [[usize; 4]],
);

fn cases() -> Vec<Case> {
    const STAGES: &[[usize; 4]] = &[[1024, 32, 32, 16], [1024, 16, 16, 32], [1024, 8, 8, 64]];
    let table: [Row; 9] = [
        ("gather", Ladder::Gather, 3, gather, &[[1024, 32, 32, 3]]),
        ("conv_fprop", Ladder::Conv, 4, convolve, STAGES),
        ("conv_backward", Ladder::Conv, 8, convolve_backward, STAGES),
        ("bn_moments", Ladder::BatchNorm, 2, moments, STAGES),
        ("bn_apply", Ladder::BatchNorm, 6, apply, STAGES),
        (
            "softmax_xent",
            Ladder::SoftmaxXent,
            4,
            softmax_xent,
            &[[1, 1, 128, 10], [1, 1, 1024, 10], [1, 1, 4096, 32_000]],
        ),
        (
            "bn_backward_sums",
            Ladder::BatchNorm,
            8,
            backward_sums,
            STAGES,
        ),
        ("bn_backward", Ladder::BatchNorm, 6, backward, STAGES),
        // Parameters of ResNet-20 and of ResNet-50.
        (
            "sgd",
            Ladder::Sgd,
            20,
            sgd,
            &[[1, 1, 1, 272_474], [1, 1, 1, 25_557_032]],
        ),
    ];
    let of_row = |(name, ladder, bytes, make, shapes): Row| {
        shapes.iter().map(move |shape| Case {
            name,
            ladder,
            shape: *shape,
            bytes,
            make,
        })
    };
    table
        .into_iter()
        .chain(sequence::ROWS)
        .flat_map(of_row)
        .collect()
}

/// A tensor of numbers in -1..1, the same ones over and over.
fn noise(gpu: &mut Gpu, kind: Kind, dims: [usize; 4]) -> Result<Tensor> {
    const PERIOD: usize = 65_521;
    let one: Vec<f32> = (0..PERIOD)
        .map(|i| (i * 40_503 % PERIOD) as f32 / PERIOD as f32 * 2.0 - 1.0)
        .collect();
    let t = gpu.alloc(kind, dims);
    let values: Vec<f32> = one.into_iter().cycle().take(t.len()).collect();
    gpu.write(t, &values)?;
    Ok(t)
}

fn activation(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Tensor> {
    noise(gpu, Kind::Activation, dims)
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

fn copy(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let (x, bn) = (activation(gpu, dims)?, batch_norm(gpu, dims[3])?);
    let y = gpu.alloc(Kind::Activation, dims);
    Ok(Box::new(move |exec| exec.bn_apply(x, bn, None, false, y)))
}

fn moments(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let (x, bn) = (activation(gpu, dims)?, batch_norm(gpu, dims[3])?);
    Ok(Box::new(move |exec| exec.moments(x, bn)))
}

fn apply(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let (x, bn) = (activation(gpu, dims)?, batch_norm(gpu, dims[3])?);
    let (r, y) = (activation(gpu, dims)?, gpu.alloc(Kind::Activation, dims));
    Ok(Box::new(move |exec| {
        exec.bn_apply(x, bn, Some(Load::plain(r)), true, y);
    }))
}

fn backward_sums(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let (x, bn) = (activation(gpu, dims)?, batch_norm(gpu, dims[3])?);
    let (g, y) = (activation(gpu, dims)?, activation(gpu, dims)?);
    Ok(Box::new(move |exec| {
        exec.bn_backward_sums(g, Some(y), x, bn);
    }))
}

fn backward(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let (x, bn) = (activation(gpu, dims)?, batch_norm(gpu, dims[3])?);
    let (g, dx) = (activation(gpu, dims)?, gpu.alloc(Kind::Activation, dims));
    let norm = Some((bn, x));
    Ok(Box::new(move |exec| exec.bn_backward(Grad { g, norm }, dx)))
}

/// Of a 3x3 convolution that leaves the shape as it is: input, weights, output, and the batch norms
/// before it (with ReLU) and after it.
fn convolution(gpu: &mut Gpu, dims: [usize; 4]) -> Result<([Tensor; 3], [BatchNorm; 2])> {
    let channels = dims[3];
    let (x, y) = (activation(gpu, dims)?, activation(gpu, dims)?);
    let weights = noise(gpu, Kind::Float, [channels, 3, 3, channels])?;
    let norms = [batch_norm(gpu, channels)?, batch_norm(gpu, channels)?];
    Ok(([x, weights, y], norms))
}

const SAME: Window = Window { stride: 1, pad: 1 };

/// With its input's transform on load and its output's moments on store.
fn convolve(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let ([x, weights, y], [before, after]) = convolution(gpu, dims)?;
    Ok(Box::new(move |exec| {
        exec.conv2d(Load::norm_relu(x, before), weights, SAME, y, Some(after));
    }))
}

/// Both gradients, with the batch norm's backward pass on load, ReLU's mask and sums on store.
fn convolve_backward(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let ([x, weights, y], [before, after]) = convolution(gpu, dims)?;
    let (g, dx) = (activation(gpu, dims)?, gpu.alloc(Kind::Activation, dims));
    let dw = gpu.alloc(Kind::Float, weights.dims);
    let norm = Some((after, y));
    Ok(Box::new(move |exec| {
        let to = InputGrad {
            dx,
            add: None,
            relu: true,
            sums: Some((before, x)),
        };
        let load = Load::norm_relu(x, before);
        exec.conv2d_backward(load, weights, SAME, Grad { g, norm }, dw, Some(to));
    }))
}

fn softmax_xent(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let [.., n, classes] = dims;
    let logits = activation(gpu, dims)?;
    let labels = gpu.alloc(Kind::Label, [1, 1, 1, n]);
    let classes_of_rows: Vec<i32> = (0..n).map(|i| (i * 7 % classes) as i32).collect();
    gpu.write_labels(labels, &classes_of_rows)?;
    let weights = noise(gpu, Kind::Float, [1, 1, 1, n])?;
    let out = LossOutputs {
        dlogits: gpu.alloc(Kind::Activation, dims),
        loss: gpu.alloc(Kind::Float, [1, 1, 1, n]),
        right: gpu.alloc(Kind::Float, [1, 1, 1, n]),
    };
    Ok(Box::new(move |exec| {
        exec.softmax_xent(logits, labels, weights, 0.1, out, false);
    }))
}

fn sgd(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let config = Sgd {
        momentum: 0.9,
        nesterov: true,
        weight_decay: 5e-4,
    };
    let mut floats = || noise(gpu, Kind::Float, dims);
    let (params, grads, buf) = (floats()?, floats()?, floats()?);
    Ok(Box::new(move |exec| exec.sgd(params, grads, buf, config)))
}

/// From as many images as the batch has rows.
fn gather(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let [n, height, width, channels] = dims;
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
    let x = gpu.alloc(Kind::Activation, dims);
    let labels = gpu.alloc(Kind::Label, [1, 1, 1, n]);
    let weights = gpu.alloc(Kind::Float, [1, 1, 1, n]);
    let augment = Augment {
        crop: 4,
        flip: true,
    };
    Ok(Box::new(move |exec| {
        exec.gather(data, augment, x, labels, weights);
    }))
}

/// How much to measure.
struct Effort {
    /// Bytes of tensors that launches take turns on.
    spread: usize,
    /// Launches in a graph.
    launches: usize,
    /// Of a round.
    seconds: f64,
    rounds: usize,
}

/// Where to measure.
struct Bench {
    open: fn() -> Result<Gpu>,
    effort: Effort,
    shape: fn([usize; 4]) -> [usize; 4],
}

impl Bench {
    /// Seconds of a launch, the median of some rounds, and bytes that it has to move.
    fn time(&self, case: &Case, step: u32) -> Result<(f64, f64)> {
        let effort = &self.effort;
        let mut gpu = (self.open)()?;
        gpu.limit(case.ladder, step);
        let shape = (self.shape)(case.shape);
        let bytes = case.bytes * shape.iter().product::<usize>();
        let sets = effort.spread.div_ceil(bytes).clamp(1, effort.launches);
        let ops: Vec<Op> = (0..sets)
            .map(|_| (case.make)(&mut gpu, shape))
            .collect::<Result<_>>()?;
        let done = gpu.alloc(Kind::Float, [1, 1, 1, 1]);
        let ids: Vec<u32> = (0..shape[0] as u32).collect();
        let mut number = 0;
        let mut replay = |steps: u64| {
            let start = Instant::now();
            for _ in 0..steps {
                let inputs = StepInputs {
                    step: number,
                    ids: ids.clone(),
                    lr: 0.01,
                    ..StepInputs::default()
                };
                gpu.step(Pass::Train, inputs, &|exec| {
                    let turns = ops.iter().cycle().take(effort.launches);
                    turns.for_each(|op| op(exec));
                })?;
                number += 1;
            }
            gpu.read(done)?;
            Ok(start.elapsed().as_secs_f64())
        };
        replay(1)?;
        let once = replay(1)?;
        let steps = (effort.seconds / once).ceil().clamp(1.0, 1000.0) as u64;
        let rounds = (0..effort.rounds).map(|_| replay(steps));
        let mut times = rounds.collect::<Result<Vec<f64>>>()?;
        times.sort_by(f64::total_cmp);
        let launches = steps * effort.launches as u64;
        Ok((times[times.len() / 2] / launches as f64, bytes as f64))
    }
}

fn text(shape: [usize; 4]) -> String {
    let dims = shape.iter().skip_while(|d| **d == 1);
    dims.map(usize::to_string).collect::<Vec<_>>().join(" x ")
}

fn main() -> Result<()> {
    let bench = match Gpu::cuda(0) {
        Ok(_) => Bench {
            open: || Gpu::cuda(0),
            effort: Effort {
                spread: 1 << 28,
                launches: 64,
                seconds: 0.02,
                rounds: 7,
            },
            shape: |shape| shape,
        },
        Err(e) => {
            println!("rehearsal on simt, whose times mean nothing for a GPU: {e}");
            Bench {
                open: Gpu::simt,
                effort: Effort {
                    spread: 0,
                    launches: 2,
                    seconds: 0.0,
                    rounds: 1,
                },
                shape: |[n, h, w, c]| [n.min(8), h.min(8), w.min(8), c.min(10_000)],
            }
        }
    };
    let device = (bench.open)()?.describe();
    let (seconds, bytes) = bench.time(&COPY, COPY.ladder.last())?;
    let copy = bytes / seconds;
    println!("{device}: copying gets {:.0} GB/s", copy / 1e9);
    println!("step, us a launch, GB/s of what has to be moved, % of copying");
    let mut results = Vec::new();
    for case in cases() {
        let shape = (bench.shape)(case.shape);
        for step in 1..=case.ladder.last() {
            let (seconds, bytes) = bench.time(&case, step)?;
            let speed = bytes / seconds;
            println!(
                "{:<17} {:<18} {step} {:>10.2} {:>8.1} {:>6.1}",
                case.name,
                text(shape),
                seconds * 1e6,
                speed / 1e9,
                100.0 * speed / copy
            );
            results.push(json!({
                "op": case.name, "shape": shape, "step": step, "us": seconds * 1e6,
                "gb_per_s": speed / 1e9,
            }));
        }
    }
    println!(
        "{}",
        json!({ "device": device, "copy_gb_per_s": copy / 1e9, "results": results })
    );
    Ok(())
}
