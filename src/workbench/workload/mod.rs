//! Ops with tensors of their own, to be launched again and again at any shape: what `kernels
//! profile`, `kernels ladder` and the benches of the ladders run.
//!
//! To have a new kernel profiled, add its op to the table of [`ops`].

mod images;
mod products;
mod tokens;

use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::{DeviceError, Executor, Kind, Pass, StepInputs, Tensor};
use std::fmt;

/// An op at one shape, with its tensors.
pub type Call = Box<dyn Fn(&mut dyn Executor)>;

/// One that only a GPU has.
type GpuCall = Box<dyn Fn(&mut Gpu)>;

/// What is launched.
pub enum Work {
    /// An op of the networks' op set; part of a captured step.
    Op(Call),
    /// A launch outside of steps.
    Gpu(GpuCall),
}

/// More than any batch has.
const INSTANCES: usize = 1 << 16;

impl Work {
    /// Runs it for the first time, with the numbers 0, 1, ... as a step's instances, as
    /// many as a batch may have.
    ///
    /// # Errors
    /// The device's.
    pub fn start(&self, gpu: &mut Gpu, instances: usize) -> Result<(), DeviceError> {
        match self {
            Work::Gpu(call) => call(gpu),
            Work::Op(call) => {
                let inputs = StepInputs {
                    ids: (0..instances.min(INSTANCES) as u32).collect(),
                    lr: 0.01,
                    ..StepInputs::default()
                };
                gpu.step(Pass::Train, inputs, &|exec| call(exec))?;
            }
        }
        gpu.check()?;
        gpu.block(|driver| driver.synchronize())
    }

    /// Launches it once more, outside of any step: what a step's first kernel leaves is still
    /// there.
    pub fn again(&self, gpu: &mut Gpu) {
        match self {
            Work::Gpu(call) => call(gpu),
            Work::Op(call) => call(gpu),
        }
    }
}

/// An op that can be run by itself.
pub struct Op {
    /// What people call it.
    pub name: &'static str,
    /// Its ladder of kernels, if it has more than one.
    pub ladder: Option<Ladder>,
    /// Steps of the ladder that this op has a kernel of its own for; `&[1]` without one.
    pub steps: &'static [u32],
    /// Folders of `kernels/` that hold them.
    pub folders: &'static [&'static str],
    /// Names of its sizes.
    pub dims: &'static [&'static str],
    /// A shape to begin with: large enough to fill a GPU, so that steps differ by their ideas.
    pub shape: &'static [usize],
    /// Where a step is shown that this shape is not for.
    pub aside: Option<Aside>,
    /// FLOPs of the operation, by whatever kernel; 0 where nobody counts them.
    pub flops: fn(&[usize]) -> usize,
    /// Bytes that have to be moved at least, each input read and each output written once.
    pub bytes: fn(&[usize]) -> usize,
    /// Allocates and fills its tensors.
    make: fn(&mut Gpu, &[usize]) -> Result<Work, DeviceError>,
}

/// A step that is shown at a shape of its own.
#[derive(Clone, Copy, Debug)]
pub struct Aside {
    /// Its number.
    pub step: u32,
    /// The step that it is compared with.
    pub beside: u32,
    /// The shape for both.
    pub shape: &'static [usize],
}

/// A shape that does not suit an op.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Another number of sizes.
    #[error("{op} has {} sizes ({}), not {given}; such as {}", .dims.len(), .dims.join(", "), Dims(.example))]
    Count {
        /// The op's name.
        op: &'static str,
        /// Names of its sizes.
        dims: &'static [&'static str],
        /// Its usual shape.
        example: &'static [usize],
        /// Sizes given.
        given: usize,
    },
    /// A size of 0, or tensors that nobody has memory for.
    #[error("{op} of {}: sizes from 1 on, and less than 2 GiB of tensors", Dims(.shape))]
    Size {
        /// The op's name.
        op: &'static str,
        /// What was given.
        shape: Vec<usize>,
    },
    /// A shape that the op is not defined for.
    #[error("{op} of {}: {why}", Dims(.shape))]
    Unsuitable {
        /// The op's name.
        op: &'static str,
        /// What was given.
        shape: Vec<usize>,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Sizes as people write them: `32x32x16`.
pub struct Dims<'a>(pub &'a [usize]);

impl fmt::Display for Dims<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let sizes: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&sizes.join("x"))
    }
}

