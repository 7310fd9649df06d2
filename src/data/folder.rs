//! Images in folders: `train/<class>/*.{jpg,jpeg,png}` and `test/<class>/…`, the tree that
//! torchvision's `ImageFolder` reads too.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Cursor, IsTerminal, Read};
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

use super::{DataError, Dataset, Samples};

/// Pixels from edge to edge that an image may have.
const MAX_SIDE: u32 = 1024;
/// Bytes that a file may have: more than any image of that size needs.
const MAX_FILE: u64 = 32 << 20;
/// Bytes that the decoder of one image may allocate.
const MAX_ALLOC: u64 = 64 << 20;

/// Reads a tree of images into memory as RGB: grey is converted, alpha dropped, 16 bits become 8.
///
/// Classes are the folders in `train`, in the order of their names; so are the images of a class,
/// class after class, which makes instance numbers stable. Extensions count in any case; hidden
/// and other files are ignored. `progress` shows a bar where standard error is a terminal.
///
/// # Errors
/// All of [`DataError`] but `Inconsistent`: the first file in that order that is not an image, is
/// damaged, larger than 1024×1024 or not of the first training image's size; missing, empty or
/// unmatched folders; whatever cannot be read or does not fit into memory.
pub fn folder(dir: &Path, progress: bool) -> Result<Dataset, DataError> {
    let need = |path: &Path, expected| match path.is_dir() {
        true => Ok(()),
        false => Err(DataError::NoFolder {
            path: path.to_owned(),
            expected,
        }),
    };
    let (train, test) = (dir.join("train"), dir.join("test"));
    need(dir, "a folder with train/<class>/ and test/<class>/ in it")?;
    need(&train, "the training images, in one folder a class")?;
    need(
        &test,
        "the test images, in one folder a class like those in train/",
    )?;

    let train_classes = classes(&train)?;
    if train_classes.len() < 2 {
        return Err(DataError::TooFewClasses {
            path: train,
            found: train_classes.len(),
        });
    }
    let test_classes = classes(&test)?;
    same_classes(&train_classes, &test_classes)?;
    let names = train_classes
        .keys()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let (train_files, test_files) = (files(&train_classes)?, files(&test_classes)?);

    let bar = match progress && io::stderr().is_terminal() {
        true => ProgressBar::new((train_files.len() + test_files.len()) as u64),
        false => ProgressBar::hidden(),
    };
    bar.set_style(
        ProgressStyle::with_template("reading images {bar:40} {pos}/{len} ({per_sec}, {eta} left)")
            .expect("the template is well formed"),
    );
    // The first training image sets the size of all.
    let first = &train_files[0].0;
    let (width, height) = decode(first)?.dimensions();
    let expected = Expected {
        file: first,
        width,
        height,
    };
    let name = dir.display().to_string();
    let samples = read(&name, &train_files, &expected, &bar)
        .and_then(|train| Ok((train, read(&name, &test_files, &expected, &bar)?)));
    // Also before an error, which would be printed behind it.
    bar.finish_and_clear();
    let (train, test) = samples?;
    Dataset::new(
        name,
        names,
        [height as usize, width as usize, 3],
        train,
        test,
        true,
    )
}

type Classes = BTreeMap<OsString, PathBuf>;

/// The entries of a folder, but for hidden ones: `(name, path)`.
fn entries(dir: &Path) -> Result<Vec<(OsString, fs::DirEntry)>, DataError> {
    let unreadable = |source| DataError::Unreadable {
        path: dir.to_owned(),
        source,
    };
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            entries.push((name, entry));
        }
    }
    Ok(entries)
}

/// The kind of an entry, or of what a symbolic link points to.
fn kind(entry: &fs::DirEntry) -> Result<fs::FileType, DataError> {
    let path = || entry.path();
    match entry.file_type() {
        Ok(kind) if kind.is_symlink() => fs::metadata(path()).map(|m| m.file_type()),
        kind => kind,
    }
    .map_err(|source| DataError::Unreadable {
        path: path(),
        source,
    })
}

fn classes(dir: &Path) -> Result<Classes, DataError> {
    let mut classes = Classes::new();
    for (name, entry) in entries(dir)? {
        if kind(&entry)?.is_dir() {
            classes.insert(name, entry.path());
        }
    }
    Ok(classes)
}

fn same_classes(train: &Classes, test: &Classes) -> Result<(), DataError> {
    for (these, others) in [(train, test), (test, train)] {
        if let Some((name, present)) = these.iter().find(|(name, _)| !others.contains_key(*name)) {
            let split = if std::ptr::eq(these, train) {
                "test"
            } else {
                "train"
            };
            let root = present.ancestors().nth(2).unwrap_or(Path::new(""));
            return Err(DataError::ClassMismatch {
                missing: root.join(split).join(name),
                present: present.clone(),
            });
        }
    }
    Ok(())
}

