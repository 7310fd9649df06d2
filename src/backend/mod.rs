//! The op set: everything a network may ask of an executor.
//!
//! Networks hold [`Tensor`] handles and call [`Executor`] methods; where the numbers live and who
//! computes them is the executor's business. Fusions are part of the op set from the start: a
//! convolution reads its input through an optional batch norm + ReLU ([`Load`]) and returns the
//! batch moments of its output; its backward pass reads the output gradient through batch norm's
//! backward formula ([`Grad`]) and finishes the input gradient ([`InputGrad`]: shortcut added, ReLU
//! mask applied, the next batch norm's sums taken) before it leaves the cache. So a block costs few
//! passes over memory on every executor, and a better kernel changes no network.
//!
//! Layout: images `[N, H, W, C]`, convolution weights `[Co, KH, KW, Ci]` (KRSC), matrices `[rows,
//! cols]`, all row-major.

pub mod convolutional;
pub mod cpu;
pub mod elements;
pub(crate) mod error;
pub mod gpu;
mod open;
mod precision;
mod records;
pub mod recurrent;
pub mod sequence;
pub(crate) mod wait;

pub use error::{DeviceError, NVCC_REMEDY};
pub use open::open;
pub use precision::Precision;
pub use records::wait_for_records;
pub(crate) use wait::say;

use crate::assist::LossRing;
use crate::data::Images;
use sequence::Sequence;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// What the elements of a buffer are; an executor picks the storage type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Activations and their gradients: bf16 on a GPU, and on `cpu` what its precision says.
    Activation,
    /// Parameters, gradients of parameters, statistics, losses: f32 everywhere.
    Float,
    /// Class labels, i32.
    Label,
}

/// A handle: a shape, and where it starts in one of the executor's buffers. Unused leading
/// dimensions are 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub(crate) buffer: usize,
    pub(crate) offset: usize,
    /// Sizes, outermost first.
    pub dims: [usize; 4],
}

impl Tensor {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// True if some dimension is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The part of the same buffer that starts `start` elements further on, with shape `dims`.
    ///
    /// # Panics
    /// If it would reach past this tensor's end: a bug in the network.
    pub fn view(&self, start: usize, dims: [usize; 4]) -> Tensor {
        let view = Tensor {
            offset: self.offset + start,
            dims,
            ..*self
        };
        assert!(
            start + view.len() <= self.len(),
            "a view of {dims:?} at {start} leaves {:?}",
            self.dims
        );
        view
    }

    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// The tensors of one batch-norm layer, each `[C]`.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm {
    /// Learned gain γ.
    pub gamma: Tensor,
    /// Learned offset β.
    pub beta: Tensor,
    /// Gradient of γ: `Σ g·x̂` over N, H, W.
    pub dgamma: Tensor,
    /// Gradient of β: `Σ g` over N, H, W.
    pub dbeta: Tensor,
    /// Running mean, for evaluation.
    pub running_mean: Tensor,
    /// Running unbiased variance, for evaluation.
    pub running_var: Tensor,
    /// Mean over N, H, W of the present batch.
    pub mean: Tensor,
    /// Biased variance over N, H, W of the present batch.
    pub var: Tensor,
    /// `1/√(var + ε)`.
    pub invstd: Tensor,
    /// What readers apply: `y = scale·x + shift`, with `scale = γ·invstd`.
    pub scale: Tensor,
    /// `shift = β − mean·scale`.
    pub shift: Tensor,
}

/// PyTorch's defaults, which the networks here use throughout.
pub const BN_EPS: f32 = 1e-5;
/// Weight of the present batch in the running statistics.
pub const BN_MOMENTUM: f32 = 0.1;

/// How an op reads an activation: as it lies in memory, or through `scale·x + shift` and ReLU.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The tensor in memory.
    pub x: Tensor,
    /// Its channels' affine transform, if any.
    pub norm: Option<BatchNorm>,
    /// ReLU after the transform.
    pub relu: bool,
}

impl Load {
    /// As it lies in memory.
    pub fn plain(x: Tensor) -> Load {
        Load {
            x,
            norm: None,
            relu: false,
        }
    }

    /// Batch norm, then ReLU.
    pub fn norm_relu(x: Tensor, norm: BatchNorm) -> Load {
        Load {
            x,
            norm: Some(norm),
            relu: true,
        }
    }

