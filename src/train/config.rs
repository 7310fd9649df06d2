//! Settings of a run: flags over a file over defaults.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use super::TrainError;
use crate::nn::Architecture;

/// Where instances come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Data {
    /// Built-in images, generated from the seed: a demonstration, never evidence.
    Synthetic,
    /// The official binary batches of CIFAR-10.
    Cifar10,
    /// MNIST, or another set of ten classes in its format: IDX files, plain or .gz.
    Mnist,
    /// Fashion-MNIST: the same format with the names of its classes.
    FashionMnist,
    /// A tree `train/<class>/*.{jpg,png}`, `test/<class>/…` under --data-dir.
    Folder,
}

/// How the Assistant chooses (`--assist`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assist {
    /// From each instance's own loss history, its class and a few pooled input features.
    Memory,
    /// From the image itself and its class, as published.
    Paper,
    /// Keeps as many without looking: the control.
    Random,
    /// Prunes half of the images whose loss is below the mean, weights the others of them by two;
    /// has no rate to meet, so the budget decides how many sweeps it makes.
    Infobatch,
    /// Keeps all.
    Off,
}

/// One side of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arm {
    /// Every instance in every sweep, at the whole budget: the reference for quality.
    Full,
    /// Fewer sweeps over everything: what the same operations buy without an Assistant.
    Uniform,
    /// As many skipped as `memory`, at random.
    Random,
    /// The Assistant as its authors published it.
    Paper,
    /// The Assistant.
    Memory,
    /// InfoBatch, its strongest simple rival.
    Infobatch,
}

impl Arm {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Arm::Full => "full",
            Arm::Uniform => "uniform",
            Arm::Random => "random",
            Arm::Paper => "paper",
            Arm::Memory => "memory",
            Arm::Infobatch => "infobatch",
        }
    }

    /// The run's settings with this arm's Assistant and budget.
    pub fn apply(self, config: &Config) -> Config {
        let (assist, budget) = match self {
            Arm::Full => (Assist::Off, 1.0),
            Arm::Uniform => (Assist::Off, config.budget),
            Arm::Random => (Assist::Random, config.budget),
            Arm::Paper => (Assist::Paper, config.budget),
            Arm::Memory => (Assist::Memory, config.budget),
            Arm::Infobatch => (Assist::Infobatch, config.budget),
        };
        Config {
            assist,
            budget,
            compare: Vec::new(),
            seeds: Vec::new(),
            ..config.clone()
        }
    }
}

/// The flags that make up a run, each also a key of a `--config` file.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Options {
    /// Where images come from; without it, a demonstration on synthetic data
    #[arg(long, value_enum)]
    pub data: Option<Data>,
    /// Folder of the data set [default: what --download has fetched]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Fetch the data set unless it is there, into --data-dir or ~/.cache/autoassist
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub download: Option<bool>,
    /// Layers of the network: 8, 14, 20, 32, 44, 56, 110, 18, 34, 50 or 101 [default: 8]
    #[arg(long)]
    pub depth: Option<u32>,
    /// auto, cpu, simt, cuda or cuda:N [default: auto]
    #[arg(long)]
    pub device: Option<String>,
    /// How instances are chosen [default: memory]
    #[arg(long, value_enum)]
    pub assist: Option<Assist>,
    /// Share of full training's operations to spend, above 0 and at most 1 [default: 0.65]
    #[arg(long)]
    pub budget: Option<f64>,
    /// Weight kept instances by p^(-K): 0 not at all, 1 unbiased [default: 0]
    #[arg(long, value_name = "K")]
    pub rescale: Option<f64>,
    /// Sweeps over the data that full training makes [default: 16; demonstration: 6]
    #[arg(long)]
    pub epochs: Option<u32>,
    /// Instances in a step [default: 128]
    #[arg(long)]
    pub batch: Option<usize>,
    /// Peak learning rate [default: 0.2]
    #[arg(long)]
    pub lr: Option<f64>,
    /// L2 coefficient on all parameters [default: 0.0005]
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// Share of the target spread over all classes [default: 0]
    #[arg(long)]
    pub label_smoothing: Option<f64>,
    /// Seed of everything random [default: 0]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Bit-equal runs whatever the timing and number of threads
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub deterministic: Option<bool>,
    /// Steps between checkpoints [default: 500]
    #[arg(long, value_name = "STEPS")]
    pub checkpoint_every: Option<u64>,
    /// Evaluate after this many sweeps' worth of instances; 0 = only at the end [default: 1]
    #[arg(long, value_name = "EPOCHS")]
    pub eval_every: Option<u32>,
    /// Start from these weights (safetensors)
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Train these arms one after the other and compare them
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ARMS")]
    pub compare: Option<Vec<Arm>>,
    /// Seeds of a comparison [default: --seed]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub seeds: Option<Vec<u64>>,
}

