//! Shows the CUDA kernels of this build, checks them, and packs them for a machine with a GPU.

use autoassist::backend::gpu::catalog;
use autoassist::workbench::pack;
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
    /// Count what an op's kernels do to memory and compute, run on the CPU, and predict what that
    /// would take on a GPU
    Profile {
        /// An op, a kernel or its file: gemm, gemm_pipeline, kernels/gemm/6_pipeline.cu
        name: String,
        /// Step of the op's ladder; without it the last one that the shape and the GPU allow
        #[arg(long)]
        step: Option<u32>,
        #[command(flatten)]
        at: At,
    },
    /// Profile all steps of an op's ladder: a table, and a page with a roofline and the sources
    Ladder {
        /// An op: gemm, conv, attention, copy, ...
        name: String,
        #[command(flatten)]
        at: At,
        /// Where to write the page [default: ladder-NAME.html]
        #[arg(long, value_name = "FILE")]
        page: Option<PathBuf>,
    },
    /// Write the tables of ladders anew that a Markdown file has between its markers
    Tables {
        /// Such as kernels/README.md
        file: PathBuf,
    },
    /// Build tests, benches and programs and put them into DIR with a run.sh, for an x86-64 Linux
    /// machine with a GPU
    Pack {
        /// New, empty, or an earlier pack
        dir: PathBuf,
        /// Architectures to compile the kernels for, with commas between, such as 90a for an H100
        /// alone [default: $CUDA_ARCHS, or those of most GPUs]
        #[arg(long, value_name = "ARCH", value_delimiter = ',')]
        arch: Vec<String>,
        /// Cargo's profile to build with
        #[arg(long, default_value = "release")]
        profile: String,
    },
}

/// Where something is profiled.
#[derive(clap::Args)]
struct At {
    /// Sizes of the op, such as 512x512x512; without it the op's usual ones
    #[arg(long)]
    shape: Option<String>,
    /// GPU that times are predicted for: h100, h200, a100, 4090 or 5090
    #[arg(long, default_value = "h100")]
    gpu: String,
}

