//! What people see while they wait: progress bars on a terminal, a line now and then elsewhere,
//! nothing with `--quiet`.

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::io::{IsTerminal, Write as _};
use std::ops::Range;
use std::time::Duration;

/// Where messages go.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    /// Errors only.
    pub quiet: bool,
}

impl Console {
    /// Whether progress bars are drawn: standard error is a terminal and nobody asked for quiet.
    pub fn bars(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }

    /// A result, on standard output.
    pub fn say(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            // A reader who has seen enough and closed the pipe is no reason to fail.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }

    /// A sign of life, on standard error.
    pub fn note(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }

    /// A bar over `steps`, at `done`, whose message comes behind it; in one line of 80 columns, and
    /// of whatever there are.
    pub fn bar(&self, name: &str, steps: u64, done: u64) -> ProgressBar {
        let template = "{prefix:>16.bold} {bar:8.cyan/dim} {percent:>3}%{left}  {wide_msg}";
        let style = ProgressStyle::with_template(template).expect("a valid template");
        let style = style.with_key("left", move |state: &ProgressState, out: &mut dyn Write| {
            let all = state.len().unwrap_or(0);
            if let Some(left) = time_left(state.elapsed(), done..state.pos(), all) {
                let _ = write!(out, " {:#} left", HumanDuration(left));
            }
        });
        let target = if self.bars() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(steps), target).with_style(style);
        bar.with_prefix(name.to_string()).with_position(done)
    }
}

/// Before this there is nothing to tell from how long something takes.
const FIRST_GUESS: Duration = Duration::from_secs(3);

/// How long the rest takes of `all`, if the part `done` has taken so long.
fn time_left(elapsed: Duration, done: Range<u64>, all: u64) -> Option<Duration> {
    if elapsed < FIRST_GUESS || done.is_empty() || all <= done.end {
        return None;
    }
    let (done, left) = (done.end - done.start, all - done.end);
    Some(elapsed.mul_f64(left as f64 / done as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_former_run_has_done_says_nothing_of_this_one_s_speed() {
        let seconds = Duration::from_secs;
        let left = |after, done, all| time_left(seconds(after), done, all);
        assert_eq!(left(10, 0..50, 150), Some(seconds(20)));
        assert_eq!(left(10, 900..950, 1000), Some(seconds(10)));
        assert_eq!(left(10, 900..900, 1000), None);
        assert_eq!(left(1, 0..1, 1000), None, "too early");
        assert_eq!(left(10, 0..1000, 1000), None);
        assert_eq!(left(10, 0..1, 0), None, "of unknown size");
    }
}
