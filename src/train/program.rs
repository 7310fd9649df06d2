//! What the programs have in common: the command line, and what it leads to.

use super::config::{overlay, read};
use super::task::Task;
use super::verdict::percent;
use super::{
    Comparison, Config, ConfigError, Console, Defaults, Job, Options, Start, Summary, TrainError,
    compare, create_run_folder, evaluate_only, overfit_one_batch, resume, run_folder, train,
};
use crate::files;
use clap::{Args, CommandFactory, FromArgMatches};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// What distinguishes one program from another.
pub trait Program {
    /// As it is called.
    const NAME: &'static str;
    /// For `--help`.
    const ABOUT: &'static str;
    /// Said before a demonstration.
    const DEMONSTRATION: &'static str;
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
#[command(version, max_term_width = 100, args_conflicts_with_subcommands = true)]
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
    /// Go on with the run in this folder, with its configuration
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "config"])]
    resume: Option<PathBuf>,
    /// Also write the trained weights here (safetensors)
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Evaluate the weights of --init and stop
    #[arg(long)]
    eval_only: bool,
    /// Train on one batch alone, to see that the network can learn at all
    #[arg(long, conflicts_with_all = ["eval_only", "compare"])]
    overfit_one_batch: bool,
    /// End with one line of JSON on standard output
    #[arg(long)]
    json: bool,
    /// Print errors and --json only
    #[arg(long)]
    quiet: bool,
}

static INTERRUPT: AtomicBool = AtomicBool::new(false);

/// The command line of a program, which may be given subcommands.
pub fn command<P: Program>() -> clap::Command {
    let defaults = P::defaults(false);
    let (demonstration, mut about) = (P::defaults(true), P::ABOUT.to_string());
    about += &format!(
        "\n\nDefaults: --epochs {} ({} in the demonstration), --batch {}, --lr {}, --weight-decay \
         {}, --label-smoothing {}. Exported weights have {} names.",
        defaults.epochs,
        demonstration.epochs,
        defaults.batch,
        defaults.lr,
        defaults.weight_decay,
        defaults.label_smoothing,
        P::NAMES,
    );
    Flags::<P::Options>::command().name(P::NAME).about(about)
}

/// Runs what the command line asks for, and says what went wrong.
pub fn main<P: Program>(matches: &clap::ArgMatches) -> ExitCode {
    let args = Flags::from_arg_matches(matches).unwrap_or_else(|e| e.exit());
    // A second Ctrl-C does not wait for the checkpoint.
    let handler = || {
        if INTERRUPT.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        eprintln!(
            "{}: Ctrl-C will lose what is not checkpointed: {e}",
            P::NAME
        );
    }
    exit_code(P::NAME, run::<P>(args))
}