/// Settings that were not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value makes no sense.
    #[error("--{flag} {value}: {remedy}")]
    Value {
        /// The flag, without dashes.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        remedy: String,
    },
    /// Flags that exclude or need each other.
    #[error("{0}")]
    Together(String),
    /// The file cannot be read.
    #[error("cannot read configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("configuration {}: {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what, in one line.
        reason: String,
    },
}

/// The resolved settings, as they are written to the run's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs)] // each is the flag of the same name, documented in `Options`
pub struct Config {
    pub data: Data,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub download: bool,
    pub depth: u32,
    pub device: String,
    pub assist: Assist,
    pub budget: f64,
    pub rescale: f64,
    pub epochs: u32,
    pub batch: usize,
    pub lr: f64,
    pub weight_decay: f64,
    pub label_smoothing: f64,
    pub seed: u64,
    pub deterministic: bool,
    pub checkpoint_every: u64,
    pub eval_every: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compare: Vec<Arm>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<u64>,
}

fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    toml::from_str(&text).map_err(|e| {
        let line = e
            .span()
            .map_or(1, |s| text[..s.start].lines().count().max(1));
        let reason = format!("line {line}: {}", e.message().replace('\n', " "));
        ConfigError::Parse {
            path: path.to_path_buf(),
            reason,
        }
    })
}

impl Options {
    /// Reads a `--config` file.
    ///
    /// # Errors
    /// A file that is missing, not TOML, or has unknown keys.
    pub fn from_file(path: &Path) -> Result<Options, ConfigError> {
        read_toml(path)
    }

    /// These options, and `other`'s where these say nothing.
    pub fn or(self, other: Options) -> Options {
        Options {
            data: self.data.or(other.data),
            data_dir: self.data_dir.or(other.data_dir),
            download: self.download.or(other.download),
            depth: self.depth.or(other.depth),
            device: self.device.or(other.device),
            assist: self.assist.or(other.assist),
            budget: self.budget.or(other.budget),
            rescale: self.rescale.or(other.rescale),
            epochs: self.epochs.or(other.epochs),
            batch: self.batch.or(other.batch),
            lr: self.lr.or(other.lr),
            weight_decay: self.weight_decay.or(other.weight_decay),
            label_smoothing: self.label_smoothing.or(other.label_smoothing),
            seed: self.seed.or(other.seed),
            deterministic: self.deterministic.or(other.deterministic),
            checkpoint_every: self.checkpoint_every.or(other.checkpoint_every),
            eval_every: self.eval_every.or(other.eval_every),
            init: self.init.or(other.init),
            compare: self.compare.or(other.compare),
            seeds: self.seeds.or(other.seeds),
        }
    }

