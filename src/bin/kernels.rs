//! Shows the CUDA kernels of this build, checks and profiles them, and packs them for a machine with
//! a GPU.

use autoassist::backend::gpu::catalog::{self, FILES};
use autoassist::workbench::names::hint;
use autoassist::workbench::pack;
#[cfg(simt)]
use autoassist::workbench::progress::Progress;
use clap::{Parser, Subcommand};
use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Shows the CUDA kernels of this build, checks and profiles them, and packs them for a machine with
/// a GPU.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print kernels, their files, what they take on each architecture, and what they compute
    List {
        /// Only kernels whose name or file contains this
        #[arg(default_value = "", hide_default_value = true)]
        name: String,
    },
    /// Run kernels on the CPU and look for races, accesses out of bounds and of uninitialised
    /// memory, misaligned vectors and undefined arithmetic
    Check {
        /// Only kernels whose name or file contains this
        #[arg(default_value = "", hide_default_value = true)]
        name: String,
    },
    /// Count what an op's kernels do to memory and compute, run on the CPU, and predict what that
    /// would take on a GPU
    Profile {
        /// An op, a kernel or its file: gemm, gemm_pipeline, kernels/gemm/6_pipeline.cu; without it
        /// all ops are listed
        name: Option<String>,
        /// Step of the op's ladder; without it the last one that the shape and the GPU allow
        #[arg(long)]
        step: Option<u32>,
        #[command(flatten)]
        at: At,
    },
    /// Profile all steps of an op's ladder: a table, and a page with a roofline and the sources
    Ladder {
        /// An op: gemm, conv, attention, copy, ...; without it all are listed
        name: Option<String>,
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
    /// Draw what kernels do to memory, as kernels/drawings/ has it: SVG files
    Drawings {
        /// A folder that is there
        dir: PathBuf,
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
        Action::List { name } => list(&name),
        Action::Check { name } => check(&name),
        Action::Profile { name, step, at } => said(match name {
            Some(name) => workbench::profile(&name, step, &at),
            None => workbench::list(),
        }),
        Action::Ladder { name, at, page } => said(match name {
            Some(name) => workbench::ladder(&name, &at, page),
            None => workbench::list(),
        }),
        Action::Tables { file } => said(workbench::tables(&file)),
        Action::Drawings { dir } => said(workbench::drawings(&dir)),
        Action::Pack { dir, arch, profile } => match pack::pack(&dir, &profile, &arch) {
            Ok(size) => print(&format!(
                "{}: {:.1} MiB; copy it to a machine with a GPU and there: bash run.sh\n",
                dir.display(),
                size as f64 / f64::from(1 << 20)
            )),
            Err(e) => failed(&e, e.exit_code()),
        },
    }
}

fn list(name: &str) -> ExitCode {
    match catalog::table(name) {
        Some(table) => print(&table),
        None => unknown(name),
    }
}

/// No kernel's name or file contains what was asked for.
fn unknown(name: &str) -> ExitCode {
    let folder = |path: &'static str| path.split('/').nth(1).unwrap_or(path);
    let names = FILES.iter().flat_map(|file| {
        let kernels = file.kernels.iter().copied();
        kernels.chain([folder(file.path)])
    });
    let hint = hint(name, names);
    let why = format!("no kernel's name or file contains {name:?}{hint}; see `kernels list`");
    failed(&why, 2)
}

#[cfg(simt)]
fn check(name: &str) -> ExitCode {
    use autoassist::workbench::check::{RUNS, check};
    let progress = Progress::new("check".into());
    let checked = check(name, &RUNS, &|done| {
        progress.say(format!("check: {:.0} %", 100.0 * done));
    });
    drop(progress);
    match checked {
        Ok(Some(report)) => {
            print(&report.text());
            ExitCode::from(u8::from(!report.is_clean()))
        }
        Ok(None) => unknown(name),
        Err(e) => failed(&e, 2),
    }
}

#[cfg(not(simt))]
fn check(_: &str) -> ExitCode {
    failed(&autoassist::backend::DeviceError::NoSimt, 2)
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
        Err(Failure { why, code }) => failed(&why, code),
    }
}

