//! `results.jsonl`: one line a finished run, sorted, without times: the same study has the same file.

use super::file::{Spec, VALID_SHARE};
use crate::files;
use crate::train::summary::{ArmResult, Summary};
use crate::train::{Arm, TrainError, files_error};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// What came of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// Which bed's; nothing where there is only one.
    bed: String,
    /// Whose.
    arm: Arm,
    /// All that distinguishes it from other runs of its arm and seed.
    settings: Map<String, Value>,
    /// Of this program.
    version: String,
    /// Why there is no result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// The result.
    #[serde(flatten)]
    pub summary: Summary,
}

/// What differs between two runs that are the same. It is in `times.jsonl`.
const TIMES: [&str; 6] = [
    "wall_seconds",
    "instances_per_second",
    "feed_stall_seconds",
    "assist_cpu_seconds",
    "host_syncs",
    "run_dir",
];

impl Line {
    /// Of a run that has come to its end.
    pub fn new(spec: &Spec, mut summary: Summary) -> Line {
        summary.device = executor(&summary.device);
        Line {
            bed: spec.bed.clone(),
            arm: spec.arm,
            settings: spec.settings.clone(),
            version: crate::train::version(),
            failed: None,
            summary,
        }
    }

    /// Of a run that has not.
    pub fn failed(spec: &Spec, reason: String) -> Line {
        let summary = Summary {
            seed: spec.seed,
            ..Summary::default()
        };
        Line {
            failed: Some(reason),
            ..Line::new(spec, summary)
        }
    }

    /// Of which run.
    pub fn spec(&self) -> Spec {
        Spec {
            bed: self.bed.clone(),
            arm: self.arm,
            seed: self.summary.seed,
            settings: self.settings.clone(),
        }
    }

    /// For a comparison.
    pub fn result(&self) -> ArmResult {
        ArmResult::new(self.arm, self.summary.clone())
    }

    /// Of the program that made it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where it stands in the file: what was tuned before what was tested, seed by seed.
    fn place(&self) -> (String, bool, u64, u64, String) {
        let tested = !self.settings.contains_key(VALID_SHARE);
        let settings = Value::from(self.settings.clone()).to_string();
        let (seed, arm) = (self.summary.seed, self.arm as u64);
        (self.bed.clone(), tested, seed, arm, settings)
    }

    /// As text, and the times that it leaves out.
    fn parts(&self) -> (String, Map<String, Value>) {
        let Ok(Value::Object(mut line)) = serde_json::to_value(self) else {
            unreachable!("plain data");
        };
        let times = TIMES.iter().filter_map(|key| line.remove_entry(*key));
        let times = times.collect();
        (Value::from(line).to_string(), times)
    }
}

/// A device, for people, but for its number of threads, which changes no result.
fn executor(device: &str) -> String {
    match device.rsplit_once(", ") {
        Some((kept, rest)) if rest.ends_with(" threads)") => format!("{kept})"),
        _ => device.into(),
    }
}

/// The file, which all processes of a study share.
pub struct Results {
    dir: PathBuf,
}

impl Results {
    /// In a study's folder.
    pub fn open(dir: &Path) -> Results {
        Results { dir: dir.into() }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("results.jsonl")
    }

    /// All lines. One at the end that was cut short is none: its run is made again.
    ///
    /// # Errors
    /// A file that cannot be read, or another line that is no result.
    pub fn read(&self) -> Result<Vec<Line>, TrainError> {
        let path = self.path();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(TrainError::unusable(files::ReadError { path, source })),
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines().enumerate().map(|(i, line)| {
            serde_json::from_str(line).map_err(|e| Damaged {
                path: path.clone(),
                line: i + 1,
                reason: e.to_string(),
            })
        });
        let lines: Result<_, Damaged> = lines.collect();
        lines.map_err(TrainError::unusable)
    }

    /// Enters a run. The file is replaced as a whole, under a lock, so that nothing is ever lost or
    /// half written; what is small enough to be rewritten after every run needs nothing cleverer.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub fn add(&self, line: &Line, name: &str) -> Result<(), TrainError> {
        let lock = self.dir.join("results.lock");
        let open = OpenOptions::new().create(true).append(true).open(&lock);
        let file = open.map_err(|e| files_error(&lock, e))?;
        // Where there are no locks there is one process, or else a warning was given.
        let _locked = file.lock();
        let mut lines = self.read()?;
        lines.push(line.clone());
        lines.sort_by_cached_key(Line::place);
        let text: String = lines.iter().map(|line| line.parts().0 + "\n").collect();
        files::write(&self.path(), text.as_bytes()).map_err(TrainError::failed)?;
        self.add_times(line, name)
    }

    /// For people; nothing reads it.
    fn add_times(&self, line: &Line, name: &str) -> Result<(), TrainError> {
        let path = self.dir.join("times.jsonl");
        let mut times = line.parts().1;
        times.insert("run".into(), name.into());
        let text = Value::from(times).to_string() + "\n";
        let open = OpenOptions::new().create(true).append(true).open(&path);
        let written = open.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|e| files_error(&path, e))
    }
}

