//! The op set in Rust: vector code chosen at run time, one image or a chunk of rows a rayon task.
//!
//! Activations are stored as f32 or, under [`Precision::Bf16`], as bf16; either way ops compute in
//! f32. Every reduction is cut into pieces by the shapes alone and added up in a fixed order, so
//! results do not depend on the number of threads.

mod activation;
mod adam;
mod attention;
mod conv;
mod convolutional;
mod dropout;
mod elements;
mod embedding;
mod gather;
pub mod gemm;
mod glu_conv;
mod layer_norm;
mod linear;
mod linear_layer;
mod loss;
mod lstm;
mod math;
mod memory;
mod norm;
mod optim;
mod records;
mod recurrent;
mod scratch;
mod sentence_loss;
mod sequence;
pub mod simd;
mod slice;
#[cfg(test)]
mod testing;
pub mod tiles;
mod weight_norm;
mod wide_attention;

use super::sequence::Sequence;
use super::{
    Augment, BN_MOMENTUM, BatchNorm, DataId, DeviceError, Executor, Grad, InputGrad, Kind, Load,
    LossOutputs, Pass, Precision, Sgd, StepInputs, Tensor, Window,
};
use crate::assist::LossRing;
use crate::data::Images;
use crate::data::pairs::SentencePairs;
use crate::world::{Mean, world};
use conv::{Add, ConvShape, Convolved, GradSource, InputGradOut, NormBackward, Source, Sums};
use half::bf16;
use memory::{Memory, Others};
use norm::Normalised;
use records::Records;
pub use simd::IsaError;
use simd::{Buffer, Isa};
use slice::{SliceMut, Store, Stored};
use std::sync::Arc;

/// The CPU as an [`Executor`].
pub struct Cpu {
    isa: Isa,
    precision: Precision,
    memory: Memory,
    labels: Vec<Vec<i32>>,
    images: Vec<Arc<Images>>,
    pairs: Vec<Arc<SentencePairs>>,
    records: Records,
    inputs: StepInputs,
    /// Of gradients that are ready, under way.
    means: Vec<Mean>,
    /// Of a step's exchange with the other ranks.
    fault: Option<DeviceError>,
}

impl Cpu {
    /// In f32, with the best instruction set that this machine has, or the one that `AUTOASSIST_ISA`
    /// names.
    ///
    /// # Errors
    /// A name that is unknown, or that this machine lacks.
    pub fn new() -> Result<Cpu, IsaError> {
        Ok(Cpu::with_isa(Isa::detect()?))
    }

    /// In f32, with a given instruction set.
    pub fn with_isa(isa: Isa) -> Cpu {
        Cpu::with(isa, Precision::F32)
    }

    /// With a given instruction set.
    pub fn with(isa: Isa, precision: Precision) -> Cpu {
        let isa = match precision {
            Precision::F32 => isa.vectors(),
            Precision::Bf16 => isa.fused(),
        };
        Cpu {
            isa,
            precision,
            memory: Memory::new(isa),
            labels: Vec::new(),
            images: Vec::new(),
            pairs: Vec::new(),
            records: Records::default(),
            inputs: StepInputs::default(),
            means: Vec::new(),
            fault: None,
        }
    }
}

impl Cpu {
    /// Between two ops of a backward pass: lets the exchange of what is ready go on.
    fn advance(&mut self) {
        let advanced = self.means.iter_mut().try_for_each(Mean::advance);
        self.note(advanced);
    }

    /// Keeps the first failure of a step.
    fn note(&mut self, result: Result<(), DeviceError>) {
        if let Err(e) = result {
            self.fault.get_or_insert(e);
        }
    }
}

/// Evaluates an expression with a type's name for what activations are stored as.
macro_rules! with_stored {
    ($cpu:ident, $element:ident => $body:expr) => {
        match $cpu.precision {
            Precision::F32 => {
                type $element = f32;
                $body
            }
            Precision::Bf16 => {
                type $element = bf16;
                $body
            }
        }
    };
}

