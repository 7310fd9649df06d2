//! What the programs have in common: the command line, and what it leads to.

use super::config::{overlay, read};
use super::folders::{RunFolder, check_free, write_settings};
use super::resumed;
use super::stop::end;
use super::task::{Task, Words};
use super::value;
use super::verdict::WOULD_TELL;
use super::{
    Config, ConfigError, Console, Defaults, Job, Options, Start, Stop, TrainError, compare,
    evaluate_only, faults, overfit_one_batch, resume, train,
};
use crate::backend::gpu::catalog::TOOLKIT;
use crate::files;
use crate::world::{self, hash, world};
use clap::builder::UnknownArgumentValueParser;
use clap::{Arg, ArgMatches, Args, CommandFactory, FromArgMatches};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

/// What distinguishes one program from another.
pub trait Program {
    /// As it is called.
    const NAME: &'static str;
    /// For `--help`.
    const ABOUT: &'static str;
    /// Said before a demonstration.
    const DEMONSTRATION: &'static str;
    /// Commands to start from, for `--help`.
    const EXAMPLES: &'static str;
    /// How it speaks of its instances and of a result on the test set.
    const WORDS: &'static Words;
    /// Whose names the parameters have in exported files.
    const NAMES: &'static str;
    /// Its own flags.
    type Options: Args + Serialize + DeserializeOwned + Default + PartialEq;
    /// Its own resolved settings.
    type Config: Serialize + DeserializeOwned;

    /// Whether data are named: without, the program is a demonstration.
    fn has_data(options: &Self::Options) -> bool;
    /// Defaults of the flags that the programs share.
    fn defaults(demonstration: bool) -> Defaults;
    /// Fills in its own defaults.
    fn resolve(options: Self::Options, demonstration: bool) -> Self::Config;
    /// # Errors
    /// The first setting that makes no sense.
    fn check(config: &Self::Config) -> Result<(), ConfigError>;
    /// Reads or generates the data; `run` is the folder of a run to go on with.
    ///
    /// # Errors
    /// Whatever is wrong with them.
    fn load(
        shared: &Config,
        config: Self::Config,
        run: Option<&Path>,
        console: Console,
        interrupt: &AtomicBool,
    ) -> Result<Box<dyn Task>, TrainError>;
}

/// The command line of a program with the flags `T` of its own.
#[derive(clap::Parser)]
#[command(
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    allow_negative_numbers = true,
    next_help_heading = "The run and its files"
)]
struct Flags<T: Args> {
    #[command(flatten)]
    own: T,
    #[command(flatten)]
    options: Options,
    /// Read options from this file; flags win over it
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Folder for everything the run writes [default: runs/PROGRAM-TIME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in this folder, with its configuration; of the flags above only --lr, a
    /// larger --epochs, --device, --threads and where the data are may change it
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "config"])]
    resume: Option<PathBuf>,
    /// Also write the trained weights here (safetensors)
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Evaluate the weights of --init and stop; writes no folder
    #[arg(long, conflicts_with_all = ["resume", "compare"])]
    eval_only: bool,
    /// Train on one batch alone, to see that the network can learn at all; writes no folder
    #[arg(long, conflicts_with_all = ["resume", "eval_only", "compare", "export"])]
    overfit_one_batch: bool,
    /// End with one line of JSON on standard output, what summary.json holds
    #[arg(long)]
    json: bool,
    /// Print errors and --json only
    #[arg(long)]
    quiet: bool,
}

/// Flags that people know from elsewhere, and what they are called here.
const FOREIGN: [(&str, &str); 7] = [
    ("arch", "--depth"),
    ("model", "--depth"),
    ("batch-size", "--batch"),
    ("learning-rate", "--lr"),
    ("output", "--out"),
    ("gpu", "--device cuda"),
    ("workers", "--threads"),
];

/// What this program was built from and for.
fn version() -> String {
    let simt = match cfg!(simt) {
        true => "simt",
        false => "no simt (built without a C++ compiler, or for another machine)",
    };
    let cuda = match TOOLKIT {
        Some((major, minor)) => format!("cuda (kernels by CUDA {major}.{minor})"),
        None => "no cuda (built without nvcc)".into(),
    };
    format!("{}\nexecutors: cpu, {simt}, {cuda}", super::version())
}

