//! Images in folders: `train/<class>/*.{jpg,jpeg,png}` and `test/<class>/…`, the tree that
//! torchvision's `ImageFolder` reads too.

mod jpeg;
mod tree;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Cursor, IsTerminal, Read};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

use self::tree::{Files, Tree};
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
/// class after class, which makes instance numbers stable. Without `test`, `val`, `valid` or
/// `validation` takes its place. Extensions count in any case; hidden files are ignored, others
/// counted in the data set's notes. `progress` shows a bar where standard error is a terminal.
///
/// # Errors
/// All of [`DataError`] but `Inconsistent`: files that are not images, are damaged, larger than
/// 1024×1024 or not of the size of most, several of them at once; missing, empty or unmatched
/// folders; whatever cannot be read or does not fit into memory.
pub fn folder(dir: &Path, progress: bool) -> Result<Dataset, DataError> {
    let tree = Tree::of(dir)?;
    let images = tree.train.len() + tree.test.len();
    let bar = match progress && io::stderr().is_terminal() {
        true => ProgressBar::new(images as u64),
        false => ProgressBar::hidden(),
    };
    bar.set_style(
        ProgressStyle::with_template("reading images {bar:40} {pos}/{len}")
            .expect("the template is well formed"),
    );
    let name = dir.display().to_string();
    let read = read_all(&name, &tree, &bar);
    // Also before an error, which would be printed behind it.
    bar.finish_and_clear();
    let ((train, test), [width, height]) = read?;
    let shape = [height as usize, width as usize, 3];
    let mut data = Dataset::new(name, tree.classes, shape, train, test, true)?;
    data.notes = tree.notes;
    Ok(data)
}

/// Both splits, and width and height of all images.
fn read_all(
    name: &str,
    tree: &Tree,
    bar: &ProgressBar,
) -> Result<((Samples, Samples), [u32; 2]), DataError> {
    // The first training image that is one sets the size of all.
    let mut headers = tree.train.iter().filter_map(|(file, _)| {
        let (width, height) = decode(file).ok()?.dimensions();
        Some(Expected {
            file,
            width,
            height,
        })
    });
    let none = Expected {
        file: &tree.train[0].0,
        width: 1,
        height: 1,
    };
    let expected = headers.next().unwrap_or(none);
    let mut errors = Vec::new();
    let train = read(name, &tree.train, &expected, bar, &mut errors)?;
    let test = read(name, &tree.test, &expected, bar, &mut errors)?;
    match errors.is_empty() {
        true => Ok(((train, test), [expected.width, expected.height])),
        false => Err(DataError::several(by_majority(tree, &expected, errors))),
    }
}

/// The errors as they would be if the size that most images have were expected.
fn by_majority(tree: &Tree, expected: &Expected, errors: Vec<DataError>) -> Vec<DataError> {
    let mut sizes: HashMap<(u32, u32), (usize, &Path)> = HashMap::new();
    for error in &errors {
        if let DataError::SizeMismatch { path, size, .. } = error {
            sizes.entry(*size).or_insert((0, path)).0 += 1;
        }
    }
    let files = tree.train.iter().chain(&tree.test);
    let as_expected = files.clone().count() - errors.len();
    let most = sizes.iter().max_by_key(|(_, (count, _))| *count);
    let Some((&usual, &(_, example))) = most.filter(|(_, (count, _))| *count > as_expected) else {
        return errors;
    };
    let example = example.to_owned();
    let mismatch = |path: &Path, size| DataError::SizeMismatch {
        path: path.to_owned(),
        size,
        first: example.clone(),
        first_size: usual,
    };
    let first_size = (expected.width, expected.height);
    let mut errors = errors.into_iter().peekable();
    let again =
        files.filter_map(
            |(file, _)| match errors.next_if(|error| error.path() == Some(file)) {
                None => Some(mismatch(file, first_size)),
                Some(DataError::SizeMismatch { size, .. }) if size == usual => None,
                Some(DataError::SizeMismatch { size, .. }) => Some(mismatch(file, size)),
                error => error,
            },
        );
    again.collect()
}

/// The size that all images must have, and the file that says so.
struct Expected<'a> {
    file: &'a Path,
    width: u32,
    height: u32,
}

/// Decodes the files of one split, in parallel, each into its place. What is wrong with them comes
/// behind `errors`, in the order of the files.
fn read(
    name: &str,
    files: &Files,
    expected: &Expected,
    bar: &ProgressBar,
    errors: &mut Vec<DataError>,
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
    let images = pixels.par_chunks_exact_mut(size).zip(files);
    let bad = images.filter_map(|(image, (file, _))| {
        let result = read_image(file, expected, image);
        bar.inc(1);
        result.err()
    });
    errors.par_extend(bad);
    Ok(Samples {
        pixels,
        labels: files.iter().map(|&(_, label)| label).collect(),
    })
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
    let cut = jpeg::is_cut(&bytes);
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
