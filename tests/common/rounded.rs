//! The naive low-precision computation that a bf16 kernel is measured against: one op after the
//! other, nothing fused, each computed in f32 on the CPU and its result rounded to bf16.

#[path = "rounded_recurrent.rs"]
mod recurrent;
#[path = "rounded_sequence.rs"]
mod sequence;

use autoassist::assist::LossRing;
use autoassist::backend::cpu::Cpu;
use autoassist::backend::sequence::Sequence;
use autoassist::backend::{
    Augment, BatchNorm, DataId, DeviceError, Executor, Grad, InputGrad, Kind, Load, LossOutputs,
    Pass, Precision, Sgd, StepInputs, Tensor, Window,
};
use autoassist::data::Images;
use autoassist::rng::Stream;
use half::bf16;
use std::sync::Arc;

/// The CPU with activations in bf16.
pub struct Rounded {
    cpu: Cpu,
    dither: Option<Stream>,
    /// Of each tensor, by the number that the CPU gave it.
    kinds: Vec<(Tensor, Kind)>,
}

impl Rounded {
    /// Rounds to nearest.
    pub fn new(cpu: Cpu) -> Rounded {
        Rounded {
            cpu,
            dither: None,
            kinds: Vec::new(),
        }
    }

    /// Rounds up or down at random, so that a number's mean is itself: where a computation is
    /// chaotic, one of many that are equally good.
    pub fn dithered(cpu: Cpu, seed: u64) -> Rounded {
        Rounded {
            dither: Some(Stream::new(seed, 0, 0)),
            ..Rounded::new(cpu)
        }
    }

    fn rounded(&mut self, values: &[f32]) -> Vec<f32> {
        let round = |v: &f32| match &mut self.dither {
            Some(random) if v.is_finite() => {
                let below = v.to_bits() + (random.bits() >> 48) as u32;
                f32::from_bits(below & 0xffff_0000)
            }
            _ => bf16::from_f32(*v).to_f32(),
        };
        values.iter().map(round).collect()
    }

    fn get(&mut self, t: Tensor) -> Vec<f32> {
        self.cpu.read(t).expect("the CPU does not fail")
    }

    fn set(&mut self, t: Tensor, values: &[f32]) {
        self.cpu.write(t, values).expect("the CPU does not fail");
    }

    /// Rounds a result that was just computed.
    fn round(&mut self, t: Tensor) {
        let values = self.get(t);
        let values = self.rounded(&values);
        self.set(t, &values);
    }

    /// A weight as a low-precision op reads it.
    fn cast(&mut self, t: Tensor) -> Tensor {
        let copy = self.cpu.alloc(Kind::Float, t.dims);
        let values = self.get(t);
        let values = self.rounded(&values);
        self.set(copy, &values);
        copy
    }

    /// What an op reads, as a tensor of its own.
    fn load(&mut self, load: Load) -> Tensor {
        let Some(bn) = load.norm else {
            assert!(!load.relu, "networks have no ReLU without a batch norm");
            return load.x;
        };
        let copy = self.cpu.alloc(Kind::Activation, load.x.dims);
        self.cpu.bn_apply(load.x, bn, None, load.relu, copy);
        self.round(copy);
        copy
    }

    /// `f` of the elements of two tensors, rounded.
    fn zip(&mut self, a: Tensor, b: Tensor, to: Tensor, f: impl Fn(f32, f32) -> f32) {
        let (a, b) = (self.get(a), self.get(b));
        let values: Vec<f32> = a.iter().zip(&b).map(|(a, b)| f(*a, *b)).collect();
        let values = self.rounded(&values);
        self.set(to, &values);
    }
}

impl Executor for Rounded {
    fn describe(&self) -> String {
        "naive bf16".into()
    }

    fn precision(&self) -> Precision {
        Precision::Bf16
    }

    fn alloc(&mut self, kind: Kind, dims: [usize; 4]) -> Tensor {
        let tensor = self.cpu.alloc(kind, dims);
        self.kinds.push((tensor, kind));
        tensor
    }

    fn write(&mut self, to: Tensor, values: &[f32]) -> Result<(), DeviceError> {
        let narrow = self
            .kinds
            .iter()
            .any(|(t, kind)| *t == to && *kind == Kind::Activation);
        match narrow {
            true => {
                let values = self.rounded(values);
                self.cpu.write(to, &values)
            }
            false => self.cpu.write(to, values),
        }
    }

    fn read(&mut self, from: Tensor) -> Result<Vec<f32>, DeviceError> {
        self.cpu.read(from)
    }

    fn write_labels(&mut self, to: Tensor, labels: &[i32]) -> Result<(), DeviceError> {
        self.cpu.write_labels(to, labels)
    }

    fn read_labels(&mut self, from: Tensor) -> Result<Vec<i32>, DeviceError> {
        self.cpu.read_labels(from)
    }

