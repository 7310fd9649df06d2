//! CIFAR-10 in its binary version: six files of records, one byte of label and then three planes of
//! 32×32 bytes, red, green and blue.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{DataError, Dataset, Samples};

/// Pixels from edge to edge.
const SIDE: usize = 32;
/// Bytes of one colour plane.
const PLANE: usize = SIDE * SIDE;
/// Bytes of a label and its image.
const RECORD: usize = 1 + 3 * PLANE;
/// Records of a published batch; a file may hold fewer, never more.
const MAX_RECORDS: usize = 10_000;
/// Bytes that the file of class names may have.
const MAX_NAMES: u64 = 4096;

/// The folder that the published archive unpacks to.
pub(super) const FOLDER: &str = "cifar-10-batches-bin";
/// Names of the classes, one a line; this file alone may be missing.
pub(super) const NAMES: &str = "batches.meta.txt";
/// The training batches in order, then the test batch.
pub(super) const BATCHES: [&str; 6] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
    "test_batch.bin",
];

const CLASSES: [&str; 10] = [
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
];

/// Reads the official binary batches, from `dir` or from the folder in it that the archive unpacks
/// to. Images are `[32, 32, 3]`; the training set is the five batches in order.
///
/// # Errors
/// [`DataError::Missing`] without all six files, [`DataError::Damaged`] for a file that is no whole
/// number of records, holds more than 10,000 or a label above 9, and for class names that are not
/// ten lines; [`DataError::Unreadable`] and [`DataError::OutOfMemory`].
pub fn cifar10(dir: &Path) -> Result<Dataset, DataError> {
    let folder = locate(dir);
    if let Some(missing) = BATCHES.iter().find(|name| !folder.join(name).is_file()) {
        let none = present(&folder) == 0;
        return Err(DataError::Missing {
            what: if none { "CIFAR-10" } else { missing }.into(),
            dir: folder,
            expected: "data_batch_1.bin to data_batch_5.bin and test_batch.bin (binary version)",
        });
    }
    let mut train = Samples::default();
    for name in &BATCHES[..5] {
        read_batch(&folder.join(name), &mut train)?;
    }
    let mut test = Samples::default();
    read_batch(&folder.join(BATCHES[5]), &mut test)?;
    let classes = class_names(&folder.join(NAMES))?;
    Dataset::new("CIFAR-10", classes, [SIDE, SIDE, 3], train, test, true)
}

/// Whether all files that must be there are.
pub(super) fn is_complete(dir: &Path) -> bool {
    present(&locate(dir)) == BATCHES.len()
}

/// `dir` itself or the archive's folder in it, whichever has more of the batches.
fn locate(dir: &Path) -> PathBuf {
    let unpacked = dir.join(FOLDER);
    match present(&unpacked) > present(dir) {
        true => unpacked,
        false => dir.to_owned(),
    }
}

/// How many of the batches are in a folder.
fn present(folder: &Path) -> usize {
    let there = |name: &&&str| folder.join(name).is_file();
    BATCHES.iter().filter(there).count()
}

