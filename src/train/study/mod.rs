//! `study FILE.toml`: the runs that it takes to say whether the Assistant is worth it, and what they
//! say. Arms × seeds × settings, in any order, by any number of processes, which may be killed at any
//! moment and started again.
//!
//! Three things make it so. What is to be run is a pure function of the file and
//! of what has been run. Every run has a folder of its own, whose lock only one process has. And what
//! came of it is one line of one file, which is replaced as a whole. All runs are deterministic, so that
//! the same study gives the same file, whoever ran what and when.

mod file;
mod plot;
mod report;
mod results;

use super::checkpoint::{Checkpoint, CheckpointError};
use super::config::{absolute, require};
use super::folders::{RunFolder, wait_for, write_settings};
use super::program::{Program, guarded};
use super::verdict::percent;
use super::{Config, ConfigError, Console, Job, Start, Stop, TrainError, faults, resume, train};
use crate::files;
use clap::Args;
use file::{Spec, Study};
use results::{Line, Results};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The command line of `study`.
#[derive(Clone, Debug, Args)]
pub struct StudyFlags {
    /// What to compare: arms, seeds and settings; benches/studies/ has examples
    #[arg(value_name = "FILE.toml")]
    file: PathBuf,
    /// Folder of the runs and of results.jsonl, what came of them; the same folder again goes on with
    /// what is missing, and several processes may do so at once [default: studies/FILE]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder of the data; where a study has several data sets, once for each: cifar10=DIR
    #[arg(long, value_name = "[DATA=]DIR")]
    data_dir: Vec<String>,
    /// Only as many of the file's seeds, the first
    #[arg(long, value_name = "N")]
    seeds: Option<usize>,
    /// auto, cpu, simt, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Threads that compute [default: one a processor core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Write tables and plots here instead of to study.md in the folder
    #[arg(long, value_name = "FILE.md")]
    report: Option<PathBuf>,
    /// End with one line of JSON on standard output: what was claimed of each bed, and whether it holds
    #[arg(long)]
    json: bool,
    /// Print errors and --json only
    #[arg(long)]
    quiet: bool,
}

/// The subcommand.
pub fn command() -> clap::Command {
    StudyFlags::augment_args(clap::Command::new("study"))
        .max_term_width(100)
        .about(
            "Trains what it takes to say whether the Assistant is worth it, and says it: arms, seeds and \
             settings from a file. Killed at any moment, the same command goes on; several processes \
             share the work.",
        )
        // That of the flags would come first.
        .long_about(None)
}

/// Runs what the command line asks for, and says what went wrong.
pub fn main<P: Program>(flags: &StudyFlags) -> ExitCode {
    faults::say(P::NAME);
    let console = Console { quiet: flags.quiet };
    let stop: &Stop = Box::leak(Box::new(Stop::new(P::NAME)));
    guarded(P::NAME, console, stop, || run::<P>(flags, console, stop))
}

/// A study with all that its runs need.
struct Desk<'a, P: Program> {
    study: Study<P>,
    flags: &'a StudyFlags,
    out: PathBuf,
    results: Results,
    console: Console,
    stop: &'static Stop,
}

/// What became of a run that was wanted.
enum Turn {
    /// It is in the results now.
    Done,
    /// Another process is at it.
    Busy,
}

fn run<P: Program>(
    flags: &StudyFlags,
    console: Console,
    stop: &'static Stop,
) -> Result<(), TrainError> {
    let (threads, remedy) = (flags.threads.unwrap_or(1), "give a number from 1 to 1024");
    require((1..=1024).contains(&threads), "threads", &threads, remedy)?;
    let study = Study::<P>::read(&flags.file, flags.seeds, &flags.data_dir)?;
    let stem = flags.file.file_stem().unwrap_or_default();
    let out = flags.out.clone();
    let out = absolute(out.unwrap_or_else(|| Path::new("studies").join(stem)));
    let report = flags.report.clone().map(absolute);
    let report = report.unwrap_or_else(|| out.join("study.md"));
    std::fs::create_dir_all(&out).map_err(|source| {
        let path = out.clone();
        TrainError::unusable(files::WriteError { path, source })
    })?;
    files::check_folder_of(&report).map_err(TrainError::unusable)?;
    faults::start_threads(flags.threads)?;
    let results = Results::open(&out);
    let desk = Desk {
        study,
        flags,
        out,
        results,
        console,
        stop,
    };
    desk.run_all()?;
    let all = desk.results.read()?;
    let outcomes = report::write(&desk.study, &all, &report)?;
    for outcome in &outcomes {
        console.say(format_args!("{outcome}"));
    }
    console.say(format_args!("report: {}", report.display()));
    if flags.json {
        super::program::json_line(&outcomes)?;
    }
    Ok(())
}

