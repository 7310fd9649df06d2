//! `kernels profile` and `kernels ladder`: what launches do, counted while they run on the CPU, and
//! what that would mean on a GPU.

pub mod gpus;
mod labels;
pub mod list;
pub mod measure;
pub mod network;
pub mod page;
mod plot;
mod roofline;
pub mod sass;
pub mod tables;
pub mod text;

use super::names::hint;
use super::workload::{Dims, Op, ShapeError, ops};
use crate::backend::DeviceError;
use crate::backend::gpu::Gpu;
use crate::backend::gpu::catalog::{FILES, KernelFile};
use crate::backend::gpu::driver::Capability;
use crate::simt::counts::{Counts, LaunchProfile};
use crate::simt::notes::{Names, Notes};
use crate::simt::profiler::Profiler;
use gpus::Specs;
use measure::{Measured, measure};
use roofline::predict;
use std::sync::Arc;

/// What somebody means who names something to profile.
pub struct Named {
    /// The op.
    pub op: &'static Op,
    /// The step of its ladder that was named, if one was.
    pub step: Option<u32>,
}

/// The op of this name, or the first one that has a kernel or a file of it: `gemm`,
/// `gemm_pipeline`, `kernels/gemm/6_pipeline.cu`.
///
/// # Errors
/// No op has it.
pub fn find(name: &str) -> Result<Named, ProfileError> {
    if let Some(op) = ops().find(|op| op.name == name) {
        return Ok(Named { op, step: None });
    }
    let has_name = |file: &&KernelFile| file.path == name || file.kernels.contains(&name);
    let file = FILES.iter().find(has_name);
    let named = file.and_then(|file| {
        let folder = file.path.split('/').nth(1)?;
        let step = step_of(file.path);
        let has_file = |op: &&Op| op.folders.contains(&folder) && op.steps.contains(&step);
        let op = ops().find(has_file)?;
        let step = Some(step);
        Some(Named { op, step })
    });
    let kernels = FILES.iter().flat_map(|file| file.kernels);
    let names = || ops().map(|op| op.name).chain(kernels.copied());
    named.ok_or_else(|| ProfileError::Name {
        name: name.into(),
        hint: hint(name, names()),
        ops: ops().map(|op| op.name).collect::<Vec<_>>().join(", "),
    })
}

/// Sizes such as `32x32x16` or `32,32,16`.
///
/// # Errors
/// Something that is no number.
pub fn shape_of(text: &str) -> Result<Vec<usize>, String> {
    let sizes = text.split(['x', ',']).map(|size| size.trim().parse());
    sizes
        .collect::<Result<_, _>>()
        .map_err(|_| "sizes look like 512x512x512".into())
}

/// Why an op was not profiled.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Nothing has the name.
    #[error(
        "nothing that can be profiled is called {name:?}{hint}; there are {ops}, and their kernels and \
         files"
    )]
    Name {
        /// What was asked for.
        name: String,
        /// What may have been meant, as a remark.
        hint: String,
        /// What there is.
        ops: String,
    },
    /// The ladder has no such step.
    #[error("{op} has no step {step}; it has {steps:?}")]
    NoStep {
        /// The op's name.
        op: &'static str,
        /// What was asked for.
        step: u32,
        /// What there is.
        steps: &'static [u32],
    },
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

/// One step of a ladder at one shape.
pub struct Step {
    /// Its number.
    pub number: u32,
    /// The file of its kernel, of one of them if there are several.
    pub file: &'static str,
    /// Of the op.
    pub shape: Vec<usize>,
    /// What it launches, in order.
    pub launches: Vec<LaunchProfile>,
    /// Why their machine code was not read, if it was not: what they issue is missing then.
    pub missing: Option<String>,
    /// What that takes, where there is a GPU.
    pub measured: Option<Measured>,
}

impl Step {
    /// `4 tensor cores`.
    pub fn name(&self) -> String {
        let name = self.file.rsplit('/').next().unwrap_or(self.file);
        let name = name.strip_suffix(".cu").unwrap_or(name);
        name.replace('_', " ")
    }

