//! Data sets and their readers.

mod cifar;
pub mod download;
mod error;
mod folder;
mod gunzip;
mod idx;
pub mod pairs;
mod synthetic;
pub mod text;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use crate::rng::hash;
use rayon::prelude::*;

pub use cifar::{cifar10, cifar100};
pub use error::DataError;
pub use folder::folder;
pub use idx::{fashion_mnist, mnist};
pub use synthetic::{Split, Truth, synthetic, truth};

/// Labelled images of one size, in memory as they came: `[N, H, W, C]`, one byte a channel.
#[derive(Clone, Debug)]
pub struct Images {
    /// Rows of pixels.
    pub pixels: Vec<u8>,
    /// Class of each image.
    pub labels: Vec<u32>,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
    /// 3 for colour, 1 for grey.
    pub channels: usize,
    /// Per channel mean of the *training* images (or of those that given weights were trained on), in
    /// 0..1: normalisation subtracts it.
    pub mean: Vec<f32>,
    /// Per channel standard deviation of the same images, in 0..1, never 0.
    pub std: Vec<f32>,
}

impl Images {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The bytes of one image, `[H, W, C]`.
    pub fn image(&self, id: usize) -> &[u8] {
        let size = self.height * self.width * self.channels;
        &self.pixels[id * size..][..size]
    }

    /// FNV-1a over pixels (eight bytes at a time) and labels: whether two sets are the same.
    fn fingerprint(&self) -> u64 {
        let words = self.pixels.chunks(8).map(|bytes| {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(word)
        });
        fnv(words.chain(self.labels.iter().map(|l| u64::from(*l))))
    }
}

/// What is at a path, or what a link there points to; nothing if nothing is. What may not be looked
/// at is not missing.
fn kind_of(path: &Path) -> Result<Option<fs::FileType>, DataError> {
    use ErrorKind::{NotADirectory, NotFound};
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.file_type())),
        Err(e) if matches!(e.kind(), NotFound | NotADirectory) => Ok(None),
        Err(source) => Err(DataError::Unreadable {
            path: path.to_owned(),
            source,
        }),
    }
}

/// FNV-1a, by words instead of bytes.
fn fnv(words: impl Iterator<Item = u64>) -> u64 {
    words.fold(0xcbf2_9ce4_8422_2325, |h, w| {
        (h ^ w).wrapping_mul(0x100_0000_01b3).rotate_left(29)
    })
}

/// Salt of the order in which images are held out.
const HELD_OUT: u64 = 0x6865_6c64;

/// A training and a test set over the same classes.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// What it is, for people.
    pub name: String,
    /// Names of the classes, in label order.
    pub classes: Vec<String>,
    /// Trained on.
    pub train: Arc<Images>,
    /// Evaluated on, never trained on.
    pub test: Arc<Images>,
    /// Whether what is evaluated on was held out of the training images, and the test images are gone.
    pub held_out: bool,
    /// Whether a mirrored image is as good an example.
    pub flip: bool,
    /// What was left out of it and why, each for a line.
    pub notes: Vec<String>,
}

/// Pixels `[N, H, W, C]` and labels `[N]` of one split, before they are checked.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// One byte a channel.
    pub pixels: Vec<u8>,
    /// Class of each image.
    pub labels: Vec<u32>,
}

impl Dataset {
    /// A number that changes with any pixel or label: a checkpoint goes on with the same data or
    /// not at all.
    pub fn fingerprint(&self) -> u64 {
        self.train.fingerprint() ^ self.test.fingerprint().rotate_left(1)
    }

    /// Checks the parts and puts them together. `shape` is `[H, W, C]` of every image; both splits
    /// are normalised by the mean and standard deviation of the training images.
    ///
    /// # Errors
    /// [`DataError::Inconsistent`] if there are fewer than two classes, a split is empty, its
    /// pixels do not fit its labels and the shape, or a label has no class.
    pub fn new(
        name: impl Into<String>,
        classes: Vec<String>,
        shape: [usize; 3],
        train: Samples,
        test: Samples,
        flip: bool,
    ) -> Result<Dataset, DataError> {
        let name = name.into();
        let problem = |problem: String| DataError::Inconsistent {
            name: name.clone(),
            problem,
        };
        if classes.len() < 2 {
            return Err(problem(format!(
                "{} class(es), at least two are needed",
                classes.len()
            )));
        }
        let [height, width, channels] = shape;
        for (split, samples) in [("training", &train), ("test", &test)] {
            let images = samples.labels.len();
            let bytes = shape.iter().try_fold(images, |n, &k| n.checked_mul(k));
            if bytes == Some(0) {
                return Err(problem(format!("no {split} images")));
            }
            if bytes != Some(samples.pixels.len()) {
                return Err(problem(format!(
                    "{} bytes are not {images} {split} images of {height}x{width}x{channels}",
                    samples.pixels.len()
                )));
            }
            if let Some(label) = samples
                .labels
                .iter()
                .find(|&&l| l as usize >= classes.len())
            {
                return Err(problem(format!(
                    "{split} label {label} of {} classes",
                    classes.len()
                )));
            }
        }
        let (mean, std) = moments(&train.pixels, channels);
        let images = |Samples { pixels, labels }| {
            let (mean, std) = (mean.clone(), std.clone());
            Arc::new(Images {
                pixels,
                labels,
                height,
                width,
                channels,
                mean,
                std,
            })
        };
        let (train, test) = (images(train), images(test));
        Ok(Dataset {
            name,
            classes,
            train,
            test,
            held_out: false,
            flip,
            notes: Vec::new(),
        })
    }

