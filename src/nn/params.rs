//! Named parameters in flat buffers.

use crate::backend::{BatchNorm, DeviceError, Executor, Kind, Tensor};
use crate::data::pairs::PAD;
use crate::rng;
use std::collections::HashMap;

/// Starts of parameters are multiples of this many elements, so that any vector load on any
/// executor is aligned.
const ALIGN: usize = 64;

/// How a fresh parameter is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every element the same.
    Constant(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform in ±this bound.
    Uniform(f32),
    /// The same, but for the row of the token that is padding, which is 0.
    UniformTable(f32),
    /// Normal, but for the row of padding.
    NormalTable(f32),
    /// The length of each row of the tensor before it in the list.
    Lengths,
}

/// One named tensor.
#[derive(Clone, Debug)]
pub struct Entry {
    /// torchvision's name, such as `layer1.0.conv1.weight`.
    pub name: String,
    /// Our shape: convolutions `[Co, KH, KW, Ci]`, those over time `[1, Co, K, Ci]`, matrices `[1,
    /// 1, rows, cols]`, vectors `[1, 1, 1, n]`.
    pub dims: [usize; 4],
    /// Number of dimensions in a file: 4, 3, 2 or 1.
    pub rank: usize,
    init: Init,
    start: usize,
}

/// The list of a network's tensors while it is being drawn up: learned parameters, buffers
/// (running statistics), and numbers that its weight files have beside them.
#[derive(Default)]
pub struct ParamList {
    learned: Vec<Entry>,
    buffers: Vec<Entry>,
    constants: Vec<(String, f32)>,
}

/// Where the last of the list ends.
fn end(list: &[Entry]) -> usize {
    list.last()
        .map_or(0, |e| e.start + e.dims.iter().product::<usize>())
}

fn add(list: &mut Vec<Entry>, name: String, rank: usize, dims: [usize; 4], init: Init) {
    let start = end(list).next_multiple_of(ALIGN);
    list.push(Entry {
        name,
        dims,
        rank,
        init,
        start,
    });
}

/// Standard normal (Box and Muller, 1958).
fn normal(random: &mut rng::Stream) -> f64 {
    let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.f64()).cos()
}

impl ParamList {
    /// `NAME.weight` of a convolution `ci → co`, normal with variance 2/(co·k²) (He et al. 2015,
    /// fan out, as torchvision has it).
    pub fn conv(&mut self, name: &str, co: usize, kernel: usize, ci: usize) {
        let std = (2.0 / (co * kernel * kernel) as f32).sqrt();
        let dims = [co, kernel, kernel, ci];
        add(
            &mut self.learned,
            format!("{name}.weight"),
            4,
            dims,
            Init::Normal(std),
        );
    }

    /// The four tensors of a batch norm over `c` channels.
    pub fn batch_norm(&mut self, name: &str, c: usize) {
        let dims = [1, 1, 1, c];
        add(
            &mut self.learned,
            format!("{name}.weight"),
            1,
            dims,
            Init::Constant(1.0),
        );
        add(
            &mut self.learned,
            format!("{name}.bias"),
            1,
            dims,
            Init::Constant(0.0),
        );
        add(
            &mut self.buffers,
            format!("{name}.running_mean"),
            1,
            dims,
            Init::Constant(0.0),
        );
        add(
            &mut self.buffers,
            format!("{name}.running_var"),
            1,
            dims,
            Init::Constant(1.0),
        );
    }

