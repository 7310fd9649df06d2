//! Ctrl-C while a program of one's own is compiled or runs: it ends at once, and leaves nothing.

use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Exit code after Ctrl-C.
const INTERRUPTED: i32 = 130;

/// A folder that is for this process alone.
static TEMPORARY: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Has Ctrl-C heeded, unless the program handles it by itself.
pub fn heed() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            let temporary = TEMPORARY.lock().expect("no holder panics");
            if let Some(folder) = &*temporary {
                let _ = fs::remove_dir_all(folder);
            }
            // SAFETY: ends the process at once: the program's own threads may be anywhere.
            unsafe { libc::_exit(INTERRUPTED) }
        }
    });
    Ok(())
}

/// Has a folder removed then.
pub fn remove(folder: &Path) {
    *TEMPORARY.lock().expect("no holder panics") = Some(folder.into());
}
