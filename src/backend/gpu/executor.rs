//! [`Gpu`] as an [`Executor`]: memory and steps here, ops in the file of each.

use super::arena::Purpose;
use super::ops::share::{self, Shared};
use super::ops::{conv, gather, linear, loss, norm, optim};
use super::{Buffer, Gpu, Held, Ring, SLOTS, bytes_of};
use crate::assist::LossRing;
use crate::backend::sequence::Sequence;
use crate::backend::{
    Augment, BatchNorm, DataId, DeviceError, Executor, Grad, InputGrad, Kind, Load, LossOutputs,
    Pass, Precision, Sgd, StepInputs, Tensor, Window,
};
use crate::data::Images;
use crate::world::world;
use half::bf16;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

impl Executor for Gpu {
    fn describe(&self) -> String {
        self.stream.describe()
    }

    fn precision(&self) -> Precision {
        Precision::Bf16
    }

    fn alloc(&mut self, kind: Kind, dims: [usize; 4]) -> Tensor {
        let purpose = match kind {
            Kind::Activation => Purpose::Activations,
            Kind::Float => Purpose::Parameters,
            Kind::Label => Purpose::Steps,
        };
        let bytes = dims.iter().product::<usize>() * bytes_of(kind);
        let block = self.arena.plan(purpose, bytes);
        self.buffers.push(Buffer { kind, block });
        Tensor {
            buffer: self.buffers.len() - 1,
            offset: 0,
            dims,
        }
    }

    fn write(&mut self, to: Tensor, values: &[f32]) -> Result<(), DeviceError> {
        assert_eq!(to.len(), values.len(), "a tensor of {:?}", to.dims);
        self.claim()?;
        let rounded: Vec<bf16>;
        let bytes: &[u8] = match self.buffers[to.buffer].kind {
            Kind::Activation => {
                rounded = values.iter().map(|v| bf16::from_f32(*v)).collect();
                bytemuck::cast_slice(&rounded)
            }
            Kind::Float => bytemuck::cast_slice(values),
            Kind::Label => panic!("labels are written by write_labels"),
        };
        let address = self.locate(to);
        self.block(|driver| driver.upload(address, bytes))
    }

    fn read(&mut self, from: Tensor) -> Result<Vec<f32>, DeviceError> {
        self.claim()?;
        let kind = self.buffers[from.buffer].kind;
        let mut bytes = vec![0_u8; from.len() * bytes_of(kind)];
        let address = self.locate(from);
        self.block(|driver| driver.download(address, &mut bytes))?;
        Ok(match kind {
            Kind::Activation => {
                let (pairs, _) = bytes.as_chunks::<2>();
                pairs
                    .iter()
                    .map(|b| bf16::from_le_bytes(*b).to_f32())
                    .collect()
            }
            Kind::Float => {
                let (words, _) = bytes.as_chunks::<4>();
                words.iter().map(|b| f32::from_le_bytes(*b)).collect()
            }
            Kind::Label => panic!("labels are read by read_labels"),
        })
    }

    fn write_labels(&mut self, to: Tensor, labels: &[i32]) -> Result<(), DeviceError> {
        assert_eq!(to.len(), labels.len(), "labels of {:?}", to.dims);
        self.claim()?;
        let address = self.locate(to);
        self.block(|driver| driver.upload(address, bytemuck::cast_slice(labels)))
    }

    fn read_labels(&mut self, from: Tensor) -> Result<Vec<i32>, DeviceError> {
        self.claim()?;
        let mut labels = vec![0_i32; from.len()];
        let address = self.locate(from);
        self.block(|driver| driver.download(address, bytemuck::cast_slice_mut(&mut labels)))?;
        Ok(labels)
    }

    fn host_syncs(&self) -> u64 {
        self.stream.syncs()
    }

    fn check(&mut self) -> Result<(), DeviceError> {
        self.known_fault()?;
        let idle = self.stream.is_idle().map(|_| ());
        self.note(idle);
        self.known_fault()
    }

    fn overdue(&mut self, step: u64, waited: Duration) -> Result<(), DeviceError> {
        self.check()?;
        self.look(Some(step), waited)
    }

    fn complete(&mut self) -> Result<(), DeviceError> {
        self.block(|_| Ok(()))
    }

    fn obey(&mut self, interrupt: Arc<AtomicBool>) {
        self.patience.obey(interrupt);
    }

    fn attach_images(&mut self, images: Arc<Images>) -> DataId {
        self.attach(Held::Images(images))
    }

    fn create_ring(&mut self, slots: usize, rows: usize) -> Result<Arc<LossRing>, DeviceError> {
        let memory = self.block(|driver| driver.alloc_mapped(8 * slots * rows))?;
        // SAFETY: the mapped block has room for the zeroed words and lives as long as its owner,
        // which the ring keeps; kernels store whole words, and the host loads them through the ring.
        let ring = unsafe { LossRing::over(memory.host.cast(), memory.owner.clone(), slots, rows) };
        let host = Arc::new(ring);
        self.ring = Some(Ring {
            host: host.clone(),
            device: memory.device,
        });
        let world = world();
        self.shared = world
            .is_shared()
            .then(|| Shared::plan(self, world.size(), world.words(rows)));
        self.make_steps(slots, rows)?;
        Ok(host)
    }

