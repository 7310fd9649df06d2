//! The file of a study, and which runs it takes.

use super::results::Line;
use crate::train::config::{Arms, parse};
use crate::train::program::{Program, keys};
use crate::train::summary::{ArmResult, Comparison};
use crate::train::{Arm, Config, ConfigError, Options, TrainError};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use toml::Table;

/// As it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Text {
    /// Of the report.
    title: String,
    arms: Arms,
    seeds: Vec<u64>,
    /// Of all runs: keys of a `--config` file.
    #[serde(default)]
    settings: Table,
    /// What each bed has besides, by name.
    #[serde(default)]
    beds: BTreeMap<String, Table>,
    tune: Option<Tune>,
    futility: Option<Futility>,
}

/// How settings are chosen, before anything sees the test set.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tune {
    /// Share of the training images that they are chosen by.
    pub valid_share: f64,
    /// Of its runs.
    pub seeds: Vec<u64>,
    /// What is tried, of whom. Arms that save operations without a grid of their own take what
    /// `uniform` has chosen.
    #[serde(flatten)]
    pub grids: BTreeMap<Arm, BTreeMap<String, Vec<toml::Value>>>,
}

/// When to give up.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Futility {
    /// With as many seeds
    pub after: usize,
    /// no more are trained if `memory` minus `full` is below this, in points.
    pub below: f64,
}

/// What a study is about, read and checked.
pub struct Study<P> {
    path: PathBuf,
    /// Of the report.
    pub title: String,
    /// In the order of the tables.
    pub arms: Arms,
    /// In the order of training.
    pub seeds: Vec<u64>,
    /// Settings, and what each bed has besides: one without a name where there are none.
    pub beds: Vec<(String, Table)>,
    /// How settings are chosen, if they are.
    pub tune: Option<Tune>,
    /// When to give up, if ever.
    pub futility: Option<Futility>,
    /// `DATA=DIR`, or `DIR` for whatever data.
    data_dirs: Vec<String>,
    program: PhantomData<P>,
}

/// Settings by their keys.
pub type Keys = Map<String, Value>;

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub bed: String,
    pub arm: Arm,
    pub seed: u64,
    /// All that it does not have from the machine, its arm or its seed.
    pub settings: Keys,
}

/// Keys that a study says by its own means, or that are a machine's.
const NOT_SETTINGS: [&str; 12] = [
    "assist",
    "compare",
    "data-dir",
    "deterministic",
    "device",
    "download",
    "eval-every",
    "init",
    "seed",
    "seeds",
    "threads",
    VALID_SHARE,
];
/// Where what is held out is said.
pub const VALID_SHARE: &str = "valid-share";

impl Spec {
    /// Of its folder: whose settings are others has another.
    pub fn name(&self) -> String {
        let settings = Value::from(self.settings.clone()).to_string();
        let digest = Sha256::digest(settings);
        let digest: String = digest[..4].iter().map(|b| format!("{b:02x}")).collect();
        let bed = match self.bed.as_str() {
            "" => String::new(),
            bed => format!("{bed}-"),
        };
        format!("{bed}{}-seed{}-{digest}", self.arm.name(), self.seed)
    }

    /// What came of it, if anything did.
    pub fn find<'a>(&self, lines: &'a [Line]) -> Option<&'a Line> {
        lines.iter().find(|line| line.spec() == *self)
    }
}

