//! Residual networks (He, Zhang, Ren, Sun, 2016) for small images: the CIFAR family 6n+2, and
//! 18/34/50/101 with a 3×3 stem.
//!
//! Nothing but raw convolution outputs and block outputs is stored. Batch norm and ReLU happen when
//! the next convolution reads, and batch norm's backward pass when the convolution before it reads
//! its gradient (see [`crate::backend`]).

use super::params::{ParamList, Params};
use crate::backend::{
    Augment, BatchNorm, DataId, DeviceError, Executor, Grad, InputGrad, Kind, Load, LossOutputs,
    Sgd, Tensor, Window,
};

/// What distinguishes one ResNet from another.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Blocks in each stage; every stage but the first halves the resolution.
    pub blocks: Vec<usize>,
    /// Channels of each stage's 3×3 convolutions.
    pub widths: Vec<usize>,
    /// 1×1, 3×3, 1×1 blocks whose output has four times the width, instead of two 3×3.
    pub bottleneck: bool,
}

impl Architecture {
    /// Depths that [`Architecture::of_depth`] knows.
    pub const DEPTHS: [u32; 11] = [8, 14, 20, 32, 44, 56, 110, 18, 34, 50, 101];

    /// The network of that depth, or `None` if there is none.
    pub fn of_depth(depth: u32) -> Option<Architecture> {
        let (blocks, bottleneck) = match depth {
            18 => (vec![2, 2, 2, 2], false),
            34 => (vec![3, 4, 6, 3], false),
            50 => (vec![3, 4, 6, 3], true),
            101 => (vec![3, 4, 23, 3], true),
            8 | 14 | 20 | 32 | 44 | 56 | 110 => (vec![(depth as usize - 2) / 6; 3], false),
            _ => return None,
        };
        let widths = if blocks.len() == 3 {
            vec![16, 32, 64]
        } else {
            vec![64, 128, 256, 512]
        };
        Some(Architecture {
            blocks,
            widths,
            bottleneck,
        })
    }
}

/// Size of a batch of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputShape {
    /// Images in a batch.
    pub batch: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
    /// Colour channels.
    pub channels: usize,
}

/// A convolution and the batch norm after it.
struct Unit {
    w: Tensor,
    dw: Tensor,
    window: Window,
    bn: BatchNorm,
    /// Raw output of the convolution, `[N, H, W, C]`.
    y: Tensor,
}

impl Unit {
    fn declare(list: &mut ParamList, conv: &str, bn: &str, co: usize, kernel: usize, ci: usize) {
        list.conv(conv, co, kernel, ci);
        list.batch_norm(bn, co);
    }

    fn new(
        exec: &mut dyn Executor,
        params: &Params,
        conv: &str,
        bn: &str,
        x: Tensor,
        stride: usize,
    ) -> Unit {
        let name = format!("{conv}.weight");
        let w = params.value(&name);
        let [co, kernel, ..] = w.dims;
        let window = Window {
            stride,
            pad: kernel / 2,
        };
        let [n, h, width, _] = x.dims;
        let dims = [
            n,
            window.output(h, kernel),
            window.output(width, kernel),
            co,
        ];
        let y = exec.alloc(Kind::Activation, dims);
        Unit {
            w,
            dw: params.grad(&name),
            window,
            bn: params.batch_norm(exec, bn),
            y,
        }
    }

    fn forward(&self, exec: &mut dyn Executor, x: Load, train: bool) {
        exec.conv2d(x, self.w, self.window, self.y, train.then_some(self.bn));
        if train {
            let [n, h, w, _] = self.y.dims;
            exec.bn_train(self.bn, n * h * w);
        } else {
            exec.bn_eval(self.bn);
        }
    }

    /// `g` is the gradient of the batch norm's output, whose sums have been taken.
    fn backward(&self, exec: &mut dyn Executor, x: Load, g: Tensor, dx: Option<InputGrad>) {
        let dy = Grad {
            g,
            norm: Some((self.bn, self.y)),
        };
        exec.conv2d_backward(x, self.w, self.window, dy, self.dw, dx);
    }

    /// Multiply-adds of one image's forward pass.
    fn macs(&self) -> u64 {
        let [_, h, w, _] = self.y.dims;
        (h * w * self.w.len()) as u64
    }
}