    fn host_syncs(&self) -> u64 {
        0
    }

    fn check(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn attach_images(&mut self, images: Arc<Images>) -> DataId {
        self.cpu.attach_images(images)
    }

    fn create_ring(&mut self, slots: usize, rows: usize) -> Result<Arc<LossRing>, DeviceError> {
        self.cpu.create_ring(slots, rows)
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
        pass: Pass,
        inputs: StepInputs,
        ops: &dyn Fn(&mut dyn Executor),
    ) -> Result<(), DeviceError> {
        self.cpu.step(pass, inputs, &|_| ())?;
        ops(self);
        Ok(())
    }

    fn gather(
        &mut self,
        data: DataId,
        augment: Augment,
        x: Tensor,
        labels: Tensor,
        weights: Tensor,
    ) {
        self.cpu.gather(data, augment, x, labels, weights);
        self.round(x);
    }

    fn conv2d(
        &mut self,
        x: Load,
        w: Tensor,
        window: Window,
        y: Tensor,
        moments: Option<BatchNorm>,
    ) {
        let (x, w) = (self.load(x), self.cast(w));
        self.cpu.conv2d(Load::plain(x), w, window, y, None);
        self.round(y);
        if let Some(bn) = moments {
            self.cpu.moments(y, bn);
        }
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
        let (x, w) = (self.load(x), self.cast(w));
        let mut g = dy.g;
        if dy.norm.is_some() {
            g = self.cpu.alloc(Kind::Activation, dy.g.dims);
            self.cpu.bn_backward(dy, g);
            self.round(g);
        }
        let (grad, plain) = (Grad { g, norm: None }, Load::plain(x));
        let Some(spec) = dx else {
            self.cpu.conv2d_backward(plain, w, window, grad, dw, None);
            return;
        };
        let dx = self.cpu.alloc(Kind::Activation, spec.dx.dims);
        let out = InputGrad {
            dx,
            add: None,
            relu: false,
            sums: None,
        };
        self.cpu
            .conv2d_backward(plain, w, window, grad, dw, Some(out));
        self.round(dx);
        if let Some(add) = spec.add {
            self.zip(dx, add, dx, |a, b| a + b);
        }
        if spec.relu {
            self.zip(dx, x, dx, |g, x| if x > 0.0 { g } else { 0.0 });
        }
        if let Some((bn, raw)) = spec.sums {
            self.cpu.bn_backward_sums(dx, None, raw, bn);
        }
        let values = self.get(dx);
        self.set(spec.dx, &values);
    }

    fn moments(&mut self, x: Tensor, bn: BatchNorm) {
        self.cpu.moments(x, bn);
    }

    fn bn_train(&mut self, bn: BatchNorm, count: usize) {
        self.cpu.bn_train(bn, count);
    }

    fn bn_eval(&mut self, bn: BatchNorm) {
        self.cpu.bn_eval(bn);
    }

    fn bn_apply(
        &mut self,
        x: Tensor,
        bn: BatchNorm,
        residual: Option<Load>,
        relu: bool,
        y: Tensor,
    ) {
        let residual = residual.map(|load| self.load(load));
        self.cpu
            .bn_apply(x, bn, None, relu && residual.is_none(), y);
        self.round(y);
        if let Some(residual) = residual {
            self.zip(y, residual, y, |a, b| match a + b {
                sum if relu && sum < 0.0 => 0.0,
                sum => sum,
            });
        }
    }

    fn bn_backward_sums(&mut self, g: Tensor, y: Option<Tensor>, x: Tensor, bn: BatchNorm) {
        self.cpu.bn_backward_sums(g, y, x, bn);
    }

    fn bn_backward(&mut self, dy: Grad, dx: Tensor) {
        self.cpu.bn_backward(dy, dx);
        self.round(dx);
    }

    fn gap_linear(&mut self, x: Tensor, w: Tensor, b: Tensor, pooled: Tensor, y: Tensor) {
        let w = self.cast(w);
        self.cpu.gap_linear(x, w, b, pooled, y);
        self.round(pooled);
        self.round(y);
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
        let w = self.cast(w);
        self.cpu.gap_linear_backward(pooled, w, dy, dx, dw, db);
        self.round(dx);
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
        self.cpu
            .softmax_xent(logits, labels, weights, smoothing, out, record);
        self.round(out.dlogits);
    }

    fn all_reduce(&mut self, t: Tensor) {
        self.cpu.all_reduce(t);
    }

    fn share_results(&mut self) {
        self.cpu.share_results();
    }

    fn sgd(
        &mut self,
        params: Tensor,
        grads: Tensor,
        buf: Tensor,
        config: Sgd,
        scale: Option<Tensor>,
    ) {
        self.cpu.sgd(params, grads, buf, config, scale);
    }

    fn sequence(&mut self) -> Option<&mut dyn Sequence> {
        Some(self)
    }
}
