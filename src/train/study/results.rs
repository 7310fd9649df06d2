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
    pub fn new(spec: &Spec, summary: Summary) -> Line {
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
