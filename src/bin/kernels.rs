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
use std::path::{Path, PathBuf};
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
    /// Run a CUDA C++ program of your own on the CPU
    Run {
        #[command(flatten)]
        program: Program,
        /// GPU that the program is told it runs on
        #[arg(long, default_value = "h100")]
        gpu: String,
    },
    /// Run kernels on the CPU and look for races, accesses out of bounds and of uninitialised
    /// memory, misaligned vectors and undefined arithmetic: those of this repository, or of a
    /// program of your own
    Check {
        #[command(flatten)]
        program: Program,
    },
    /// Count what an op's kernels, or those of a program of your own, do to memory and compute, run
    /// on the CPU, and predict what that would take on a GPU
    Profile {
        #[command(flatten)]
        program: Program,
        /// Of a program of your own only this launch, from 1 on
        #[arg(long, value_name = "N")]
        launch: Option<usize>,
        /// Of a program of your own run at most N blocks of each launch, and estimate the others by them
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        max_blocks: Option<u64>,
        /// Of a program of your own write a page, too, with its sources and what their lines cost
        #[arg(long, value_name = "FILE")]
        page: Option<PathBuf>,
        /// Step of the op's ladder; without it the last one that the shape and the GPU allow
        #[arg(long)]
        step: Option<u32>,
        /// In place of an op a training step of a network, every launch of it: resnet20, resnet18,
        /// transformer-base, transformer-iwslt, ...
        #[arg(long, value_name = "NAME", conflicts_with_all = ["words", "step", "shape", "launch", "max_blocks"])]
        network: Option<String>,
        /// Images or sentence pairs of the network's step [default: 1024 images, 256 pairs of 16 tokens]
        #[arg(long, value_name = "N", requires = "network", value_parser = clap::value_parser!(u32).range(1..))]
        batch: Option<u32>,
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
    /// Write the tables of ladders and of networks' steps anew that a Markdown file has between its
    /// markers
    Tables {
        /// Such as kernels/README.md or benches/results/predicted.md
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

/// Kernels, or a program with some.
#[derive(clap::Args)]
struct Program {
    /// CUDA C++ files with a main(), and arguments of the program; or an op, a kernel or its file:
    /// gemm, gemm_pipeline, kernels/gemm/6_pipeline.cu
    #[arg(value_name = "FILE.cu|NAME")]
    words: Vec<String>,
    /// Look for headers of the program here
    #[arg(short = 'I', value_name = "DIR")]
    include: Vec<PathBuf>,
    /// Define a macro for the program
    #[arg(short = 'D', value_name = "NAME[=VALUE]")]
    define: Vec<String>,
    /// The program's C++: c++17 or c++20 [default: c++17]
    #[arg(long = "std", value_name = "STANDARD")]
    standard: Option<String>,
    /// Arguments of the program
    #[arg(last = true)]
    args: Vec<String>,
}

impl Program {
    /// Whether these are no kernels of this repository.
    fn is_own(&self) -> bool {
        let is_known = |word: &String| catalog::FILES.iter().any(|file| file.path == word);
        self.words
            .first()
            .is_some_and(|word| is_source(word) && !is_known(word))
    }
}

/// Whether that looks like a file of a program.
fn is_source(word: &str) -> bool {
    let extension = Path::new(word).extension().and_then(|e| e.to_str());
    matches!(extension, Some("cu" | "cpp" | "cc" | "cxx" | "c"))
}

/// Where something is profiled.
#[derive(clap::Args)]
struct At {
    /// Sizes of the op, such as 512x512x512; without it the op's usual ones
    #[arg(long)]
    shape: Option<String>,
    /// GPU that times are predicted for: h100, h200, a100, a6000, 4090 or 5090
    #[arg(long, default_value = "h100")]
    gpu: String,
}

fn main() -> ExitCode {
    // As compilers have it.
    let words = std::env::args_os().map(|word| match word.to_str() {
        Some(text) if text.starts_with("-std=") => format!("-{text}").into(),
        _ => word,
    });
    match Args::parse_from(words).action {
        Action::List { name } => list(&name),
        Action::Run { program, gpu } => said(workbench::run(&program, &gpu)),
        Action::Check { program } if program.is_own() => said(workbench::check_own(&program)),
        Action::Check { program } => check(program.words.first().map_or("", String::as_str)),
        Action::Profile {
            program,
            launch,
            max_blocks,
            page,
            at,
            ..
        } if program.is_own() => said(workbench::profile_own(
            &program, launch, max_blocks, page, &at.gpu,
        )),
        Action::Profile { page: Some(_), .. } => said(Err(
            "--page is of a program of your own; `kernels ladder` writes one of an op".into(),
        )),
        Action::Profile {
            network: Some(network),
            batch,
            at,
            ..
        } => said(workbench::network(&network, batch, &at.gpu)),
        Action::Profile {
            program, step, at, ..
        } => said(match program.words.first() {
            Some(name) => workbench::profile(name, step, &at),
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
    use autoassist::workbench::check::{Plan, RUNS};
    let Some(plan) = Plan::new(name) else {
        return unknown(name);
    };
    if let Err(failure) = workbench::prepare(plan.files()) {
        return said(Err(failure));
    }
    let progress = Progress::new("check".into());
    let checked = plan.run(&RUNS, &|done| {
        progress.say(format!("check: {:.0} %", 100.0 * done));
    });
    drop(progress);
    match checked {
        Ok(report) => {
            print(&report.text());
            ExitCode::from(u8::from(!report.is_clean()))
        }
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
    use super::{At, Failure, Program, Progress, is_source};
    use autoassist::backend::DeviceError;
    use autoassist::backend::gpu::Gpu;
    use autoassist::simt::instrumented::{files, load};
    use autoassist::workbench::drawings;
    use autoassist::workbench::profile::gpus::{GPUS, Specs, find as find_gpu};
    use autoassist::workbench::profile::network::{self, Network};
    use autoassist::workbench::profile::tables::Wanted;
    use autoassist::workbench::profile::{
        self, ProfileError, find, list, page, shape_of, tables, text,
    };
    use autoassist::workbench::program::{self, Action, Options};
    use autoassist::workbench::workload::{Dims, Op};
    use std::ffi::OsString;
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::time::Instant;

    type Result<T = String> = std::result::Result<T, Failure>;
    type Open = fn() -> std::result::Result<Gpu, DeviceError>;

    impl At {
        /// The shape, if one is given, and the GPU.
        fn resolve(&self) -> Result<(Option<Vec<usize>>, &'static Specs)> {
            let shape = self.shape.as_deref().map(shape_of).transpose();
            let shape = shape.map_err(|e| format!("--shape: {e}"))?;
            Ok((shape, gpu(&self.gpu)?))
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

    /// Has the kernels of these files compiled to be looked at, and says which were edited.
    pub fn prepare(files: impl Iterator<Item = &'static str>) -> Result<()> {
        let started = Instant::now();
        let files: Vec<&str> = files.collect();
        let progress = Progress::new("kernels, compiled to be looked at".into());
        let prepared = load(&files, &|done, all| {
            progress.say(format!(
                "kernels, compiled to be looked at: {done} of {all}"
            ));
        });
        drop(progress);
        let prepared = prepared?;
        if !prepared.edited.is_empty() {
            let (files, seconds) = (prepared.edited.join(", "), started.elapsed().as_secs_f64());
            let again = match prepared.compiled {
                0 => String::new(),
                _ => format!(", compiled again in {seconds:.1} s"),
            };
            // Nobody may be there to read it.
            let _ = writeln!(std::io::stderr(), "edited since the build{again}: {files}");
        }
        Ok(())
    }

    /// Says so of steps that will take minutes: also a sample has some whole blocks.
    fn warn(op: &Op, steps: &[(u32, Vec<usize>)], specs: &Specs) -> Result<()> {
        for (step, shape) in steps {
            let minutes = profile::effort(op, shape, *step, specs)? / 60.0;
            if minutes >= 1.0 {
                let (of, op) = (Dims(shape), op.name);
                // Nobody may be there to read it.
                let _ = writeln!(
                    std::io::stderr(),
                    "kernels: step {step} of {op} of {of} will take about {minutes:.0} minutes: a \
                     block does much, and also a sample has some; Ctrl-C, and smaller sizes, are \
                     quicker"
                );
            }
        }
        Ok(())
    }

    /// Those that are launched for these steps of an op.
    fn prepare_op(op: &Op, steps: &[(u32, Vec<usize>)], specs: &Specs) -> Result<()> {
        prepare(profile::files(op, steps, specs.capability)?.into_iter())
    }

    fn prepare_all() -> Result<()> {
        prepare(files().into_iter())
    }

    fn gpu(key: &str) -> Result<&'static Specs> {
        let keys = GPUS.each_ref().map(|specs| specs.key).join(", ");
        Ok(find_gpu(key).ok_or_else(|| format!("--gpu {key}: one of {keys}"))?)
    }

    /// Runs a program, which ends this one.
    fn start(action: Action, words: &Program, gpu_key: &str) -> Result {
        let specs = gpu(gpu_key)?;
        let is_file = |word: &&String| is_source(word);
        let files: Vec<PathBuf> = words
            .words
            .iter()
            .take_while(is_file)
            .map(Into::into)
            .collect();
        if files.is_empty() {
            return Err("run what? Name a .cu file".into());
        }
        let rest = words.words[files.len()..].iter().chain(&words.args);
        let args: Vec<OsString> = rest.map(Into::into).collect();
        let options = Options {
            include: words.include.clone(),
            define: words.define.clone(),
            standard: words.standard.clone(),
        };
        match program::run(action, &files, &options, specs, &args)? {}
    }

    pub fn run(program: &Program, gpu: &str) -> Result {
        start(Action::Run, program, gpu)
    }

    pub fn check_own(program: &Program) -> Result {
        start(Action::Check, program, GPUS[0].key)
    }

    pub fn profile_own(
        program: &Program,
        launch: Option<usize>,
        max_blocks: Option<u64>,
        page: Option<PathBuf>,
        gpu: &str,
    ) -> Result {
        let action = Action::Profile {
            launch,
            max_blocks,
            page,
        };
        start(action, program, gpu)
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
        let steps = [(step, shape.clone())];
        warn(named.op, &steps, specs)?;
        prepare_op(named.op, &steps, specs)?;
        let (device, absent) = device()?;
        let progress = Progress::new(format!("{name} on the CPU"));
        let found = profile::step(named.op, &shape, step, specs, device);
        drop(progress);
        let found = found.map_err(not_profiled)?;
        Ok(text::profile(specs, named.op, &shape, &found) + &absent)
    }

    pub fn network(name: &str, batch: Option<u32>, gpu_key: &str) -> Result {
        let specs = gpu(gpu_key)?;
        let found = Network::named(name).ok_or_else(|| {
            let names: Vec<String> = Network::all().map(Network::name).collect();
            format!("--network {name}: one of {}", names.join(", "))
        })?;
        prepare_all()?;
        let batch = batch.map_or(found.usual_batch(), |n| n as usize);
        Ok(stepped(found, batch, specs)?.text(specs))
    }

    fn stepped(network: Network, batch: usize, specs: &Specs) -> Result<network::Step> {
        let progress = Progress::new(format!("a step of {} on the CPU", network.name()));
        let step = network::profile(network, batch, specs);
        drop(progress);
        step.map_err(not_profiled)
    }

    pub fn ladder(name: &str, at: &At, to: Option<PathBuf>) -> Result {
        let op = find(name)?.op;
        let (shape, specs) = at.resolve()?;
        let steps = op.climb(shape.as_deref());
        warn(op, &steps, specs)?;
        prepare_op(op, &steps, specs)?;
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
        let progress = Progress::new(op.name.into());
        let steps = op.climb(shape);
        let at = |done: usize| {
            let (step, last) = (steps[done].0, op.steps[op.steps.len() - 1]);
            progress.say(format!("{}, step {step} of {last}", op.name));
        };
        let ladder = profile::ladder(op, shape, specs, device, &at);
        ladder.map_err(not_profiled)
    }

    pub fn tables(file: &Path) -> Result {
        prepare_all()?;
        let specs = &GPUS[0];
        let (device, _) = device()?;
        let table = |wanted| match wanted {
            Wanted::Ladder(op) => {
                let ladder = climb(op, None, specs, device).map_err(|e| e.why)?;
                Ok(text::markdown(specs, &ladder))
            }
            Wanted::Network(network, batch, specs) => {
                let step = stepped(network, batch, specs).map_err(|e| e.why)?;
                Ok(step.markdown(specs))
            }
        };
        let count = tables::update(file, table)?;
        Ok(format!("{}: {count} tables\n", file.display()))
    }

    pub fn drawings(dir: &Path) -> Result {
        prepare_all()?;
        let progress = Progress::new("kernels on the CPU".into());
        let files = drawings::write(dir)?;
        drop(progress);
        Ok(format!("{}: {} drawings\n", dir.display(), files.len()))
    }
}

#[cfg(not(simt))]
mod workbench {
    use super::{At, Failure, Program};
    use autoassist::backend::DeviceError;
    use std::path::{Path, PathBuf};

    fn none() -> Result<String, Failure> {
        Err(DeviceError::NoSimt.into())
    }

    pub fn run(program: &Program, _: &str) -> Result<String, Failure> {
        let _ = (
            &program.include,
            &program.define,
            &program.standard,
            &program.args,
        );
        none()
    }

    pub fn check_own(_: &Program) -> Result<String, Failure> {
        none()
    }

    pub fn profile_own(
        _: &Program,
        _: Option<usize>,
        _: Option<u64>,
        _: Option<PathBuf>,
        _: &str,
    ) -> Result<String, Failure> {
        none()
    }

    pub fn profile(_: &str, _: Option<u32>, at: &At) -> Result<String, Failure> {
        let _ = (&at.shape, &at.gpu);
        none()
    }

    pub fn network(_: &str, _: Option<u32>, _: &str) -> Result<String, Failure> {
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