/// A line of the results is none.
#[derive(Debug, thiserror::Error)]
#[error("{}, line {line}, is no result ({reason}); remove it, and its run is made again", path.display())]
struct Damaged {
    path: PathBuf,
    line: usize,
    reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Answers;
    use crate::train::task::Score;

    fn line(arm: Arm, seed: u64, tuned: bool, accuracy: f64) -> Line {
        let mut settings = Map::new();
        settings.insert("lr".into(), 0.1.into());
        if tuned {
            settings.insert(VALID_SHARE.into(), 0.1.into());
        }
        let spec = Spec {
            bed: String::new(),
            arm,
            seed,
            settings,
        };
        let score = Score {
            test_accuracy: Some(accuracy),
            answers: Some(Answers::new(vec![true, false, true])),
            ..Score::default()
        };
        let summary = Summary {
            seed,
            score,
            train_loss: 0.1 + 0.2,
            device: format!("cpu (avx2, {seed} threads)"),
            wall_seconds: seed as f64,
            ..Summary::default()
        };
        Line::new(&spec, summary)
    }

    #[test]
    fn any_order_gives_the_same_file_without_times() {
        let lines = [
            line(Arm::Memory, 3, false, 2.0 / 3.0),
            line(Arm::Full, 3, false, 1.0 / 3.0),
            line(Arm::Full, 4, false, 0.1),
            line(Arm::Full, 9, true, 0.2),
        ];
        let file = |order: [usize; 4]| {
            let dir = tempfile::tempdir().unwrap();
            let results = Results::open(dir.path());
            assert!(results.read().unwrap().is_empty());
            for i in order {
                results.add(&lines[i], "run").unwrap();
            }
            let times = std::fs::read_to_string(dir.path().join("times.jsonl")).unwrap();
            assert!(times.lines().count() == 4 && times.contains("wall_seconds"));
            let all = results.read().unwrap();
            assert_eq!(all[1].summary.score, lines[1].summary.score);
            std::fs::read_to_string(results.path()).unwrap()
        };
        let first = file([0, 1, 2, 3]);
        assert_eq!(first, file([3, 1, 0, 2]));
        assert!(!first.contains("wall_seconds") && !first.contains("threads"));
        let seeds: Vec<bool> = first.lines().map(|l| l.contains(VALID_SHARE)).collect();
        assert_eq!(
            seeds,
            [true, false, false, false],
            "what was tuned is first"
        );
    }

    #[test]
    fn a_torn_last_line_is_none_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let results = Results::open(dir.path());
        results.add(&line(Arm::Full, 1, false, 0.5), "run").unwrap();
        results.add(&line(Arm::Full, 2, false, 0.5), "run").unwrap();
        let text = std::fs::read_to_string(results.path()).unwrap();
        std::fs::write(results.path(), &text[..text.len() - 5]).unwrap();
        assert_eq!(results.read().unwrap().len(), 1);
        results.add(&line(Arm::Full, 2, false, 0.5), "run").unwrap();
        assert_eq!(std::fs::read_to_string(results.path()).unwrap(), text);
        std::fs::write(results.path(), format!("{{}}\n{text}")).unwrap();
        let error = results.read().unwrap_err();
        assert!(
            error.to_string().contains("line 1, is no result"),
            "{error}"
        );
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_file_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let results = Results::open(dir.path());
        results.add(&line(Arm::Full, 1, false, 0.5), "run").unwrap();
        let text = std::fs::read_to_string(results.path()).unwrap();
        // In the place of the times lies a folder.
        std::fs::remove_file(dir.path().join("times.jsonl")).unwrap();
        std::fs::create_dir(dir.path().join("times.jsonl")).unwrap();
        let error = results
            .add(&line(Arm::Full, 2, false, 0.5), "run")
            .unwrap_err();
        assert!(error.to_string().contains("times.jsonl"), "{error}");
        let now = std::fs::read_to_string(results.path()).unwrap();
        assert!(
            now.starts_with(&text) && now.lines().count() == 2,
            "whole lines"
        );
        let gone = Results::open(&dir.path().join("gone"));
        assert!(gone.add(&line(Arm::Full, 1, false, 0.5), "run").is_err());
    }
}
