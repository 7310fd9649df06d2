//! What a network asks of its executor in a step: an executor that computes nothing, and writes
//! every op down with its shapes, what it has to do at least, and how to ask for it again.
//!
//! FLOPs are two a multiply-add of convolutions, linear layers and attention; bytes are those of
//! tensors that must come from and go to memory once.

mod sequence;

use crate::product::Product;
use autoassist::assist::LossRing;
use autoassist::backend::sequence::Sequence;
use autoassist::backend::{
    Augment, BatchNorm, DataId, DeviceError, Executor, Grad, InputGrad, Kind, Load, LossOutputs,
    Pass, Precision, Sgd, StepInputs, Tensor, Window,
};
use autoassist::data::Images;
use std::sync::Arc;

/// What an op must do at least.
#[derive(Clone, Copy, Default)]
pub struct Work {
    pub flops: f64,
    /// Elements of activations, whose size is the executor's choice.
    pub activations: f64,
    /// Elements of 4 bytes.
    pub floats: f64,
}

impl Work {
    fn of(flops: f64, activations: &[Tensor], floats: &[Tensor]) -> Work {
        let elements = |tensors: &[Tensor]| tensors.iter().map(Tensor::len).sum::<usize>() as f64;
        Work {
            flops,
            activations: elements(activations),
            floats: elements(floats),
        }
    }

    /// Bytes, where an activation has so many.
    pub fn bytes(&self, activation: f64) -> f64 {
        activation * self.activations + 4.0 * self.floats
    }
}

/// What another library would have to do for the same.
#[derive(Clone)]
pub enum Task {
    Products(Vec<Product>),
    Convolution(Convolution),
}

/// A convolution of `[N, H, W, Ci]` with `[Co, KH, KW, Ci]`.
#[derive(Clone, Copy)]
pub struct Convolution {
    pub x: [usize; 4],
    pub w: [usize; 4],
    pub window: Window,
    pub wanted: Wanted,
}

/// What of a convolution.
#[derive(Clone, Copy, PartialEq)]
pub enum Wanted {
    Output,
    WeightGrad,
    BothGrads,
}

/// Asks an executor for an op.
type Ask = dyn Fn(&mut dyn Executor) + Send;

/// A call of an op.
pub struct Call {
    /// Op and shape. Calls of one name do the same, but for an operand more or less.
    pub name: String,
    pub work: Work,
    pub task: Option<Task>,
    pub run: Box<Ask>,
}

/// The ops of `step`, in its order. The records of losses are left out: they are for a ring, of
/// which there is none where ops are timed one by one.
pub fn record(step: &dyn Fn(&mut dyn Executor)) -> Vec<Call> {
    let mut recorder = Recorder::default();
    step(&mut recorder);
    recorder.calls
}

#[derive(Default)]
struct Recorder {
    calls: Vec<Call>,
}

impl Recorder {
    fn note(
        &mut self,
        name: String,
        work: Work,
        run: impl Fn(&mut dyn Executor) + Send + 'static,
    ) -> &mut Call {
        self.calls.push(Call {
            name,
            work,
            task: None,
            run: Box::new(run),
        });
        self.calls.last_mut().expect("just pushed")
    }
}

/// `16 at 32`: channels and size of an image.
fn image(x: Tensor) -> String {
    format!("{} at {}", x.dims[3], x.dims[1])
}

/// `3x3 16->32 at 32/2`: window, channels, size and stride.
fn convolution(x: Tensor, w: Tensor, window: Window) -> String {
    let ([_, size, ..], [co, kh, kw, ci]) = (x.dims, w.dims);
    format!("{kh}x{kw} {ci}->{co} at {size}/{}", window.stride)
}

const NO_MEMORY: &str = "a step asks for ops alone";

impl Executor for Recorder {
    fn describe(&self) -> String {
        "recorder".into()
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }

    fn alloc(&mut self, _: Kind, _: [usize; 4]) -> Tensor {
        unreachable!("{NO_MEMORY}")
    }

