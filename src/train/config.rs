//! Settings of a run: flags over a file over defaults.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use super::{Budget, TrainError};
use crate::backend::Precision;

/// How the Assistant chooses (`--assist`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assist {
    /// From each instance's own loss history and a few cheap features of it.
    Memory,
    /// From the input itself, as published.
    Paper,
    /// Keeps as many without looking: the control.
    Random,
    /// Prunes half of the instances whose loss is below the mean, each by its own coin, and weights
    /// the others of them by two; all data, unweighted, in the last eighth of the budget. It has no
    /// rate to meet, so the budget decides how many sweeps it makes.
    Infobatch,
    /// Keeps all.
    Off,
}

/// One side of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
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

/// Arms as `--compare` names them.
pub type Arms = Vec<Arm>;

/// Reads `full,uniform` or `all`.
fn arms(text: &str) -> Result<Arms, String> {
    let all = Arm::value_variants();
    if text.trim() == "all" {
        return Ok(all.to_vec());
    }
    let arm = |name: &str| {
        let found = all.iter().find(|arm| arm.name() == name.trim());
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|arm| arm.name()).collect();
            format!(
                "`{name}` is no arm; choose from {}, or all",
                names.join(", ")
            )
        })
    };
    text.split(',').map(arm).collect()
}

/// The same, from a list in a file.
fn arms_of_file<'de, D: serde::Deserializer<'de>>(file: D) -> Result<Option<Arms>, D::Error> {
    let names = Vec::<String>::deserialize(file)?;
    arms(&names.join(","))
        .map(Some)
        .map_err(serde::de::Error::custom)
}

/// Numbers that are whole are written so.
fn whole<S: serde::Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    match *value as i64 {
        n if n as f64 == *value => to.serialize_i64(n),
        _ => to.serialize_f64(*value),
    }
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
            Arm::Full => (Assist::Off, Budget::Share(1.0)),
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

/// The flags of a run that the programs share, each also a key of a `--config` file.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[command(next_help_heading = "Training")]
#[serde(rename_all = "kebab-case", default)]
pub struct Options {
    /// Sweeps over the data that full training makes: 16, or 0.5
    #[arg(long)]
    pub epochs: Option<f64>,
    /// Instances in a step
    #[arg(long)]
    pub batch: Option<usize>,
    /// Peak learning rate
    #[arg(long)]
    pub lr: Option<f64>,
    /// L2 coefficient on all parameters
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// Share of the target spread over all classes
    #[arg(long)]
    pub label_smoothing: Option<f64>,
    /// Start from these weights (safetensors), or those in a run's folder
    #[arg(long, value_name = "FILE|DIR")]
    pub init: Option<PathBuf>,
    /// Evaluate after this many sweeps' worth of instances; 0 = only at the end [default: 1]
    #[arg(long, value_name = "EPOCHS")]
    pub eval_every: Option<f64>,
    /// Steps between checkpoints [default: 500]
    #[arg(long, value_name = "STEPS")]
    pub checkpoint_every: Option<u64>,
    /// Seed of everything random [default: 0]
    #[arg(long, value_parser = seed())]
    pub seed: Option<u64>,
    /// How instances are chosen [default: memory]
    #[arg(long, value_enum, help_heading = "What the Assistant does")]
    pub assist: Option<Assist>,
    /// Share of full training's operations to spend, above 0 and at most 1; or auto: all sweeps, of
    /// which only as much is skipped as can be for nothing (see V in the report) [default: 0.65]
    #[arg(
        long,
        value_name = "SHARE|auto",
        help_heading = "What the Assistant does"
    )]
    pub budget: Option<Budget>,
    /// Weight kept instances by p^(-K), p the probability to keep them: 0 not at all, 1 unbiased. The
    /// weights are above 1, so a step goes further, with K = 1 as far as 1/keep rate steps: lower
    /// --lr, or shrink --batch to its keep rate's share, for steps as long as before [default: 0]
    #[arg(long, value_name = "K", help_heading = "What the Assistant does")]
    pub rescale: Option<f64>,
    /// Train these arms one after the other and compare them: full, uniform, random, paper, memory,
    /// infobatch, separated by commas, or all
    #[arg(long, value_name = "ARMS", value_parser = arms, help_heading = "What the Assistant does")]
    #[serde(deserialize_with = "arms_of_file")]
    pub compare: Option<Arms>,
    /// Seeds of a comparison [default: --seed]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        value_parser = seed(),
        help_heading = "What the Assistant does"
    )]
    pub seeds: Option<Vec<u64>>,
    /// auto, cpu, simt, cuda or cuda:N [default: auto]
    #[arg(long, help_heading = "Machine")]
    pub device: Option<String>,
    /// What the CPU stores activations and their gradients as: f32, or bf16 as GPUs do [default: f32]
    #[arg(long, value_enum, help_heading = "Machine")]
    pub precision: Option<Precision>,
    /// Threads that compute [default: one a processor core]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub threads: Option<usize>,
    /// Bit-equal runs whatever the timing and number of threads
    #[arg(
        long,
        num_args = 0,
        default_missing_value = "true",
        help_heading = "Machine"
    )]
    pub deterministic: Option<bool>,
}