    /// Counts of all launches.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        self.launches.iter().for_each(|l| sum += l.counts);
        sum
    }

    /// Seconds that all launches take, one after the other.
    pub fn predicted(&self, specs: &Specs) -> f64 {
        let seconds = |launch: &LaunchProfile| predict(specs, launch).seconds();
        self.launches.iter().map(seconds).sum()
    }

    /// Launches of which not all blocks were run.
    pub fn sampled(&self) -> impl Iterator<Item = &LaunchProfile> {
        self.launches.iter().filter(|launch| launch.is_sampled())
    }

    /// The launch that takes longest.
    pub fn slowest(&self, specs: &Specs) -> &LaunchProfile {
        let seconds = |launch: &LaunchProfile| predict(specs, launch).seconds();
        let launches = self.launches.iter();
        let slowest = launches.max_by(|a, b| seconds(a).total_cmp(&seconds(b)));
        slowest.expect("every op launches something")
    }
}

/// All steps of a ladder.
pub struct Ladder {
    /// The op.
    pub op: &'static Op,
    /// Its shape, but for steps that are shown at one of their own.
    pub shape: Vec<usize>,
    /// The steps that the shape and the GPU allow.
    pub steps: Vec<Step>,
    /// And those that they do not, with the reason.
    pub skipped: Vec<(u32, String)>,
}

impl Ladder {
    /// What a step is compared with: the one before, if it is there at the same shape.
    pub fn before(&self, index: usize) -> Option<&Step> {
        let before = &self.steps[index.checked_sub(1)?];
        (before.shape == self.steps[index].shape).then_some(before)
    }
}

/// Profiles a step of an op, by a sample of its blocks if it is large, and measures it too if there
/// is a GPU.
///
/// # Errors
/// A shape or a step that cannot be, or a failure of the device.
pub fn step(
    op: &Op,
    shape: &[usize],
    number: u32,
    specs: &Specs,
    gpu: Option<fn() -> Result<Gpu, DeviceError>>,
) -> Result<Step, ProfileError> {
    let file = file_of(op, shape, number, specs.capability)?;
    let mut launches = run(
        op,
        shape,
        number,
        specs.capability,
        Profiler::sampling(BUDGET)?,
    )?;
    let missing = sass::read(&mut launches, specs).err();
    let measured = match gpu {
        None => None,
        Some(open) => {
            let mut gpu = open()?;
            let taken = taken(op, shape, number, gpu.capability())?;
            match step_of(taken) == number {
                true => measure(&mut gpu, op, shape, number)?,
                false => None,
            }
        }
    };
    Ok(Step {
        number,
        file,
        shape: shape.to_vec(),
        launches,
        missing,
        measured,
    })
}

/// Profiles all steps of an op's ladder, at a shape or where they are usually shown. `progress` is told
/// which one is under way, the how many-th of [`Op::climb`].
///
/// # Errors
/// A shape that cannot be, or a failure of the device.
pub fn ladder(
    op: &'static Op,
    shape: Option<&[usize]>,
    specs: &Specs,
    gpu: Option<fn() -> Result<Gpu, DeviceError>>,
    progress: &dyn Fn(usize),
) -> Result<Ladder, ProfileError> {
    let mut found = Ladder {
        op,
        shape: shape.unwrap_or(op.shape).to_vec(),
        steps: Vec::new(),
        skipped: Vec::new(),
    };
    for (done, (number, shape)) in op.climb(shape).into_iter().enumerate() {
        progress(done);
        match step(op, &shape, number, specs, gpu) {
            Ok(step) => found.steps.push(step),
            Err(e @ ProfileError::Step { .. }) => found.skipped.push((number, e.to_string())),
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

/// Accesses and basic blocks after which a launch is profiled by a sample: about half a second.
pub const BUDGET: u64 = 24_000_000;

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
    profiler: Arc<Profiler>,
) -> Result<Vec<LaunchProfile>, ProfileError> {
    file_of(op, shape, step, capability)?;
    run(op, shape, step, capability, profiler)
}

/// The file of a step's kernel, if that is what the op takes.
fn file_of(
    op: &Op,
    shape: &[usize],
    step: u32,
    capability: Capability,
) -> Result<&'static str, ProfileError> {
    if !op.steps.contains(&step) {
        return Err(ProfileError::NoStep {
            op: op.name,
            step,
            steps: op.steps,
        });
    }
    let taken = taken(op, shape, step, capability)?;
    if step_of(taken) != step {
        return Err(ProfileError::Step {
            op: op.name,
            shape: shape.to_vec(),
            step,
            taken,
        });
    }
    Ok(taken)
}

fn run(
    op: &Op,
    shape: &[usize],
    step: u32,
    capability: Capability,
    profiler: Arc<Profiler>,
) -> Result<Vec<LaunchProfile>, ProfileError> {
    let mut gpu = Gpu::simt_profiled(capability, profiler.clone());
    op.limit(&mut gpu, step);
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
    let files = files_of(op, shape, limit, capability)?;
    let last = files.into_iter().max_by_key(|(path, _)| step_of(path));
    Ok(last.expect("every op launches something").0)
}

/// The op's own files of which it launches kernels under such a limit, with the blocks of the launch
/// that has most of them: others finish what that has begun.
fn files_of(
    op: &Op,
    shape: &[usize],
    limit: u32,
    capability: Capability,
) -> Result<Vec<(&'static str, u64)>, ProfileError> {
    op.check(shape)?;
    let names = Names::default();
    let mut gpu = Gpu::new(Box::new(Notes::new(capability, names.clone())));
    op.limit(&mut gpu, limit);
    let work = op.make(&mut gpu, shape)?;
    names.lock().expect("no holder panics").clear();
    work.start(&mut gpu, shape[0])?;
    let names = names.lock().expect("no holder panics");
    let own = |file: &&KernelFile| {
        let folder = file.path.split('/').nth(1);
        folder.is_some_and(|folder| op.folders.contains(&folder))
    };
    let launched = |file: &'static KernelFile| {
        let blocks = file.kernels.iter().filter_map(|kernel| names.get(kernel));
        Some((file.path, *blocks.max()?))
    };
    Ok(FILES.iter().filter(own).filter_map(launched).collect())
}

