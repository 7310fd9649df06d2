//! CIFAR-10 and CIFAR-100 in their binary versions: files of records, one byte of label (of
//! CIFAR-100 two, coarse and fine) and then three planes of 32×32 bytes, red, green and blue.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{DataError, Dataset, Samples, kind_of};

/// Pixels from edge to edge.
const SIDE: usize = 32;
/// Bytes of one colour plane.
const PLANE: usize = SIDE * SIDE;
/// Bytes that the file of class names may have.
const MAX_NAMES: u64 = 4096;

/// One of the two sets.
pub(super) struct Set {
    name: &'static str,
    /// The folder that the published archive unpacks to.
    pub folder: &'static str,
    /// Names of the classes, one a line; this file alone may be missing.
    pub names: &'static str,
    /// The training batches in order, then the test batch.
    pub batches: &'static [&'static str],
    /// What those are, for people.
    expected: &'static str,
    /// Bytes of labels, of which the last counts.
    labels: usize,
    /// Records of a published batch; a file may hold fewer, never more.
    most: usize,
    /// The published names.
    classes: &'static [&'static str],
}

pub(super) const CIFAR10: Set = Set {
    name: "CIFAR-10",
    folder: "cifar-10-batches-bin",
    names: "batches.meta.txt",
    batches: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
        "test_batch.bin",
    ],
    expected: "data_batch_1.bin to data_batch_5.bin and test_batch.bin (binary version)",
    labels: 1,
    most: 10_000,
    classes: &[
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ],
};

pub(super) const CIFAR100: Set = Set {
    name: "CIFAR-100",
    folder: "cifar-100-binary",
    names: "fine_label_names.txt",
    batches: &["train.bin", "test.bin"],
    expected: "train.bin and test.bin (binary version)",
    labels: 2,
    most: 50_000,
    #[rustfmt::skip]
    classes: &[
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle",
        "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle",
        "caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch",
        "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox",
        "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
        "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
        "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
        "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
        "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake",
        "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
        "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle",
        "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
    ],
};

/// Reads the official binary batches of CIFAR-10, from `dir` or from the folder in it that the
/// archive unpacks to. Images are `[32, 32, 3]`; the training set is the five batches in order.
///
/// # Errors
/// [`DataError::Missing`] without all six files, [`DataError::Damaged`] for a file that is no whole
/// number of records, holds more than 10,000 or a label above 9, and for class names that are not
/// ten lines; [`DataError::Unreadable`] and [`DataError::OutOfMemory`].
pub fn cifar10(dir: &Path) -> Result<Dataset, DataError> {
    CIFAR10.read(dir)
}

/// Reads CIFAR-100 in the same way, with its 100 fine labels.
///
/// # Errors
/// As [`cifar10`].
pub fn cifar100(dir: &Path) -> Result<Dataset, DataError> {
    CIFAR100.read(dir)
}

impl Set {
    fn read(&self, dir: &Path) -> Result<Dataset, DataError> {
        let folder = self.locate(dir);
        let missing = |name: &&&str| !folder.join(name).is_file();
        if let Some(missing) = self.batches.iter().find(missing) {
            kind_of(&folder.join(missing))?;
            let none = self.present(&folder) == 0;
            return Err(DataError::Missing {
                what: if none { self.name } else { missing }.into(),
                dir: folder,
                expected: self.expected.into(),
            });
        }
        let (mut train, mut test) = (Samples::default(), Samples::default());
        let last = self.batches.len() - 1;
        for name in &self.batches[..last] {
            self.read_batch(&folder.join(name), &mut train)?;
        }
        self.read_batch(&folder.join(self.batches[last]), &mut test)?;
        let classes = self.class_names(&folder.join(self.names))?;
        Dataset::new(self.name, classes, [SIDE, SIDE, 3], train, test, true)
    }

    /// Whether all files that must be there are.
    pub fn is_complete(&self, dir: &Path) -> bool {
        self.present(&self.locate(dir)) == self.batches.len()
    }

