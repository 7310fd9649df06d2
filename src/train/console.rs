//! What people see while they wait: progress bars on a terminal, a line now and then elsewhere,
//! nothing with `--quiet`.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};

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

    /// A bar over `steps`, at `done`, whose message comes behind it.
    pub fn bar(&self, name: &str, steps: u64, done: u64) -> ProgressBar {
        let template = "{prefix:>12.bold} {bar:24.cyan/dim} {percent:>3}% {msg}  {eta} left";
        let style = ProgressStyle::with_template(template).expect("a valid template");
        let target = if self.bars() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(steps), target).with_style(style);
        bar.with_prefix(name.to_string()).with_position(done)
    }
}