    /// Batch norm only.
    pub fn norm(x: Tensor, norm: BatchNorm) -> Load {
        Load {
            x,
            norm: Some(norm),
            relu: false,
        }
    }
}

/// How a backward op reads the gradient of its output: as it lies in memory, or through the
/// backward pass of the batch norm that followed the op: `dy = scale·(g − dbeta/M − x̂·dgamma/M)`
/// with `x̂ = (y − mean)·invstd`, `M = N·H·W`.
#[derive(Clone, Copy, Debug)]
pub struct Grad {
    /// Gradient in memory (of the batch norm's output where there is one).
    pub g: Tensor,
    /// The batch norm, and the raw output `y` that went into it.
    pub norm: Option<(BatchNorm, Tensor)>,
}

/// What becomes of an input gradient before it is stored: `dx = (dgrad + add)·[load(x) > 0]`, then
/// sums for the batch norm before.
#[derive(Clone, Copy, Debug)]
pub struct InputGrad {
    /// Where it goes. May be the same tensor as `add`.
    pub dx: Tensor,
    /// The other branch's gradient (a shortcut).
    pub add: Option<Tensor>,
    /// Pass back through the ReLU whose output the op read, `[load(x) > 0]`.
    pub relu: bool,
    /// The batch norm under that ReLU and its raw input: its `dgamma` and `dbeta` are set from the
    /// masked `dx`.
    pub sums: Option<(BatchNorm, Tensor)>,
}

/// Square stride and zero padding of a convolution; the kernel's size is in the weights' shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Step between neighbouring outputs.
    pub stride: usize,
    /// Zeros on all four sides.
    pub pad: usize,
}

impl Window {
    /// `⌊(size + 2·pad − kernel)/stride⌋ + 1`.
    pub fn output(&self, size: usize, kernel: usize) -> usize {
        (size + 2 * self.pad - kernel) / self.stride + 1
    }
}

/// The two kinds of step: each is a graph on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// Forward, loss with records, backward, update.
    Train,
    /// Forward and loss.
    Eval,
}

/// Everything that changes from step to step (one slot of the ring on a GPU).
#[derive(Clone, Debug, Default)]
pub struct StepInputs {
    /// Number of the step, from 0.
    pub step: u64,
    /// Instances to train on. May be fewer than the batch holds: the remaining rows are ignored by
    /// the loss.
    pub ids: Vec<u32>,
    /// One loss weight an instance; empty means 1 for all.
    pub weights: Vec<f32>,
    /// Learning rate.
    pub lr: f32,
    /// Seed of the augmentation and of dropout.
    pub seed: u64,
    /// Padded sizes of the batch, for passes whose ops depend on them.
    pub shape: [u32; 3],
    /// Rows of the step on all ranks together, where there are several.
    pub total: u32,
    /// Whether this rank wants to stop.
    pub vote: bool,
}

/// Random change of the training images. Drawn from (seed, step, id) alone, so it does not depend
/// on the order of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Augment {
    /// Pad by this many pixels of the mean colour and crop back at a random place.
    pub crop: usize,
    /// Mirror left to right half of the time.
    pub flip: bool,
}

impl Augment {
    /// None, for evaluation.
    pub const NONE: Augment = Augment {
        crop: 0,
        flip: false,
    };
}

/// Where the loss kernel puts its results.
#[derive(Clone, Copy, Debug)]
pub struct LossOutputs {
    /// `[N, C]`, see [`Executor::softmax_xent`].
    pub dlogits: Tensor,
    /// Per-instance loss `[N]`, 0 for ignored rows.
    pub loss: Tensor,
    /// `[N]`: 1 where the largest logit is the label's, else 0.
    pub right: Tensor,
}

/// Coefficients of [`Executor::sgd`]; the learning rate comes with the step.
#[derive(Clone, Copy, Debug)]
pub struct Sgd {
    /// Momentum coefficient.
    pub momentum: f32,
    /// Nesterov's look-ahead.
    pub nesterov: bool,
    /// L2 coefficient, on every parameter.
    pub weight_decay: f32,
}

/// A data set that an executor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataId(pub(crate) usize);

/// One machine that can run the op set. Shapes are checked by assertions: a mismatch is a bug in a
/// network, not bad input.
///
/// Reductions are deterministic: equal inputs give equal bits, whatever the number of threads.
pub trait Executor: Send {
    /// For people: `cpu (avx512, 2 threads)`.
    fn describe(&self) -> String;
    /// What tensors of [`Kind::Activation`] are stored as.
    fn precision(&self) -> Precision;