/// The command line of a program, which may be given subcommands.
pub fn command<P: Program>() -> clap::Command {
    let (usual, shown) = (P::defaults(false), P::defaults(true));
    let defaults = [
        ("epochs", usual.epochs, shown.epochs),
        ("batch", usual.batch as f64, shown.batch as f64),
        ("lr", usual.lr, shown.lr),
        ("weight_decay", usual.weight_decay, shown.weight_decay),
        (
            "label_smoothing",
            usual.label_smoothing,
            shown.label_smoothing,
        ),
    ];
    let command = Flags::<P::Options>::command().name(P::NAME).about(P::ABOUT);
    let command = defaults
        .into_iter()
        .fold(command, |command, (flag, usual, shown)| {
            let default = match usual == shown {
                true => format!("[default: {usual}]"),
                false => format!("[default: {usual}; in the demonstration {shown}]"),
            };
            command.mut_arg(flag, |arg| {
                let help = arg.get_help().map(ToString::to_string);
                arg.help(format!("{} {default}", help.unwrap_or_default()))
            })
        });
    let export = format!(
        "Also write the trained weights here (safetensors, {} names)",
        P::NAMES
    );
    let command = command.mut_arg("export", |arg| arg.help(export));
    let known: Vec<String> = {
        let flags = command.get_arguments().filter_map(|arg| arg.get_long());
        flags.map(str::to_string).collect()
    };
    let foreign = FOREIGN
        .into_iter()
        .filter(|(flag, _)| !known.contains(&flag.to_string()));
    let command = foreign.fold(command, |command, (flag, ours)| {
        let parser = UnknownArgumentValueParser::suggest_arg(ours);
        command.arg(Arg::new(flag).long(flag).hide(true).value_parser(parser))
    });
    let version: &str = version().leak();
    command.version(version).after_help(P::EXAMPLES)
}

/// Runs what the command line asks for, and says what went wrong.
pub fn main<P: Program>(parsed: Result<ArgMatches, clap::Error>) -> ExitCode {
    faults::say(P::NAME);
    let parsed = parsed.and_then(|matches| Flags::from_arg_matches(&matches));
    let stop: &Stop = Box::leak(Box::new(Stop::new(P::NAME)));
    let joined = world::join(stop.share()).map_err(TrainError::from);
    // Before anybody is met all find the same by themselves.
    let speaks = joined.is_ok() || world::speaks_for_all();
    let world = world();
    let args = match parsed {
        Ok(args) => args,
        Err(usage) => {
            let line = usage
                .to_string()
                .lines()
                .next()
                .unwrap_or_default()
                .to_string();
            let refusal = Err::<(), _>(ConfigError::Together(line).into());
            let _: Result<_, TrainError> = world.together("the command line", refusal);
            if speaks && world.is_first() {
                let _ = usage.print();
            }
            world.leave();
            return ExitCode::from(usage.exit_code() as u8);
        }
    };
    let met = joined.and_then(|()| world.together("the command line", Ok(())));
    if let Err(e) = met {
        return match speaks {
            true => exit_code(P::NAME, Err(e)),
            false => ExitCode::from(e.exit_code()),
        };
    }
    let console = Console {
        quiet: args.quiet || !world.is_first(),
    };
    guarded(P::NAME, console, stop, || run::<P>(args, console, stop))
}

/// Does `work` so that no panic and no signal goes unheeded, and says what went wrong.
pub(super) fn guarded(
    name: &str,
    console: Console,
    stop: &'static Stop,
    work: impl FnOnce() -> Result<(), TrainError>,
) -> ExitCode {
    if let Err(e) = stop.listen(console) {
        console.note(format_args!(
            "{name}: Ctrl-C will lose what is not checkpointed: {e}"
        ));
    }
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => exit_code(name, result),
        // It has been said what happened.
        Err(_) => ExitCode::FAILURE,
    }
}

