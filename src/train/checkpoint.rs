//! Everything a run needs to go on, in one file that is replaced as a whole or not at all.

use super::interval::Interval;
use super::pools::PartialPool;
use crate::assist::AssistState;
use crate::backend::Precision;
use crate::files;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Counters of the training loop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done, which is also the number of the next step.
    pub step: u64,
    /// The data set's fingerprint: a checkpoint goes on with the same data or not at all.
    pub data: u64,
    /// Whether training, final evaluation included, is over.
    pub finished: bool,
    /// Seconds spent in the training loop, evaluation excluded.
    pub train_seconds: f64,
    /// Seconds in all.
    pub wall_seconds: f64,
    /// Lines of `metrics.jsonl` written before this checkpoint.
    pub metrics_lines: usize,
    /// Operations of forward and backward passes so far, padding included.
    pub boss_ops: u64,
    /// Instances trained on, with repetition.
    pub instances: u64,
    /// How often the training loop has blocked on the device.
    pub host_syncs: u64,
    /// Multiples of `--eval-every` for which there has been an evaluation.
    pub evals: u64,
    /// What activations were stored as on the last device: a run goes on with that.
    pub precision: Option<Precision>,
    /// Mean loss over the last metrics interval.
    pub train_loss: Option<f64>,
}

/// A run between two steps.
pub struct Checkpoint {
    /// Counters.
    pub progress: Progress,
    /// The network by parts, each flat: all learned values, the optimiser's state, running
    /// statistics.
    pub state: BTreeMap<String, Vec<f32>>,
    /// The Assistant with its sampler, its queue and its random counters.
    pub assist: AssistState,
    /// The pool of instances that is trained on in part.
    pub pool: Option<PartialPool>,
    /// What the next line of metrics is about, as far as it has come.
    pub interval: Interval,
}

/// Why a checkpoint could not be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// No such file.
    #[error("{} has no checkpoint to resume ({source}); give the folder of a run", path.display())]
    Missing {
        /// Where one was expected.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Cut short or overwritten.
    #[error("checkpoint {} is damaged ({reason}); put back a copy of it or train anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// For another network or other data.
    #[error("checkpoint {} does not fit this run: {reason}", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// The network diverged; the last good checkpoint stays.
    #[error("{what} is no longer finite after step {step}; lower --lr; {} is kept", path.display())]
    NotFinite {
        /// Which tensor.
        what: String,
        /// Steps done.
        step: u64,
        /// The last good checkpoint.
        path: PathBuf,
    },
    /// The disk said no; the last checkpoint is untouched.
    #[error(transparent)]
    Write(#[from] files::WriteError),
}

/// Changed whenever the meaning of a stored value changes.
const VERSION: &str = "5";
/// What is not the network's.
const ASSIST: &str = "assist";

impl Checkpoint {
    /// The checkpoint of the run in `dir`.
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("checkpoint.safetensors")
    }

    /// Replaces the checkpoint of the run in `dir`.
    ///
    /// # Errors
    /// [`CheckpointError::NotFinite`] or [`CheckpointError::Write`]; the previous checkpoint is
    /// then untouched.
    pub fn save(&self, dir: &Path) -> Result<(), CheckpointError> {
        let path = Checkpoint::path(dir);
        for (what, values) in &self.state {
            if values.iter().any(|v| !v.is_finite()) {
                return Err(CheckpointError::NotFinite {
                    what: what.clone(),
                    step: self.progress.step,
                    path,
                });
            }
        }
        let assist = postcard::to_stdvec(&(&self.assist, &self.pool, &self.interval));
        let assist = assist.expect("plain data");
        let progress = serde_json::to_string(&self.progress).expect("plain data");
        let floats = self.state.iter().map(|(name, values)| {
            let bytes = bytemuck::cast_slice(values);
            (name.as_str(), Dtype::F32, values.len(), bytes)
        });
        let all = floats.chain([(ASSIST, Dtype::U8, assist.len(), assist.as_slice())]);
        let views = all.map(|(name, dtype, len, bytes)| {
            (
                name,
                TensorView::new(dtype, vec![len], bytes).expect("bytes match the shape"),
            )
        });
        let meta = [("version", VERSION.to_string()), ("progress", progress)];
        let meta = HashMap::from(meta.map(|(k, v)| (k.to_string(), v)));
        let bytes = serialize(views, Some(meta)).expect("names are unique and shapes right");
        Ok(files::write(&path, &bytes)?)
    }

    /// Reads the checkpoint of the run in `dir`.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`] or [`CheckpointError::Damaged`].
    pub fn load(dir: &Path) -> Result<Checkpoint, CheckpointError> {
        let path = Checkpoint::path(dir);
        let bytes = std::fs::read(&path).map_err(|source| CheckpointError::Missing {
            path: dir.to_path_buf(),
            source,
        })?;
        Checkpoint::parse(&bytes).map_err(|reason| CheckpointError::Damaged { path, reason })
    }

    fn parse(bytes: &[u8]) -> Result<Checkpoint, String> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let meta = header.metadata().as_ref().ok_or("it has no metadata")?;
        match meta.get("version").map(String::as_str) {
            Some(VERSION) => (),
            Some(other) => return Err(format!("version {other}, this program reads {VERSION}")),
            None => return Err("it is not a checkpoint".into()),
        }
        let progress = meta.get("progress").ok_or("it has no progress")?;
        let progress = serde_json::from_str(progress).map_err(|e| e.to_string())?;
        let tensor = |name: &str| file.tensor(name).map_err(|e| e.to_string());
        let (assist, pool, interval) =
            postcard::from_bytes(tensor(ASSIST)?.data()).map_err(|e| e.to_string())?;
        let names = file.names().into_iter().filter(|name| *name != ASSIST);
        let state = names.map(|name| {
            let (data, _) = tensor(name)?.data().as_chunks::<4>();
            let values = data.iter().map(|b| f32::from_le_bytes(*b)).collect();
            Ok::<_, String>((name.to_string(), values))
        });
        Ok(Checkpoint {
            progress,
            state: state.collect::<Result<_, _>>()?,
            assist,
            pool,
            interval,
        })
    }
}