    /// A new zeroed tensor.
    fn alloc(&mut self, kind: Kind, dims: [usize; 4]) -> Tensor;
    /// Copies from the host; blocks until everything before it is done.
    ///
    /// # Errors
    /// Like those of [`read`](Executor::read); the first write also claims the memory of all
    /// tensors allocated so far, which may not be there.
    fn write(&mut self, to: Tensor, values: &[f32]) -> Result<(), DeviceError>;
    /// Copies to the host; blocks until everything before it is done.
    ///
    /// # Errors
    /// Whatever has failed on the device since the last call that could say so.
    fn read(&mut self, from: Tensor) -> Result<Vec<f32>, DeviceError>;
    /// Copies labels from the host; −100 marks a row that the loss ignores.
    ///
    /// # Errors
    /// As [`write`](Executor::write).
    fn write_labels(&mut self, to: Tensor, labels: &[i32]) -> Result<(), DeviceError>;
    /// Copies labels to the host.
    ///
    /// # Errors
    /// As [`read`](Executor::read).
    fn read_labels(&mut self, from: Tensor) -> Result<Vec<i32>, DeviceError>;
    /// How often the host has blocked on the device. Always 0 on `cpu`.
    fn host_syncs(&self) -> u64;
    /// Whether the device still works, without waiting for it: for a host that sees no progress.
    ///
    /// # Errors
    /// The failure of a kernel launched before.
    fn check(&mut self) -> Result<(), DeviceError>;
    /// The same, for a host that has waited so long for `step`. On devices this also says on standard
    /// error what is still running when that takes unusually long.
    ///
    /// # Errors
    /// As [`check`](Executor::check); [`DeviceError::Hung`] after `AUTOASSIST_STEP_LIMIT`, and
    /// [`DeviceError::Interrupted`] before, where who is [obeyed](Executor::obey) has no time.
    fn overdue(&mut self, step: u64, waited: Duration) -> Result<(), DeviceError> {
        let _ = (step, waited);
        self.check()
    }
    /// Waits until all that was launched is complete.
    ///
    /// # Errors
    /// As [`check`](Executor::check).
    fn complete(&mut self) -> Result<(), DeviceError> {
        self.check()
    }
    /// From now on waits for no device that hangs once `interrupt` is set.
    fn obey(&mut self, interrupt: Arc<AtomicBool>) {
        drop(interrupt);
    }

    /// Makes a data set resident.
    fn attach_images(&mut self, images: Arc<Images>) -> DataId;
    /// A new ring in memory that both sides see, into which from now on
    /// [`softmax_xent`](Executor::softmax_xent) stores its records.
    ///
    /// # Errors
    /// No memory.
    fn create_ring(&mut self, slots: usize, rows: usize) -> Result<Arc<LossRing>, DeviceError>;
    /// Claims all memory that the steps of a pass and a [shape](StepInputs::shape) will take, and
    /// captures them where there are graphs, so that no step has to. Without it the first step
    /// does.
    ///
    /// # Errors
    /// No memory.
    fn prepare(
        &mut self,
        pass: Pass,
        shape: [u32; 3],
        ops: &dyn Fn(&mut dyn Executor),
    ) -> Result<(), DeviceError>;
    /// One step on these inputs: runs `ops`, which must be the same at every step of a pass and a
    /// shape (a GPU captures them once for each and then replays the graph). Does not wait for the device. A training
    /// step may be launched when its slot is free: see [`Drain`](crate::assist::Drain).
    ///
    /// # Errors
    /// No memory, or a failure of the device that is already known.
    fn step(
        &mut self,
        pass: Pass,
        inputs: StepInputs,
        ops: &dyn Fn(&mut dyn Executor),
    ) -> Result<(), DeviceError>;

    /// Fills the batch from the step's ids: crop, flip, `(u8/255 − mean)/std` per channel. `x` is
    /// `[N, H, W, C]`, `labels` and `weights` `[N]`. Rows past the last id are zero with label −100
    /// and weight 0.
    fn gather(
        &mut self,
        data: DataId,
        augment: Augment,
        x: Tensor,
        labels: Tensor,
        weights: Tensor,
    );