    /// Holds a `share` of each class of the training images out, in place of the test images: what is
    /// tuned is judged by these. They are the same for every seed of training.
    ///
    /// # Errors
    /// [`DataError::Inconsistent`] if that is not a single image, or one class has nothing left.
    pub fn hold_out(self, share: f64) -> Result<Dataset, DataError> {
        let images = &self.train;
        let mut of_class = vec![Vec::new(); self.classes.len()];
        for (id, &label) in images.labels.iter().enumerate() {
            of_class[label as usize].push(id);
        }
        let mut held = vec![false; images.len()];
        for ids in &mut of_class {
            ids.sort_by_key(|&id| hash(HELD_OUT, id as u64, 0));
            let count = (share * ids.len() as f64).round() as usize;
            ids.iter().take(count).for_each(|&id| held[id] = true);
        }
        let part = |of: bool| {
            let ids = (0..images.len()).filter(|&id| held[id] == of);
            let (pixels, labels): (Vec<&[u8]>, Vec<u32>) =
                ids.map(|id| (images.image(id), images.labels[id])).unzip();
            let pixels = pixels.concat();
            Samples { pixels, labels }
        };
        let (train, valid) = (part(false), part(true));
        let empty = |ids: &Vec<usize>| !ids.is_empty() && ids.iter().all(|&id| held[id]);
        if valid.labels.is_empty() || of_class.iter().any(empty) {
            let many = if valid.labels.is_empty() {
                "no image"
            } else {
                "all of a class"
            };
            return Err(DataError::Inconsistent {
                name: self.name,
                problem: format!(
                    "a share of {share} of each class holds {many} out for validation"
                ),
            });
        }
        let shape = [images.height, images.width, images.channels];
        let data = Dataset::new(self.name, self.classes, shape, train, valid, self.flip)?;
        Ok(Dataset {
            held_out: true,
            notes: self.notes,
            ..data
        })
    }

    /// Normalises both splits by other means and standard deviations, one a channel, than those of
    /// the training images: those that weights were trained with.
    ///
    /// # Panics
    /// If there are not as many as channels: a bug in the caller.
    pub fn normalise(&mut self, mean: &[f32], std: &[f32]) {
        for images in [&mut self.train, &mut self.test] {
            assert_eq!([mean.len(), std.len()], [images.channels; 2], "channels");
            let images = Arc::make_mut(images);
            (images.mean, images.std) = (mean.to_vec(), std.to_vec());
        }
    }
}

