//! What ends a run early: Ctrl-C, a closed terminal, the polite request of a scheduler.

use super::folders::give_up_all;
use super::{Console, TrainError};
use crate::world::world;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Signals within this time are one request: a terminal that closes and `timeout` send several, each
/// to the program and to its group.
const ONE_REQUEST: Duration = Duration::from_secs(1);
/// After Ctrl-C, as shells have it.
const EXIT_CODE: u8 = 130;

/// Whether somebody has asked the program to stop, and what is to be done then.
pub struct Stop {
    program: &'static str,
    asked: Arc<AtomicBool>,
    /// What to say when the process may end as soon as it is asked to.
    at_once: Mutex<Option<TrainError>>,
}

impl Stop {
    /// Nobody has asked `program` to stop.
    pub fn new(program: &'static str) -> Stop {
        Stop {
            program,
            asked: Arc::default(),
            at_once: Mutex::new(None),
        }
    }

    /// Whether to come to an end, with a checkpoint.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The same, for what knows nothing of training.
    pub fn flag(&self) -> &AtomicBool {
        &self.asked
    }

    /// The same, for what lives longer.
    pub fn share(&self) -> Arc<AtomicBool> {
        self.asked.clone()
    }

    /// Does `work` during which nothing can get lost, as all there is lies on the disk: whatever it
    /// waits for, a request to stop ends the process there and then, with `end` as its last line.
    pub fn at_once<T>(&self, end: TrainError, work: impl FnOnce() -> T) -> T {
        *self.lock() = Some(end);
        if self.asked() {
            self.end_if_allowed();
        }
        let result = work();
        *self.lock() = None;
        result
    }

    /// Obeys signals from now on, in a thread of its own. Those that were ignored when the program
    /// began stay ignored: `nohup`, or a shell that puts a job into the background, means it.
    ///
    /// # Errors
    /// No more threads or file descriptors.
    pub fn listen(&'static self, console: Console) -> std::io::Result<()> {
        let heeded = [SIGINT, SIGTERM, SIGHUP]
            .into_iter()
            .filter(|s| !ignored(*s));
        let mut signals = Signals::new(heeded)?;
        let obey = move || {
            while signals.wait().next().is_none() {}
            self.asked.store(true, Ordering::Relaxed);
            self.end_if_allowed();
            std::thread::sleep(ONE_REQUEST);
            signals.pending().for_each(drop);
            console
                .note("stopping after the steps under way; another Ctrl-C does not wait for them");
            // Impatience is a person's: only what a keyboard sends counts.
            while !signals.wait().any(|signal| signal == SIGINT) {}
            end(EXIT_CODE);
        };
        let thread = std::thread::Builder::new().name("signals".into());
        thread.spawn(obey).map(drop)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<TrainError>> {
        self.at_once.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the process if nothing can get lost. Nobody can change his mind meanwhile.
    fn end_if_allowed(&self) {
        if let Some(why) = &*self.lock() {
            let mut stderr = std::io::stderr();
            // Not behind a progress bar, or what the keyboard echoed.
            let line = if stderr.is_terminal() { "\n" } else { "" };
            if world().is_first() {
                let _ = writeln!(stderr, "{line}{}: {why}", self.program);
            }
            end(EXIT_CODE);
        }
    }
}

/// Whether somebody has told the system to ignore this signal.
fn ignored(signal: i32) -> bool {
    // SAFETY: a `sigaction` is plain numbers, for which zeros are valid; the call only fills it.
    let (known, action) = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let known = libc::sigaction(signal, std::ptr::null(), &mut action) == 0;
        (known, action)
    };
    known && action.sa_sigaction == libc::SIG_IGN
}

/// Without the work that the end of a process may bring, which could wait for a device.
pub(super) fn end(code: u8) -> ! {
    give_up_all();
    // SAFETY: ends the process; nothing of it is looked at afterwards.
    unsafe { libc::_exit(code.into()) }
}
