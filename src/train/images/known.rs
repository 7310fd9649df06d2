//! What an image classifier's weights are worth nothing without: the names of the classes, and how
//! pixels are normalised.

use crate::data::Dataset;
use crate::files::{self, ReadError, WriteError};
use crate::nn::{WeightFile, WeightsError};
use crate::train::TrainError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// Its file in a run's folder: what began with `--init` goes on without the weights it began with.
const FILE: &str = "data.json";

/// Names and moments of the images that weights were trained on; each field is also a key of the
/// weights' metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// In label order.
    classes: Vec<String>,
    /// Per channel, of pixels in 0..1.
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Known {
    pub fn of(data: &Dataset) -> Known {
        Known {
            classes: data.classes.clone(),
            mean: data.train.mean.clone(),
            std: data.train.std.clone(),
        }
    }

    /// Of a weight file; nothing for one that says nothing of it.
    ///
    /// # Errors
    /// The metadata are damaged.
    pub fn of_weights(file: &WeightFile) -> Result<Option<Known>, WeightsError> {
        let damaged = |reason| WeightsError::Damaged {
            path: file.path().to_path_buf(),
            reason,
        };
        let keys = ["classes", "mean", "std"];
        let said = keys.map(|key| file.says(key));
        let [Some(classes), Some(mean), Some(std)] = said else {
            // Those of this program say all of it.
            let gone = keys.iter().find(|key| file.says(key).is_none());
            let gone = gone.filter(|_| file.says("program").is_some());
            return gone.map_or(Ok(None), |key| {
                Err(damaged(format!("its metadata have no {key}")))
            });
        };
        let text = format!(r#"{{"classes":{classes},"mean":{mean},"std":{std}}}"#);
        let known = serde_json::from_str(&text).map(Some);
        known.map_err(|e| damaged(e.to_string()))
    }

    /// For the metadata of a weight file.
    pub fn facts(&self) -> [(&'static str, String); 3] {
        let moments = |values| serde_json::to_string(values).expect("plain data");
        let classes = serde_json::to_string(&self.classes).expect("plain data");
        [
            ("classes", classes),
            ("mean", moments(&self.mean)),
            ("std", moments(&self.std)),
        ]
    }

    pub fn write_into(&self, dir: &Path) -> Result<(), WriteError> {
        let text = serde_json::to_string_pretty(self).expect("plain data");
        files::write(&dir.join(FILE), text.as_bytes())
    }

    /// Lets data be normalised as those were that the run in `dir` sees, or that the weights in
    /// `init` were trained on, whose classes must be the same. Neither may say anything.
    ///
    /// # Errors
    /// A file that cannot be read, or other classes.
    pub fn apply(
        data: &mut Dataset,
        dir: Option<&Path>,
        init: Option<&WeightFile>,
    ) -> Result<(), TrainError> {
        let (path, known) = match (dir.map(|dir| dir.join(FILE)), init) {
            (Some(path), _) if path.exists() => {
                let text = files::read(&path).map_err(TrainError::unusable)?;
                let known = serde_json::from_str(&text).map_err(|e| {
                    let (path, source) = (path.clone(), e.into());
                    TrainError::unusable(ReadError { path, source })
                });
                (path, Some(known?))
            }
            (None, Some(file)) => {
                let known = Known::of_weights(file).map_err(TrainError::unusable)?;
                (file.path().to_path_buf(), known)
            }
            // Older than this, or from elsewhere.
            _ => return Ok(()),
        };
        let Some(known) = known else { return Ok(()) };
        if let Some((reason, remedy)) = known.difference(data) {
            return Err(TrainError::unusable(WeightsError::OtherData {
                path,
                reason,
                remedy,
            }));
        }
        data.normalise(&known.mean, &known.std);
        Ok(())
    }

    /// Why these data are no data for the weights, and what to do.
    fn difference(&self, data: &Dataset) -> Option<(String, &'static str)> {
        let (theirs, ours) = (&self.classes, &data.classes);
        let channels = [self.mean.len(), self.std.len()];
        if channels != [data.train.channels; 2] {
            let reason = format!(
                "images of {} channels, these have {}",
                channels[0], data.train.channels
            );
            return Some((reason, "grey images need weights for grey images"));
        }
        let means = self.mean.iter().all(|mean| (0.0..=1.0).contains(mean));
        if !means || !self.std.iter().all(|std| *std > 0.0 && std.is_finite()) {
            let reason = format!("pixels in 0..1 do not have {self}");
            return Some((reason, "put the right ones back"));
        }
        if theirs.len() != ours.len() {
            let reason = format!("{} classes, these have {}", theirs.len(), ours.len());
            return Some((reason, "give data with the same classes"));
        }
        let first = theirs.iter().zip(ours).position(|(a, b)| a != b)?;
        let reason = format!(
            "class {first} was {:?}, here it is {:?}",
            theirs[first], ours[first]
        );
        let mut sorted = [theirs.clone(), ours.clone()];
        sorted.iter_mut().for_each(|names| names.sort_unstable());
        Some(match sorted[0] == sorted[1] {
            true => (
                format!("the same classes in another order ({reason})"),
                "number them alike",
            ),
            false => (
                reason,
                "give data with the same classes, named alike and in the same order",
            ),
        })
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "mean {:.4?}, standard deviation {:.4?}",
            self.mean, self.std
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Samples;

    fn data(classes: [&str; 2], channels: usize) -> Dataset {
        let samples = || Samples {
            pixels: (0..2 * channels as u8).collect(),
            labels: vec![0, 1],
        };
        let names = classes.map(String::from).to_vec();
        let shape = [1, 1, channels];
        Dataset::new("tiny", names, shape, samples(), samples(), false).unwrap()
    }

    #[test]
    fn the_folder_keeps_the_normalisation_and_other_data_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = data(["cat", "dog"], 3);
        first.normalise(&[0.1, 0.2, 0.3], &[0.4, 0.5, 1.0 / 3.0]);
        let known = Known::of(&first);
        known.write_into(dir.path()).unwrap();
        let apply = |mut data: Dataset| {
            let applied = Known::apply(&mut data, Some(dir.path()), None);
            applied.map(|()| data).map_err(|e| e.to_string())
        };
        let again = apply(data(["cat", "dog"], 3)).unwrap();
        assert_eq!(Known::of(&again), known);
        assert_eq!(again.test.std, [0.4, 0.5, 1.0 / 3.0]);
        for (data, says) in [
            (data(["dog", "cat"], 3), "in another order"),
            (
                data(["cat", "cow"], 3),
                r#"class 1 was "dog", here it is "cow""#,
            ),
            (
                data(["cat", "dog"], 1),
                "images of 3 channels, these have 1",
            ),
        ] {
            let error = apply(data).unwrap_err();
            assert!(error.contains(says) && error.contains(FILE), "{error}");
        }
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        for (from, to) in [("0.4", "0.0"), ("0.5", "-0.5"), ("0.1", "123.7")] {
            std::fs::write(dir.path().join(FILE), text.replacen(from, to, 1)).unwrap();
            let error = apply(data(["cat", "dog"], 3)).unwrap_err();
            assert!(error.contains("pixels in 0..1 do not have mean"), "{error}");
        }
        let beyond = text.replacen("0.4", "1e39", 1);
        std::fs::write(dir.path().join(FILE), beyond).unwrap();
        let error = apply(data(["cat", "dog"], 3)).unwrap_err();
        assert!(
            error.contains(FILE) && error.contains("out of range"),
            "{error}"
        );
        std::fs::write(dir.path().join(FILE), "{}").unwrap();
        let error = apply(data(["cat", "dog"], 3)).unwrap_err();
        assert!(error.contains(FILE) && error.contains("classes"), "{error}");
    }
}