/// The images of all classes with their labels, sorted by class and name.
fn files(classes: &Classes) -> Result<Vec<(PathBuf, u32)>, DataError> {
    let mut all = Vec::new();
    for (dir, label) in classes.values().zip(0..) {
        let before = all.len();
        for (name, entry) in entries(dir)? {
            if is_image(&name) && kind(&entry)?.is_file() {
                all.push((entry.path(), label));
            }
        }
        if all.len() == before {
            return Err(DataError::EmptyClass { path: dir.clone() });
        }
        all[before..].sort_unstable();
    }
    Ok(all)
}

fn is_image(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().unwrap_or_default();
    ["jpg", "jpeg", "png"]
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}

/// The size that all images must have, and the file that says so.
struct Expected<'a> {
    file: &'a Path,
    width: u32,
    height: u32,
}

/// Decodes the files of one split, in parallel, each into its place.
fn read(
    name: &str,
    files: &[(PathBuf, u32)],
    expected: &Expected,
    bar: &ProgressBar,
) -> Result<Samples, DataError> {
    let size = expected.width as usize * expected.height as usize * 3;
    let mut pixels = Vec::new();
    let bytes = size
        .checked_mul(files.len())
        .filter(|&n| pixels.try_reserve_exact(n).is_ok());
    let Some(bytes) = bytes else {
        let bytes = size as u128 * files.len() as u128;
        return Err(DataError::OutOfMemory {
            name: name.to_owned(),
            bytes,
        });
    };
    pixels.resize(bytes, 0);
    // The first error in the order of the files, whichever thread finds one first.
    let error =
        pixels
            .par_chunks_exact_mut(size)
            .zip(files)
            .find_map_first(|(image, (file, _))| {
                let result = read_image(file, expected, image);
                bar.inc(1);
                result.err()
            });
    match error {
        Some(error) => Err(error),
        None => Ok(Samples {
            pixels,
            labels: files.iter().map(|&(_, label)| label).collect(),
        }),
    }
}

/// Decodes one file into `[height, width, 3]`.
fn read_image(path: &Path, expected: &Expected, into: &mut [u8]) -> Result<(), DataError> {
    let decoder = decode(path)?;
    let (size, first_size) = (decoder.dimensions(), (expected.width, expected.height));
    if size != first_size {
        return Err(DataError::SizeMismatch {
            path: path.to_owned(),
            size,
            first: expected.file.to_owned(),
            first_size,
        });
    }
    let image = DynamicImage::from_decoder(decoder).map_err(|error| undecodable(path, error))?;
    into.copy_from_slice(image.into_rgb8().as_raw());
    Ok(())
}

/// Reads a file and its header. What is allocated is bounded by the limits, whatever the header
/// says; the file's contents count, not its extension.
fn decode(path: &Path) -> Result<impl ImageDecoder + use<>, DataError> {
    let unreadable = |source| DataError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(too_large(
            path,
            "more".to_owned(),
            format!("{} MiB", MAX_FILE >> 20),
        ));
    }
    let cut = jpeg_is_cut(&bytes);
    let mut reader = ImageReader::new(Cursor::new(bytes));
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_ALLOC);
    reader.limits(limits);
    let reader = reader.with_guessed_format().map_err(unreadable)?;
    if reader.format() == Some(ImageFormat::Jpeg) && cut {
        return Err(undecodable(path, "it ends too early"));
    }
    let decoder = reader
        .into_decoder()
        .map_err(|error| undecodable(path, error))?;
    let (width, height) = decoder.dimensions();
    if width.max(height) > MAX_SIDE {
        let limit = format!("{MAX_SIDE}x{MAX_SIDE} pixels");
        return Err(too_large(path, format!("{width}x{height} pixels"), limit));
    }
    Ok(decoder)
}

/// Whether no end marker follows the last scan of a JPEG file. The decoder would fill the rest with
/// grey and say nothing. (Within a scan, neither marker can occur.)
fn jpeg_is_cut(bytes: &[u8]) -> bool {
    let last = |code| bytes.windows(2).rposition(|pair| pair == [0xff, code]);
    last(0xd9) < last(0xda)
}

fn undecodable(path: &Path, reason: impl ToString) -> DataError {
    let reason = reason
        .to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    DataError::Undecodable {
        path: path.to_owned(),
        reason,
    }
}

fn too_large(path: &Path, size: String, limit: String) -> DataError {
    DataError::TooLarge {
        path: path.to_owned(),
        size,
        limit,
    }
}

#[cfg(test)]
mod tests;