/// Two or three units and a shortcut.
struct Block {
    units: Vec<Unit>,
    /// 1×1 convolution where stride or channels change; else the identity.
    projection: Option<Unit>,
    out: Tensor,
    /// Gradient of `out` before its ReLU.
    g: Tensor,
    /// Gradients of the inner batch norms' outputs, one for each unit but the last.
    inner: Vec<Tensor>,
}

/// A ResNet with all of its memory on one executor.
pub struct ResNet {
    /// Weights, gradients, momentum, running statistics.
    pub params: Params,
    /// The batch, `[N, H, W, C]`, normalised.
    pub x: Tensor,
    /// `[N]`.
    pub labels: Tensor,
    /// Loss weights `[N]`.
    pub weights: Tensor,
    /// `[N, classes]`.
    pub logits: Tensor,
    /// What the loss computed.
    pub loss: LossOutputs,
    stem: Unit,
    stem_g: Tensor,
    blocks: Vec<Block>,
    pooled: Tensor,
}

/// Gradient buffers, shared by all places of one shape whose lives do not overlap.
#[derive(Default)]
struct GradPool(Vec<(usize, Tensor)>);

impl GradPool {
    /// The buffer for `role` (places with the same role and shape never live at the same time).
    fn get(&mut self, exec: &mut dyn Executor, role: usize, dims: [usize; 4]) -> Tensor {
        if let Some((_, t)) = self.0.iter().find(|(r, t)| *r == role && t.dims == dims) {
            return *t;
        }
        let t = exec.alloc(Kind::Activation, dims);
        self.0.push((role, t));
        t
    }
}

impl ResNet {
    /// Allocates the network; the parameters are zero until [`Params::initialise`] or a weight file
    /// sets them.
    pub fn new(
        exec: &mut dyn Executor,
        arch: &Architecture,
        input: InputShape,
        classes: usize,
    ) -> ResNet {
        let params = declare(arch, input.channels, classes).allocate(exec);
        let InputShape {
            batch,
            height,
            width,
            channels,
        } = input;
        let x = exec.alloc(Kind::Activation, [batch, height, width, channels]);
        let stem = Unit::new(exec, &params, "conv1", "bn1", x, 1);
        let mut pool = GradPool::default();
        let stem_g = pool.get(exec, 0, stem.y.dims);
        let (mut from, mut blocks) = (stem.y, Vec::new());
        for (name, stride) in block_names(arch) {
            let kernels = if arch.bottleneck { 3 } else { 2 };
            // The 3×3 convolution carries the stride: the first of two, the middle one of three.
            let strided = kernels - 2;
            let mut units: Vec<Unit> = Vec::new();
            for i in 0..kernels {
                let input = units.last().map_or(from, |u| u.y);
                let s = if i == strided { stride } else { 1 };
                let (conv, bn) = (
                    format!("{name}.conv{}", i + 1),
                    format!("{name}.bn{}", i + 1),
                );
                units.push(Unit::new(exec, &params, &conv, &bn, input, s));
            }
            let dims = units[kernels - 1].y.dims;
            let projection = (stride != 1 || from.dims[3] != dims[3]).then(|| {
                let (conv, bn) = (
                    format!("{name}.downsample.0"),
                    format!("{name}.downsample.1"),
                );
                Unit::new(exec, &params, &conv, &bn, from, stride)
            });
            let out = exec.alloc(Kind::Activation, dims);
            let g = pool.get(exec, 0, dims);
            // Roles alternate: a unit reads one of these gradients while it writes the other.
            let inner = (1..kernels)
                .map(|i| pool.get(exec, 1 + i % 2, units[i - 1].y.dims))
                .collect();
            blocks.push(Block {
                units,
                projection,
                out,
                g,
                inner,
            });
            from = out;
        }
        let [_, _, _, features] = from.dims;
        let row = |n| [1, 1, batch, n];
        ResNet {
            x,
            labels: exec.alloc(Kind::Label, [1, 1, 1, batch]),
            weights: exec.alloc(Kind::Float, [1, 1, 1, batch]),
            logits: exec.alloc(Kind::Activation, row(classes)),
            loss: LossOutputs {
                dlogits: exec.alloc(Kind::Activation, row(classes)),
                loss: exec.alloc(Kind::Float, [1, 1, 1, batch]),
                right: exec.alloc(Kind::Float, [1, 1, 1, batch]),
            },
            pooled: exec.alloc(Kind::Activation, row(features)),
            params,
            stem,
            stem_g,
            blocks,
        }
    }