    fn prepare(
        &mut self,
        pass: Pass,
        shape: [u32; 3],
        ops: &dyn Fn(&mut dyn Executor),
    ) -> Result<(), DeviceError> {
        self.claim()?;
        self.capture_once((pass, shape), ops).map(drop)
    }

    fn step(
        &mut self,
        pass: Pass,
        inputs: StepInputs,
        ops: &dyn Fn(&mut dyn Executor),
    ) -> Result<(), DeviceError> {
        self.claim()?;
        let steps = self.steps.as_ref().expect("made by claim");
        if inputs.ids.len() > steps.capacity {
            let slots = self.ring.as_ref().map_or(SLOTS, |r| r.host.slots());
            self.make_steps(slots, inputs.ids.len())?;
            self.claim()?;
        }
        // Credits say when a training step's slot is free; where there is no ring, and in
        // evaluation, whose results are read after each step anyway, this does.
        let unknown = match pass {
            Pass::Train => self.ring.is_none() && inputs.step >= self.complete + SLOTS as u64,
            Pass::Eval => self.evaluating,
        };
        if unknown {
            self.block(|driver| driver.synchronize())?;
        }
        let Gpu {
            steps,
            arena,
            stream,
            ..
        } = self;
        let steps = steps.as_mut().expect("made by claim");
        if pass == Pass::Train {
            steps.set_counter(arena, stream, inputs.step)?;
        }
        steps.write(pass, &inputs);
        let key = (pass, inputs.shape);
        let new = self.capture_once(key, ops)?;
        if cfg!(debug_assertions) && !new {
            let launches = self.plan(pass, ops);
            let captured = &self.graphs[&key];
            assert!(
                captured.launches.len() == launches.len()
                    && captured
                        .launches
                        .iter()
                        .zip(&launches)
                        .all(|(a, b)| a.is_like(b)),
                "the ops of a step changed: {key:?}"
            );
        }
        let graph = self.graphs[&key].graph;
        self.set_out(key, inputs.step);
        let replayed = self.stream.replay(graph);
        match pass {
            Pass::Train => self.launched = inputs.step + 1,
            Pass::Eval => self.evaluating = true,
        }
        self.note(replayed);
        self.known_fault()
    }

    fn gather(
        &mut self,
        data: DataId,
        augment: Augment,
        x: Tensor,
        labels: Tensor,
        weights: Tensor,
    ) {
        self.op(|gpu| {
            let resident = gpu.resident(data);
            gather::gather(gpu, &resident, augment, x, labels, weights);
        });
    }

    fn conv2d(
        &mut self,
        x: Load,
        w: Tensor,
        window: Window,
        y: Tensor,
        moments: Option<BatchNorm>,
    ) {
        self.op(|gpu| conv::conv2d(gpu, x, w, window, y, moments));
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
        self.op(|gpu| conv::conv2d_backward(gpu, x, w, window, dy, dw, dx));
    }

    fn moments(&mut self, x: Tensor, bn: BatchNorm) {
        self.op(|gpu| norm::moments(gpu, x, bn));
    }

    fn bn_train(&mut self, bn: BatchNorm, count: usize) {
        self.op(|gpu| norm::bn_train(gpu, bn, count));
    }

    fn bn_eval(&mut self, bn: BatchNorm) {
        self.op(|gpu| norm::bn_eval(gpu, bn));
    }

    fn bn_apply(
        &mut self,
        x: Tensor,
        bn: BatchNorm,
        residual: Option<Load>,
        relu: bool,
        y: Tensor,
    ) {
        self.op(|gpu| norm::bn_apply(gpu, x, bn, residual, relu, y));
    }

    fn bn_backward_sums(&mut self, g: Tensor, y: Option<Tensor>, x: Tensor, bn: BatchNorm) {
        self.op(|gpu| norm::bn_backward_sums(gpu, g, y, x, bn));
    }

    fn bn_backward(&mut self, dy: Grad, dx: Tensor) {
        self.op(|gpu| norm::bn_backward(gpu, dy, dx));
    }

    fn gap_linear(&mut self, x: Tensor, w: Tensor, b: Tensor, pooled: Tensor, y: Tensor) {
        self.op(|gpu| linear::gap_linear(gpu, x, w, b, pooled, y));
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
        self.op(|gpu| linear::gap_linear_backward(gpu, pooled, w, dy, dx, dw, db));
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
        self.op(|gpu| loss::softmax_xent(gpu, logits, labels, weights, smoothing, out, record));
    }

    fn all_reduce(&mut self, t: Tensor) {
        if world().is_shared() {
            self.op(|gpu| share::all_reduce(gpu, t));
        }
    }

    fn share_results(&mut self) {
        if world().is_shared() {
            self.op(share::share_results);
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
        self.op(|gpu| {
            optim::sgd(gpu, params, grads, buf, config, scale);
            gpu.written(params);
        });
    }

    fn sequence(&mut self) -> Option<&mut dyn Sequence> {
        Some(self)
    }
}
