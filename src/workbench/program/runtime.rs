//! The other half of `kernels/simt/runtime.cpp`: device memory and launches of the program that this
//! process runs, and what is said at its end.

use super::machine::Machine;
use super::page::Page;
use super::report::{self, Touch};
use super::{Compiled, ProgramError};
use crate::simt::abi::{self, Device, Kernel, RawLaunch, RawProgram};
use crate::simt::checker::Checker;
use crate::simt::counts::LaunchProfile;
use crate::simt::instrumented::Library;
use crate::simt::profiler::Profiler;
use crate::simt::symbols::library_line;
use crate::workbench::profile::gpus::Specs;
use crate::workbench::profile::text::predicted;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt::Write as _;
use std::io::Write;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

/// Who looks at its kernels.
pub enum Watcher {
    None,
    Checker(Arc<Checker>),
    Profiler(Profiled),
}

/// What is wanted of a profile, and what there is for it.
pub struct Profiled {
    pub profiler: Arc<Profiler>,
    /// Only this launch is shown.
    pub launch: Option<usize>,
    pub page: Option<Page>,
    /// Or why there is none.
    pub machine: Result<Machine, String>,
}

struct State {
    watcher: Watcher,
    specs: &'static Specs,
    started: Instant,
    seen: Mutex<Seen>,
}

/// What the program has done.
#[derive(Default)]
struct Seen {
    launches: usize,
    profiles: Vec<LaunchProfile>,
    /// Predicted seconds of all launches.
    seconds: f64,
    failed: bool,
    /// It has asked for times, or for more memory than there is.
    timed: bool,
    full: bool,
    /// Allocations that nobody watches, and what is left for more.
    sizes: HashMap<usize, usize>,
    left: usize,
}

static STATE: OnceLock<State> = OnceLock::new();

fn state() -> &'static State {
    STATE.get().expect("set before the program is loaded")
}

impl State {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no holder panics")
    }
}

/// A line for who runs the program. Nobody may be there to read it.
fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "kernels: {text}");
}

/// Bytes of memory that this machine has left.
fn available() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

type Function = unsafe extern "C" fn(c_int, *mut *mut c_char) -> c_int;
type Caller = unsafe extern "C" fn(Function, c_int, *mut *mut c_char) -> c_int;

/// Where a program begins.
pub struct Main {
    main: Function,
    /// Of `kernels/cuda/launch.h`; a program that includes nothing of CUDA's has none.
    caller: Option<Caller>,
}

impl Main {
    /// Runs the program.
    ///
    /// # Safety
    /// As of the arguments of main() in C.
    pub unsafe fn call(&self, argc: c_int, argv: *mut *mut c_char) -> c_int {
        // SAFETY: the caller's.
        unsafe {
            match self.caller {
                Some(caller) => caller(self.main, argc, argv),
                None => (self.main)(argc, argv),
            }
        }
    }
}