/// The files of all kernels that are launched for these steps of an op at these shapes, preparations
/// and what every captured step begins with among them; and the op's own.
///
/// # Errors
/// A shape that cannot be.
pub fn files(
    op: &Op,
    steps: &[(u32, Vec<usize>)],
    capability: Capability,
) -> Result<Vec<&'static str>, ProfileError> {
    let names = Names::default();
    for (step, shape) in steps {
        op.check(shape)?;
        let mut gpu = Gpu::new(Box::new(Notes::new(capability, names.clone())));
        op.limit(&mut gpu, *step);
        op.make(&mut gpu, shape)?.start(&mut gpu, shape[0])?;
    }
    let names = names.lock().expect("no holder panics");
    let wanted = |file: &&KernelFile| {
        let folder = file.path.split('/').nth(1);
        let own = folder.is_some_and(|folder| op.folders.contains(&folder));
        own || file.kernels.iter().any(|kernel| names.contains_key(kernel))
    };
    Ok(FILES.iter().filter(wanted).map(|file| file.path).collect())
}

/// Seconds that a profile of a step on the CPU takes at least, roughly: a block does its part of the
/// op's FLOPs, and some blocks have to be run.
///
/// # Errors
/// A shape that cannot be.
pub fn effort(op: &Op, shape: &[usize], step: u32, specs: &Specs) -> Result<f64, ProfileError> {
    /// For a FLOP, of threads and of tensor cores.
    const FMA: f64 = 100e-9;
    const TENSOR: f64 = 1e-9;
    const BLOCKS: f64 = 4.0;
    let mut files = files_of(op, shape, step, specs.capability)?;
    files.retain(|(path, _)| step_of(path) == step);
    let flops = (op.flops)(shape) as f64 / files.len().max(1) as f64;
    let a_flop = if step < 3 { FMA } else { TENSOR };
    let part = |(_, blocks): &(_, u64)| (BLOCKS / *blocks as f64).min(1.0);
    Ok(files.iter().map(part).sum::<f64>() * flops * a_flop)
}

/// The last step that an op takes for a shape on a GPU.
///
/// # Errors
/// A shape that cannot be.
pub fn last_step(op: &Op, shape: &[usize], specs: &Specs) -> Result<u32, ProfileError> {
    let last = *op.steps.last().expect("every op has steps");
    Ok(step_of(taken(op, shape, last, specs.capability)?))
}

/// `2` of `kernels/sgd/2_vectors.cu`.
pub fn step_of(file: &str) -> u32 {
    let name = file.rsplit('/').next().unwrap_or(file);
    let digits = name.split('_').next().unwrap_or(name);
    digits.parse().unwrap_or(0)
}
