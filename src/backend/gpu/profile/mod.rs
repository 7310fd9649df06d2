//! `kernels profile` and `kernels ladder`: what launches do, counted while they run on the CPU, and
//! what that would mean on a GPU.

pub mod counts;

use super::Gpu;
use super::driver::Capability;
use super::profiler::Profiler;
use super::workload::{Dims, Op, ShapeError, Work};
use crate::backend::{DeviceError, Executor, Pass, StepInputs};
use counts::LaunchProfile;

/// Why an op was not profiled.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The shape does not suit the op.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The ladder has the step, but not for this shape and device.
    #[error(
        "{op} of {}: step {step} does not take that shape on this GPU; {taken} would be taken",
        Dims(.shape)
    )]
    Step {
        /// The op's name.
        op: &'static str,
        /// What was asked for.
        shape: Vec<usize>,
        /// What was asked for.
        step: u32,
        /// The file of the kernel that the op takes instead.
        taken: &'static str,
    },
    /// The executor failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Runs an op once, with kernels of this step of its ladder, as a device of such capabilities
/// would; its launches, in order.
///
/// # Errors
/// A shape or a step that cannot be, or a failure of the executor.
pub fn profile(
    op: &Op,
    shape: &[usize],
    step: u32,
    capability: Capability,
) -> Result<Vec<LaunchProfile>, ProfileError> {
    op.check(shape)?;
    let profiler = Profiler::new()?;
    let mut gpu = Gpu::simt_profiled(capability, profiler.clone());
    gpu.limit(op.ladder, step);
    let work = op.make(&mut gpu, shape)?;
    gpu.block(|driver| driver.synchronize())?;
    profiler.forget();
    match work {
        Work::Gpu(call) => call(&mut gpu),
        Work::Op(call) => {
            let inputs = StepInputs {
                ids: (0..shape[0] as u32).collect(),
                lr: 0.01,
                ..StepInputs::default()
            };
            gpu.step(Pass::Train, inputs, &|exec| call(exec))?;
        }
    }
    gpu.check()?;
    gpu.block(|driver| driver.synchronize())?;
    let mut launches = profiler.profiles();
    // What every captured step begins with is not the op's.
    launches.retain(|launch| !launch.file.starts_with("kernels/step/"));
    let number = |launch: &LaunchProfile| step_of(launch.file);
    match launches.iter().max_by_key(|launch| number(launch)) {
        Some(last) if number(last) != step => Err(ProfileError::Step {
            op: op.name,
            shape: shape.to_vec(),
            step,
            taken: last.file,
        }),
        _ => Ok(launches),
    }
}

/// `2` of `kernels/sgd/2_vectors.cu`.
fn step_of(file: &str) -> u32 {
    let name = file.rsplit('/').next().unwrap_or(file);
    let digits = name.split('_').next().unwrap_or(name);
    digits.parse().unwrap_or(0)
}