unsafe extern "C" {
    /// Of the C library: like `atexit`, and told the exit code.
    fn on_exit(at_exit: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
}

/// Says how the program is to be run that is [loaded](load) next.
///
/// # Panics
/// If it was called before.
pub fn begin(watcher: Watcher, specs: &'static Specs) {
    let seen = Seen {
        // Not all of it: the program has some of its own.
        left: available().map_or(usize::MAX, |bytes| bytes / 10 * 9),
        ..Seen::default()
    };
    let guard = matches!(watcher, Watcher::Checker(_));
    let fresh = STATE
        .set(State {
            watcher,
            specs,
            started: Instant::now(),
            seen: Mutex::new(seen),
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
            memory_rate: specs.memory,
        },
        guard,
        alloc,
        define,
        carry,
        written,
        release,
        share,
        launch,
        clock,
        timed,
        line,
    };
    // SAFETY: the functions can be called from any thread; the name is never freed.
    unsafe {
        abi::simt_program(&program);
        if guard {
            abi::simt_program_guard();
        }
        // Before the program's own, so that it runs after them.
        on_exit(at_exit, ptr::null_mut());
    }
}

/// Loads the program.
///
/// # Errors
/// The loader's, or that there is no `main`.
pub fn load(compiled: &Compiled) -> Result<Main, ProgramError> {
    // SAFETY: constructors of the program run, which are its own affair.
    let loaded = unsafe { Library::open(&compiled.library)? };
    let main = loaded.address("main").map_err(|_| ProgramError::NoMain)?;
    let caller = loaded.address("simt_program_main").ok();
    // SAFETY: it is a function of the library.
    unsafe { loaded.keep(main) };
    // SAFETY: main() is called with two arguments whether it has parameters or not, as the C library
    // does it.
    let main = unsafe { std::mem::transmute::<*const c_void, Function>(main) };
    // SAFETY: as in launch.h.
    let caller = caller.map(|f| unsafe { std::mem::transmute::<*const c_void, Caller>(f) });
    Ok(Main { main, caller })
}

/// A page.
const PAGE: usize = 4096;

extern "C" fn alloc(bytes: usize, host: bool) -> *mut c_void {
    let allocated = match &state().watcher {
        Watcher::None => alloc_plain(bytes),
        Watcher::Checker(checker) if host => {
            // What the host writes there nobody sees.
            let allocated = checker.alloc_aligned(bytes, PAGE);
            allocated.map_or(ptr::null_mut(), |p| p.as_ptr().cast())
        }
        Watcher::Checker(checker) => checker.alloc(bytes).map_or(ptr::null_mut(), |p| {
            checker.scratch(p.as_ptr() as u64, bytes);
            p.as_ptr().cast()
        }),
        Watcher::Profiler(profiled) => profiled
            .profiler
            .alloc(bytes)
            .map_or(ptr::null_mut(), |p| p.as_ptr().cast()),
    };
    if allocated.is_null() && !std::mem::replace(&mut state().seen().full, true) {
        say(format_args!(
            "there is no room for {bytes} bytes of device memory more, so the allocation fails; use \
             smaller sizes"
        ));
    }
    allocated
}

fn alloc_plain(bytes: usize) -> *mut c_void {
    let mut seen = state().seen();
    if bytes > seen.left {
        return ptr::null_mut();
    }
    let mut p = ptr::null_mut();
    // SAFETY: a place for the result.
    let failed = unsafe { libc::posix_memalign(&mut p, 256, bytes) };
    if failed != 0 {
        return ptr::null_mut();
    }
    seen.left -= bytes;
    seen.sizes.insert(p as usize, bytes);
    p
}

extern "C" fn define(p: *mut c_void, bytes: usize) {
    if let Watcher::Checker(checker) = &state().watcher {
        checker.define(p as u64, bytes);
    }
}

extern "C" fn carry(to: *mut c_void, from: *const c_void, bytes: usize) {
    if let Watcher::Checker(checker) = &state().watcher {
        checker.carry(to as u64, from as u64, bytes);
    }
}

extern "C" fn written(p: *const c_void, bytes: usize) -> bool {
    match &state().watcher {
        Watcher::Checker(checker) => checker.written(p as u64, bytes),
        _ => true,
    }
}

unsafe extern "C" fn release(p: *mut c_void) {
    match &state().watcher {
        Watcher::None => {
            let mut seen = state().seen();
            seen.left += seen.sizes.remove(&(p as usize)).unwrap_or(0);
            // SAFETY: made by posix_memalign, released once.
            unsafe { libc::free(p) }
        }
        Watcher::Checker(checker) => checker.free(p as u64),
        // Its room is not used again.
        Watcher::Profiler(..) => {}
    }
}

extern "C" fn share(p: *mut c_void, bytes: usize) {
    if let Watcher::Checker(checker) = &state().watcher {
        checker.share(p, bytes);
    }
}

extern "C" fn clock() -> f64 {
    match &state().watcher {
        Watcher::Profiler(..) => state().seen().seconds,
        _ => state().started.elapsed().as_secs_f64(),
    }
}

extern "C" fn timed() {
    if std::mem::replace(&mut state().seen().timed, true) {
        return;
    }
    let gpu = state().specs.name;
    match &state().watcher {
        Watcher::Profiler(..) => say(format_args!(
            "times between events are predictions for the {gpu}, of kernels alone"
        )),
        _ => say(format_args!(
            "times between events are this machine's; `kernels profile` predicts those of a {gpu}"
        )),
    }
}

unsafe extern "C" fn line(sites: *const u64, text: *mut c_char, size: usize) -> bool {
    // SAFETY: there are 16, and room of that size.
    let (sites, text) = unsafe {
        (
            std::slice::from_raw_parts(sites, 16),
            std::slice::from_raw_parts_mut(text.cast::<u8>(), size),
        )
    };
    let Some(place) = library_line(sites).filter(|place| place.len() < size) else {
        return false;
    };
    text[..place.len()].copy_from_slice(place.as_bytes());
    text[place.len()] = 0;
    true
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
            Watcher::Profiler(profiled) => profiled.profiler.launch(kernel, raw, args, &mut error),
        }
    };
    let mut seen = state.seen();
    seen.launches += 1;
    if let Watcher::Profiler(profiled) = &state.watcher {
        let mut profiles = profiled.profiler.profiles();
        if let Ok(machine) = &profiled.machine {
            profiles.iter_mut().for_each(|launch| machine.read(launch));
        }
        let seconds = profiles.iter().map(|launch| predicted(state.specs, launch));
        seen.seconds += seconds.sum::<f64>();
        if profiled.launch.is_none_or(|wanted| wanted == seen.launches) {
            seen.profiles.extend(profiles);
        }
        profiled.profiler.forget();
    }
    if failed == 0 {
        return 0;
    }
    seen.failed = true;
    let text = CStr::from_bytes_until_nul(&error).unwrap_or_default();
    let text = text.to_string_lossy();
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stderr(), "{text}");
    code(&text)
}