/// Appends a batch: planes become `[32, 32, 3]`.
fn read_batch(path: &Path, into: &mut Samples) -> Result<(), DataError> {
    let bytes = read_at_most(path, MAX_RECORDS * RECORD)?;
    let damaged = |problem| Err(DataError::damaged(path, problem));
    let Some(bytes) = bytes else {
        return damaged(format!(
            "holds more than {MAX_RECORDS} records of {RECORD} bytes"
        ));
    };
    if bytes.is_empty() || bytes.len() % RECORD != 0 {
        return damaged(format!(
            "holds {} bytes, which is no whole number of records of {RECORD} bytes",
            bytes.len()
        ));
    }
    let mut records = bytes.chunks_exact(RECORD);
    if let Some(bad) = records.position(|record| usize::from(record[0]) >= CLASSES.len()) {
        return damaged(format!(
            "has the label {} in record {bad}, but CIFAR-10's are 0 to 9",
            bytes[bad * RECORD]
        ));
    }
    let (count, start) = (bytes.len() / RECORD, into.pixels.len());
    let size = 3 * PLANE;
    if into.pixels.try_reserve_exact(count * size).is_err() {
        return Err(DataError::OutOfMemory {
            name: path.display().to_string(),
            bytes: (count * size) as u128,
        });
    }
    into.pixels.resize(start + count * size, 0);
    let images = into.pixels[start..].par_chunks_exact_mut(size);
    images
        .zip(bytes.par_chunks_exact(RECORD))
        .for_each(|(image, record)| {
            for (i, pixel) in image.chunks_exact_mut(3).enumerate() {
                for (channel, byte) in pixel.iter_mut().enumerate() {
                    *byte = record[1 + channel * PLANE + i];
                }
            }
        });
    let labels = bytes
        .chunks_exact(RECORD)
        .map(|record| u32::from(record[0]));
    into.labels.extend(labels);
    Ok(())
}

/// The ten names of the file, or the published ones if it is not there.
fn class_names(path: &Path) -> Result<Vec<String>, DataError> {
    if !path.is_file() {
        return Ok(CLASSES.map(String::from).to_vec());
    }
    let bytes = read_at_most(path, MAX_NAMES as usize)?.unwrap_or_default();
    let text = String::from_utf8(bytes).unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let names: Vec<String> = lines.map(String::from).collect();
    match names.len() == CLASSES.len() {
        true => Ok(names),
        false => {
            let problem = "is not ten lines, one class name each".into();
            Err(DataError::damaged(path, problem))
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

    /// Batches of `records` images each: the label of a record is its number, its planes are
    /// constant but for the first pixel of green.
    fn write(dir: &Path, records: usize) {
        for (batch, name) in BATCHES.iter().enumerate() {
            let mut bytes = Vec::new();
            for record in 0..records {
                bytes.push(record as u8);
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
        let unpacked = dir.path().join(FOLDER);
        fs::create_dir(&unpacked).unwrap();
        write(&unpacked, 2);
        // From the folder itself and from the one around it.
        for dir in [dir.path(), &unpacked] {
            assert!(is_complete(dir));
            let data = cifar10(dir).unwrap();
            assert_eq!((data.train.len(), data.test.len()), (10, 2));
            assert_eq!(data.train.labels[..4], [0, 1, 0, 1]);
            assert_eq!(data.train.image(3)[..6], [10, 255, 12, 10, 11, 12]);
            assert_eq!(data.test.image(0)[3..6], [50, 51, 52]);
            assert!(data.flip && data.classes[9] == "truck");
        }
        let names: Vec<String> = (0..10).map(|c| format!("class {c}")).collect();
        fs::write(unpacked.join(NAMES), names.join("\n") + "\n\n").unwrap();
        assert_eq!(cifar10(dir.path()).unwrap().classes, names);
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
        write(dir, 3);
        let batch = dir.join("data_batch_4.bin");
        let good = fs::read(&batch).unwrap();
        for (bytes, says_what) in [
            (&good[..good.len() - 1], "holds 9218 bytes"),
            (&[&good[..], &[0]].concat(), "holds 9220 bytes"),
            (&[], "holds 0 bytes"),
            (&[&[10], &good[1..]].concat(), "the label 10 in record 0"),
            (
                &vec![0; RECORD * (MAX_RECORDS + 1)],
                "holds more than 10000",
            ),
        ] {
            fs::write(&batch, bytes).unwrap();
            says(&["data_batch_4.bin", says_what, "replace it"]);
        }
        fs::remove_file(&batch).unwrap();
        says(&["no data_batch_4.bin in", "--download"]);
        fs::write(&batch, good).unwrap();
        for names in [&b"one\ntwo"[..], b"\xff\xfe", &[b'a'; 5000]] {
            fs::write(dir.join(NAMES), names).unwrap();
            says(&[NAMES, "ten lines"]);
        }
    }
}