    /// `dir` itself or the archive's folder in it, whichever has more of the batches.
    fn locate(&self, dir: &Path) -> PathBuf {
        let unpacked = dir.join(self.folder);
        match self.present(&unpacked) > self.present(dir) {
            true => unpacked,
            false => dir.to_owned(),
        }
    }

    /// How many of the batches are in a folder.
    fn present(&self, folder: &Path) -> usize {
        let there = |name: &&&str| folder.join(name).is_file();
        self.batches.iter().filter(there).count()
    }

    /// Bytes of labels and their image.
    fn record(&self) -> usize {
        self.labels + 3 * PLANE
    }

    /// Appends a batch: planes become `[32, 32, 3]`.
    fn read_batch(&self, path: &Path, into: &mut Samples) -> Result<(), DataError> {
        let (most, record) = (self.most, self.record());
        let bytes = read_at_most(path, most * record)?;
        let damaged = |problem| Err(DataError::damaged(path, problem));
        let Some(bytes) = bytes else {
            return damaged(format!("holds more than {most} records of {record} bytes"));
        };
        if bytes.is_empty() || bytes.len() % record != 0 {
            return damaged(format!(
                "holds {} bytes, which is no whole number of records of {record} bytes",
                bytes.len()
            ));
        }
        let labels = bytes
            .chunks_exact(record)
            .map(|record| record[self.labels - 1]);
        let known = self.classes.len();
        if let Some((bad, label)) = labels
            .clone()
            .enumerate()
            .find(|(_, l)| *l as usize >= known)
        {
            let (name, last) = (self.name, known - 1);
            return damaged(format!(
                "has the label {label} in record {bad}, but {name}'s are 0 to {last}"
            ));
        }
        let (count, start) = (bytes.len() / record, into.pixels.len());
        let size = 3 * PLANE;
        if into.pixels.try_reserve_exact(count * size).is_err() {
            return Err(DataError::OutOfMemory {
                name: path.display().to_string(),
                bytes: (count * size) as u128,
            });
        }
        into.labels.extend(labels.map(u32::from));
        into.pixels.resize(start + count * size, 0);
        let images = into.pixels[start..].par_chunks_exact_mut(size);
        images
            .zip(bytes.par_chunks_exact(record))
            .for_each(|(image, record)| {
                let planes = &record[self.labels..];
                for (i, pixel) in image.chunks_exact_mut(3).enumerate() {
                    for (channel, byte) in pixel.iter_mut().enumerate() {
                        *byte = planes[channel * PLANE + i];
                    }
                }
            });
        Ok(())
    }

    /// The names in the file, or the published ones if it is not there.
    fn class_names(&self, path: &Path) -> Result<Vec<String>, DataError> {
        let published = self.classes;
        if !path.is_file() {
            return Ok(published.iter().map(|name| name.to_string()).collect());
        }
        let bytes = read_at_most(path, MAX_NAMES as usize)?.unwrap_or_default();
        let text = String::from_utf8(bytes).unwrap_or_default();
        let text = text.trim_start_matches('\u{feff}');
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let names: Vec<String> = lines.map(String::from).collect();
        match names.len() == published.len() {
            true => Ok(names),
            false => {
                let problem = format!("is not {} lines, one class name each", published.len());
                Err(DataError::damaged(path, problem))
            }
        }
    }
}

