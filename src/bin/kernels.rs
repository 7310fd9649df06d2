//! Shows the CUDA kernels of this build, checks them, and packs them for a machine with a GPU.

use autoassist::backend::gpu::{catalog, pack};
use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Shows the CUDA kernels of this build, checks them, and packs them for a machine with a GPU.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print every kernel, its file, and what it takes on each architecture
    List,
    /// Run kernels on the CPU and look for races, accesses out of bounds and of uninitialised
    /// memory, misaligned vectors and undefined arithmetic
    Check {
        /// Only kernels whose name or file contains this
        #[arg(default_value = "")]
        name: String,
    },
    /// Build tests, benches and programs and put them into DIR with a run.sh, for an x86-64 Linux
    /// machine with a GPU
    Pack {
        /// New, empty, or an earlier pack
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    match Args::parse().action {
        Action::List => print(&catalog::table()),
        Action::Check { name } => check(&name),
        Action::Pack { dir } => match pack::pack(&dir) {
            Ok(size) => print(&format!(
                "{}: {:.1} MiB; copy it to a machine with a GPU and there: bash run.sh\n",
                dir.display(),
                size as f64 / f64::from(1 << 20)
            )),
            Err(e) => {
                eprintln!("kernels: {e}");
                ExitCode::from(e.exit_code())
            }
        },
    }
}

#[cfg(simt)]
fn check(name: &str) -> ExitCode {
    use autoassist::backend::gpu::check::{RUNS, check};
    // Hidden where standard error is no terminal.
    let bar = indicatif::ProgressBar::new(1000);
    let checked = check(name, &RUNS, &|done| {
        bar.set_position((done * 1000.0) as u64)
    });
    bar.finish_and_clear();
    match checked {
        Ok(Some(report)) => {
            print(&report.text());
            ExitCode::from(u8::from(!report.is_clean()))
        }
        Ok(None) => {
            eprintln!("kernels: no kernel's name or file contains {name:?}; see `kernels list`");
            ExitCode::from(2)
        }
        Err(e) => {
            eprintln!("kernels: {e}");
            ExitCode::from(2)
        }
    }
}

#[cfg(not(simt))]
fn check(_: &str) -> ExitCode {
    eprintln!("kernels: {}", autoassist::backend::DeviceError::NoSimt);
    ExitCode::from(2)
}

fn print(text: &str) -> ExitCode {
    // A reader that has seen enough, such as `head`, is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