    /// Fills in the defaults and checks everything. With `demonstration`, what is not said is the
    /// demonstration's: three arms, few sweeps.
    ///
    /// # Errors
    /// [`ConfigError::Value`] or [`ConfigError::Together`].
    pub fn resolve(self, demonstration: bool) -> Result<Config, ConfigError> {
        let arms = || {
            if demonstration {
                vec![Arm::Full, Arm::Uniform, Arm::Memory]
            } else {
                vec![]
            }
        };
        // A run can be resumed from anywhere.
        let absolute = |path: Option<PathBuf>| path.map(|p| std::path::absolute(&p).unwrap_or(p));
        let config = Config {
            data: self.data.unwrap_or(Data::Synthetic),
            data_dir: absolute(self.data_dir),
            download: self.download.unwrap_or(false),
            depth: self.depth.unwrap_or(8),
            device: self.device.unwrap_or_else(|| "auto".into()),
            assist: self.assist.unwrap_or(Assist::Memory),
            budget: self.budget.unwrap_or(0.65),
            rescale: self.rescale.unwrap_or(0.0),
            epochs: self.epochs.unwrap_or(if demonstration { 6 } else { 16 }),
            batch: self.batch.unwrap_or(128),
            lr: self.lr.unwrap_or(0.2),
            weight_decay: self.weight_decay.unwrap_or(5e-4),
            label_smoothing: self.label_smoothing.unwrap_or(0.0),
            seed: self.seed.unwrap_or(0),
            deterministic: self.deterministic.unwrap_or(false),
            checkpoint_every: self.checkpoint_every.unwrap_or(500),
            eval_every: self.eval_every.unwrap_or(1),
            init: absolute(self.init),
            compare: self.compare.unwrap_or_else(arms),
            seeds: self.seeds.unwrap_or_default(),
        };
        config.check()?;
        Ok(config)
    }
}

impl Config {
    /// Reads the `config.toml` of a run's folder.
    ///
    /// # Errors
    /// As [`Options::from_file`] and [`Options::resolve`].
    pub fn from_run(path: &Path) -> Result<Config, ConfigError> {
        let config: Config = read_toml(path)?;
        config.check()?;
        Ok(config)
    }