#[cfg(simt)]
mod workbench {
    use super::{At, Failure, Progress};
    use autoassist::backend::DeviceError;
    use autoassist::backend::gpu::Gpu;
    use autoassist::workbench::drawings;
    use autoassist::workbench::profile::gpus::{GPUS, Specs, find as find_gpu};
    use autoassist::workbench::profile::{
        self, ProfileError, find, list, page, shape_of, tables, text,
    };
    use autoassist::workbench::workload::Op;
    use std::path::{Path, PathBuf};

    type Result<T = String> = std::result::Result<T, Failure>;
    type Open = fn() -> std::result::Result<Gpu, DeviceError>;

    impl At {
        fn resolve(&self, op: &Op) -> Result<(Vec<usize>, &'static Specs)> {
            let shape = self.shape.as_deref().map(shape_of).transpose();
            let shape = shape.map_err(|e| format!("--shape: {e}"))?;
            let keys = GPUS.each_ref().map(|specs| specs.key).join(", ");
            let specs = find_gpu(&self.gpu);
            let specs = specs.ok_or_else(|| format!("--gpu {}: one of {keys}", self.gpu))?;
            Ok((shape.unwrap_or_else(|| op.shape.to_vec()), specs))
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

    pub fn list() -> Result {
        Ok(list::list())
    }

    pub fn profile(name: &str, step: Option<u32>, at: &At) -> Result {
        let named = find(name)?;
        let (shape, specs) = at.resolve(named.op)?;
        let step = match step.or(named.step) {
            Some(step) => step,
            None => profile::last_step(named.op, &shape, specs)?,
        };
        let (device, absent) = device()?;
        let progress = Progress::new(format!("{name} on the CPU"));
        let found = profile::step(named.op, &shape, step, specs, device);
        drop(progress);
        let found = found.map_err(not_profiled)?;
        Ok(text::profile(specs, named.op, &shape, &found) + &absent)
    }

    pub fn ladder(name: &str, at: &At, to: Option<PathBuf>) -> Result {
        let op = find(name)?.op;
        let (shape, specs) = at.resolve(op)?;
        let to = to.unwrap_or_else(|| format!("ladder-{}.html", op.name).into());
        let (device, absent) = device()?;
        let ladder = climb(op, &shape, specs, device)?;
        page::write(&to, specs, &ladder)?;
        let table = text::ladder(specs, &ladder);
        Ok(format!(
            "{table}{absent}\n{}: roofline and annotated sources\n",
            to.display()
        ))
    }

    fn climb(
        op: &'static Op,
        shape: &[usize],
        specs: &Specs,
        device: Option<Open>,
    ) -> Result<profile::Ladder> {
        let progress = Progress::new(op.name.into());
        let at = |done: usize| {
            let (step, last) = (op.steps[done], op.steps[op.steps.len() - 1]);
            progress.say(format!("{}, step {step} of {last}", op.name));
        };
        let ladder = profile::ladder(op, shape, specs, device, &at);
        ladder.map_err(not_profiled)
    }

    pub fn tables(file: &Path) -> Result {
        let specs = &GPUS[0];
        let (device, _) = device()?;
        let table = |op: &'static Op| {
            let ladder = climb(op, op.shape, specs, device).map_err(|e| e.why)?;
            Ok(text::markdown(specs, &ladder))
        };
        let count = tables::update(file, table)?;
        Ok(format!("{}: {count} tables\n", file.display()))
    }

    pub fn drawings(dir: &Path) -> Result {
        let progress = Progress::new("kernels on the CPU".into());
        let files = drawings::write(dir)?;
        drop(progress);
        Ok(format!("{}: {} drawings\n", dir.display(), files.len()))
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

    pub fn list() -> Result<String, Failure> {
        none()
    }

    pub fn drawings(_: &Path) -> Result<String, Failure> {
        none()
    }
}

fn failed(why: &dyn Display, code: u8) -> ExitCode {
    // Nobody has to listen.
    let _ = writeln!(std::io::stderr(), "kernels: {why}");
    ExitCode::from(code)
}

fn print(text: &str) -> ExitCode {
    // A reader that has seen enough, such as `head`, is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