/// `cudaError_t` of what went wrong.
fn code(message: &str) -> c_int {
    if message.contains("which is not there (") || message.contains("wild address") {
        700
    } else if message.contains("ssertion") {
        710
    } else {
        719
    }
}

/// What of the program's end is said beside what its kernels did.
fn notes(leaks: bool) -> String {
    let mut text = vec![0_u8; 1 << 16];
    // SAFETY: room of that size, which is terminated there.
    unsafe { abi::simt_program_notes(leaks, text.as_mut_ptr().cast(), text.len()) };
    let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
    text.to_string_lossy().into_owned()
}

/// The host's accesses to device memory.
fn touches() -> Vec<Touch> {
    let mut start = ptr::null();
    // SAFETY: a place for where they lie.
    let count = unsafe { abi::simt_program_touches(&mut start) };
    if count == 0 {
        return Vec::new();
    }
    // SAFETY: so many lie there, and the program has ended.
    let all = unsafe { std::slice::from_raw_parts(start, count) };
    let touch = |raw: &abi::RawTouch| Touch {
        place: library_line(&raw.sites).unwrap_or_else(|| "an unknown line".into()),
        writes: raw.writes,
        unwritten: raw.unwritten,
        at: raw.at,
        size: raw.size,
        allocated: format!("{}:{}", abi::text(raw.file), raw.line),
    };
    all.iter().map(touch).collect()
}

/// After all that the program has to say.
extern "C" fn at_exit(code: c_int, _: *mut c_void) {
    let state = state();
    let (mut text, found) = match &state.watcher {
        Watcher::None => (String::new(), false),
        Watcher::Checker(checker) => report::findings(
            &checker.findings(),
            &touches(),
            &notes(true),
            &checker.launches(),
        ),
        Watcher::Profiler(profiled) => {
            let seen = state.seen();
            let belief = report::belief(state.specs, &seen.profiles, &profiled.machine);
            let (all, launches) = (&seen.profiles, seen.launches);
            let shown = report::profiles(state.specs, all, profiled.launch, launches);
            (format!("\n{belief}\n{shown}"), false)
        }
    };
    let mut unwritten = false;
    if let Watcher::Profiler(profiled) = &state.watcher
        && let Some(page) = &profiled.page
    {
        let profiles = &state.seen().profiles;
        let belief = report::belief(state.specs, profiles, &profiled.machine);
        match page.write(state.specs, profiles, &belief) {
            Ok(()) => {
                let _ = writeln!(text, "\n{}: annotated sources", page.to.display());
            }
            Err(e) => {
                say(e);
                unwritten = true;
            }
        }
    }
    if !matches!(state.watcher, Watcher::Checker(_)) {
        for line in notes(false).lines() {
            say(line);
        }
    }
    let failed = match &state.watcher {
        Watcher::Checker(_) => state.seen().failed,
        // A program that has looked at the error knows what it means.
        // SAFETY: has no preconditions.
        _ => state.seen().failed && !unsafe { abi::simt_program_heard() },
    };
    // SAFETY: flushes all streams, then ends the process at once: nothing is left to be done.
    unsafe {
        libc::fflush(ptr::null_mut());
        let _ = std::io::stdout().write_all(text.as_bytes());
        let _ = std::io::stdout().flush();
        libc::_exit(if code == 0 && (found || failed || unwritten) {
            1
        } else {
            code
        });
    }
}