impl<P: Program> Desk<'_, P> {
    /// Runs what is missing until nothing is.
    fn run_all(&self) -> Result<(), TrainError> {
        loop {
            let lines = self.results.read()?;
            let wanted = self.study.wanted(&lines);
            let missing = wanted.iter().filter(|spec| spec.find(&lines).is_none());
            let missing: Vec<&Spec> = missing.collect();
            let Some(first) = missing.first() else {
                return Ok(());
            };
            let done = wanted.len() - missing.len();
            let mut found = false;
            for spec in &missing {
                if let Turn::Done = self.turn(spec, &format!("{}/{}", done + 1, wanted.len()))? {
                    found = true;
                    break;
                }
            }
            if !found {
                // All that is left is others' work. Whether it is done, or its process ended, the
                // lock goes.
                self.console
                    .note(format_args!("waiting for {}", first.name()));
                let dir = self.dir(first);
                let wait = || wait_for(&dir);
                self.stop.at_once(TrainError::StudyStopped, wait)?;
            }
        }
    }

    fn dir(&self, spec: &Spec) -> PathBuf {
        self.out.join("runs").join(spec.name())
    }

    /// Makes a run that is wanted, unless somebody else does.
    fn turn(&self, spec: &Spec, place: &str) -> Result<Turn, TrainError> {
        let dir = self.dir(spec);
        let folder = match RunFolder::arm(&dir, self.console) {
            Ok(folder) => folder,
            Err(TrainError::Unusable(e))
                if matches!(e.downcast_ref(), Some(ConfigError::InUse { .. })) =>
            {
                return Ok(Turn::Busy);
            }
            Err(e) => return Err(e),
        };
        // Somebody may have done it in the meantime.
        if spec.find(&self.results.read()?).is_some() {
            return Ok(Turn::Done);
        }
        self.console
            .note(format_args!("{place}: {}", folder.path().display()));
        let line = match self.train(spec, &dir) {
            Ok(line) => line,
            Err(e) => Line::failed(spec, diverged(e)?),
        };
        if let Some(reason) = &line.failed {
            self.console.note(format_args!("{}: {reason}", spec.name()));
        }
        self.results.add(&line, &spec.name())?;
        Ok(Turn::Done)
    }

    fn train(&self, spec: &Spec, dir: &Path) -> Result<Line, TrainError> {
        let (config, own) = self.settings(spec)?;
        let begun = Checkpoint::path(dir).exists();
        let load = || {
            P::load(
                &config,
                own,
                begun.then_some(dir),
                self.console,
                self.stop.flag(),
            )
        };
        let task = self.stop.at_once(TrainError::StudyStopped, load)?;
        let job = Job {
            program: P::NAME,
            config: &config,
            task: &*task,
            dir: dir.to_path_buf(),
            whole: &self.out,
            console: self.console,
            stop: self.stop,
        };
        let trained = match begun {
            true => resume(&job),
            false => {
                write_settings(&job).map_err(TrainError::failed)?;
                train(&job, Start::Fresh)
            }
        };
        let summary = trained.map_err(|e| match e {
            // Not by --resume.
            TrainError::Interrupted { .. } => TrainError::StudyStopped,
            e => e,
        })?;
        self.console.note(format_args!(
            "{}: {}, {} of the operations saved, {:.0} s",
            spec.name(),
            task.words().result(&summary.score),
            percent(summary.saved()),
            summary.wall_seconds
        ));
        Ok(Line::new(spec, summary))
    }

    /// The settings of a run, with what is this machine's.
    fn settings(&self, spec: &Spec) -> Result<(Config, P::Config), TrainError> {
        let (config, own) = self.study.settings(spec)?;
        let config = Config {
            device: self.flags.device.clone(),
            threads: self.flags.threads,
            seed: spec.seed,
            deterministic: true,
            // The test set is looked at once.
            eval_every: 0.0,
            ..spec.arm.apply(&config)
        };
        config.check()?;
        Ok((config, own))
    }
}

/// Why a run has no result and never will: its loss stopped being a number. Of a grid, that is an
/// answer.
///
/// # Errors
/// Everything else.
fn diverged(e: TrainError) -> Result<String, TrainError> {
    match &e {
        TrainError::NotFinite { step, loss, .. } => {
            Ok(format!("the loss became {loss} at step {step}"))
        }
        TrainError::Failed(source) => match source.downcast_ref() {
            Some(CheckpointError::NotFinite { what, step, .. }) => {
                Ok(format!("{what} no longer finite after step {step}"))
            }
            _ => Err(e),
        },
        _ => Err(e),
    }
}

/// What a study says of one of its beds.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The bed; nothing where there is only one.
    pub bed: String,
    /// In one sentence.
    pub verdict: String,
    /// What must hold.
    pub claims: Vec<super::Claim>,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self.bed.as_str() {
            "" => write!(f, "{}", self.verdict),
            bed => write!(f, "{bed}: {}", self.verdict),
        }
    }
}
