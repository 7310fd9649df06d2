//! The kernels of this build, as `build.rs` found and compiled them.
pub struct KernelFile {
    pub path: &'static str,
    pub kernels: &'static [&'static str],
    pub fatbin: Option<&'static [u8]>,
}
pub static FILES: &[KernelFile] = &[];
pub static TOOLKIT: Option<(u32, u32)> = None;
