//! The folders of runs.

use super::{Checkpoint, ConfigError, Job, TrainError, files_error};
use crate::files;
use std::path::{Path, PathBuf};

/// The folder of a new run, which is not made yet: `out`, or `runs/PROGRAM-TIME`.
///
/// # Errors
/// A place that already holds a run.
pub fn run_folder(out: Option<&Path>, program: &str) -> Result<PathBuf, ConfigError> {
    let dir = match out {
        Some(dir) => dir.to_path_buf(),
        None => {
            let time = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S");
            PathBuf::from(format!("runs/{program}-{time}"))
        }
    };
    if holds_run(&dir) {
        let remedy = format!(
            "--out {0} already holds a run; go on with it by --resume {0}, or choose another folder",
            dir.display()
        );
        return Err(ConfigError::Together(remedy));
    }
    Ok(dir)
}

/// Makes the job's folder and writes the settings into it, and what a model needs beside its
/// weights.
///
/// # Errors
/// A place that cannot be written.
pub fn create_run_folder(job: &Job) -> Result<(), TrainError> {
    let dir = &job.dir;
    let unusable = |source| files::WriteError {
        path: dir.clone(),
        source,
    };
    std::fs::create_dir_all(dir).map_err(|e| TrainError::unusable(unusable(e)))?;
    fill(job).map_err(TrainError::unusable)
}

/// Whether a folder holds a run, or a comparison's runs, that got as far as its first checkpoint. What
/// a start that failed has left behind does not stand in the way of the next try.
fn holds_run(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut folders = entries.map(|e| e.path()).chain([dir.to_path_buf()]);
    folders.any(|folder| Checkpoint::path(&folder).exists())
}

/// Makes the folder of one run of a comparison.
///
/// # Errors
/// A full or vanished disk.
pub(super) fn create_arm_folder(job: &Job) -> Result<(), TrainError> {
    std::fs::create_dir_all(&job.dir).map_err(|e| files_error(&job.dir, e))?;
    fill(job).map_err(TrainError::failed)
}

fn fill(job: &Job) -> Result<(), files::WriteError> {
    let settings = toml::to_string(&job.settings()).expect("settings are plain values");
    files::write(&job.dir.join("config.toml"), settings.as_bytes())?;
    job.task.write_into(&job.dir)
}
