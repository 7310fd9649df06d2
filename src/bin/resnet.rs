//! Trains a ResNet on images with AutoAssist and says whether it was worth it.

use autoassist::files;
use autoassist::train::{
    self, Comparison, Config, ConfigError, Console, Job, Options, Start, Summary, TrainError,
};
use clap::Parser;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// Trains a ResNet on images with AutoAssist: a light Assistant learns which images still matter
/// and skips the rest.
///
/// Without --data this is a demonstration: built-in synthetic images, three arms, under two
/// minutes.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// Read options from this file; flags win over it
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Folder for everything the run writes [default: runs/resnet-TIME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in this folder, with its configuration
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "config"])]
    resume: Option<PathBuf>,
    /// Also write the trained weights here (safetensors, torchvision's names)
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Evaluate the weights of --init and stop
    #[arg(long)]
    eval_only: bool,
    /// Train on the first batch alone, to see that the network can learn at all
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

fn main() -> ExitCode {
    let args = Args::parse();
    // A second Ctrl-C does not wait for the checkpoint.
    let handler = || {
        if INTERRUPT.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        eprintln!("resnet: Ctrl-C will lose what is not checkpointed: {e}");
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("resnet: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

fn run(args: &Args) -> Result<(), TrainError> {
    let console = Console { quiet: args.quiet };
    if let Some(file) = &args.export {
        files::check_folder_of(file).map_err(TrainError::unusable)?;
    }
    let (config, dir) = match &args.resume {
        Some(dir) => {
            if args.options != Options::default() || args.eval_only || args.overfit_one_batch {
                let remedy = "--resume goes on with the run's own configuration; only --export, \
                              --json and --quiet may stand beside it";
                return Err(ConfigError::Together(remedy.into()).into());
            }
            (Config::from_run(&dir.join("config.toml"))?, dir.clone())
        }
        None => {
            let file = match &args.config {
                Some(path) => Options::from_file(path)?,
                None => Options::default(),
            };
            let options = args.options.clone().or(file);
            let single = args.eval_only || args.overfit_one_batch;
            let demonstration = options.data.is_none() && !single;
            let config = options.resolve(demonstration)?;
            if demonstration {
                console.note(
                    "A demonstration on synthetic images, not evidence. Real data: --data folder \
                     --data-dir DIR; see --help.",
                );
            }
            (config, PathBuf::new())
        }
    };
    let data = train::load_data(&config, console, &INTERRUPT)?;
    let job = |dir: PathBuf| Job {
        config: &config,
        data: &data,
        dir,
        console,
        interrupt: &INTERRUPT,
    };
    if args.eval_only {
        let summary = train::evaluate_only(&job(dir))?;
        console.say(format_args!(
            "test accuracy {:.2} %",
            100.0 * summary.test_accuracy
        ));
        return print_json(args, &summary);
    }
    let dir = match args.resume {
        Some(_) => dir,
        None => train::create_run_folder(args.out.as_deref(), "resnet", &config)?,
    };
    let job = job(dir);
    if args.overfit_one_batch {
        return print_json(args, &train::overfit_one_batch(&job)?);
    }
    if !config.compare.is_empty() {
        let comparison = train::compare(&job)?;
        let last = &comparison
            .arms
            .last()
            .expect("a comparison has arms")
            .summary;
        export(args, &last.run_dir)?;
        console.say(format_args!(
            "\n{}\n\n{}",
            comparison.table(),
            comparison.verdict()
        ));
        console.say(format_args!(
            "report: {}",
            job.dir.join("report.html").display()
        ));
        return print_json(
            args,
            &Json {
                last,
                comparison: &comparison,
            },
        );
    }
    let summary = match args.resume {
        Some(_) => train::resume(&job)?,
        None => train::train(&job, Start::Fresh)?,
    };
    export(args, &job.dir)?;
    console.say(format_args!(
        "test accuracy {:.2} %, {:.1} % of full training's operations saved, {:.0} images/s\n\
         Whether that was worth it takes a comparison: --compare full,uniform,memory\nreport: {}",
        100.0 * summary.test_accuracy,
        100.0 * summary.ops_saved,
        summary.instances_per_second,
        job.dir.join("report.html").display(),
    ));
    print_json(args, &summary)
}

/// Copies the trained weights to where `--export` says.
fn export(args: &Args, run: &Path) -> Result<(), TrainError> {
    let Some(to) = &args.export else {
        return Ok(());
    };
    let model = run.join("model.safetensors");
    let bytes = std::fs::read(&model).map_err(TrainError::failed)?;
    files::write(to, &bytes).map_err(TrainError::failed)
}

/// The last arm's summary with all arms beside it.
#[derive(serde::Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    last: &'a Summary,
    #[serde(flatten)]
    comparison: &'a Comparison,
}

fn print_json(args: &Args, value: &impl serde::Serialize) -> Result<(), TrainError> {
    if args.json {
        let text = serde_json::to_string(value).map_err(TrainError::failed)?;
        writeln!(std::io::stdout(), "{text}").map_err(TrainError::failed)?;
    }
    Ok(())
}