/// A number that TOML has, too.
fn seed() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(..=i64::MAX as u64)
}

/// Where the programs' defaults differ.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // each is the flag of the same name, documented in `Options`
pub struct Defaults {
    pub epochs: f64,
    pub batch: usize,
    pub lr: f64,
    pub weight_decay: f64,
    pub label_smoothing: f64,
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
    /// Another process has the folder.
    #[error(
        "{} is in use by {owner}: wait until that is done, or stop it, or choose another folder",
        dir.display()
    )]
    InUse {
        /// Which.
        dir: PathBuf,
        /// Who.
        owner: String,
    },
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

/// The resolved settings that the programs share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // each is the flag of the same name, documented in `Options`
pub struct Config {
    pub device: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    pub assist: Assist,
    pub budget: Budget,
    pub rescale: f64,
    #[serde(serialize_with = "whole")]
    pub epochs: f64,
    pub batch: usize,
    pub lr: f64,
    pub weight_decay: f64,
    pub label_smoothing: f64,
    pub seed: u64,
    pub deterministic: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    pub checkpoint_every: u64,
    #[serde(serialize_with = "whole")]
    pub eval_every: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compare: Vec<Arm>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<u64>,
}

/// Reads a TOML file into what it has keys for.
pub(super) fn parse<T: serde::de::DeserializeOwned>(
    path: &Path,
    text: &str,
) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|e| {
        let line = e
            .span()
            .map_or(1, |s| text[..s.start].matches('\n').count() + 1);
        let reason = format!("line {line}: {}", e.message().replace('\n', " "));
        ConfigError::Parse {
            path: path.to_path_buf(),
            reason,
        }
    })
}

/// The key that says which program a run's settings are for.
pub(super) const PROGRAM: &str = "program";

/// Reads a file of settings: those that the programs share, and its own of `program`. `keys` are all
/// that there are.
///
/// # Errors
/// A file that is missing, not TOML, of another program, or has other keys or values of another kind.
pub(super) fn read<A, B>(path: &Path, program: &str, keys: &[String]) -> Result<(A, B), ConfigError>
where
    A: serde::de::DeserializeOwned,
    B: serde::de::DeserializeOwned,
{
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    let mut table: toml::Table = parse(path, &text)?;
    if let Some(other) = table
        .remove(PROGRAM)
        .filter(|p| p.as_str() != Some(program))
    {
        let reason = format!("it is of a run of {other}, and this is `{program}`");
        let path = path.to_path_buf();
        return Err(ConfigError::Parse { path, reason });
    }
    if let Some(key) = table.keys().find(|key| !keys.contains(key)) {
        let line = text
            .lines()
            .position(|l| l.trim_start().starts_with(key.as_str()));
        let line = line.map_or(1, |l| l + 1);
        let reason = format!("line {line}: unknown setting `{key}`; see --help");
        let path = path.to_path_buf();
        return Err(ConfigError::Parse { path, reason });
    }
    Ok((parse(path, &text)?, parse(path, &text)?))
}

/// These options, and the others where these say nothing.
///
/// # Errors
/// A path that is not UTF-8.
pub(super) fn overlay<T>(over: &T, under: &T) -> Result<T, ConfigError>
where
    T: Serialize + serde::de::DeserializeOwned,
{
    let table = |options| toml::Table::try_from(options);
    let both = table(under).and_then(|under| {
        let mut all = under;
        all.extend(table(over)?);
        Ok(all)
    });
    let both = both.map_err(|e| ConfigError::Together(format!("unusable settings: {e}")))?;
    Ok(both.try_into().expect("made of two of the kind"))
}

