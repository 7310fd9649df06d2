//! The C interface, and what makes it handy.

use std::ffi::{CStr, c_char, c_void};

/// `SimtKernel` of `kernels/simt/abi.h`.
#[repr(C)]
struct RawKernel {
    name: *const c_char,
    file: *const c_char,
    max_threads: u32,
    argc: u32,
    arg_sizes: *const u32,
    call: extern "C" fn(*mut *mut c_void),
}

/// `SimtLaunch` of `kernels/simt/abi.h`.
#[repr(C)]
struct RawLaunch {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    schedule: u32,
    landing: u32,
    shared_limit: u32,
    seed: u64,
}

unsafe extern "C" {
    fn simt_kernels(count: *mut usize) -> *const *const RawKernel;
    fn simt_launches(kernel: *const RawKernel) -> u64;
    fn simt_launch(
        kernel: *const RawKernel,
        launch: *const RawLaunch,
        args: *mut *mut c_void,
        error: *mut c_char,
        error_size: usize,
    ) -> i32;
}

/// Order of threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    Low,
    High,
    Random(u64),
    /// Low first; all blocks are there at once.
    Together,
    /// A number that means nothing.
    Unknown,
}

/// Those under which everything must work.
pub const SCHEDULES: [Schedule; 4] = [
    Schedule::Low,
    Schedule::High,
    Schedule::Random(1),
    Schedule::Random(2),
];

/// When the bytes of asynchronous copies land.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Landing {
    Late,
    AtOnce,
    Randomly,
}

/// An argument: its bytes, and how many of them count.
#[derive(Clone, Copy)]
pub struct Arg([u64; 16], u32);

/// In the low bytes of the first word.
fn word(v: u64) -> [u64; 16] {
    let mut words = [0; 16];
    words[0] = v;
    words
}

/// A `TensorMap`.
impl From<[u64; 16]> for Arg {
    fn from(v: [u64; 16]) -> Arg {
        Arg(v, 128)
    }
}

impl From<i32> for Arg {
    fn from(v: i32) -> Arg {
        Arg(word(u64::from(v as u32)), 4)
    }
}

impl From<u32> for Arg {
    fn from(v: u32) -> Arg {
        Arg(word(u64::from(v)), 4)
    }
}

impl From<f32> for Arg {
    fn from(v: f32) -> Arg {
        Arg(word(u64::from(v.to_bits())), 4)
    }
}

impl From<u64> for Arg {
    fn from(v: u64) -> Arg {
        Arg(word(v), 8)
    }
}

impl<T> From<&[T]> for Arg {
    fn from(v: &[T]) -> Arg {
        Arg(word(v.as_ptr() as u64), 8)
    }
}

impl<T> From<&mut [T]> for Arg {
    fn from(v: &mut [T]) -> Arg {
        Arg(word(v.as_mut_ptr() as u64), 8)
    }
}

impl<T> From<&mut Vec<T>> for Arg {
    fn from(v: &mut Vec<T>) -> Arg {
        Arg::from(v.as_mut_slice())
    }
}

impl<T> From<&Vec<T>> for Arg {
    fn from(v: &Vec<T>) -> Arg {
        Arg::from(v.as_slice())
    }
}

/// One launch, without its arguments.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    pub kernel: &'static str,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub schedule: Schedule,
    pub landing: Landing,
}

/// `blocks` x `threads`, no dynamic shared memory, low first.
pub fn launch(kernel: &'static str, blocks: u32, threads: u32) -> Launch {
    Launch {
        kernel,
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        shared: 0,
        schedule: Schedule::Low,
        landing: Landing::Late,
    }
}

fn find(name: &str) -> *const RawKernel {
    let mut count = 0;
    // SAFETY: the table is made by the build; `count` is its length.
    let all = unsafe { std::slice::from_raw_parts(simt_kernels(&mut count), count) };
    // SAFETY: kernels and their names are constants of the program.
    let named = |&&k: &&*const RawKernel| unsafe { CStr::from_ptr((*k).name) }.to_str() == Ok(name);
    *all.iter().find(named).expect("the kernel exists")
}

/// How often a kernel was launched.
pub fn launches(name: &str) -> u64 {
    // SAFETY: a kernel of the table.
    unsafe { simt_launches(find(name)) }
}

impl Launch {
    pub fn on(self, schedule: Schedule) -> Launch {
        Launch { schedule, ..self }
    }

    pub fn landing(self, landing: Landing) -> Launch {
        Launch { landing, ..self }
    }

    /// Runs the kernel; the error is the executor's message.
    pub fn run<const N: usize>(self, mut args: [Arg; N]) -> Result<(), String> {
        let kernel = find(self.kernel);
        // SAFETY: the table gives `argc` sizes.
        let sizes = unsafe {
            let k = &*kernel;
            std::slice::from_raw_parts(k.arg_sizes, k.argc as usize)
        };
        let given: Vec<u32> = args.iter().map(|a| a.1).collect();
        assert_eq!(given, sizes, "arguments of {}", self.kernel);
        let mut pointers = args.each_mut().map(|a| (&raw mut a.0).cast::<c_void>());
        self.run_raw(&mut pointers, 1 << 14)
    }

    /// With the pointers as they are, and this much room for a message.
    pub fn run_raw(self, args: &mut [*mut c_void], room: usize) -> Result<(), String> {
        let (schedule, seed) = match self.schedule {
            Schedule::Low => (0, 0),
            Schedule::High => (1, 0),
            Schedule::Random(seed) => (2, seed),
            Schedule::Together => (4, 0),
            Schedule::Unknown => (3, 0),
        };
        let raw = RawLaunch {
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.shared,
            schedule,
            landing: self.landing as u32,
            shared_limit: 227 << 10,
            seed,
        };
        let mut error = vec![0_u8; room];
        // SAFETY: `run` compared the arguments with the kernel's parameters, and who calls this
        // directly passes a launch that is refused. Buffers are as large as the kernels of
        // selftest.cu want them; those that are wrong on purpose harm nothing of ours.
        let failed = unsafe {
            simt_launch(
                find(self.kernel),
                &raw,
                args.as_mut_ptr(),
                error.as_mut_ptr().cast(),
                room,
            )
        };
        if failed == 0 {
            return Ok(());
        }
        let text = CStr::from_bytes_until_nul(&error).expect("the message ends");
        Err(text.to_str().expect("it is ASCII").into())
    }
}