    /// As TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("settings are plain values")
    }

    /// Seeds of a comparison.
    pub fn seeds(&self) -> Vec<u64> {
        if self.seeds.is_empty() {
            vec![self.seed]
        } else {
            self.seeds.clone()
        }
    }

    /// The network.
    pub fn architecture(&self) -> Architecture {
        Architecture::of_depth(self.depth).expect("checked")
    }

    fn check(&self) -> Result<(), ConfigError> {
        let value = |ok: bool, flag, value: &dyn std::fmt::Display, remedy: &str| {
            let bad = || ConfigError::Value {
                flag,
                value: value.to_string(),
                remedy: remedy.into(),
            };
            if ok { Ok(()) } else { Err(bad()) }
        };
        // Comparisons are written so that NaN fails them.
        let depths = Architecture::DEPTHS.map(|d| d.to_string()).join(", ");
        let depth_ok = Architecture::of_depth(self.depth).is_some();
        value(
            depth_ok,
            "depth",
            &self.depth,
            &format!("choose one of {depths}"),
        )?;
        let budget_ok = self.budget > 0.0 && self.budget <= 1.0;
        value(
            budget_ok,
            "budget",
            &self.budget,
            "give a share above 0 and at most 1, such as 0.65",
        )?;
        let within = |v: f64, max: f64| v >= 0.0 && v <= max;
        value(
            within(self.rescale, 1.0),
            "rescale",
            &self.rescale,
            "give a number from 0 to 1",
        )?;
        value(
            self.epochs >= 1,
            "epochs",
            &self.epochs,
            "train for at least one sweep",
        )?;
        value(
            self.epochs <= 100_000,
            "epochs",
            &self.epochs,
            "give at most 100000",
        )?;
        value(
            self.batch >= 2,
            "batch",
            &self.batch,
            "batch norm needs at least 2 instances",
        )?;
        let lr_ok = self.lr > 0.0 && self.lr <= 1e3;
        value(lr_ok, "lr", &self.lr, "give a positive number, such as 0.2")?;
        let decay_ok = within(self.weight_decay, 10.0);
        value(
            decay_ok,
            "weight-decay",
            &self.weight_decay,
            "give 0 or a small positive number",
        )?;
        let smoothing_ok = self.label_smoothing >= 0.0 && self.label_smoothing < 1.0;
        value(
            smoothing_ok,
            "label-smoothing",
            &self.label_smoothing,
            "give a share from 0 to below 1",
        )?;
        let every = self.checkpoint_every;
        value(
            every >= 1,
            "checkpoint-every",
            &every,
            "give a number of steps, at least 1",
        )?;
        let distinct = |list: &[u64]| (1..list.len()).all(|i| !list[..i].contains(&list[i]));
        let arms: Vec<u64> = self.compare.iter().map(|a| *a as u64).collect();
        value(distinct(&arms), "compare", &"", "name each arm once")?;
        value(distinct(&self.seeds), "seeds", &"", "name each seed once")?;
        // TOML has 64-bit signed integers.
        let seeds_ok = self
            .seeds()
            .iter()
            .chain([&self.seed])
            .all(|s| i64::try_from(*s).is_ok());
        value(seeds_ok, "seed", &"", "give a number below 2^63")?;
        if !self.seeds.is_empty() && self.compare.is_empty() {
            let remedy = "--seeds belongs to --compare; for one run give --seed";
            return Err(ConfigError::Together(remedy.into()));
        }
        if self.download && matches!(self.data, Data::Synthetic | Data::Folder) {
            let remedy = "--download fetches a published data set: name it by --data cifar10, \
                          --data mnist or --data fashion-mnist";
            return Err(ConfigError::Together(remedy.into()));
        }
        match (self.data, &self.data_dir) {
            (Data::Folder, None) => {
                let remedy = "--data folder needs --data-dir DIR, a folder with train/ and test/";
                Err(ConfigError::Together(remedy.into()))
            }
            (Data::Synthetic, Some(_)) => {
                let remedy = "--data-dir is not used by --data synthetic; add --data folder, or what it holds";
                Err(ConfigError::Together(remedy.into()))
            }
            _ => Ok(()),
        }
    }
}

impl From<ConfigError> for TrainError {
    fn from(e: ConfigError) -> TrainError {
        TrainError::Unusable(e.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_configuration_reads_back_as_it_was() {
        let options = Options {
            seed: Some(7),
            compare: Some(vec![Arm::Full]),
            ..Options::default()
        };
        let config = options.resolve(false).unwrap();
        let back: Config = toml::from_str(&config.to_toml()).unwrap();
        assert_eq!(config, back);
        // And it serves as a --config file.
        let options: Options = toml::from_str(&config.to_toml()).unwrap();
        assert_eq!(options.resolve(false).unwrap(), config);
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_defaults() {
        let file: Options = toml::from_str("batch = 32\nlr = 0.5").unwrap();
        let flags = Options {
            lr: Some(0.25),
            ..Options::default()
        };
        let config = flags.or(file).resolve(false).unwrap();
        assert_eq!((config.lr, config.batch, config.epochs), (0.25, 32, 16));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let bad = [
            ("budget", "budget = 0.0"),
            ("budget", "budget = 1.01"),
            ("budget", "budget = nan"),
            ("lr", "lr = -1.0"),
            ("lr", "lr = nan"),
            ("lr", "lr = inf"),
            ("weight-decay", "weight-decay = -0.1"),
            ("rescale", "rescale = nan"),
            ("label-smoothing", "label-smoothing = 1.0"),
            ("batch", "batch = 1"),
            ("epochs", "epochs = 0"),
            ("depth", "depth = 9"),
            ("checkpoint-every", "checkpoint-every = 0"),
        ];
        for (flag, text) in bad {
            let options: Options = toml::from_str(text).unwrap();
            let error = options.resolve(false).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--{flag} ")), "{text}: {error}");
        }
        assert!(toml::from_str::<Options>("budgett = 0.5").is_err());
    }
}