fn main() -> ExitCode {
    match Args::parse().action {
        Action::List => print(&catalog::table()),
        Action::Check { name } => check(&name),
        Action::Profile { name, step, at } => said(workbench::profile(&name, step, &at)),
        Action::Ladder { name, at, page } => said(workbench::ladder(&name, &at, page)),
        Action::Tables { file } => said(workbench::tables(&file)),
        Action::Pack { dir, arch, profile } => match pack::pack(&dir, &profile, &arch) {
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
    use autoassist::workbench::check::{RUNS, check};
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

/// Why a command has found nothing out, and what the program ends with: 2 for unusable arguments, 1
/// for a failure.
struct Failure {
    why: String,
    code: u8,
}

impl<E: ToString> From<E> for Failure {
    fn from(why: E) -> Failure {
        Failure {
            why: why.to_string(),
            code: 2,
        }
    }
}

fn said(result: Result<String, Failure>) -> ExitCode {
    match result {
        Ok(text) => print(&text),
        Err(Failure { why, code }) => {
            eprintln!("kernels: {why}");
            ExitCode::from(code)
        }
    }
}

#[cfg(simt)]
mod workbench {
    use super::{At, Failure};
    use autoassist::backend::DeviceError;
    use autoassist::backend::gpu::Gpu;
    use autoassist::workbench::profile::gpus::{GPUS, Specs, find as find_gpu};
    use autoassist::workbench::profile::{self, ProfileError, find, page, shape_of, tables, text};
    use autoassist::workbench::workload::{Dims, Op};
    use indicatif::{ProgressBar, ProgressStyle};
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    type Result<T = String> = std::result::Result<T, Failure>;
    type Open = fn() -> std::result::Result<Gpu, DeviceError>;

    impl At {
        /// The shape, if one is given, and the GPU.
        fn resolve(&self) -> Result<(Option<Vec<usize>>, &'static Specs)> {
            let shape = self.shape.as_deref().map(shape_of).transpose();
            let shape = shape.map_err(|e| format!("--shape: {e}"))?;
            let keys = GPUS.each_ref().map(|specs| specs.key).join(", ");
            let specs = find_gpu(&self.gpu);
            let specs = specs.ok_or_else(|| format!("--gpu {}: one of {keys}", self.gpu))?;
            Ok((shape, specs))
        }
    }

    /// A GPU to measure on, or a line that says why nothing is measured.
    fn device() -> Result<(Option<Open>, String)> {
        let absent = match Gpu::cuda(0) {
            Ok(_) => return Ok((Some(|| Gpu::cuda(0)), String::new())),
            Err(e) => e.unless_required(),
        };
        match absent {
            Ok(why) => Ok((None, format!("not measured: {why}\n"))),
            Err(e) => Err(failed(e)),
        }
    }

    /// That of a device that is there but does not do its work, or has to be there.
    fn failed(e: DeviceError) -> Failure {
        let why = e.to_string();
        Failure { why, code: 1 }
    }

    fn not_profiled(e: ProfileError) -> Failure {
        use DeviceError::{Call, Fault, OutOfMemory};
        match e {
            ProfileError::Device(e @ (Fault(_) | Call { .. } | OutOfMemory { .. })) => failed(e),
            other => other.into(),
        }
    }

    /// Says so of steps that will take minutes: also a sample has some whole blocks.
    fn warn(op: &Op, steps: &[(u32, Vec<usize>)], specs: &Specs) -> Result<()> {
        for (step, shape) in steps {
            let minutes = profile::effort(op, shape, *step, specs)? / 60.0;
            if minutes >= 1.0 {
                let of = Dims(shape);
                eprintln!(
                    "kernels: step {step} of {} of {of} will take about {minutes:.0} minutes: a block does \
                     much, and also a sample has some; Ctrl-C, and smaller sizes, are quicker",
                    op.name
                );
            }
        }
        Ok(())
    }

    /// On a terminal, something that moves.
    fn spinner(what: String) -> ProgressBar {
        let spinner = ProgressBar::new_spinner().with_message(what);
        let style = ProgressStyle::with_template("{spinner} {msg}, {elapsed}");
        spinner.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner
    }

    pub fn profile(name: &str, step: Option<u32>, at: &At) -> Result {
        let named = find(name)?;
        let (shape, specs) = at.resolve()?;
        let step = step.or(named.step);
        let usual = || step.map_or(named.op.shape, |step| named.op.shape_of(step));
        let shape = shape.unwrap_or_else(|| usual().to_vec());
        let step = match step {
            Some(step) => step,
            None => profile::last_step(named.op, &shape, specs)?,
        };
        warn(named.op, &[(step, shape.clone())], specs)?;
        let (device, absent) = device()?;
        let spinner = spinner(format!("{name} on the CPU"));
        let found = profile::step(named.op, &shape, step, specs, device);
        spinner.finish_and_clear();
        let found = found.map_err(not_profiled)?;
        Ok(text::profile(specs, named.op, &shape, &found) + &absent)
    }

    pub fn ladder(name: &str, at: &At, to: Option<PathBuf>) -> Result {
        let op = find(name)?.op;
        let (shape, specs) = at.resolve()?;
        warn(op, &op.climb(shape.as_deref()), specs)?;
        let to = to.unwrap_or_else(|| format!("ladder-{}.html", op.name).into());
        let (device, absent) = device()?;
        let ladder = climb(op, shape.as_deref(), specs, device)?;
        page::write(&to, specs, &ladder)?;
        let table = text::ladder(specs, &ladder);
        Ok(format!(
            "{table}{absent}\n{}: roofline and annotated sources\n",
            to.display()
        ))
    }

    fn climb(
        op: &'static Op,
        shape: Option<&[usize]>,
        specs: &Specs,
        device: Option<Open>,
    ) -> Result<profile::Ladder> {
        let spinner = spinner(op.name.into());
        let steps = op.climb(shape);
        let progress = |done: usize| {
            let (step, last) = (steps[done].0, op.steps[op.steps.len() - 1]);
            spinner.set_message(format!("{}, step {step} of {last}", op.name));
        };
        let ladder = profile::ladder(op, shape, specs, device, &progress);
        spinner.finish_and_clear();
        ladder.map_err(not_profiled)
    }

    pub fn tables(file: &Path) -> Result {
        let specs = &GPUS[0];
        let (device, _) = device()?;
        let table = |op: &'static Op| {
            let ladder = climb(op, None, specs, device).map_err(|e| e.why)?;
            Ok(text::markdown(specs, &ladder))
        };
        let count = tables::update(file, table)?;
        Ok(format!("{}: {count} tables\n", file.display()))
    }
}

#[cfg(not(simt))]
mod workbench {
    use super::{At, Failure};
    use autoassist::backend::DeviceError;
    use std::path::{Path, PathBuf};

    fn none() -> Result<String, Failure> {
        Err(DeviceError::NoSimt.into())
    }

    pub fn profile(_: &str, _: Option<u32>, at: &At) -> Result<String, Failure> {
        let _ = (&at.shape, &at.gpu);
        none()
    }

    pub fn ladder(_: &str, _: &At, _: Option<PathBuf>) -> Result<String, Failure> {
        none()
    }

    pub fn tables(_: &Path) -> Result<String, Failure> {
        none()
    }
}

fn print(text: &str) -> ExitCode {
    // A reader that has seen enough, such as `head`, is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
