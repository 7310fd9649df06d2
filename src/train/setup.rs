//! What comes before a run: its data and its folder.

use super::{Checkpoint, Config, ConfigError, Console, Data, TrainError, files_error};
use crate::data::{self, Dataset};
use crate::files;
use std::path::{Path, PathBuf};

/// The synthetic images are the same for every `--seed`, as any data set's are.
const SYNTHETIC_SEED: u64 = 0;

/// Reads or generates the data set.
///
/// # Errors
/// Whatever is wrong with the files.
pub fn load_data(config: &Config, console: Console) -> Result<Dataset, TrainError> {
    match (config.data, &config.data_dir) {
        (Data::Folder, Some(dir)) => {
            data::folder(dir, console.bars()).map_err(TrainError::unusable)
        }
        _ => Ok(data::synthetic(SYNTHETIC_SEED)),
    }
}

/// Makes the folder of a new run and writes the settings into it. Without `out` it is
/// `runs/PROGRAM-TIME`.
///
/// # Errors
/// A place that cannot be written, or that already holds a run.
pub fn create_run_folder(
    out: Option<&Path>,
    program: &str,
    config: &Config,
) -> Result<PathBuf, TrainError> {
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
        return Err(ConfigError::Together(remedy).into());
    }
    let unusable = |source| files::WriteError {
        path: dir.clone(),
        source,
    };
    std::fs::create_dir_all(&dir).map_err(|e| TrainError::unusable(unusable(e)))?;
    let file = dir.join("config.toml");
    files::write(&file, config.to_toml().as_bytes()).map_err(TrainError::unusable)?;
    Ok(dir)
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
pub fn create_arm_folder(dir: &Path, config: &Config) -> Result<(), TrainError> {
    std::fs::create_dir_all(dir).map_err(|e| files_error(dir, e))?;
    files::write(&dir.join("config.toml"), config.to_toml().as_bytes()).map_err(TrainError::failed)
}
