//! The kernels of this build, as `build.rs` found and compiled them.

/// A file of `kernels/`, with what nvcc made of it.
#[derive(Debug)]
pub struct KernelFile {
    /// Relative to the repository: `kernels/sgd/1_sgd.cu`.
    pub path: &'static str,
    /// Names of its kernels, in the order of the source.
    pub kernels: &'static [&'static str],
    /// Machine code of all architectures and PTX; none in a build without nvcc.
    pub fatbin: Option<&'static [u8]>,
    /// What each kernel takes on each architecture; empty in a build without nvcc.
    pub resources: &'static [Resources],
}

/// What a kernel takes on an architecture, as ptxas reports it.
#[derive(Debug)]
pub struct Resources {
    /// The kernel's name.
    pub kernel: &'static str,
    /// The architecture: `90a`.
    pub arch: &'static str,
    /// Registers per thread.
    pub registers: u32,
    /// Static shared memory in bytes per block.
    pub shared: u32,
    /// Stack frame in bytes per thread.
    pub stack: u32,
    /// Bytes per thread stored where registers ran out.
    pub spill_stores: u32,
    /// Bytes per thread loaded back.
    pub spill_loads: u32,
}

include!(concat!(env!("OUT_DIR"), "/catalog.rs"));