/// One line about an error, and the code to end with.
pub fn exit_code(program: &str, result: Result<(), TrainError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{program}: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

/// The settings of a run: shared, and the program's own.
type Settings<P> = (Config, <P as Program>::Config);

/// All keys that a file of settings may have: the flags of the two sets of options.
fn keys<P: Program>() -> Vec<String> {
    let flags = P::Options::augment_args(Options::augment_args(clap::Command::new("")));
    let flags = flags.get_arguments().filter_map(|arg| arg.get_long());
    flags.map(str::to_string).collect()
}

/// The settings in a run's folder.
///
/// # Errors
/// A folder without a run, or settings that were made unusable since.
pub fn settings_of_run<P: Program>(dir: &Path) -> Result<Settings<P>, ConfigError> {
    let (config, own): (Config, P::Config) = read(&dir.join("config.toml"), &keys::<P>())?;
    config.check()?;
    P::check(&own)?;
    Ok((config, own))
}

/// The settings of a new run, and whether it is a demonstration.
fn settings<P: Program>(args: &Flags<P::Options>) -> Result<(Settings<P>, bool), ConfigError> {
    let (mut options, mut own) = (Options::default(), P::Options::default());
    if let Some(path) = &args.config {
        (options, own) = read(path, &keys::<P>())?;
    }
    let (options, own) = (overlay(&args.options, &options)?, overlay(&args.own, &own)?);
    let single = args.eval_only || args.overfit_one_batch;
    let demonstration = !P::has_data(&own) && !single;
    let own = P::resolve(own, demonstration);
    P::check(&own)?;
    let config = options.resolve(P::defaults(demonstration), demonstration)?;
    Ok(((config, own), demonstration))
}

fn run<P: Program>(args: Flags<P::Options>) -> Result<(), TrainError> {
    let console = Console { quiet: args.quiet };
    if let Some(file) = &args.export {
        files::check_folder_of(file).map_err(TrainError::unusable)?;
    }
    let (config, own) = match &args.resume {
        Some(dir) => {
            let flags = args.options != Options::default() || args.own != P::Options::default();
            if flags || args.eval_only || args.overfit_one_batch {
                let remedy = "--resume goes on with the run's own configuration; only --export, \
                              --json and --quiet may stand beside it";
                return Err(ConfigError::Together(remedy.into()).into());
            }
            settings_of_run::<P>(dir)?
        }
        None => {
            let (settings, demonstration) = settings::<P>(&args)?;
            if demonstration {
                console.note(P::DEMONSTRATION);
            }
            settings
        }
    };
    let task = P::load(&config, own, args.resume.as_deref(), console, &INTERRUPT)?;
    let words = task.words();
    let job = |dir: PathBuf| Job {
        config: &config,
        task: &*task,
        dir,
        console,
        interrupt: &INTERRUPT,
    };
    if args.eval_only {
        let summary = evaluate_only(&job(PathBuf::new()))?;
        console.say(words.result(&summary.score));
        return print_json(&args, &summary);
    }
    let job = match &args.resume {
        Some(dir) => job(dir.clone()),
        None => {
            let job = job(run_folder(args.out.as_deref(), P::NAME)?);
            create_run_folder(&job)?;
            job
        }
    };
    if args.overfit_one_batch {
        return print_json(&args, &overfit_one_batch(&job)?);
    }
    let report = job.dir.join("report.html");
    if !config.compare.is_empty() {
        let comparison = compare(&job)?;
        let last = &comparison
            .arms
            .last()
            .expect("a comparison has arms")
            .summary;
        export(&args, &last.run_dir)?;
        let signature = words.signature.map(|s| format!("{}: {s}\n", words.score));
        console.say(format_args!(
            "\n{}\n{}report: {}\n\n{}",
            comparison.table(words),
            signature.unwrap_or_default(),
            report.display(),
            comparison.verdict(words),
        ));
        return print_json(
            &args,
            &Json {
                last,
                comparison: &comparison,
            },
        );
    }
    let summary = match args.resume {
        Some(_) => resume(&job)?,
        None => train(&job, Start::Fresh)?,
    };
    export(&args, &job.dir)?;
    console.say(format_args!(
        "{}, {} of full training's operations saved, {:.0} {}/s\n\
         Whether that was worth it takes a comparison: --compare full,uniform,memory\nreport: {}",
        words.result(&summary.score),
        percent(summary.saved()),
        summary.instances_per_second,
        words.many,
        report.display(),
    ));
    print_json(&args, &summary)
}

/// Copies the trained weights to where `--export` says.
fn export<T: Args>(args: &Flags<T>, run: &Path) -> Result<(), TrainError> {
    let Some(to) = &args.export else {
        return Ok(());
    };
    let model = run.join(crate::nn::MODEL);
    let bytes = std::fs::read(&model).map_err(TrainError::failed)?;
    files::write(to, &bytes).map_err(TrainError::failed)
}

/// The last arm's summary with all arms beside it.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    last: &'a Summary,
    #[serde(flatten)]
    comparison: &'a Comparison,
}

fn print_json<T: Args>(args: &Flags<T>, value: &impl Serialize) -> Result<(), TrainError> {
    if args.json {
        let text = serde_json::to_string(value).map_err(TrainError::failed)?;
        writeln!(std::io::stdout(), "{text}").map_err(TrainError::failed)?;
    }
    Ok(())
}