/// The bytes of a file, or nothing if there are more than `limit`.
fn read_at_most(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, DataError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes))
        .map_err(|source| DataError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
    Ok((bytes.len() <= limit).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const RECORD: usize = 1 + 3 * PLANE;

    /// Batches of `records` images each: the label of a record is its number (a coarse one before it
    /// something else), its planes are constant but for the first pixel of green.
    fn write(set: &Set, dir: &Path, records: usize) {
        for (batch, name) in set.batches.iter().enumerate() {
            let mut bytes = Vec::new();
            for record in 0..records {
                bytes.extend(&[250, record as u8][2 - set.labels..]);
                for plane in 0..3 {
                    bytes.extend([(10 * batch + plane) as u8; PLANE]);
                }
                let green = bytes.len() - 2 * PLANE;
                bytes[green] = 255;
            }
            fs::write(dir.join(name), bytes).unwrap();
        }
    }

    fn error(dir: &Path) -> String {
        let error = cifar10(dir).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    }

    #[test]
    fn planes_become_pixels_and_batches_stay_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let unpacked = dir.path().join(CIFAR10.folder);
        fs::create_dir(&unpacked).unwrap();
        write(&CIFAR10, &unpacked, 2);
        // From the folder itself and from the one around it.
        for dir in [dir.path(), &unpacked] {
            assert!(CIFAR10.is_complete(dir));
            let data = cifar10(dir).unwrap();
            assert_eq!((data.train.len(), data.test.len()), (10, 2));
            assert_eq!(data.train.labels[..4], [0, 1, 0, 1]);
            assert_eq!(data.train.image(3)[..6], [10, 255, 12, 10, 11, 12]);
            assert_eq!(data.test.image(0)[3..6], [50, 51, 52]);
            assert!(data.flip && data.classes[9] == "truck");
        }
        let names: Vec<String> = (0..10).map(|c| format!("class {c}")).collect();
        let text = "\u{feff}".to_owned() + &names.join("\r\n") + "\n\n";
        fs::write(unpacked.join(CIFAR10.names), text).unwrap();
        assert_eq!(cifar10(dir.path()).unwrap().classes, names);
    }

    #[test]
    fn of_cifar100_the_fine_labels_count() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let error = |part: &str| {
            let error = cifar100(dir).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        error("no CIFAR-100 in");
        write(&CIFAR100, dir, 100);
        let data = cifar100(dir).unwrap();
        assert_eq!((data.train.len(), data.test.len()), (100, 100));
        assert_eq!((data.train.labels[99], data.classes.len()), (99, 100));
        assert_eq!(data.train.image(3)[..6], [0, 255, 2, 0, 1, 2]);
        assert_eq!([&data.classes[0], &data.classes[99]], ["apple", "worm"]);
        assert!(data.classes.is_sorted());
        write(&CIFAR100, dir, 101);
        error("the label 100 in record 100, but CIFAR-100's are 0 to 99");
        // Records of CIFAR-10 are no records here.
        write(&CIFAR100, dir, 1);
        fs::write(dir.join("test.bin"), vec![0; RECORD]).unwrap();
        error("holds 3073 bytes, which is no whole number of records of 3074");
    }

    #[test]
    fn what_is_missing_or_damaged_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let says = |parts: &[&str]| {
            let error = error(dir);
            assert!(parts.iter().all(|p| error.contains(p)), "{error}");
        };
        says(&["no CIFAR-10 in", "--download", "--data-dir"]);
        write(&CIFAR10, dir, 3);
        let batch = dir.join("data_batch_4.bin");
        let good = fs::read(&batch).unwrap();
        for (bytes, says_what) in [
            (&good[..good.len() - 1], "holds 9218 bytes"),
            (&[&good[..], &[0]].concat(), "holds 9220 bytes"),
            (&[], "holds 0 bytes"),
            (&[&[10], &good[1..]].concat(), "the label 10 in record 0"),
            (&vec![0; RECORD * 10_001], "holds more than 10000"),
        ] {
            fs::write(&batch, bytes).unwrap();
            says(&["data_batch_4.bin", says_what, "replace it"]);
        }
        fs::remove_file(&batch).unwrap();
        says(&["no data_batch_4.bin in", "--download"]);
        // A link to itself is to everybody what a forbidden folder is to most.
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&batch, &batch).unwrap();
            says(&["cannot read", "data_batch_4.bin"]);
            fs::remove_file(&batch).unwrap();
        }
        fs::write(&batch, good).unwrap();
        for names in [&b"one\ntwo"[..], b"\xff\xfe", &[b'a'; 5000]] {
            fs::write(dir.join(CIFAR10.names), names).unwrap();
            says(&[CIFAR10.names, "10 lines"]);
        }
    }
}