    fn write(&mut self, _: Tensor, _: &[f32]) -> Result<(), DeviceError> {
        unreachable!("{NO_MEMORY}")
    }

    fn read(&mut self, _: Tensor) -> Result<Vec<f32>, DeviceError> {
        unreachable!("{NO_MEMORY}")
    }

    fn write_labels(&mut self, _: Tensor, _: &[i32]) -> Result<(), DeviceError> {
        unreachable!("{NO_MEMORY}")
    }

    fn read_labels(&mut self, _: Tensor) -> Result<Vec<i32>, DeviceError> {
        unreachable!("{NO_MEMORY}")
    }

    fn host_syncs(&self) -> u64 {
        0
    }

    fn check(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn attach_images(&mut self, _: Arc<Images>) -> DataId {
        unreachable!("{NO_MEMORY}")
    }

    fn create_ring(&mut self, _: usize, _: usize) -> Result<Arc<LossRing>, DeviceError> {
        unreachable!("{NO_MEMORY}")
    }

    fn prepare(
        &mut self,
        _: Pass,
        _: [u32; 3],
        _: &dyn Fn(&mut dyn Executor),
    ) -> Result<(), DeviceError> {
        unreachable!("{NO_MEMORY}")
    }

    fn step(
        &mut self,
        _: Pass,
        _: StepInputs,
        _: &dyn Fn(&mut dyn Executor),
    ) -> Result<(), DeviceError> {
        unreachable!("{NO_MEMORY}")
    }

    fn gather(
        &mut self,
        data: DataId,
        augment: Augment,
        x: Tensor,
        labels: Tensor,
        weights: Tensor,
    ) {
        let mut work = Work::of(0.0, &[x], &[labels, weights]);
        // Pixels are bytes.
        work.floats += x.len() as f64 / 4.0;
        self.note(format!("gather {}", image(x)), work, move |exec| {
            exec.gather(data, augment, x, labels, weights);
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
        let flops = 2.0 * (y.len() / y.dims[3] * w.len()) as f64;
        let name = format!("conv2d {}", convolution(x.x, w, window));
        let work = Work::of(flops, &[x.x, y], &[w]);
        let call = self.note(name, work, move |exec| {
            exec.conv2d(x, w, window, y, moments);
        });
        call.task = Some(Task::Convolution(Convolution {
            x: x.x.dims,
            w: w.dims,
            window,
            wanted: Wanted::Output,
        }));
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
        let name = format!("conv2d_backward {}", convolution(x.x, w, window));
        let mut moved = vec![x.x, dy.g];
        moved.extend(dy.norm.map(|(_, y)| y));
        if let Some(to) = dx {
            moved.push(to.dx);
            moved.extend(to.add);
            moved.extend(to.sums.map(|(_, raw)| raw).filter(|raw| *raw != x.x));
        }
        let (gradients, wanted) = match dx {
            Some(_) => (2.0, Wanted::BothGrads),
            None => (1.0, Wanted::WeightGrad),
        };
        let flops = 2.0 * gradients * (dy.g.len() / dy.g.dims[3] * w.len()) as f64;
        let work = Work::of(flops, &moved, &[w, dw]);
        let call = self.note(name, work, move |exec| {
            exec.conv2d_backward(x, w, window, dy, dw, dx);
        });
        call.task = Some(Task::Convolution(Convolution {
            x: x.x.dims,
            w: w.dims,
            window,
            wanted,
        }));
    }

    fn moments(&mut self, x: Tensor, bn: BatchNorm) {
        let work = Work::of(0.0, &[x], &[]);
        self.note(format!("moments {}", image(x)), work, move |exec| {
            exec.moments(x, bn);
        });
    }

    fn bn_train(&mut self, bn: BatchNorm, count: usize) {
        let statistics = [bn.mean, bn.var, bn.gamma, bn.beta, bn.invstd, bn.scale];
        let running = [bn.shift, bn.running_mean, bn.running_var];
        let work = Work::of(
            0.0,
            &[],
            &[&statistics[..], &running, &running[1..]].concat(),
        );
        self.note(format!("bn_train {}", bn.gamma.len()), work, move |exec| {
            exec.bn_train(bn, count);
        });
    }

    fn bn_eval(&mut self, bn: BatchNorm) {
        let moved = [bn.running_mean, bn.running_var, bn.gamma, bn.beta];
        let work = Work::of(0.0, &[], &[&moved[..], &[bn.scale, bn.shift]].concat());
        self.note(format!("bn_eval {}", bn.gamma.len()), work, move |exec| {
            exec.bn_eval(bn);
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
        let mut moved = vec![x, y];
        moved.extend(residual.map(|load| load.x));
        let work = Work::of(0.0, &moved, &[]);
        self.note(format!("bn_apply {}", image(x)), work, move |exec| {
            exec.bn_apply(x, bn, residual, relu, y);
        });
    }

    fn bn_backward_sums(&mut self, g: Tensor, y: Option<Tensor>, x: Tensor, bn: BatchNorm) {
        let mut moved = vec![g, x];
        // With the ReLU's output the gradient is masked, and stored.
        moved.extend(y.into_iter().flat_map(|y| [y, g]));
        let work = Work::of(0.0, &moved, &[]);
        let name = format!("bn_backward_sums {}", image(x));
        self.note(name, work, move |exec| exec.bn_backward_sums(g, y, x, bn));
    }

    fn bn_backward(&mut self, dy: Grad, dx: Tensor) {
        let mut moved = vec![dy.g, dx];
        moved.extend(dy.norm.map(|(_, y)| y));
        let work = Work::of(0.0, &moved, &[]);
        let name = format!("bn_backward {}", image(dx));
        self.note(name, work, move |exec| exec.bn_backward(dy, dx));
    }

    fn gap_linear(&mut self, x: Tensor, w: Tensor, b: Tensor, pooled: Tensor, y: Tensor) {
        let [.., outputs, inputs] = w.dims;
        let work = Work::of(2.0 * (y.len() * inputs) as f64, &[x, pooled, y], &[w, b]);
        let name = format!("gap_linear {inputs}->{outputs}");
        self.note(name, work, move |exec| exec.gap_linear(x, w, b, pooled, y));
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
        let [.., outputs, inputs] = w.dims;
        let flops = 4.0 * (dy.len() * inputs) as f64;
        let work = Work::of(flops, &[pooled, dy, dx], &[w, dw, db]);
        let name = format!("gap_linear_backward {inputs}->{outputs}");
        self.note(name, work, move |exec| {
            exec.gap_linear_backward(pooled, w, dy, dx, dw, db);
        });
    }

    fn softmax_xent(
        &mut self,
        logits: Tensor,
        labels: Tensor,
        weights: Tensor,
        smoothing: f32,
        out: LossOutputs,
        _: bool,
    ) {
        let floats = [labels, weights, out.loss, out.right];
        let work = Work::of(0.0, &[logits, out.dlogits], &floats);
        let [.., rows, classes] = logits.dims;
        self.note(
            format!("softmax_xent {rows}x{classes}"),
            work,
            move |exec| {
                exec.softmax_xent(logits, labels, weights, smoothing, out, false);
            },
        );
    }

    /// One process has nothing to share.
    fn all_reduce(&mut self, _: Tensor) {}

    fn share_results(&mut self) {}

    fn sgd(
        &mut self,
        params: Tensor,
        grads: Tensor,
        buf: Tensor,
        config: Sgd,
        scale: Option<Tensor>,
    ) {
        let work = Work::of(0.0, &[], &[params, params, grads, buf, buf]);
        self.note(format!("sgd {}", params.len()), work, move |exec| {
            exec.sgd(params, grads, buf, config, scale);
        });
    }

    fn sequence(&mut self) -> Option<&mut dyn Sequence> {
        Some(self)
    }
}