/// So that a run can be resumed from anywhere.
pub(super) fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// `Ok` if a condition that a setting must meet is met. Written so that NaN does not meet any.
pub(super) fn require(
    ok: bool,
    flag: &'static str,
    value: &dyn std::fmt::Display,
    remedy: &str,
) -> Result<(), ConfigError> {
    let bad = || ConfigError::Value {
        flag,
        value: value.to_string(),
        remedy: remedy.into(),
    };
    if ok { Ok(()) } else { Err(bad()) }
}

impl Options {
    /// Fills in the defaults and checks everything. What a `demonstration` does not say is its own:
    /// three arms.
    ///
    /// # Errors
    /// [`ConfigError::Value`] or [`ConfigError::Together`].
    pub fn resolve(self, defaults: Defaults, demonstration: bool) -> Result<Config, ConfigError> {
        let arms = || {
            if demonstration {
                vec![Arm::Full, Arm::Uniform, Arm::Memory]
            } else {
                vec![]
            }
        };
        let config = Config {
            device: self.device.unwrap_or_else(|| "auto".into()),
            precision: self.precision,
            assist: self.assist.unwrap_or(Assist::Memory),
            budget: self.budget.unwrap_or(Budget::Share(0.65)),
            rescale: self.rescale.unwrap_or(0.0),
            epochs: self.epochs.unwrap_or(defaults.epochs),
            batch: self.batch.unwrap_or(defaults.batch),
            lr: self.lr.unwrap_or(defaults.lr),
            weight_decay: self.weight_decay.unwrap_or(defaults.weight_decay),
            label_smoothing: self.label_smoothing.unwrap_or(defaults.label_smoothing),
            seed: self.seed.unwrap_or(0),
            deterministic: self.deterministic.unwrap_or(false),
            threads: self.threads,
            checkpoint_every: self.checkpoint_every.unwrap_or(500),
            eval_every: self.eval_every.unwrap_or(1.0),
            init: self.init.map(absolute),
            compare: self.compare.unwrap_or_else(arms),
            seeds: self.seeds.unwrap_or_default(),
        };
        config.check()?;
        Ok(config)
    }
}

impl Config {
    /// Seeds of a comparison.
    pub fn seeds(&self) -> Vec<u64> {
        if self.seeds.is_empty() {
            vec![self.seed]
        } else {
            self.seeds.clone()
        }
    }

    /// # Errors
    /// The first setting that makes no sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        let share = "give a share above 0 and at most 1, such as 0.65";
        let budget_ok = match self.budget {
            Budget::Share(share) => share > 0.0 && share <= 1.0,
            Budget::Auto => true,
        };
        require(budget_ok, "budget", &self.budget, share)?;
        if self.budget == Budget::Auto && !self.compare.is_empty() {
            let remedy = "--budget auto finds its own operations, and a comparison takes arms of the \
                          same: run it alone, then compare at the --budget that it came to";
            return Err(ConfigError::Together(remedy.into()));
        }
        if self.budget == Budget::Auto && self.assist == Assist::Off {
            let remedy =
                "--budget auto says how much an Assistant skips; --assist off skips nothing";
            return Err(ConfigError::Together(remedy.into()));
        }
        let within = |v: f64, max: f64| v >= 0.0 && v <= max;
        let (rescale, remedy) = (self.rescale, "give a number from 0 to 1");
        require(within(rescale, 1.0), "rescale", &rescale, remedy)?;
        let (epochs, most) = (self.epochs, 100_000.0);
        let remedy = "give a number of sweeps above 0, such as 0.5 or 16";
        require(epochs > 0.0, "epochs", &epochs, remedy)?;
        require(epochs <= most, "epochs", &epochs, "give at most 100000")?;
        let (every, remedy) = (self.eval_every, "give a number of sweeps, or 0");
        require(within(every, most), "eval-every", &every, remedy)?;
        let (threads, remedy) = (self.threads.unwrap_or(1), "give a number from 1 to 1024");
        require((1..=1024).contains(&threads), "threads", &threads, remedy)?;
        let (batch, remedy) = (self.batch, "a step takes at least 2 instances");
        require(batch >= 2, "batch", &batch, remedy)?;
        let lr_ok = self.lr > 0.0 && self.lr <= 1e3;
        require(lr_ok, "lr", &self.lr, "give a positive number, such as 0.2")?;
        let (decay, remedy) = (self.weight_decay, "give 0 or a small positive number");
        require(within(decay, 10.0), "weight-decay", &decay, remedy)?;
        let (smoothing, remedy) = (self.label_smoothing, "give a share from 0 to below 1");
        let smoothing_ok = (0.0..1.0).contains(&smoothing);
        require(smoothing_ok, "label-smoothing", &smoothing, remedy)?;
        let (every, remedy) = (self.checkpoint_every, "give a number of steps, at least 1");
        require(every >= 1, "checkpoint-every", &every, remedy)?;
        let distinct = |list: &[u64]| (1..list.len()).all(|i| !list[..i].contains(&list[i]));
        let arms: Vec<u64> = self.compare.iter().map(|a| *a as u64).collect();
        require(distinct(&arms), "compare", &"", "name each arm once")?;
        require(distinct(&self.seeds), "seeds", &"", "name each seed once")?;
        if !self.seeds.is_empty() && self.compare.is_empty() {
            let remedy = "--seeds belongs to --compare; for one run give --seed";
            return Err(ConfigError::Together(remedy.into()));
        }
        Ok(())
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