    /// `NAME.weight` `[out, in]` and `NAME.bias` `[out]`, uniform in ±1/√in (PyTorch's default).
    pub fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        let init = Init::Uniform(1.0 / (inputs as f32).sqrt());
        add(
            &mut self.learned,
            format!("{name}.weight"),
            2,
            [1, 1, outputs, inputs],
            init,
        );
        add(
            &mut self.learned,
            format!("{name}.bias"),
            1,
            [1, 1, 1, outputs],
            init,
        );
    }

    /// `NAME.weight` `[out, in]` and `NAME.bias` `[out]` for each name, the weights one after the
    /// other and so the biases, that one matrix product can do for all of them. Uniform in ±`gain`
    /// √(6/(in + out)) (Glorot, Bengio, 2010), biases 0, as fairseq has it.
    pub fn projections(&mut self, names: &[String], outputs: usize, inputs: usize, gain: f32) {
        let bound = gain * (6.0 / (inputs + outputs) as f32).sqrt();
        let tensors = [
            ("weight", 2, [1, 1, outputs, inputs], Init::Uniform(bound)),
            ("bias", 1, [1, 1, 1, outputs], Init::Constant(0.0)),
        ];
        for (part, rank, dims, init) in tensors {
            let start = end(&self.learned).next_multiple_of(ALIGN);
            let entries = names.iter().enumerate().map(|(i, name)| Entry {
                name: format!("{name}.{part}"),
                dims,
                rank,
                init,
                start: start + i * dims.iter().product::<usize>(),
            });
            self.learned.extend(entries);
        }
    }

    /// `NAME` `[vocab, d]`, normal with variance 1/d.
    pub fn embedding(&mut self, name: &str, vocab: usize, d: usize) {
        let init = Init::Normal((d as f32).powf(-0.5));
        add(&mut self.learned, name.into(), 2, [1, 1, vocab, d], init);
    }

    /// `NAME` `[rows, cols]`, or `[cols]` without rows, drawn so.
    pub fn tensor(&mut self, name: &str, rows: Option<usize>, cols: usize, init: Init) {
        let rank = if rows.is_some() { 2 } else { 1 };
        let dims = [1, 1, rows.unwrap_or(1), cols];
        add(&mut self.learned, name.into(), rank, dims, init);
    }

    /// `NAME.weight_v` `[out, in]`, `NAME.weight_g` `[out, 1]` and `NAME.bias` `[out]` of a linear
    /// layer whose weights are normalised: at first normal with variance `gain`/in, and bias 0.
    pub fn normed_linear(&mut self, name: &str, outputs: usize, inputs: usize, gain: f32) {
        let dims = [[1, 1, outputs, inputs], [1, 1, outputs, 1]];
        self.normed(name, 2, dims, gain / inputs as f32);
    }

    /// The same of a convolution over time, `weight_v` `[out, K, in]`, with variance `gain`/(K·in). In
    /// files `weight_v` is `[K, in, out]` and `weight_g` `[1, 1, out]`.
    pub fn normed_conv(
        &mut self,
        name: &str,
        outputs: usize,
        kernel: usize,
        inputs: usize,
        gain: f32,
    ) {
        let dims = [[1, outputs, kernel, inputs], [1, outputs, 1, 1]];
        self.normed(name, 3, dims, gain / (kernel * inputs) as f32);
    }

    fn normed(&mut self, name: &str, rank: usize, [v, g]: [[usize; 4]; 2], variance: f32) {
        let normal = Init::Normal(variance.sqrt());
        let outputs = g.iter().product();
        let mut tensor = |part, rank, dims, init| {
            add(
                &mut self.learned,
                format!("{name}.{part}"),
                rank,
                dims,
                init,
            );
        };
        tensor("weight_v", rank, v, normal);
        tensor("weight_g", rank, g, Init::Lengths);
        tensor("bias", 1, [1, 1, 1, outputs], Init::Constant(0.0));
    }

    /// `NAME` `[1]`, which weight files must have.
    pub fn constant(&mut self, name: &str, value: f32) {
        self.constants.push((name.into(), value));
    }

    /// `NAME.weight` and `NAME.bias` of a layer norm over rows of `d`.
    pub fn layer_norm(&mut self, name: &str, d: usize) {
        for (part, value) in [("weight", 1.0), ("bias", 0.0)] {
            let init = Init::Constant(value);
            let name = format!("{name}.{part}");
            add(&mut self.learned, name, 1, [1, 1, 1, d], init);
        }
    }

    /// Allocates everything on an executor, zeroed.
    pub fn allocate<E: Executor + ?Sized>(self, exec: &mut E) -> Params {
        let flat = |list: &[Entry]| [1, 1, 1, end(list).next_multiple_of(ALIGN)];
        let (learned, buffers) = (flat(&self.learned), flat(&self.buffers));
        let index = |list: &[Entry]| {
            list.iter()
                .enumerate()
                .map(|(i, e)| (e.name.clone(), i))
                .collect()
        };
        let values = exec.alloc(Kind::Float, learned);
        let reduced = exec.alloc(Kind::Float, [1, 1, 1, learned[3] + buffers[3]]);
        Params {
            learned_index: index(&self.learned),
            buffer_index: index(&self.buffers),
            values,
            reduced,
            grads: reduced.view(0, learned),
            momentum: exec.alloc(Kind::Float, learned),
            buffers: reduced.view(learned[3], buffers),
            learned: self.learned,
            buffer_list: self.buffers,
            constants: self.constants,
        }
    }
}

/// A network's parameters on an executor: one flat buffer each for values and momentum, one for
/// gradients and running statistics.
pub struct Params {
    /// All learned values.
    pub values: Tensor,
    /// Gradients, and behind them running statistics: of what each rank has its own of the present
    /// batch, and all take the mean.
    pub reduced: Tensor,
    /// Gradients of the learned values, in the same order.
    pub grads: Tensor,
    /// The optimiser's momentum, in the same order.
    pub momentum: Tensor,
    /// Running statistics.
    pub buffers: Tensor,
    learned: Vec<Entry>,
    buffer_list: Vec<Entry>,
    constants: Vec<(String, f32)>,
    learned_index: HashMap<String, usize>,
    buffer_index: HashMap<String, usize>,
}

