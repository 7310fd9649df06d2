//! What a run is given, and what it makes of that before it starts.

use super::config::PROGRAM;
use super::console::Console;
use super::stop::Stop;
use super::task::{Boss, Task};
use super::{Assist, Budget, Config, ConfigError, TrainError};
use crate::assist::{AssistConfig, AssistError, Assistant, Preset};
use crate::backend::Precision;
use crate::nn;
use crate::world::world;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Least keep probability of the Assistant, so that it hears of every instance now and then.
const EXPLORATION: f32 = 0.3;

/// Everything a run is given.
pub struct Job<'a> {
    /// Which program runs.
    pub program: &'static str,
    /// Settings.
    pub config: &'a Config,
    /// Network and instances.
    pub task: &'a dyn Task,
    /// The run's folder; exists.
    pub dir: PathBuf,
    /// What `--resume` goes on with: the run's folder, or that of the comparison it is part of.
    pub whole: &'a Path,
    /// Where people look.
    pub console: Console,
    /// Ctrl-C and its like.
    pub stop: &'a Stop,
}

impl Job<'_> {
    /// A batch is drawn from the data without repetition.
    pub(super) fn check_batch(&self) -> Result<(), ConfigError> {
        let (instances, batch) = (self.task.size(), self.config.batch);
        let ranks = world().size();
        if batch < ranks {
            return Err(ConfigError::Value {
                flag: "batch",
                value: batch.to_string(),
                remedy: format!(
                    "{ranks} processes share each batch, of which every one needs a part; raise \
                     --batch or start fewer"
                ),
            });
        }
        if batch <= instances {
            return Ok(());
        }
        let many = self.task.words().many;
        let remedy = format!("the data set has only {instances} training {many}; lower --batch");
        Err(ConfigError::Value {
            flag: "batch",
            value: batch.to_string(),
            remedy,
        })
    }

    /// The network, opened; for a run that goes on with what it was `begun` in.
    pub(super) fn boss(&self, begun: Option<Precision>) -> Result<Box<dyn Boss>, TrainError> {
        self.task.boss(self.config, begun.unwrap_or(Precision::F32))
    }

    /// Draws the weights from the seed, or reads them from `--init`.
    pub(super) fn initialise(&self, boss: &mut dyn Boss) -> Result<(), TrainError> {
        let (exec, params) = boss.parts();
        match &self.config.init {
            None => params
                .initialise(exec, self.config.seed)
                .map_err(|e| TrainError::unusable(e.at_batch(self.config.batch))),
            Some(file) => {
                let about = self.task.about();
                nn::WeightFile::of_program(file, about.program)
                    .and_then(|file| nn::import(exec, params, &file, &about))
                    .map_err(TrainError::unusable)
            }
        }
    }

    /// All settings, as TOML.
    pub(super) fn settings(&self) -> toml::Table {
        let mut table = toml::Table::try_from(self.config).expect("settings are plain values");
        table.insert(PROGRAM.into(), self.program.into());
        table.extend(self.task.settings());
        table
    }

    /// The Assistant.
    pub(super) fn assistant(&self) -> Result<Assistant, AssistError> {
        let config = self.config;
        let preset = match config.assist {
            Assist::Memory => Preset::Memory,
            Assist::Paper => Preset::Paper,
            Assist::Random => Preset::Random,
            Assist::Infobatch => Preset::InfoBatch,
            Assist::Off => Preset::Off,
        };
        let config = AssistConfig {
            preset,
            epochs: config.epochs,
            batch: self.task.pool(config.batch),
            budget: match config.budget {
                Budget::Share(share) => share,
                Budget::Auto => 1.0,
            },
            by_v: config.budget == Budget::Auto,
            floor: EXPLORATION,
            rescale: config.rescale as f32,
            seed: config.seed,
        };
        Assistant::new(config, Arc::new(self.task.instances()))
    }
}
