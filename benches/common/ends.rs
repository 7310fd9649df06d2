//! How a bench ends.

use std::fmt::Display;
use std::process::ExitCode;

/// Says in one line why it failed, if it did.
pub fn ends(bench: &str, result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{bench}: {e}");
            ExitCode::FAILURE
        }
    }
}
