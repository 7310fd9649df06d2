//! What a program meets that no `Result` tells of: no memory, no threads, a fault of its own.

use super::TrainError;
use super::folders::give_up_all;
use crate::world::world;
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// Memory as the system gives it. Where it gives none the program ends with a line and the code of a
/// run that failed, instead of a signal.
pub struct Memory;

/// What the allocator returns, if it is anything.
fn there(memory: *mut u8, size: usize) -> *mut u8 {
    if memory.is_null() {
        no_memory(size);
    }
    memory
}

/// Set by the first allocation that fails.
static ENDING: AtomicBool = AtomicBool::new(false);

#[cold]
fn no_memory(size: usize) -> ! {
    // On the stack: there is no other memory.
    let mut line = [0; 256];
    let mut rest = &mut line[..];
    let _ = writeln!(
        rest,
        "no memory: {size} bytes more were refused; lower --batch, or raise the limit (ulimit -v, the \
         container's); a run goes on with --resume from its last checkpoint"
    );
    let left = rest.len();
    // What follows takes a little memory, which is mostly there; if not, this is where it ends.
    if !ENDING.swap(true, Ordering::Relaxed) {
        let _ = std::io::stderr().write_all(&line[..256 - left]);
        give_up_all();
    }
    // SAFETY: ends the process; nothing of it is looked at afterwards.
    unsafe { libc::_exit(1) }
}

// SAFETY: everything is the system's, but for null pointers, which never return.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that the system asks for; so below.
        there(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: see `alloc`.
        there(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: see `alloc`.
        there(unsafe { System.realloc(memory, layout, size) }, size)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: see `alloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Panics are said in one line from now on.
pub fn say(program: &'static str) {
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or(payload.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("no reason given").replace('\n', " ");
        let remedy = match text.contains("spawn thread") {
            true => "lower --threads, or raise the limit (ulimit -u, the container's)".to_string(),
            false => {
                let place = panic.location().map(|place| format!(" at {place}"));
                format!(
                    "a fault of the program{}: please report it",
                    place.unwrap_or_default()
                )
            }
        };
        let _ = writeln!(std::io::stderr(), "{program}: {text}; {remedy}");
    }));
}

/// There are not as many threads.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot start threads to compute ({0}); lower --threads, or raise the limit (ulimit -u, the container's)"
)]
struct NoThreads(rayon::ThreadPoolBuildError);

/// How many threads there are, to rayon.
const VARIABLE: &str = "RAYON_NUM_THREADS";

/// Starts the threads that compute: as many as are asked for, or one a core, of which each rank on
/// this machine has a part.
///
/// # Errors
/// The system gives none.
pub fn start_threads(threads: Option<usize>) -> Result<(), TrainError> {
    // rayon's own variable says what rank and machine have nothing to do with.
    let shared = || {
        world()
            .threads()
            .filter(|_| std::env::var_os(VARIABLE).is_none())
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.or_else(shared).unwrap_or(0));
    pool.build_global()
        .map_err(|e| TrainError::unusable(NoThreads(e)))
}
