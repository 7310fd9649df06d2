//! What is under way, for those who wait: something that moves on a terminal, elsewhere a line now
//! and then.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write, stderr};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two lines where there is no terminal. Nothing is said of what takes less.
const EVERY: Duration = Duration::from_secs(10);

/// Work under way, on standard error until this is dropped.
pub struct Progress(Shown);

enum Shown {
    Moving(ProgressBar),
    Lines(Lines),
}

/// A thread that writes a line now and then.
struct Lines {
    what: Arc<Mutex<String>>,
    // Dropped to end the thread.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lines {
    fn new(what: String, every: Duration, mut line: impl FnMut(&str) + Send + 'static) -> Lines {
        let what = Arc::new(Mutex::new(what));
        let (end, ended) = channel();
        let (text, start) = (what.clone(), Instant::now());
        let thread = thread::spawn(move || {
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let text = text.lock().expect("no holder panics");
                line(&format!("{text}, {} s", start.elapsed().as_secs()));
            }
        });
        Lines {
            what,
            end: Some(end),
            thread: Some(thread),
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.end = None;
        let thread = self.thread.take().expect("it is dropped once");
        thread.join().expect("writing a line does not panic");
    }
}

impl Progress {
    /// Of something that has begun: `gemm on the CPU`.
    pub fn new(what: String) -> Progress {
        if !stderr().is_terminal() {
            let line = |text: &str| {
                // Nobody has to listen.
                let _ = writeln!(stderr(), "{text}");
            };
            return Progress(Shown::Lines(Lines::new(what, EVERY, line)));
        }
        let bar = ProgressBar::new_spinner().with_message(what);
        let style = ProgressStyle::with_template("{spinner} {msg}, {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress(Shown::Moving(bar))
    }

    /// What it is at now: `gemm, step 2 of 7`.
    pub fn say(&self, what: String) {
        match &self.0 {
            Shown::Moving(bar) => bar.set_message(what),
            Shown::Lines(lines) => *lines.what.lock().expect("no holder panics") = what,
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Moving(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_it_is_at_until_it_ends() {
        let (to, lines) = channel();
        let progress = Lines::new("step 1".into(), Duration::from_millis(1), move |line| {
            let _ = to.send(line.to_string());
        });
        assert!(lines.recv().expect("a line").starts_with("step 1, "));
        *progress.what.lock().unwrap() = "step 2".into();
        let mut rest = lines.iter();
        assert!(rest.any(|line| line.starts_with("step 2, ")));
        drop(progress);
        // The writer is gone with it.
        assert!(rest.all(|line| line.starts_with("step 2, ")));
    }
}