impl<P: Program> Study<P> {
    /// Reads a file, and takes its first `seeds` seeds. Data are in `data_dirs`: `DATA=DIR`, or `DIR`
    /// for whatever data.
    ///
    /// # Errors
    /// A file that cannot be read, or whatever makes no sense in it.
    pub fn read(
        path: &Path,
        seeds: Option<usize>,
        data_dirs: &[String],
    ) -> Result<Study<P>, TrainError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        let text: Text = parse(path, &text)?;
        let beds = match text.beds.is_empty() {
            true => vec![(String::new(), text.settings)],
            false => {
                let all = |own: Table| text.settings.clone().into_iter().chain(own).collect();
                let beds = text.beds.into_iter();
                beds.map(|(name, own)| (name, all(own))).collect()
            }
        };
        let mut study = Study {
            path: path.to_path_buf(),
            title: text.title,
            arms: text.arms,
            seeds: text.seeds,
            beds,
            tune: text.tune,
            futility: text.futility,
            data_dirs: data_dirs.to_vec(),
            program: PhantomData,
        };
        study.check()?;
        study.seeds.truncate(seeds.unwrap_or(usize::MAX));
        if study.seeds.is_empty() {
            return Err(study.wrong("--seeds: give at least one").into());
        }
        Ok(study)
    }

    fn wrong(&self, reason: impl Into<String>) -> ConfigError {
        ConfigError::Parse {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    fn check(&self) -> Result<(), TrainError> {
        let distinct = |list: &[u64]| (1..list.len()).all(|i| !list[..i].contains(&list[i]));
        let small = |list: &[u64]| list.iter().all(|&seed| i64::try_from(seed).is_ok());
        let arms: Vec<u64> = self.arms.iter().map(|arm| *arm as u64).collect();
        if arms.is_empty() || !distinct(&arms) {
            return Err(self.wrong("arms: name at least one, each once").into());
        }
        let tuned = self.tune.as_ref().map_or(&[0][..], |tune| &tune.seeds[..]);
        for (name, seeds) in [("seeds", &self.seeds[..]), ("tune.seeds", tuned)] {
            if seeds.is_empty() || !distinct(seeds) || !small(seeds) {
                let reason = format!("{name}: name at least one, each once");
                return Err(self.wrong(reason).into());
            }
        }
        let named = |name: &str| {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            name.bytes().all(plain)
        };
        for (bed, settings) in &self.beds {
            if !named(bed) {
                let reason = format!("beds.{bed}: call it by small letters, digits and hyphens");
                return Err(self.wrong(reason).into());
            }
            self.check_keys(settings.keys())?;
        }
        if let Some(Futility { after, below }) = self.futility
            && (after < 2 || !below.is_finite())
        {
            let reason = "futility: `after` two seeds or more, `below` so many points";
            return Err(self.wrong(reason).into());
        }
        if let Some(tune) = &self.tune {
            if !keys::<P>().contains(&VALID_SHARE.to_string()) {
                let reason = format!("tune: {} holds no data out to tune on", P::NAME);
                return Err(self.wrong(reason).into());
            }
            for (arm, grid) in &tune.grids {
                self.check_keys(grid.keys())?;
                if grid.is_empty() || grid.values().any(Vec::is_empty) || !self.arms.contains(arm) {
                    let reason = format!(
                        "tune.{}: an arm of the study, with settings to try",
                        arm.name()
                    );
                    return Err(self.wrong(reason).into());
                }
            }
        }
        // Whatever a run would refuse is refused before the first.
        for (bed, _) in &self.beds {
            for spec in self.tuning(bed) {
                self.settings(&spec)?;
            }
            for &arm in &self.arms {
                let plain = self.spec(bed, arm, 0, &Map::new());
                self.settings(&plain)?;
            }
        }
        Ok(())
    }

    fn check_keys<'a>(
        &self,
        mut names: impl Iterator<Item = &'a String>,
    ) -> Result<(), TrainError> {
        let known = keys::<P>();
        let bad = names.find(|key| !known.contains(key) || NOT_SETTINGS.contains(&key.as_str()));
        bad.map_or(Ok(()), |key| {
            let reason = match known.contains(key) {
                true => {
                    format!("`{key}` is no setting of a study: its arms, seeds and flags say it")
                }
                false => format!("unknown setting `{key}`; see --help"),
            };
            Err(self.wrong(reason).into())
        })
    }

    /// What a run is to do, checked.
    ///
    /// # Errors
    /// A value that makes no sense.
    pub fn settings(&self, spec: &Spec) -> Result<(Config, P::Config), TrainError> {
        let mut table = Table::try_from(&spec.settings).map_err(TrainError::unusable)?;
        let data = table.get("data").and_then(toml::Value::as_str);
        let dir = self.data_dirs.iter().rev().find_map(|flag| {
            match flag.split_once('=') {
                Some((name, dir)) => Some(dir).filter(|_| Some(name) == data),
                // Built in.
                None => Some(flag.as_str()).filter(|_| data != Some("synthetic")),
            }
        });
        if let Some(dir) = dir {
            table.insert("data-dir".into(), dir.into());
        }
        let wrong = |e: &dyn std::fmt::Display| {
            let bed = match spec.bed.as_str() {
                "" => "settings".into(),
                bed => format!("beds.{bed}"),
            };
            let arm = spec.arm.name();
            self.wrong(format!(
                "{bed}, {arm}: {}",
                e.to_string().replace('\n', " ")
            ))
        };
        let options: Options = table.clone().try_into().map_err(|e| wrong(&e))?;
        let own: P::Options = table.try_into().map_err(|e| wrong(&e))?;
        if !P::has_data(&own) {
            return Err(wrong(&"name the data: data = \"…\"").into());
        }
        let defaults = P::defaults(false);
        let config = options.resolve(defaults, false).map_err(|e| wrong(&e))?;
        let own = P::resolve(own, false);
        P::check(&own).map_err(|e| wrong(&e))?;
        Ok((config, own))
    }

    fn spec(&self, bed: &str, arm: Arm, seed: u64, chosen: &Keys) -> Spec {
        let of_bed = self.beds.iter().find(|(name, _)| name == bed);
        let (_, settings) = of_bed.expect("one of the study's");
        let Ok(Value::Object(mut settings)) = serde_json::to_value(settings) else {
            unreachable!("a table is an object");
        };
        settings.extend(chosen.clone());
        Spec {
            bed: bed.into(),
            arm,
            seed,
            settings,
        }
    }

    /// The runs that settings are chosen by.
    fn tuning(&self, bed: &str) -> Vec<Spec> {
        let Some(tune) = &self.tune else {
            return Vec::new();
        };
        let grids = tune.grids.iter();
        let of_arm = |(&arm, grid)| {
            let point = |(point, seed)| self.tuning_run(bed, arm, &point, seed);
            let all = points(grid).into_iter();
            all.flat_map(|point| tune.seeds.iter().map(move |&seed| (point.clone(), seed)))
                .map(point)
                .collect::<Vec<_>>()
        };
        grids.flat_map(of_arm).collect()
    }

    fn tuning_run(&self, bed: &str, arm: Arm, point: &Keys, seed: u64) -> Spec {
        let mut settings = point.clone();
        let share = self.tune.as_ref().map(|tune| tune.valid_share);
        settings.insert(VALID_SHARE.into(), share.into());
        self.spec(bed, arm, seed, &settings)
    }

    /// What was tried for an arm, with the points that each seed got, NaN where it failed; `None`
    /// where one is missing.
    pub fn tried(&self, bed: &str, arm: Arm, lines: &[Line]) -> Option<Vec<(Keys, Vec<f64>)>> {
        let tune = self.tune.as_ref()?;
        let grid = points(tune.grids.get(&arm)?).into_iter();
        grid.map(|point| {
            let scores = tune.seeds.iter().map(|&seed| {
                let line = self.tuning_run(bed, arm, &point, seed).find(lines)?;
                Some(line.summary.score.points())
            });
            let scores: Option<Vec<f64>> = scores.collect();
            Some((point, scores?))
        })
        .collect()
    }

    /// The settings that an arm is given beside the bed's: the first of those with the best mean.
    pub fn chosen(&self, bed: &str, arm: Arm, lines: &[Line]) -> Keys {
        let grids = self.tune.as_ref().map(|tune| &tune.grids);
        let has = |arm| grids.is_some_and(|grids| grids.contains_key(&arm));
        let whose = match arm {
            arm if has(arm) => arm,
            Arm::Full => arm,
            _ => Arm::Uniform,
        };
        let tried = self.tried(bed, whose, lines).unwrap_or_default();
        let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len() as f64;
        let best = tried.into_iter().reduce(|best, other| {
            // A run that failed is no number, and never better.
            let better = mean(&other.1) > mean(&best.1) || mean(&best.1).is_nan();
            if better { other } else { best }
        });
        best.map(|(point, _)| point).unwrap_or_default()
    }

    /// The runs of one bed on its test set, as far as the settings are chosen and nothing is given up.
    pub fn tests(&self, bed: &str, lines: &[Line]) -> Vec<Spec> {
        let seeds = self.tested(bed, lines);
        let of_seed = |&seed: &u64| {
            let arms = self.arms.iter();
            arms.map(move |&arm| self.spec(bed, arm, seed, &self.chosen(bed, arm, lines)))
        };
        seeds.iter().flat_map(of_seed).collect()
    }

    /// The seeds that are trained: all, unless the first of them say that it is in vain.
    pub fn tested(&self, bed: &str, lines: &[Line]) -> &[u64] {
        let Some(Futility { after, below }) = self.futility else {
            return &self.seeds;
        };
        let Some(first) = self.seeds.get(..after) else {
            return &self.seeds;
        };
        let lines = first.iter().flat_map(|&seed| {
            [Arm::Memory, Arm::Full].map(|arm| {
                let spec = self.spec(bed, arm, seed, &self.chosen(bed, arm, lines));
                spec.find(lines).map(Line::result)
            })
        });
        let Some(results) = lines.collect::<Option<Vec<ArmResult>>>() else {
            return first;
        };
        let difference = Comparison::new(results).difference(Arm::Memory, Arm::Full);
        match difference.is_some_and(|difference| difference.mean < below) {
            true => first,
            false => &self.seeds,
        }
    }

    /// All runs that are known to be wanted when `lines` is what came of some: those that settings are
    /// chosen by, and when all of these are there, those on the test set.
    pub fn wanted(&self, lines: &[Line]) -> Vec<Spec> {
        let of_bed = |(bed, _): &(String, Table)| {
            let mut wanted = self.tuning(bed);
            if wanted.iter().all(|spec| spec.find(lines).is_some()) {
                wanted.extend(self.tests(bed, lines));
            }
            wanted
        };
        self.beds.iter().flat_map(of_bed).collect()
    }
}

/// Every combination of a grid's values, the last key's fastest.
fn points(grid: &BTreeMap<String, Vec<toml::Value>>) -> Vec<Keys> {
    let mut points = vec![Map::new()];
    for (key, values) in grid {
        let with = |point: &Keys, value: &toml::Value| {
            let mut point = point.clone();
            let value = serde_json::to_value(value).expect("plain data");
            point.insert(key.clone(), value);
            point
        };
        let longer = points.iter();
        points = longer
            .flat_map(|point| values.iter().map(|value| with(point, value)))
            .collect();
    }
    points
}

#[cfg(test)]
mod tests;
