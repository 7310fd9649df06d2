//! What may change in a run that goes on.

use super::checkpoint::Checkpoint;
use super::config::{overlay, read};
use super::program::{Program, Settings, keys, settings_of_run};
use super::{ConfigError, Options, TrainError};
use serde::Serialize;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// What changes what is computed from here on.
const TRAINING: [&str; 3] = ["lr", "epochs", "device"];
/// How fast it is computed, and where the same data have moved to.
pub(super) const PLACES: [&str; 4] = ["threads", "data-dir", "src", "tgt"];

/// The settings of the run in `dir`, with the flags that stand beside `--resume`, and whether there
/// are any.
///
/// # Errors
/// A flag that may not stand there, or settings that were made unusable since.
pub fn settings<P: Program>(
    dir: &Path,
    options: &Options,
    own: &P::Options,
) -> Result<(Settings<P>, bool), TrainError> {
    let kept = settings_of_run::<P>(dir)?;
    let mut flags = table(options);
    flags.extend(table(own));
    if flags.is_empty() {
        return Ok((kept, false));
    }
    let may = |key: &&String| TRAINING.iter().chain(&PLACES).any(|k| k == key);
    if let Some(flag) = flags.keys().find(|key| !may(key)) {
        return refused(format!(
            "--resume goes on with the run's own configuration, which --{flag} would change; --lr, a \
             larger --epochs, --device, --threads, where the data are (--data-dir, --src, --tgt), \
             --export, --json and --quiet may stand beside it"
        ));
    }
    if let Some(flag) = flags.keys().find(|key| TRAINING.contains(&key.as_str())) {
        check_training(dir, flag, &kept.0.compare)?;
    }
    let path = dir.join("config.toml");
    let (old, own_old): (Options, P::Options) = read(&path, P::NAME, &keys::<P>())?;
    let moved = overlay(own, &moved::<P>(own, &own_old)?)?;
    let options = overlay(options, &old)?;
    let own = P::resolve(moved, false);
    P::check(&own)?;
    let config = options.resolve(P::defaults(false), false)?;
    if config.epochs < kept.0.epochs {
        return refused(format!(
            "--epochs {}: the run was begun with {}, and its learning rate has followed that; it can \
             only be made longer",
            config.epochs, kept.0.epochs
        ));
    }
    Ok(((config, own), true))
}

/// Whether training can still change: not when it is over, nor in one of several runs that are to be
/// compared.
fn check_training<T>(dir: &Path, flag: &str, compare: &[T]) -> Result<(), TrainError> {
    let dir_name = dir.display();
    if !compare.is_empty() {
        return refused(format!(
            "--{flag} beside --resume {dir_name}: a comparison's arms must all be trained alike; \
             begin it anew, in another folder"
        ));
    }
    let checkpoint = Checkpoint::load(dir).map_err(TrainError::unusable)?;
    if checkpoint.progress.finished {
        return refused(format!(
            "--{flag} beside --resume {dir_name}: this run is finished, its learning rate has come \
             down to 0; train on from its weights in another folder: --init {dir_name}"
        ));
    }
    Ok(())
}

fn refused<T>(why: String) -> Result<T, TrainError> {
    Err(ConfigError::Together(why).into())
}

fn table(options: &impl Serialize) -> Table {
    Table::try_from(options).expect("flags are plain values")
}

/// A run's options of its own, its files relative to where `--data-dir` says that they are now.
fn moved<P: Program>(flags: &P::Options, old: &P::Options) -> Result<P::Options, TrainError> {
    let (flags, mut old) = (table(flags), table(old));
    let was = old
        .get("data-dir")
        .and_then(Value::as_str)
        .map(PathBuf::from);
    if flags.contains_key("data-dir") {
        for key in ["src", "tgt"] {
            let files = old.get_mut(key).and_then(Value::as_array_mut);
            for file in files.into_iter().flatten() {
                let path = PathBuf::from(file.as_str().unwrap_or_default());
                let below = was.as_ref().and_then(|dir| path.strip_prefix(dir).ok());
                let name = below.or(path.file_name().map(Path::new)).unwrap_or(&path);
                *file = Value::from(name.to_string_lossy().into_owned());
            }
        }
    }
    old.try_into().map_err(TrainError::unusable)
}
