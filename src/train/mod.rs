//! Training: settings, the loop, its ledger, checkpoints, measurements, comparisons and the report.

mod answers;
mod budget;
mod checkpoint;
mod compare;
mod config;
mod console;
mod examples;
pub mod faults;
mod folders;
pub mod images;
mod interval;
mod job;
mod metrics;
mod paired;
mod pools;
pub mod program;
pub(crate) mod report;
mod report_file;
mod resumed;
mod run;
mod schedule;
mod single;
mod stop;
pub mod study;
mod summary;
pub mod task;
mod tensorboard;
pub mod translation;
mod value;
mod verdict;

pub use answers::Answers;
pub use budget::Budget;
pub use compare::compare;
pub use config::{Arm, Arms, Assist, Config, ConfigError, Defaults, Options};
pub use console::Console;
pub use examples::Guess;
pub use job::Job;
pub use paired::Paired;
pub use run::{Start, resume, train};
pub use schedule::Schedule;
pub use single::{evaluate_only, overfit_one_batch};
pub use stop::Stop;
pub use summary::{ArmResult, Comparison, Difference, Estimate, Outcome, Summary};
pub use verdict::{Claim, Verdict};

use crate::backend::DeviceError;
use crate::files::WriteError;
use crate::world::world;
use std::path::{Path, PathBuf};

/// Of this library, with the commit that it was built from where that is known.
pub fn version() -> String {
    match env!("AUTOASSIST_REVISION") {
        "" => env!("CARGO_PKG_VERSION").into(),
        revision => format!("{} ({revision})", env!("CARGO_PKG_VERSION")),
    }
}

/// Why a program ended without its result.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Arguments, data or files that cannot be used; nothing was trained.
    #[error(transparent)]
    Unusable(Box<dyn std::error::Error + Send + Sync>),
    /// The run broke off.
    #[error(transparent)]
    Failed(Box<dyn std::error::Error + Send + Sync>),
    /// The loss stopped being a number.
    #[error(
        "the loss became {loss} at step {step} (instance {instance}); look at that instance, or lower \
         --lr: {remedy}; the last good checkpoint is {} (step {good_step})",
        checkpoint.display()
    )]
    NotFinite {
        /// Step whose loss it was.
        step: u64,
        /// The first instance.
        instance: u32,
        /// NaN or infinity.
        loss: f32,
        /// Written before it.
        checkpoint: PathBuf,
        /// Steps that checkpoint has done.
        good_step: u64,
        /// How.
        remedy: String,
    },
    /// The device failed.
    #[error("{source}; seen at step {step}; the last good checkpoint is {} (step {good_step})", checkpoint.display())]
    Device {
        /// The first step whose losses had not all arrived.
        step: u64,
        /// What it said.
        source: DeviceError,
        /// Written before it.
        checkpoint: PathBuf,
        /// Steps that checkpoint has done.
        good_step: u64,
    },
    /// The user asked to stop what leaves nothing behind.
    #[error("stopped; nothing was kept")]
    Stopped,
    /// The user asked to stop a study.
    #[error("stopped; the same command goes on with the study")]
    StudyStopped,
    /// The user asked to stop before training began.
    #[error(
        "stopped while the data were read; the same command begins again, and goes on with a download"
    )]
    StoppedReading,
    /// The user asked to stop; a checkpoint was written.
    #[error("stopped at step {step}; go on with --resume {}", dir.display())]
    Interrupted {
        /// Steps done.
        step: u64,
        /// What to resume.
        dir: PathBuf,
    },
    /// The user asked to stop while a step hung.
    #[error(
        "stopped without waiting for {what}; go on from step {step} with --resume {}",
        dir.display()
    )]
    Abandoned {
        /// What hung, or was very slow.
        what: String,
        /// Steps that the last checkpoint has done.
        step: u64,
        /// What to resume.
        dir: PathBuf,
    },
}

impl TrainError {
    /// For [`TrainError::Unusable`].
    pub fn unusable(e: impl std::error::Error + Send + Sync + 'static) -> TrainError {
        TrainError::Unusable(Box::new(e))
    }

    /// For [`TrainError::Failed`].
    pub fn failed(e: impl std::error::Error + Send + Sync + 'static) -> TrainError {
        TrainError::Failed(Box::new(e))
    }

    /// A kernel may run for ever, and whatever waits for the device with it.
    pub(crate) fn hangs(&self) -> bool {
        let source = match self {
            TrainError::Abandoned { .. } => return true,
            TrainError::Device { source, .. } => Some(source),
            TrainError::Failed(e) | TrainError::Unusable(e) => e.downcast_ref(),
            _ => None,
        };
        matches!(
            source,
            Some(DeviceError::Hung { .. } | DeviceError::Interrupted { .. })
        )
    }

    /// Whether all ranks that share the run end with it.
    fn is_common(&self) -> bool {
        let common = matches!(
            self,
            TrainError::Interrupted { .. } | TrainError::NotFinite { .. }
        );
        common || world().has_agreed()
    }

    /// 2 for unusable arguments or data, 1 for a run that failed, 130 after Ctrl-C.
    pub fn exit_code(&self) -> u8 {
        match self {
            TrainError::Unusable(_) => 2,
            TrainError::Failed(e) => match e.downcast_ref() {
                Some(DeviceError::Interrupted { .. }) => 130,
                _ => 1,
            },
            TrainError::NotFinite { .. } | TrainError::Device { .. } => 1,
            TrainError::Interrupted { .. }
            | TrainError::Abandoned { .. }
            | TrainError::Stopped
            | TrainError::StudyStopped
            | TrainError::StoppedReading => 130,
        }
    }
}

/// What cannot be used, or ranks that do not come together: nothing was trained.
impl From<DeviceError> for TrainError {
    fn from(e: DeviceError) -> TrainError {
        match e {
            DeviceError::Hung { .. } | DeviceError::Interrupted { .. } => TrainError::failed(e),
            e => TrainError::unusable(e),
        }
    }
}

/// A file or folder that the run needs could not be written.
fn files_error(path: &Path, source: std::io::Error) -> TrainError {
    TrainError::failed(WriteError {
        path: path.to_path_buf(),
        source,
    })
}