/// One line about an error, and the code to end with.
pub fn exit_code(program: &str, result: Result<(), TrainError>) -> ExitCode {
    let world = world();
    match result {
        Ok(()) => {
            world.leave();
            ExitCode::SUCCESS
        }
        Err(e) => {
            // A terminal that is gone is no reason for another code.
            let _ = match world.rank() {
                0 => writeln!(std::io::stderr(), "{program}: {e}"),
                // The first says it.
                _ if e.is_common() => Ok(()),
                rank => writeln!(std::io::stderr(), "{program}: rank {rank}: {e}"),
            };
            if e.hangs() {
                end(e.exit_code());
            }
            // Who leaves waits for all: where another may have failed, the launcher ends them.
            if e.is_common() {
                world.leave();
            }
            ExitCode::from(e.exit_code())
        }
    }
}

/// The settings of a run: shared, and the program's own.
pub(super) type Settings<P> = (Config, <P as Program>::Config);

/// All keys that a file of settings may have: the flags of the two sets of options.
pub(super) fn keys<P: Program>() -> Vec<String> {
    let flags = P::Options::augment_args(Options::augment_args(clap::Command::new("")));
    let flags = flags.get_arguments().filter_map(|arg| arg.get_long());
    flags.map(str::to_string).collect()
}

/// The settings in a run's folder.
///
/// # Errors
/// A folder without a run, or settings that were made unusable since.
pub fn settings_of_run<P: Program>(dir: &Path) -> Result<Settings<P>, ConfigError> {
    let (config, own): (Config, P::Config) = read(&dir.join("config.toml"), P::NAME, &keys::<P>())?;
    config.check()?;
    P::check(&own)?;
    Ok((config, own))
}

/// The settings of a new run, and whether it is a demonstration.
fn settings<P: Program>(args: &Flags<P::Options>) -> Result<(Settings<P>, bool), ConfigError> {
    let (mut options, mut own) = (Options::default(), P::Options::default());
    if let Some(path) = &args.config {
        (options, own) = read(path, P::NAME, &keys::<P>())?;
    }
    let (options, own) = (overlay(&args.options, &options)?, overlay(&args.own, &own)?);
    let single = args.eval_only || args.overfit_one_batch;
    let demonstration = !P::has_data(&own) && !single;
    let own = P::resolve(own, demonstration);
    P::check(&own)?;
    let config = options.resolve(P::defaults(demonstration), demonstration)?;
    Ok(((config, own), demonstration))
}

/// What a program's arguments lead to, before anything is computed.
struct Prepared {
    config: Config,
    task: Box<dyn Task>,
    /// None for what leaves nothing behind, and on a rank that does not write.
    folder: Option<RunFolder>,
    /// The settings are not those in the folder.
    changed: bool,
}

fn prepare<P: Program>(
    args: &Flags<P::Options>,
    console: Console,
    stop: &'static Stop,
) -> Result<Prepared, TrainError> {
    let first = world().is_first();
    if let Some(file) = args.export.as_ref().filter(|_| first) {
        files::check_folder_of(file).map_err(TrainError::unusable)?;
    }
    let single = args.eval_only || args.overfit_one_batch;
    let (mut folder, mut changed) = (None, true);
    let (config, own) = match &args.resume {
        Some(dir) => {
            folder = first.then(|| RunFolder::open(dir, console)).transpose()?;
            let settings = resumed::settings::<P>(dir, &args.options, &args.own)?;
            changed = settings.1;
            settings.0
        }
        None => {
            let (settings, demonstration) = settings::<P>(args)?;
            if demonstration {
                console.note(P::DEMONSTRATION);
            }
            if single && args.out.is_some() {
                console.note("--out is not used: this writes no folder");
            } else if first {
                check_free(args.out.as_deref())?;
            }
            settings
        }
    };
    faults::start_threads(config.threads)?;
    let run = args.resume.as_deref();
    let load = || P::load(&config, own, run, console, stop.flag());
    let task = stop.at_once(TrainError::StoppedReading, load)?;
    if folder.is_none() && !single && first {
        folder = Some(RunFolder::create(args.out.as_deref(), P::NAME, console)?);
    }
    Ok(Prepared {
        config,
        task,
        folder,
        changed,
    })
}