    /// One training step on the executor's present [`StepInputs`](crate::backend::StepInputs).
    pub fn train_step(
        &self,
        exec: &mut dyn Executor,
        data: DataId,
        augment: Augment,
        smoothing: f32,
        sgd: Sgd,
    ) {
        exec.gather(data, augment, self.x, self.labels, self.weights);
        self.forward(exec, true);
        exec.softmax_xent(
            self.logits,
            self.labels,
            self.weights,
            smoothing,
            self.loss,
            true,
        );
        self.backward(exec);
        exec.share_results();
        exec.sgd(
            self.params.values,
            self.params.grads,
            self.params.momentum,
            sgd,
            None,
        );
    }

    /// Losses and right bits of the present inputs' instances in evaluation mode.
    pub fn eval_step(&self, exec: &mut dyn Executor, data: DataId) {
        exec.gather(data, Augment::NONE, self.x, self.labels, self.weights);
        self.forward(exec, false);
        exec.softmax_xent(
            self.logits,
            self.labels,
            self.weights,
            0.0,
            self.loss,
            false,
        );
    }

    /// Logits of `x`; with `train`, batch statistics are used and the running ones updated.
    pub fn forward(&self, exec: &mut dyn Executor, train: bool) {
        self.stem.forward(exec, Load::plain(self.x), train);
        let mut input = Load::norm_relu(self.stem.y, self.stem.bn);
        for block in &self.blocks {
            let mut x = input;
            for unit in &block.units {
                unit.forward(exec, x, train);
                x = Load::norm_relu(unit.y, unit.bn);
            }
            let shortcut = match &block.projection {
                None => input,
                Some(unit) => {
                    unit.forward(exec, input, train);
                    Load::norm(unit.y, unit.bn)
                }
            };
            let last = block.last();
            exec.bn_apply(last.y, last.bn, Some(shortcut), true, block.out);
            input = Load::plain(block.out);
        }
        let (w, b) = (self.params.value("fc.weight"), self.params.value("fc.bias"));
        exec.gap_linear(input.x, w, b, self.pooled, self.logits);
    }

    /// Gradients of all parameters from `loss.dlogits`, after [`forward`](ResNet::forward) in
    /// training mode; the ranks' mean of them is under way.
    pub fn backward(&self, exec: &mut dyn Executor) {
        let (w, dw) = (
            self.params.value("fc.weight"),
            self.params.grad("fc.weight"),
        );
        let top = self.blocks.last().expect("an architecture has blocks");
        let db = self.params.grad("fc.bias");
        exec.gap_linear_backward(self.pooled, w, self.loss.dlogits, top.g, dw, db);
        exec.bn_backward_sums(top.g, Some(top.out), top.last().y, top.last().bn);
        let mut reduced = self.params.reduced.len();
        for (i, block) in self.blocks.iter().enumerate().rev() {
            let (input, below, d_input) = match i.checked_sub(1).map(|i| &self.blocks[i]) {
                None => (
                    Load::norm_relu(self.stem.y, self.stem.bn),
                    &self.stem,
                    self.stem_g,
                ),
                Some(before) => (Load::plain(before.out), before.last(), before.g),
            };
            let mut add = block.g;
            if let Some(unit) = &block.projection {
                exec.bn_backward_sums(block.g, None, unit.y, unit.bn);
                let dx = InputGrad {
                    dx: d_input,
                    add: None,
                    relu: false,
                    sums: None,
                };
                unit.backward(exec, input, block.g, Some(dx));
                add = d_input;
            }
            let mut g = block.g;
            for i in (1..block.units.len()).rev() {
                let inner = &block.units[i - 1];
                let sums = Some((inner.bn, inner.y));
                let dx = InputGrad {
                    dx: block.inner[i - 1],
                    add: None,
                    relu: true,
                    sums,
                };
                block.units[i].backward(exec, Load::norm_relu(inner.y, inner.bn), g, Some(dx));
                g = block.inner[i - 1];
            }
            let sums = Some((below.bn, below.y));
            let dx = InputGrad {
                dx: d_input,
                add: Some(add),
                relu: true,
                sums,
            };
            block.units[0].backward(exec, input, g, Some(dx));
            // Where a stage begins, the gradients of all that follow are complete.
            if block.projection.is_some() {
                exec.all_reduce(self.params.reduced_from(block.units[0].dw, &mut reduced));
            }
        }
        self.stem
            .backward(exec, Load::plain(self.x), self.stem_g, None);
        exec.all_reduce(self.params.reduced_from(self.stem.dw, &mut reduced));
    }