    /// `y[n,i,j,o] = Σ_{a,b,c} load(x)[n, i·s+a−p, j·s+b−p, c]·w[o,a,b,c]`; padding is zero *after*
    /// the load's transform. If `moments` is given its `mean` and `var` are set to those of `y`
    /// over N, H, W.
    fn conv2d(&mut self, x: Load, w: Tensor, window: Window, y: Tensor, moments: Option<BatchNorm>);
    /// `dw` from `load(x)` and the output gradient, and `dx` unless it is not wanted (a network's
    /// first layer).
    fn conv2d_backward(
        &mut self,
        x: Load,
        w: Tensor,
        window: Window,
        dy: Grad,
        dw: Tensor,
        dx: Option<InputGrad>,
    );

    /// Sets `bn.mean` and `bn.var` from `x` (where no convolution has done it).
    fn moments(&mut self, x: Tensor, bn: BatchNorm);
    /// From `mean` and `var` over `count` elements: `invstd`, `scale`, `shift`, and the running
    /// statistics.
    fn bn_train(&mut self, bn: BatchNorm, count: usize);
    /// From the running statistics: `scale` and `shift`.
    fn bn_eval(&mut self, bn: BatchNorm);
    /// `y = act(scale·x + shift [+ load(residual)])`.
    fn bn_apply(&mut self, x: Tensor, bn: BatchNorm, residual: Option<Load>, relu: bool, y: Tensor);
    /// In place `g ← g·[y > 0]` if `y` (the output of the ReLU) is given; then `dbeta = Σ g`,
    /// `dgamma = Σ g·x̂`.
    fn bn_backward_sums(&mut self, g: Tensor, y: Option<Tensor>, x: Tensor, bn: BatchNorm);
    /// `dx` from [`Grad`]'s formula, for where no convolution reads it.
    fn bn_backward(&mut self, dy: Grad, dx: Tensor);

    /// `pooled[n,c] = mean_{h,w} x`, `y = pooled·wᵀ + b`. `w` is `[O, C]`.
    fn gap_linear(&mut self, x: Tensor, w: Tensor, b: Tensor, pooled: Tensor, y: Tensor);
    /// Gradients of [`gap_linear`](Executor::gap_linear).
    fn gap_linear_backward(
        &mut self,
        pooled: Tensor,
        w: Tensor,
        dy: Tensor,
        dx: Tensor,
        dw: Tensor,
        db: Tensor,
    );

    /// Per row: `loss = −Σ_c q_c·log_softmax(logits)_c` with `q_c = (1−ε)[c = label] + ε/C`
    /// (without the weight), `dlogits = weight/n_valid· (softmax − q)`, and whether the largest
    /// logit (the first of equals) is the label's. Rows labelled −100 give zeros and do not count
    /// in `n_valid`. With `record`, each row's loss and right bit also go into the attached ring.
    fn softmax_xent(
        &mut self,
        logits: Tensor,
        labels: Tensor,
        weights: Tensor,
        smoothing: f32,
        out: LossOutputs,
        record: bool,
    );

    /// Begins to make of `t`, in place, the mean over all [ranks](crate::world): of what is ready, while
    /// the backward pass goes on, in the same order on all ranks. Nothing where there is one.
    fn all_reduce(&mut self, t: Tensor);
    /// Ends what [`all_reduce`](Executor::all_reduce) has begun. Brings the records of all ranks' rows
    /// to every rank and stores them in the ring, by their rows in the whole step, and behind them the
    /// number of ranks that vote to stop, as a loss. Nothing where there is one rank, whose losses are
    /// recorded in the ring at once.
    fn share_results(&mut self);

    /// PyTorch's SGD on flat buffers, with `scale` 1 if there is none: `g = scale·grad + wd·p; buf =
    /// µ·buf + g; p −= lr·(nesterov ? g + µ·buf : buf)`. With Nesterov's look-ahead and no decay this
    /// is fairseq's NAG, whose velocity is `−lr·buf`, however lr changes.
    fn sgd(
        &mut self,
        params: Tensor,
        grads: Tensor,
        buf: Tensor,
        config: Sgd,
        scale: Option<Tensor>,
    );

    /// The ops of sequence networks, where the executor has them. The way to them within a
    /// [`step`](Executor::step).
    fn sequence(&mut self) -> Option<&mut dyn Sequence> {
        None
    }
}