/// Makes sure that all ranks train the same on the same data, wherever those are.
fn compare_ranks(config: &Config, task: &dyn Task) -> Result<(), TrainError> {
    let mut settings = toml::Table::try_from(config).expect("settings are plain values");
    settings.extend(task.settings());
    for place in resumed::PLACES {
        settings.remove(place);
    }
    let settings = hash(settings.to_string());
    let all = [("settings", settings), ("data", task.fingerprint())];
    Ok(world().compare(all)?)
}

fn run<P: Program>(
    args: Flags<P::Options>,
    console: Console,
    stop: &'static Stop,
) -> Result<(), TrainError> {
    let prepared = world().together("the data", prepare::<P>(&args, console, stop))?;
    let Prepared {
        config,
        task,
        folder,
        changed,
    } = prepared;
    compare_ranks(&config, &*task)?;
    let words = task.words();
    // The first has chosen the name.
    let path = folder.as_ref().map_or(Path::new(""), RunFolder::path);
    let path = world().first("the folder", path.as_os_str().as_bytes())?;
    let whole = Path::new(OsStr::from_bytes(&path));
    let job = Job {
        program: P::NAME,
        config: &config,
        task: &*task,
        dir: whole.to_path_buf(),
        whole,
        console,
        stop,
    };
    if args.eval_only {
        let summary = evaluate_only(&job, args.export.as_deref())?;
        console.say(words.result(&summary.score));
        return print_json(&args, &summary);
    }
    if args.overfit_one_batch {
        let learn = || overfit_one_batch(&job);
        return print_json(&args, &stop.at_once(TrainError::Stopped, learn)?);
    }
    if changed && world().is_first() {
        write_settings(&job).map_err(TrainError::unusable)?;
    }
    let report = job.dir.join("report.html");
    if !config.compare.is_empty() {
        let comparison = compare(&job)?;
        let outcome = comparison.outcome(words);
        export(&args, &outcome.last.run_dir)?;
        let signature = words.signature.map(|s| format!("{}: {s}\n", words.score));
        console.say(format_args!(
            "\n{}\n{}report: {}\n\n{}",
            comparison.table(words),
            signature.unwrap_or_default(),
            report.display(),
            outcome.verdict,
        ));
        return print_json(&args, &outcome);
    }
    let summary = match args.resume {
        Some(_) => resume(&job)?,
        None => train(&job, Start::Fresh)?,
    };
    export(&args, &job.dir)?;
    // The last step is a whole one, whatever is left of the sweeps: a few may take more than all.
    let value = value::advice(summary.v, summary.v_choosing);
    let value = value
        .map(|advice| format!("{advice}\n"))
        .unwrap_or_default();
    let saved = match 100.0 * summary.ops_saved {
        saved if saved >= 0.05 => format!("{saved:.1} % of full training's operations saved"),
        _ => "no operations saved".into(),
    };
    console.say(format_args!(
        "{}, {saved}, {:.0} {}/s\n{value}\
         Whether that was worth it takes a comparison: {WOULD_TELL}\nreport: {}",
        words.result(&summary.score),
        summary.instances_per_second,
        words.many,
        report.display(),
    ));
    print_json(&args, &summary)
}

/// Copies the trained weights to where `--export` says.
fn export<T: Args>(args: &Flags<T>, run: &Path) -> Result<(), TrainError> {
    let Some(to) = args.export.as_ref().filter(|_| world().is_first()) else {
        return Ok(());
    };
    let model = run.join(crate::nn::MODEL);
    let bytes = std::fs::read(&model).map_err(TrainError::failed)?;
    files::write(to, &bytes).map_err(TrainError::failed)
}

fn print_json<T: Args>(args: &Flags<T>, value: &impl Serialize) -> Result<(), TrainError> {
    match args.json && world().is_first() {
        true => json_line(value),
        false => Ok(()),
    }
}

/// The last line on standard output, for programs.
pub(super) fn json_line(value: &impl Serialize) -> Result<(), TrainError> {
    let text = serde_json::to_string(value).map_err(TrainError::failed)?;
    match writeln!(std::io::stdout(), "{text}") {
        // Who has closed the pipe wants no more.
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(TrainError::failed(e)),
        _ => Ok(()),
    }
}
