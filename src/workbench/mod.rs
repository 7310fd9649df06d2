//! The workbench: kernels checked, profiled, compared and packed, above networks and executors,
//! which know nothing of it.

#[cfg(simt)]
pub mod check;
pub mod pack;
#[cfg(simt)]
pub mod profile;
pub mod workload;