/// A [`Load`] as the kernels take it.
fn source<'a, E: Stored>(memory: &'a Others, load: Load) -> Source<'a, E> {
    let coefficients = |bn: BatchNorm| (memory.get(bn.scale), memory.get(bn.shift));
    Source {
        x: E::of(memory.slice(load.x)),
        affine: load.norm.map(coefficients),
        relu: load.relu,
    }
}

/// A batch norm's backward pass as the kernels take it; `y` is its input.
fn norm_backward<'a, E: Stored>(
    memory: &'a Others,
    bn: BatchNorm,
    y: Tensor,
) -> NormBackward<'a, E> {
    NormBackward {
        y: E::of(memory.slice(y)),
        mean: memory.get(bn.mean),
        invstd: memory.get(bn.invstd),
        scale: memory.get(bn.scale),
        dgamma: memory.get(bn.dgamma),
        dbeta: memory.get(bn.dbeta),
    }
}

/// The other branch's gradient as the kernels take it.
fn added<'a, E: Stored>(memory: &'a Others, spec: &InputGrad) -> Add<'a, E> {
    match spec.add {
        None => Add::None,
        Some(t) if t == spec.dx => Add::InPlace,
        Some(t) => Add::From(E::of(memory.slice(t))),
    }
}

impl Cpu {
    fn forward_conv<E: Stored + Convolved>(
        &mut self,
        x: Load,
        w: Tensor,
        window: Window,
        y: Tensor,
        moments: Option<BatchNorm>,
    ) {
        let (isa, shape) = (self.isa, conv_shape(x.x, w, window));
        let forward = |memory: &Others, y: SliceMut, moments: Option<(&mut [f32], &mut [f32])>| {
            let (source, w) = (source::<E>(memory, x), memory.get(w));
            E::forward(isa, &shape, source, w, E::of_mut(y), moments);
        };
        let memory = &mut self.memory;
        match moments {
            None => memory.write_native([y], |memory, [y]| forward(memory, y, None)),
            Some(bn) => {
                let out = [y, bn.mean, bn.var];
                memory.write_native(out, |memory, [y, mean, var]| {
                    forward(memory, y, Some((mean.f32(), var.f32())));
                });
            }
        }
    }

    fn backward_conv<E: Stored + Convolved>(
        &mut self,
        x: Load,
        w: Tensor,
        window: Window,
        dy: Grad,
        dw: Tensor,
        dx: Option<InputGrad>,
    ) {
        let (isa, shape) = (self.isa, conv_shape(x.x, w, window));
        let backward = |memory: &Others, dw: SliceMut, out: Option<InputGradOut<E>>| {
            let grad = GradSource {
                g: E::of(memory.slice(dy.g)),
                norm: dy.norm.map(|(bn, y)| norm_backward(memory, bn, y)),
            };
            let (source, w) = (source(memory, x), memory.get(w));
            E::backward(isa, &shape, source, w, grad, dw.f32(), out);
        };
        let memory = &mut self.memory;
        let Some(spec) = dx else {
            memory.write_native([dw], |memory, [dw]| backward(memory, dw, None));
            return;
        };
        let relu = spec.relu;
        match spec.sums {
            None => memory.write_native([dw, spec.dx], |memory, [dw, dx]| {
                let out = InputGradOut {
                    dx: E::of_mut(dx),
                    add: added(memory, &spec),
                    relu,
                    sums: None,
                };
                backward(memory, dw, Some(out));
            }),
            Some((bn, raw)) => {
                let out = [dw, spec.dx, bn.dgamma, bn.dbeta];
                memory.write_native(out, |memory, [dw, dx, dgamma, dbeta]| {
                    let sums = Some(Sums {
                        raw: E::of(memory.slice(raw)),
                        mean: memory.get(bn.mean),
                        invstd: memory.get(bn.invstd),
                        dgamma: dgamma.f32(),
                        dbeta: dbeta.f32(),
                    });
                    let out = InputGradOut {
                        dx: E::of_mut(dx),
                        add: added(memory, &spec),
                        relu,
                        sums,
                    };
                    backward(memory, dw, Some(out));
                });
            }
        }
    }
}

