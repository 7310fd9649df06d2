//! `kernels/simt/abi.h` in Rust: the kernels of this build, and what a launch is.

use std::ffi::{CStr, c_char, c_void};

/// `SimtKernel` of `kernels/simt/abi.h`.
#[repr(C)]
pub struct Kernel {
    pub name: *const c_char,
    pub file: *const c_char,
    pub max_threads: u32,
    pub argc: u32,
    pub arg_sizes: *const u32,
    call: extern "C" fn(*mut *mut c_void),
}

impl Kernel {
    /// Where its code is.
    pub fn code(&self) -> *const c_void {
        self.call as *const c_void
    }
}

/// `SimtDevice` of `kernels/simt/abi.h`.
#[repr(C)]
pub struct Device {
    pub name: *const c_char,
    pub major: u32,
    pub minor: u32,
    pub multiprocessors: u32,
    pub block_shared: u32,
    pub shared: u32,
    pub threads: u32,
    pub blocks: u32,
    pub clock_khz: u32,
    pub l2: u32,
    pub memory: u64,
    pub memory_rate: f64,
}

/// `SimtProgram` of `kernels/simt/abi.h`.
#[repr(C)]
pub struct RawProgram {
    pub device: Device,
    pub guard: bool,
    pub alloc: extern "C" fn(usize, bool) -> *mut c_void,
    pub define: extern "C" fn(*mut c_void, usize),
    pub carry: extern "C" fn(*mut c_void, *const c_void, usize),
    pub written: extern "C" fn(*const c_void, usize) -> bool,
    pub release: unsafe extern "C" fn(*mut c_void),
    pub share: extern "C" fn(*mut c_void, usize),
    pub launch: unsafe extern "C" fn(*const Kernel, *const RawLaunch, *mut *mut c_void) -> i32,
    pub clock: extern "C" fn() -> f64,
    pub timed: extern "C" fn(),
    pub line: unsafe extern "C" fn(*const u64, *mut c_char, usize) -> bool,
}

/// `SimtTouch` of `kernels/simt/abi.h`.
#[repr(C)]
pub struct RawTouch {
    pub writes: bool,
    pub unwritten: bool,
    pub at: usize,
    pub size: usize,
    pub line: i32,
    pub file: *const c_char,
    pub sites: [u64; 16],
}

/// `SimtLaunch` of `kernels/simt/abi.h`.
#[repr(C)]
pub struct RawLaunch {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub schedule: u32,
    pub landing: u32,
    pub shared_limit: u32,
    pub seed: u64,
}

unsafe extern "C" {
    fn simt_kernels(count: *mut usize) -> *const *const Kernel;
    fn simt_launches(kernel: *const Kernel) -> u64;
    pub fn simt_loaded(function: *const c_void);
    pub fn simt_program(program: *const RawProgram);
    pub fn simt_program_guard();
    pub fn simt_program_heard() -> bool;
    pub fn simt_program_notes(leaks: bool, text: *mut c_char, size: usize) -> usize;
    pub fn simt_program_touches(touches: *mut *const RawTouch) -> usize;
    pub fn simt_launch(
        kernel: *const Kernel,
        launch: *const RawLaunch,
        args: *mut *mut c_void,
        error: *mut c_char,
        error_size: usize,
    ) -> i32;
}

/// All kernels of this build.
pub fn kernels() -> &'static [*const Kernel] {
    let mut count = 0;
    // SAFETY: the table is made by the build and never changes; `count` is its length.
    unsafe { std::slice::from_raw_parts(simt_kernels(&mut count), count) }
}

pub fn text(s: *const c_char) -> &'static str {
    // SAFETY: names in the table are string literals of the kernels' sources.
    unsafe { CStr::from_ptr(s) }
        .to_str()
        .expect("names are ASCII")
}

/// What a kernel takes: the sizes of its parameters in bytes, and the most threads of a block.
pub fn parameters(name: &str) -> Option<(&'static [u32], u32)> {
    // SAFETY: pointers in the table are good for as long as the program runs.
    let mut all = kernels().iter().map(|&kernel| unsafe { &*kernel });
    let found = all.find(|kernel| text(kernel.name) == name)?;
    // SAFETY: the table gives `argc` sizes.
    let sizes = unsafe { std::slice::from_raw_parts(found.arg_sizes, found.argc as usize) };
    Some((sizes, found.max_threads))
}

/// Name of every kernel of this build, with the number of its launches in this process.
pub fn launches() -> Vec<(&'static str, u64)> {
    let count = |&kernel: &*const Kernel| {
        // SAFETY: pointers in the table are good for as long as the program runs.
        unsafe { (text((*kernel).name), simt_launches(kernel)) }
    };
    kernels().iter().map(count).collect()
}