/// All of them, in the order of a training step.
pub fn ops() -> impl Iterator<Item = &'static Op> {
    let all = [products::OPS, images::OPS, tokens::OPS];
    all.into_iter().flatten()
}

const LARGEST: usize = 2 << 30;

impl Op {
    /// The shape, if the op can have it.
    ///
    /// # Errors
    /// A shape that it cannot have.
    pub fn check(&self, shape: &[usize]) -> Result<(), ShapeError> {
        let (op, owned) = (self.name, || shape.to_vec());
        if shape.len() != self.dims.len() {
            return Err(ShapeError::Count {
                op,
                dims: self.dims,
                example: self.shape,
                given: shape.len(),
            });
        }
        // With sizes of this kind the products below cannot overflow.
        let product = shape
            .iter()
            .try_fold(1_usize, |n, size| n.checked_mul(*size));
        let fits = |n: usize| n > 0 && n < 1 << 40 && (self.bytes)(shape) < LARGEST;
        if !product.is_some_and(fits) {
            return Err(ShapeError::Size { op, shape: owned() });
        }
        let size = |name| {
            let at = self.dims.iter().position(|dim| *dim == name);
            at.map(|at| shape[at])
        };
        if let (Some(height), Some(width), Some(kernel)) = (size("h"), size("w"), size("kernel")) {
            let even = kernel.is_multiple_of(2) || kernel > height.min(width);
            if even || size("stride").is_some_and(|stride| stride > 2) {
                return Err(ShapeError::Unsuitable {
                    op,
                    shape: owned(),
                    why: "an odd kernel that the image has room for, and a stride of 1 or 2",
                });
            }
        }
        Ok(())
    }

    /// Where a step is usually shown.
    pub fn shape_of(&self, step: u32) -> &'static [usize] {
        match self.aside {
            Some(aside) if aside.step == step => aside.shape,
            _ => self.shape,
        }
    }

    /// The steps of its ladder in the order in which they are shown, each with its shape: all at
    /// `shape`, if one is given, or else where each is usually shown.
    pub fn climb(&self, shape: Option<&[usize]>) -> Vec<(u32, Vec<usize>)> {
        let (usual, aside) = match shape {
            Some(shape) => (shape, None),
            None => (self.shape, self.aside),
        };
        let shown = |step: &u32| aside.is_none_or(|aside| aside.step != *step);
        let steps = self.steps.iter().copied().filter(shown);
        let mut pairs: Vec<_> = steps.map(|step| (step, usual.to_vec())).collect();
        if let Some(Aside {
            step,
            beside,
            shape,
        }) = aside
        {
            let two = [step.min(beside), step.max(beside)].map(|step| (step, shape.to_vec()));
            let place = if step < beside { 0 } else { pairs.len() };
            pairs.splice(place..place, two);
        }
        pairs
    }

    /// Has it take no step of its ladder above this one.
    pub fn limit(&self, gpu: &mut Gpu, step: u32) {
        if let Some(ladder) = self.ladder {
            gpu.limit(ladder, step);
        }
    }

    /// Allocates and fills its tensors.
    ///
    /// # Errors
    /// The device's.
    ///
    /// # Panics
    /// If the shape was not [checked](Op::check).
    pub fn make(&self, gpu: &mut Gpu, shape: &[usize]) -> Result<Work, DeviceError> {
        (self.make)(gpu, shape)
    }
}

/// A tensor of numbers in -1..1, the same ones over and over.
fn noise(gpu: &mut Gpu, kind: Kind, dims: [usize; 4]) -> Result<Tensor, DeviceError> {
    const PERIOD: usize = 65_521;
    let one: Vec<f32> = (0..PERIOD)
        .map(|i| (i * 40_503 % PERIOD) as f32 / PERIOD as f32 * 2.0 - 1.0)
        .collect();
    let t = gpu.alloc(kind, dims);
    let values: Vec<f32> = one.into_iter().cycle().take(t.len()).collect();
    gpu.write(t, &values)?;
    Ok(t)
}

fn activation(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Tensor, DeviceError> {
    noise(gpu, Kind::Activation, dims)
}

fn labels(
    gpu: &mut Gpu,
    dims: [usize; 4],
    value: impl Fn(usize) -> i32,
) -> Result<Tensor, DeviceError> {
    let t = gpu.alloc(Kind::Label, dims);
    gpu.write_labels(t, &(0..t.len()).map(value).collect::<Vec<i32>>())?;
    Ok(t)
}