impl Params {
    fn learned(&self, name: &str) -> &Entry {
        &self.learned[*self
            .learned_index
            .get(name)
            .unwrap_or_else(|| panic!("no parameter {name}"))]
    }

    /// The learned tensor of that name.
    pub fn value(&self, name: &str) -> Tensor {
        let e = self.learned(name);
        self.values.view(e.start, e.dims)
    }

    /// The gradient of the learned tensor of that name.
    pub fn grad(&self, name: &str) -> Tensor {
        let e = self.learned(name);
        self.grads.view(e.start, e.dims)
    }

    /// Value and gradient of `count` tensors of [`ParamList::projections`] as one, from this on.
    pub fn stacked(&self, name: &str, count: usize) -> (Tensor, Tensor) {
        let e = self.learned(name);
        let mut dims = e.dims;
        dims[4 - e.rank] *= count;
        (
            self.values.view(e.start, dims),
            self.grads.view(e.start, dims),
        )
    }

    /// The learned tensor of that name and its gradient.
    pub fn both(&self, name: &str) -> [Tensor; 2] {
        [self.value(name), self.grad(name)]
    }

    /// The gradient of the first tensor whose name begins so.
    pub fn first_grad(&self, beginning: &str) -> Option<Tensor> {
        let mut all = self.learned.iter();
        let first = all.find(|e| e.name.starts_with(beginning))?;
        Some(self.grads.view(first.start, first.dims))
    }

    /// What the ranks take the mean of, from this gradient up to the beginning of what comes after it.
    pub fn reduced_from(&self, grad: Tensor, end: &mut usize) -> Tensor {
        let start = grad.offset - self.reduced.offset;
        let part = self.reduced.view(start, [1, 1, 1, *end - start]);
        *end = start;
        part
    }

    /// The buffer (running statistic) of that name.
    pub fn buffer(&self, name: &str) -> Tensor {
        let index = self
            .buffer_index
            .get(name)
            .unwrap_or_else(|| panic!("no buffer {name}"));
        let e = &self.buffer_list[*index];
        self.buffers.view(e.start, e.dims)
    }

    /// Every tensor that belongs in a weight file: learned ones, then running statistics.
    pub fn tensors(&self) -> impl Iterator<Item = (&Entry, Tensor)> {
        let view = |flat: Tensor| move |e: &Entry| flat.view(e.start, e.dims);
        let (values, buffers) = (view(self.values), view(self.buffers));
        let learned = self.learned.iter().map(move |e| (e, values(e)));
        learned.chain(self.buffer_list.iter().map(move |e| (e, buffers(e))))
    }

    /// Numbers that weight files have beside the tensors, each as a tensor of one element.
    pub(super) fn constants(&self) -> &[(String, f32)] {
        &self.constants
    }

    /// Draws every tensor anew from `seed`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn initialise(&self, exec: &mut dyn Executor, seed: u64) -> Result<(), DeviceError> {
        let mut before: Vec<f32> = Vec::new();
        for (number, (entry, tensor)) in self.tensors().enumerate() {
            let mut random = rng::Stream::new(seed, u64::MAX, number as u64);
            let is_padding = |i: usize| i / entry.dims[3] == PAD as usize;
            let width = before.len() / tensor.len().max(1);
            let length = |i: usize| {
                let squares = before[i * width..][..width]
                    .iter()
                    .map(|v| f64::from(*v).powi(2));
                squares.sum::<f64>().sqrt() as f32
            };
            let values: Vec<f32> = (0..tensor.len())
                .map(|i| match entry.init {
                    Init::Constant(value) => value,
                    Init::UniformTable(_) | Init::NormalTable(_) if is_padding(i) => 0.0,
                    Init::Normal(std) | Init::NormalTable(std) => std * normal(&mut random) as f32,
                    Init::Uniform(bound) | Init::UniformTable(bound) => {
                        bound * (2.0 * random.f32() - 1.0)
                    }
                    Init::Lengths => length(i),
                })
                .collect();
            exec.write(tensor, &values)?;
            before = values;
        }
        Ok(())
    }

    /// The handles of the batch norm `name`, with fresh tensors for the statistics of the batch.
    pub fn batch_norm(&self, exec: &mut dyn Executor, name: &str) -> BatchNorm {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let gamma = self.value(&weight);
        let mut batch = || exec.alloc(Kind::Float, gamma.dims);
        BatchNorm {
            gamma,
            beta: self.value(&bias),
            dgamma: self.grad(&weight),
            dbeta: self.grad(&bias),
            running_mean: self.buffer(&format!("{name}.running_mean")),
            running_var: self.buffer(&format!("{name}.running_var")),
            mean: batch(),
            var: batch(),
            invstd: batch(),
            scale: batch(),
            shift: batch(),
        }
    }
}
