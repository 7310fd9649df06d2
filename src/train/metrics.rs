//! `metrics.jsonl`: what was measured during a run, one JSON object a line. The report is drawn
//! from it. TensorBoard's event file beside it has the same curves.

use super::job::Job;
use super::tensorboard::Events;
use super::{TrainError, files_error};
use crate::files;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One line. The file's first line is `environment`; then `train` lines, one an interval, and
/// `eval` lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Point {
    /// Where and with what the run was made.
    Environment {
        /// Of this program.
        version: String,
        /// The executor.
        device: String,
        /// The processor.
        cpu: String,
        /// The data set, with its sizes.
        data: String,
        /// Time of the start, RFC 3339.
        started: String,
        /// The settings.
        config: toml::Table,
    },
    /// Means over the steps since the last such line.
    Train {
        /// Steps done.
        step: u64,
        /// Operations of the Boss over those of full training.
        ops_fraction: f64,
        /// Mean loss of the instances trained on.
        loss: f64,
        /// Share of them that the network had right.
        accuracy: f64,
        /// Operations of the instances taken over those of their candidates, if any were taken.
        keep_rate: Option<f64>,
        /// V = (E g)²/E g², g = 1 − e^(−loss), of all instances when they were trained on last.
        #[serde(default)]
        v: Option<f64>,
        /// What V says of the noise of the gradient at this keep rate, relative to that on all data:
        /// at least so much.
        #[serde(default)]
        noise: Option<f64>,
        /// Learning rate of the last step.
        lr: f64,
        /// Training speed.
        instances_per_second: f64,
        /// Share saved so far of the operations that training on all candidates drawn would have
        /// taken.
        ops_saved: f64,
        /// Area under the ROC curve of the Assistant's scores, see
        /// [`Quality`](crate::assist::Quality), where it chose.
        assist_auc: Option<f64>,
        /// Seconds since the start, all included.
        seconds: f64,
    },
    /// On the data that training does not see: test images, validation sentences.
    Eval {
        /// Steps done.
        step: u64,
        /// Operations of the Boss over those of full training.
        ops_fraction: f64,
        /// Mean loss.
        loss: f64,
        /// Share that the network has right.
        accuracy: f64,
        /// Seconds since the start, all included.
        seconds: f64,
    },
}

impl Point {
    /// Steps done, of a measurement.
    fn step(&self) -> Option<u64> {
        match *self {
            Point::Environment { .. } => None,
            Point::Train { step, .. } | Point::Eval { step, .. } => Some(step),
        }
    }

    /// What TensorBoard shows of it.
    fn scalars(&self) -> Vec<(&'static str, f64)> {
        match *self {
            Point::Environment { .. } => Vec::new(),
            Point::Train {
                loss,
                accuracy,
                keep_rate,
                v,
                noise,
                lr,
                instances_per_second,
                ops_saved,
                assist_auc,
                ..
            } => {
                let always = [
                    ("train/loss", loss),
                    ("train/accuracy", accuracy),
                    ("lr", lr),
                    ("instances_per_second", instances_per_second),
                    ("ops_saved", ops_saved),
                ];
                let some = [
                    ("keep_rate", keep_rate),
                    ("v", v),
                    ("noise", noise),
                    ("assist_auc", assist_auc),
                ];
                let some = some
                    .into_iter()
                    .filter_map(|(tag, value)| Some((tag, value?)));
                always.into_iter().chain(some).collect()
            }
            Point::Eval { loss, accuracy, .. } => {
                vec![("eval/loss", loss), ("eval/accuracy", accuracy)]
            }
        }
    }
}

/// The open files, and the lines so far.
pub struct Metrics {
    /// None on a rank that does not write.
    files: Option<Files>,
    /// Every line in order.
    pub points: Vec<Point>,
}

struct Files {
    path: PathBuf,
    file: std::fs::File,
    events: Events,
}

impl Metrics {
    /// For a rank that does not write.
    pub fn unwritten() -> Metrics {
        Metrics {
            files: None,
            points: Vec::new(),
        }
    }

    /// The lines of a run's file.
    ///
    /// # Errors
    /// A file that cannot be read. Lines that are not measurements end the list.
    pub fn read(dir: &Path) -> Result<Vec<Point>, TrainError> {
        let path = dir.join("metrics.jsonl");
        let text = files::read(&path).map_err(TrainError::unusable)?;
        Ok(parse(&text))
    }

    /// Opens the file in `dir` behind its first `keep` lines: what a killed run wrote after its last
    /// checkpoint will come again.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open(dir: &Path, keep: usize) -> Result<Metrics, TrainError> {
        let path = dir.join("metrics.jsonl");
        let mut points = if keep > 0 {
            Metrics::read(dir)?
        } else {
            Vec::new()
        };
        points.truncate(keep);
        let text: String = points.iter().map(|p| line(p) + "\n").collect();
        files::write(&path, text.as_bytes()).map_err(TrainError::unusable)?;
        let file = std::fs::OpenOptions::new().append(true).open(&path);
        let file = file.map_err(|e| files_error(&path, e))?;
        let step = points.iter().rev().find_map(Point::step);
        let events = Events::create(dir, step.map_or(0, |step| step + 1))?;
        let files = Some(Files { path, file, events });
        Ok(Metrics { files, points })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// A full disk.
    pub fn push(&mut self, point: Point) -> Result<(), TrainError> {
        if let Some(Files { path, file, events }) = &mut self.files {
            let text = line(&point) + "\n";
            file.write_all(text.as_bytes())
                .map_err(|e| files_error(path, e))?;
            if let Some(step) = point.step() {
                events.write(step, &point.scalars())?;
            }
        }
        self.points.push(point);
        Ok(())
    }
}

/// The last line may have been cut short by a kill; nothing is behind it then.
fn parse(text: &str) -> Vec<Point> {
    text.lines()
        .map_while(|line| serde_json::from_str(line).ok())
        .collect()
}

fn line(point: &Point) -> String {
    serde_json::to_string(point).expect("plain data")
}

/// The first line of the metrics.
pub(super) fn environment(job: &Job, device: &str) -> Point {
    Point::Environment {
        version: super::version(),
        device: device.into(),
        cpu: cpu_name(),
        data: job.task.data(),
        started: jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string(),
        config: job.settings(),
    }
}

/// The processor's name, where the system tells.
fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    name.map_or("unknown processor".into(), |(_, name)| {
        name.trim().to_string()
    })
}