fn labels_of(labels: &[Vec<i32>], t: Tensor) -> &[i32] {
    &labels[t.buffer][t.range()]
}

fn conv_shape(x: Tensor, w: Tensor, window: Window) -> ConvShape {
    let [n, h, width, ci] = x.dims;
    let [co, kernel, kw, wi] = w.dims;
    assert_eq!(
        (kernel, ci),
        (kw, wi),
        "weights {:?} do not fit an input {:?}",
        w.dims,
        x.dims
    );
    ConvShape {
        n,
        h,
        w: width,
        ci,
        co,
        kernel,
        stride: window.stride,
        pad: window.pad,
    }
}

impl Executor for Cpu {
    fn describe(&self) -> String {
        let precision = match self.precision {
            Precision::F32 => "",
            Precision::Bf16 => "bf16, ",
        };
        let threads = rayon::current_num_threads();
        format!("cpu ({precision}{}, {threads} threads)", self.isa)
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn alloc(&mut self, kind: Kind, dims: [usize; 4]) -> Tensor {
        let len = dims.iter().product();
        let buffer = match kind {
            Kind::Activation if self.precision == Precision::Bf16 => {
                self.memory.add(Store::Bf16(Buffer::zeroed(len)))
            }
            Kind::Activation | Kind::Float => self.memory.add(Store::F32(Buffer::zeroed(len))),
            Kind::Label => {
                self.labels.push(vec![0; len]);
                self.labels.len() - 1
            }
        };
        Tensor {
            buffer,
            offset: 0,
            dims,
        }
    }

    fn write(&mut self, to: Tensor, values: &[f32]) -> Result<(), DeviceError> {
        self.memory.set(to, values);
        Ok(())
    }

    fn read(&mut self, from: Tensor) -> Result<Vec<f32>, DeviceError> {
        Ok(self.memory.read(from))
    }

    fn write_labels(&mut self, to: Tensor, labels: &[i32]) -> Result<(), DeviceError> {
        self.labels[to.buffer][to.range()].copy_from_slice(labels);
        Ok(())
    }

    fn read_labels(&mut self, from: Tensor) -> Result<Vec<i32>, DeviceError> {
        Ok(labels_of(&self.labels, from).to_vec())
    }

    fn host_syncs(&self) -> u64 {
        0
    }

    fn check(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn attach_images(&mut self, images: Arc<Images>) -> DataId {
        self.images.push(images);
        DataId(self.images.len() - 1)
    }

    fn create_ring(&mut self, slots: usize, rows: usize) -> Result<Arc<LossRing>, DeviceError> {
        let ring = Arc::new(LossRing::new(slots, rows));
        self.records = Records::into(ring.clone());
        Ok(ring)
    }

    fn prepare(
        &mut self,
        _: Pass,
        _: [u32; 3],
        _: &dyn Fn(&mut dyn Executor),
    ) -> Result<(), DeviceError> {
        Ok(())
    }

    fn step(
        &mut self,
        _: Pass,
        inputs: StepInputs,
        ops: &dyn Fn(&mut dyn Executor),
    ) -> Result<(), DeviceError> {
        assert!(inputs.weights.is_empty() || inputs.weights.len() == inputs.ids.len());
        self.inputs = inputs;
        ops(self);
        self.fault.take().map_or(Ok(()), Err)
    }

    fn gather(
        &mut self,
        data: DataId,
        augment: Augment,
        x: Tensor,
        labels: Tensor,
        weights: Tensor,
    ) {
        let (images, inputs) = (&self.images[data.0], &self.inputs);
        let shape = [images.height, images.width, images.channels];
        assert_eq!(x.dims[1..], shape, "batch and images differ in shape");
        let classes = &mut self.labels[labels.buffer][labels.range()];
        with_stored!(self, E => self.memory.write_native([x, weights], |_, [x, weights]| {
            gather::gather(images, inputs, augment, E::of_mut(x));
            gather::rows(images, inputs, classes, weights.f32());
        }));
    }

    fn conv2d(
        &mut self,
        x: Load,
        w: Tensor,
        window: Window,
        y: Tensor,
        moments: Option<BatchNorm>,
    ) {
        with_stored!(self, E => self.forward_conv::<E>(x, w, window, y, moments));
    }

    fn conv2d_backward(
        &mut self,
        x: Load,
        w: Tensor,
        window: Window,
        dy: Grad,
        dw: Tensor,
        dx: Option<InputGrad>,
    ) {
        self.advance();
        with_stored!(self, E => self.backward_conv::<E>(x, w, window, dy, dw, dx));
    }

    fn moments(&mut self, x: Tensor, bn: BatchNorm) {
        let isa = self.isa;
        let out = [bn.mean, bn.var];
        with_stored!(self, E => self.memory.write(out, |memory, [mean, var]| {
            norm::moments(isa, E::of(memory.slice(x)), mean, var);
        }));
    }

    fn bn_train(&mut self, bn: BatchNorm, count: usize) {
        // One element has no unbiased variance; the biased one, 0, stands in for it.
        let unbias = count as f32 / (count.max(2) - 1) as f32;
        let update = |running: &mut f32, now: f32| {
            *running = (1.0 - BN_MOMENTUM) * *running + BN_MOMENTUM * now;
        };
        let out = [
            bn.invstd,
            bn.scale,
            bn.shift,
            bn.running_mean,
            bn.running_var,
        ];
        self.memory.write(
            out,
            |memory, [invstd, scale, shift, running_mean, running_var]| {
                let [gamma, beta, mean, var] =
                    [bn.gamma, bn.beta, bn.mean, bn.var].map(|t| memory.get(t));
                for c in 0..gamma.len() {
                    let inverse = norm::invstd(var[c]);
                    invstd[c] = inverse as f32;
                    (scale[c], shift[c]) = norm::affine(gamma[c], beta[c], mean[c], inverse);
                    update(&mut running_mean[c], mean[c]);
                    update(&mut running_var[c], var[c] * unbias);
                }
            },
        );
    }

    fn bn_eval(&mut self, bn: BatchNorm) {
        self.memory
            .write([bn.scale, bn.shift], |memory, [scale, shift]| {
                let [gamma, beta, mean, var] =
                    [bn.gamma, bn.beta, bn.running_mean, bn.running_var].map(|t| memory.get(t));
                for c in 0..gamma.len() {
                    let inverse = norm::invstd(var[c]);
                    (scale[c], shift[c]) = norm::affine(gamma[c], beta[c], mean[c], inverse);
                }
            });
    }

    fn bn_apply(
        &mut self,
        x: Tensor,
        bn: BatchNorm,
        residual: Option<Load>,
        relu: bool,
        y: Tensor,
    ) {
        let isa = self.isa;
        with_stored!(self, E => self.memory.write_native([y], |memory, [y]| {
            let input = source::<E>(memory, Load::norm(x, bn));
            let shortcut = residual.map(|load| source(memory, load));
            norm::apply(isa, input, shortcut, relu, x.dims[3], E::of_mut(y));
        }));
    }

    fn bn_backward_sums(&mut self, g: Tensor, y: Option<Tensor>, x: Tensor, bn: BatchNorm) {
        let isa = self.isa;
        let out = [g, bn.dgamma, bn.dbeta];
        with_stored!(self, E => self.memory.write_native(out, |memory, [g, dgamma, dbeta]| {
            let input = Normalised {
                x: E::of(memory.slice(x)),
                mean: memory.get(bn.mean),
                invstd: memory.get(bn.invstd),
            };
            let (g, y) = (E::of_mut(g), y.map(|y| E::of(memory.slice(y))));
            norm::backward_sums(isa, g, y, input, dgamma.f32(), dbeta.f32());
        }));
    }

    fn bn_backward(&mut self, dy: Grad, dx: Tensor) {
        let (bn, y) = dy.norm.expect("there is a batch norm to pass back through");
        let isa = self.isa;
        with_stored!(self, E => self.memory.write_native([dx], |memory, [dx]| {
            let g = E::of(memory.slice(dy.g));
            norm::backward(isa, g, norm_backward(memory, bn, y), E::of_mut(dx));
        }));
    }

    fn gap_linear(&mut self, x: Tensor, w: Tensor, b: Tensor, pooled: Tensor, y: Tensor) {
        let isa = self.isa;
        with_stored!(self, E => self.memory.write([pooled, y], |memory, [pooled, y]| {
            let input = linear::Input {
                x: E::of(memory.slice(x)),
                dims: x.dims,
                w: memory.get(w),
                b: memory.get(b),
            };
            linear::forward(isa, input, pooled, y);
        }));
    }

    fn gap_linear_backward(
        &mut self,
        pooled: Tensor,
        w: Tensor,
        dy: Tensor,
        dx: Tensor,
        dw: Tensor,
        db: Tensor,
    ) {
        let isa = self.isa;
        let out = [dx, dw, db];
        with_stored!(self, E => self.memory.write_native(out, |memory, [dx_out, dw, db]| {
            let input = linear::GradInput {
                pooled: memory.get(pooled),
                w: memory.get(w),
                dy: memory.get(dy),
                dims: dx.dims,
            };
            linear::backward(isa, input, E::of_mut(dx_out), dw.f32(), db.f32());
        }));
    }

    fn softmax_xent(
        &mut self,
        logits: Tensor,
        labels: Tensor,
        weights: Tensor,
        smoothing: f32,
        out: LossOutputs,
        record: bool,
    ) {
        let (inputs, records) = (&self.inputs, record.then_some(&mut self.records));
        let isa = self.isa;
        let labels = labels_of(&self.labels, labels);
        let written = [out.dlogits, out.loss, out.right];
        self.memory
            .write(written, |memory, [dlogits, loss, right]| {
                let rows = loss::Rows {
                    logits: memory.get(logits),
                    labels,
                    weights: memory.get(weights),
                    smoothing,
                };
                loss::softmax_xent(isa, &rows, dlogits, loss, right);
                if let Some(records) = records {
                    records.store(inputs, loss, right);
                }
            });
    }

    fn sequence(&mut self) -> Option<&mut dyn Sequence> {
        Some(self)
    }

    fn all_reduce(&mut self, t: Tensor) {
        if world().is_shared() {
            let x = self.memory.pointer(t);
            // SAFETY: buffers do not move, ops that follow leave the tensor alone, and the engine
            // touches it only while it is called, which is in no op: `advance` and `share_results`.
            let begun = unsafe { world().begin_mean(x) };
            let begun = begun.map(|mean| self.means.push(mean));
            self.note(begun);
        }
    }

    fn share_results(&mut self) {
        if world().is_shared() {
            for mean in std::mem::take(&mut self.means) {
                let ended = mean.end();
                self.note(ended);
            }
            let shared = self.records.share(&self.inputs);
            self.note(shared);
        }
    }

    fn sgd(
        &mut self,
        params: Tensor,
        grads: Tensor,
        buf: Tensor,
        config: Sgd,
        scale: Option<Tensor>,
    ) {
        let (isa, lr) = (self.isa, self.inputs.lr);
        self.memory.write([params, buf], |memory, [params, buf]| {
            let scale = scale.map_or(1.0, |scale| memory.get(scale)[0]);
            optim::sgd(isa, params, (memory.get(grads), scale), buf, lr, config);
        });
    }
}
