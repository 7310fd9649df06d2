//! The workbench: kernels checked, profiled, compared, drawn and packed, above networks and
//! executors, which know nothing of it.

#[cfg(simt)]
pub mod check;
#[cfg(simt)]
pub mod drawings;
pub mod names;
pub mod pack;
#[cfg(simt)]
pub mod profile;
#[cfg(simt)]
pub mod program;
pub mod progress;
pub mod workload;

#[cfg(simt)]
use crate::{backend::gpu::catalog, simt::edited};

/// Has kernels that were edited since the build [compiled anew](edited), of the files that are
/// `wanted`. Returns what was compiled.
///
/// # Errors
/// See [`edited::load`].
///
/// # Panics
/// If it was called before.
#[cfg(simt)]
pub fn load_edited(
    wanted: impl Fn(&catalog::KernelFile) -> bool,
) -> Result<Vec<String>, edited::EditError> {
    let wanted = catalog::FILES.iter().filter(|file| wanted(file));
    let wanted: Vec<&str> = wanted.map(|file| file.path).collect();
    edited::load(catalog::SOURCES, &wanted)
}