    const DEFAULTS: Defaults = Defaults {
        epochs: 16.0,
        batch: 128,
        lr: 0.2,
        weight_decay: 5e-4,
        label_smoothing: 0.0,
    };

    #[test]
    fn a_written_configuration_reads_back_as_it_was_and_serves_as_options() {
        let options = Options {
            seed: Some(7),
            precision: Some(Precision::Bf16),
            compare: Some(vec![Arm::Full]),
            ..Options::default()
        };
        let config = options.resolve(DEFAULTS, false).unwrap();
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
        let options: Options = toml::from_str(&text).unwrap();
        assert_eq!(options.resolve(DEFAULTS, true).unwrap(), config);
    }

    #[test]
    fn numbers_of_sweeps_need_not_be_whole_and_are_written_as_they_are() {
        let resolve = |text: &str| {
            let options: Options = toml::from_str(text).unwrap();
            toml::to_string(&options.resolve(DEFAULTS, false).unwrap()).unwrap()
        };
        assert!(resolve("epochs = 3").contains("epochs = 3\n"));
        let text = resolve("epochs = 0.5\neval-every = 0.25");
        assert!(text.contains("epochs = 0.5\n") && text.contains("eval-every = 0.25\n"));
    }

    #[test]
    fn all_arms_have_one_name() {
        let options: Options = toml::from_str("compare = [\"all\"]").unwrap();
        assert_eq!(options.compare.unwrap(), Arm::value_variants());
        assert_eq!(arms("full, memory").unwrap(), [Arm::Full, Arm::Memory]);
        assert!(arms("full,").is_err() && arms("").is_err());
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_defaults() {
        let file: Options = toml::from_str("batch = 32\nlr = 0.5").unwrap();
        let flags = Options {
            lr: Some(0.25),
            ..Options::default()
        };
        let config = overlay(&flags, &file).unwrap();
        let config = config.resolve(DEFAULTS, false).unwrap();
        assert_eq!((config.lr, config.batch, config.epochs), (0.25, 32, 16.0));
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
            ("epochs", "epochs = -0.5"),
            ("epochs", "epochs = nan"),
            ("epochs", "epochs = inf"),
            ("eval-every", "eval-every = -1"),
            ("threads", "threads = 0"),
            ("threads", "threads = 100000"),
            ("checkpoint-every", "checkpoint-every = 0"),
        ];
        for (flag, text) in bad {
            let options: Options = toml::from_str(text).unwrap();
            let error = options.resolve(DEFAULTS, false).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--{flag} ")), "{text}: {error}");
        }
    }

    #[test]
    fn files_say_where_they_are_wrong() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("c.toml");
        let keys = ["lr", "depth", "compare"].map(str::to_owned);
        let error = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let read = read::<Options, toml::Table>(&path, "resnet", &keys);
            read.unwrap_err().to_string()
        };
        assert!(error("lr = 0.1\ndepht = 8").contains("line 2: unknown setting `depht`"));
        assert!(error("\nlr = \"high\"").contains("line 2: "));
        assert!(error("lr 5").contains("line 1: "));
        assert!(
            error("program = \"transformer\"\nvocab = 8").contains("of a run of \"transformer\"")
        );
        assert!(error("compare = [\"most\"]").contains("`most` is no arm"));
    }
}
