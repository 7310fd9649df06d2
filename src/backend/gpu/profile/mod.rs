//! `kernels profile` and `kernels ladder`: what launches do, counted while they run on the CPU, and
//! what that would mean on a GPU.

pub mod counts;
pub mod measure;

use super::Gpu;
use super::catalog::{FILES, KernelFile};
use super::driver::Capability;
use super::notes::{Names, Notes};
use super::profiler::Profiler;
use super::workload::{Dims, Op, ShapeError};
use crate::backend::DeviceError;
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
    let taken = taken(op, shape, step, capability)?;
    if step_of(taken) != step {
        return Err(ProfileError::Step {
            op: op.name,
            shape: shape.to_vec(),
            step,
            taken,
        });
    }
    let profiler = Profiler::new()?;
    let mut gpu = Gpu::simt_profiled(capability, profiler.clone());
    gpu.limit(op.ladder, step);
    let work = op.make(&mut gpu, shape)?;
    gpu.block(|driver| driver.synchronize())?;
    profiler.forget();
    work.start(&mut gpu, shape[0])?;
    let mut launches = profiler.profiles();
    // What every captured step begins with is not the op's.
    launches.retain(|launch| !launch.file.starts_with("kernels/step/"));
    Ok(launches)
}

/// The file of the highest step that an op takes on a device of such capabilities if it may take no
/// more than this one. Launches nothing.
///
/// # Errors
/// A shape that cannot be.
pub fn taken(
    op: &Op,
    shape: &[usize],
    limit: u32,
    capability: Capability,
) -> Result<&'static str, ProfileError> {
    op.check(shape)?;
    let names = Names::default();
    let mut gpu = Gpu::new(Box::new(Notes::new(capability, names.clone())));
    gpu.limit(op.ladder, limit);
    let work = op.make(&mut gpu, shape)?;
    names.lock().expect("no holder panics").clear();
    work.start(&mut gpu, shape[0])?;
    let names = names.lock().expect("no holder panics");
    let launched = |file: &&KernelFile| file.kernels.iter().any(|kernel| names.contains(kernel));
    let files = FILES.iter().filter(launched).map(|file| file.path);
    let last = files.max_by_key(|path| step_of(path));
    Ok(last.expect("every op launches something"))
}

/// `2` of `kernels/sgd/2_vectors.cu`.
pub fn step_of(file: &str) -> u32 {
    let name = file.rsplit('/').next().unwrap_or(file);
    let digits = name.split('_').next().unwrap_or(name);
    digits.parse().unwrap_or(0)
}