/// Per channel mean and standard deviation, in 0..1, of bytes `[.., channels]`. The sums are
/// integers, hence exact in any order. The deviation is at least one step of a byte, so that
/// dividing by it never magnifies rounding.
///
/// `pixels` must not be empty nor `channels` 0, or both results are NaN or empty.
fn moments(pixels: &[u8], channels: usize) -> (Vec<f32>, Vec<f32>) {
    let sums = pixels
        .par_chunks(channels.max(1) << 16)
        .map(|chunk| {
            let mut sums = vec![(0u64, 0u64); channels];
            for pixel in chunk.chunks_exact(channels) {
                for (sum, &byte) in sums.iter_mut().zip(pixel) {
                    let byte = u64::from(byte);
                    *sum = (sum.0 + byte, sum.1 + byte * byte);
                }
            }
            sums
        })
        .reduce(
            || vec![(0, 0); channels],
            |a, b| {
                a.iter()
                    .zip(&b)
                    .map(|(a, b)| (a.0 + b.0, a.1 + b.1))
                    .collect()
            },
        );
    let n = (pixels.len() / channels.max(1)) as u128;
    sums.iter()
        .map(|&(sum, squares)| {
            // n² times the variance; not negative by Cauchy-Schwarz.
            let variance = n * u128::from(squares) - u128::from(sum) * u128::from(sum);
            let mean = sum as f64 / n as f64;
            let std = ((variance as f64).sqrt() / n as f64).max(1.0);
            ((mean / 255.0) as f32, (std / 255.0) as f32)
        })
        .unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(pixels: &[u8], labels: &[u32]) -> Samples {
        Samples {
            pixels: pixels.to_vec(),
            labels: labels.to_vec(),
        }
    }

    fn dataset(classes: usize, train: Samples, test: Samples) -> Result<Dataset, String> {
        let classes = (0..classes).map(|c| c.to_string()).collect();
        Dataset::new("tiny", classes, [1, 2, 2], train, test, false).map_err(|e| e.to_string())
    }

    #[test]
    fn moments_are_those_of_the_training_images() {
        let train = samples(&[0, 9, 255, 9, 0, 9, 255, 9], &[0, 1]);
        let data = dataset(2, train, samples(&[1, 2, 3, 4], &[1])).unwrap();
        for images in [&data.train, &data.test] {
            assert_eq!(images.mean, [0.5, 9.0 / 255.0]);
            // A constant channel has the deviation of one step of a byte, not 0.
            assert_eq!(images.std, [0.5, 1.0 / 255.0]);
        }
        assert_eq!(data.train.image(1), [0, 9, 255, 9]);
    }

    #[test]
    fn what_is_held_out_is_the_same_share_of_each_class() {
        let labels: Vec<u32> = (0..300).map(|i| u32::from(i % 3 == 0)).collect();
        let pixels: Vec<u8> = (0..300u16)
            .flat_map(|i| [(i / 2) as u8, i as u8, 7, 9])
            .collect();
        let whole = dataset(2, samples(&pixels, &labels), samples(&[1, 2, 3, 4], &[1])).unwrap();
        let data = whole.clone().hold_out(0.1).unwrap();
        assert!(data.held_out && !whole.held_out);
        assert_eq!((data.train.len(), data.test.len()), (270, 30));
        let of_class = |images: &Images| images.labels.iter().filter(|&&l| l == 1).count();
        assert_eq!((of_class(&data.train), of_class(&data.test)), (90, 10));
        // None is in both, none is lost, and none is a test image.
        let all = |data: &Dataset| {
            let images = [&data.train, &data.test].into_iter();
            let mut all: Vec<Vec<u8>> = images
                .flat_map(|set| (0..set.len()).map(|id| set.image(id).to_vec()))
                .collect();
            all.sort();
            all
        };
        let mut train: Vec<Vec<u8>> = pixels.chunks(4).map(<[u8]>::to_vec).collect();
        train.sort();
        assert_eq!(all(&data), train);
        // Normalised by what is trained on, and different data to a checkpoint.
        assert_eq!(data.train.mean, moments(&data.train.pixels, 2).0);
        assert_ne!(data.fingerprint(), whole.fingerprint());
        let again = whole.clone().hold_out(0.1).unwrap();
        assert_eq!(again.fingerprint(), data.fingerprint());
        for share in [0.001, 0.999] {
            let error = whole.clone().hold_out(share).unwrap_err().to_string();
            assert!(error.contains("out for validation"), "{error}");
        }
    }

    #[test]
    fn moments_match_the_definition() {
        let pixels: Vec<u8> = (0..3 * 70_000u64)
            .map(|i| crate::rng::hash(1, i, 0) as u8)
            .collect();
        let (mean, std) = moments(&pixels, 3);
        for c in 0..3 {
            let of = || {
                pixels
                    .iter()
                    .skip(c)
                    .step_by(3)
                    .map(|&b| f64::from(b) / 255.0)
            };
            let m = of().sum::<f64>() / 70_000.0;
            let v = of().map(|x| (x - m) * (x - m)).sum::<f64>() / 70_000.0;
            assert!((f64::from(mean[c]) - m).abs() < 1e-6);
            assert!((f64::from(std[c]) - v.sqrt()).abs() < 1e-6);
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_named() {
        let good = samples(&[0; 8], &[0, 1]);
        for (classes, train, test, says) in [
            (1, good.clone(), good.clone(), "two are needed"),
            (2, Samples::default(), good.clone(), "no training images"),
            (2, good.clone(), Samples::default(), "no test images"),
            (
                2,
                good.clone(),
                samples(&[0; 7], &[0, 1]),
                "7 bytes are not 2 test images of 1x2x2",
            ),
            (
                2,
                samples(&[0; 8], &[0, 2]),
                good.clone(),
                "training label 2 of 2 classes",
            ),
        ] {
            let error = dataset(classes, train, test).unwrap_err();
            assert!(
                error.starts_with("tiny: ") && error.contains(says),
                "{error}"
            );
        }
    }
}
