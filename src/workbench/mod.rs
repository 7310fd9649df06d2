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