    /// What every ReLU saw in the last forward pass, with the β whose change shifts it: `[pixels,
    /// C]` each. For examining a network: reads back all activations.
    ///
    /// # Errors
    /// Those of [`Executor::read`].
    pub fn relu_inputs(
        &self,
        exec: &mut dyn Executor,
    ) -> Result<Vec<(Tensor, Vec<f32>)>, DeviceError> {
        let stem = normalised(exec, Load::norm(self.stem.y, self.stem.bn))?;
        let mut inputs = vec![(self.stem.bn.beta, stem)];
        let mut input = Load::norm_relu(self.stem.y, self.stem.bn);
        for block in &self.blocks {
            for unit in &block.units {
                let x = normalised(exec, Load::norm(unit.y, unit.bn))?;
                inputs.push((unit.bn.beta, x));
            }
            let shortcut = match &block.projection {
                None => normalised(exec, input)?,
                Some(unit) => normalised(exec, Load::norm(unit.y, unit.bn))?,
            };
            let sum = &mut inputs.last_mut().expect("a block has units").1;
            sum.iter_mut().zip(shortcut).for_each(|(s, x)| *s += x);
            input = Load::plain(block.out);
        }
        Ok(inputs)
    }

    /// Operations (two a multiply-add) of one image's forward and backward pass, from shapes:
    /// convolutions and the linear layer. The first convolution has no input gradient. Element-wise
    /// work, under 3 % of the total, is not counted.
    pub fn train_ops_per_instance(&self) -> u64 {
        let units = self
            .blocks
            .iter()
            .flat_map(|b| b.units.iter().chain(&b.projection));
        let inner: u64 = units.map(Unit::macs).sum();
        let linear = self.params.value("fc.weight").len() as u64;
        2 * (3 * (inner + linear) + 2 * self.stem.macs())
    }
}

/// A tensor as a [`Load`] reads it.
fn normalised(exec: &mut dyn Executor, load: Load) -> Result<Vec<f32>, DeviceError> {
    let mut x = exec.read(load.x)?;
    if let Some(bn) = load.norm {
        let (scale, shift) = (exec.read(bn.scale)?, exec.read(bn.shift)?);
        for pixel in x.chunks_exact_mut(scale.len()) {
            pixel
                .iter_mut()
                .zip(scale.iter().zip(&shift))
                .for_each(|(x, (a, b))| *x = a * *x + b);
        }
    }
    if load.relu {
        x.iter_mut()
            .for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x });
    }
    Ok(x)
}

impl Block {
    fn last(&self) -> &Unit {
        &self.units[self.units.len() - 1]
    }
}

/// `layer1.0` and its stride, and so on.
fn block_names(arch: &Architecture) -> impl Iterator<Item = (String, usize)> + '_ {
    arch.blocks.iter().enumerate().flat_map(|(stage, &count)| {
        let stride = if stage == 0 { 1 } else { 2 };
        (0..count).map(move |i| {
            (
                format!("layer{}.{i}", stage + 1),
                if i == 0 { stride } else { 1 },
            )
        })
    })
}

fn declare(arch: &Architecture, channels: usize, classes: usize) -> ParamList {
    let mut list = ParamList::default();
    Unit::declare(&mut list, "conv1", "bn1", arch.widths[0], 3, channels);
    let expansion = if arch.bottleneck { 4 } else { 1 };
    let widths = arch
        .blocks
        .iter()
        .zip(&arch.widths)
        .flat_map(|(&n, &w)| std::iter::repeat_n(w, n));
    let mut from = arch.widths[0];
    for ((name, stride), width) in block_names(arch).zip(widths) {
        let kernels: &[usize] = if arch.bottleneck { &[1, 3, 1] } else { &[3, 3] };
        let (to, mut ci) = (width * expansion, from);
        for (i, &kernel) in kernels.iter().enumerate() {
            let co = if i + 1 == kernels.len() { to } else { width };
            let (conv, bn) = (
                format!("{name}.conv{}", i + 1),
                format!("{name}.bn{}", i + 1),
            );
            Unit::declare(&mut list, &conv, &bn, co, kernel, ci);
            ci = co;
        }
        if stride != 1 || from != to {
            let (conv, bn) = (
                format!("{name}.downsample.0"),
                format!("{name}.downsample.1"),
            );
            Unit::declare(&mut list, &conv, &bn, to, 1, from);
        }
        from = to;
    }
    list.linear("fc", classes, from);
    list
}
