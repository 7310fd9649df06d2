//! The other half of `kernels/simt/runtime.cpp`: device memory and launches of the program that this
//! process runs, and what is said at its end.

use super::{ProgramError, report};
use crate::simt::abi::{self, Device, Kernel, RawLaunch, RawProgram};
use crate::simt::checker::Checker;
use crate::simt::counts::LaunchProfile;
use crate::simt::edited::Library;
use crate::simt::profiler::Profiler;
use crate::workbench::profile::gpus::Specs;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::Write;
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Mutex, OnceLock};

/// Who looks at its kernels.
pub enum Watcher {
    None,
    Checker(Arc<Checker>),
    /// And which launch is asked for, if not all.
    Profiler(Arc<Profiler>, Option<usize>),
}

struct State {
    watcher: Watcher,
    specs: &'static Specs,
    seen: Mutex<Seen>,
}

/// What the launches have shown.
#[derive(Default)]
struct Seen {
    launches: usize,
    profiles: Vec<LaunchProfile>,
    failed: bool,
}

static STATE: OnceLock<State> = OnceLock::new();

fn state() -> &'static State {
    STATE.get().expect("set before the program is loaded")
}

type Main = unsafe extern "C" fn(c_int, *mut *mut c_char) -> c_int;

unsafe extern "C" {
    /// Of the C library: like `atexit`, and told the exit code.
    fn on_exit(at_exit: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
}

/// Says how the program is to be run that is [loaded](load) next.
///
/// # Panics
/// If it was called before.
pub fn begin(watcher: Watcher, specs: &'static Specs) {
    let seen = Mutex::default();
    let fresh = STATE
        .set(State {
            watcher,
            specs,
            seen,
        })
        .is_ok();
    assert!(fresh, "a process runs one program");
    let name = CString::new(specs.name).unwrap_or_default();
    let capability = specs.capability;
    let program = RawProgram {
        device: Device {
            name: name.into_raw(),
            major: capability.arch.0,
            minor: capability.arch.1,
            multiprocessors: capability.multiprocessors,
            block_shared: capability.block_shared,
            shared: capability.shared,
            threads: specs.threads,
            blocks: specs.blocks,
            clock_khz: (specs.clock() / 1e3) as u32,
            l2: specs.l2 as u32,
            memory: 80 << 30,
        },
        alloc,
        define,
        release,
        launch,
    };
    // SAFETY: the functions can be called from any thread; the name is never freed.
    unsafe {
        abi::simt_program(&program);
        // Before the program's own, so that it runs after them.
        on_exit(at_exit, ptr::null_mut());
    }
}

/// Loads the program; returns its `main`.
///
/// # Errors
/// The loader's, or that there is no `main`.
pub fn load(library: &Path) -> Result<Main, ProgramError> {
    // SAFETY: constructors of the program run, which are its own affair.
    let loaded = unsafe { Library::open(library)? };
    let main = loaded.address("main").map_err(|_| ProgramError::NoMain)?;
    // SAFETY: it is a function of the library.
    unsafe { loaded.keep(main) };
    // SAFETY: main() is called with two arguments whether it has parameters or not, as the C library
    // does it.
    Ok(unsafe { std::mem::transmute::<*const c_void, Main>(main) })
}

extern "C" fn alloc(bytes: usize) -> *mut c_void {
    match &state().watcher {
        Watcher::None => {
            let mut p = ptr::null_mut();
            // SAFETY: a place for the result.
            let failed = unsafe { libc::posix_memalign(&mut p, 256, bytes) };
            if failed == 0 { p } else { ptr::null_mut() }
        }
        Watcher::Checker(checker) => checker.alloc(bytes).map_or(ptr::null_mut(), |p| {
            checker.scratch(p.as_ptr() as u64, bytes);
            p.as_ptr().cast()
        }),
        Watcher::Profiler(profiler, _) => profiler
            .alloc(bytes)
            .map_or(ptr::null_mut(), |p| p.as_ptr().cast()),
    }
}

extern "C" fn define(p: *mut c_void, bytes: usize) {
    if let Watcher::Checker(checker) = &state().watcher {
        checker.define(p as u64, bytes);
    }
}

unsafe extern "C" fn release(p: *mut c_void) {
    match &state().watcher {
        // SAFETY: made by posix_memalign, released once.
        Watcher::None => unsafe { libc::free(p) },
        Watcher::Checker(checker) => checker.free(p as u64),
        // Its room is not used again.
        Watcher::Profiler(..) => {}
    }
}

unsafe extern "C" fn launch(
    kernel: *const Kernel,
    raw: *const RawLaunch,
    args: *mut *mut c_void,
) -> c_int {
    let state = state();
    let mut error = vec![0_u8; 1 << 14];
    // SAFETY: the runtime has made the launch, with as many arguments as the kernel has.
    let failed = unsafe {
        let (raw, count) = (&*raw, (*kernel).argc as usize);
        let args = std::slice::from_raw_parts_mut(args, count);
        match &state.watcher {
            Watcher::None => abi::simt_launch(
                kernel,
                raw,
                args.as_mut_ptr(),
                error.as_mut_ptr().cast(),
                error.len(),
            ),
            Watcher::Checker(checker) => checker.launch(kernel, raw, args, &mut error),
            Watcher::Profiler(profiler, _) => profiler.launch(kernel, raw, args, &mut error),
        }
    };
    let mut seen = state.seen.lock().expect("no holder panics");
    seen.launches += 1;
    if let Watcher::Profiler(profiler, wanted) = &state.watcher {
        if wanted.is_none_or(|wanted| wanted == seen.launches) {
            seen.profiles.extend(profiler.profiles());
        }
        profiler.forget();
    }
    if failed != 0 {
        seen.failed = true;
        let text = CStr::from_bytes_until_nul(&error).unwrap_or_default();
        // Nobody may be there to read it.
        let _ = writeln!(std::io::stderr(), "{}", text.to_string_lossy());
    }
    failed
}

/// After all that the program has to say.
extern "C" fn at_exit(code: c_int, _: *mut c_void) {
    let state = state();
    let seen = state.seen.lock().expect("no holder panics");
    let (text, found) = match &state.watcher {
        Watcher::None => (String::new(), false),
        Watcher::Checker(checker) => report::findings(&checker.findings(), &checker.launches()),
        Watcher::Profiler(_, wanted) => (
            report::profiles(state.specs, &seen.profiles, *wanted, seen.launches),
            false,
        ),
    };
    // SAFETY: flushes all streams, then ends the process at once: nothing is left to be done.
    unsafe {
        libc::fflush(ptr::null_mut());
        let _ = std::io::stdout().write_all(text.as_bytes());
        let _ = std::io::stdout().flush();
        let failed = code == 0 && (found || seen.failed);
        libc::_exit(if failed { 1 } else { code });
    }
}
