//! MNIST and the sets in its format: four IDX files, plain or gzipped, of grey images and labels.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::gunzip::{Gunzip, is_gzip};
use super::{DataError, Dataset, Samples, kind_of};

/// Bytes of three dimensions, and of one.
const IMAGES: u32 = 0x0803;
const LABELS: u32 = 0x0801;
/// Pixels from edge to edge that an image may have.
const MAX_SIDE: u32 = 1024;
/// Bytes that the content of a file may have, unpacked: a few bytes of gzip can become any number.
const MAX_BYTES: u64 = 1 << 30;

/// Training images, their labels, test images, theirs; `.gz` may follow.
pub(super) const FILES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
const FASHION: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// Reads MNIST, or any set in its format with ten classes, as digits 0 to 9: images
/// `[H, W, 1]`, never flipped. (Those of EMNIST are transposed, which a network does not mind.) The files are as published, gzipped or not, `.idx` for `-idx` too.
///
/// # Errors
/// [`DataError::Missing`] without all four files, [`DataError::Damaged`] for one that is not what
/// its header says, has the wrong header, a label above 9, a damaged gzip stream or another number
/// or size of images than its companions; [`DataError::OtherClasses`] where many labels are above 9;
/// [`DataError::Unreadable`], [`DataError::TooLarge`] and
/// [`DataError::OutOfMemory`]. Memory is taken for what a file holds, never for what its header
/// promises.
pub fn mnist(dir: &Path) -> Result<Dataset, DataError> {
    // Other sets have the same file names: the folder is what tells them apart.
    read(
        dir,
        "MNIST",
        format!("MNIST files in {}", dir.display()),
        DIGITS,
    )
}

/// Reads Fashion-MNIST: the same format with the names of its classes.
///
/// # Errors
/// As [`mnist`].
pub fn fashion_mnist(dir: &Path) -> Result<Dataset, DataError> {
    read(dir, "Fashion-MNIST", "Fashion-MNIST".into(), FASHION)
}

/// Where a file is: plain before gzipped.
pub(super) fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let dotted = name.replace("-idx", ".idx");
    [name, &dotted]
        .into_iter()
        .flat_map(|name| [dir.join(name), dir.join(format!("{name}.gz"))])
        .find(|path| path.is_file())
}

fn read(dir: &Path, set: &str, name: String, classes: [&str; 10]) -> Result<Dataset, DataError> {
    let paths = FILES.map(|name| find(dir, name));
    let missing = |what: &str| DataError::Missing {
        what: what.into(),
        dir: dir.into(),
        expected: EXPECTED.to_owned() + &other_names(dir),
    };
    let [
        Some(train),
        Some(train_labels),
        Some(test),
        Some(test_labels),
    ] = &paths
    else {
        for name in FILES {
            kind_of(&dir.join(name))?;
        }
        let name = FILES.iter().zip(&paths).find(|(_, path)| path.is_none());
        return Err(match paths.iter().all(Option::is_none) {
            true => missing(set),
            false => missing(name.map_or(set, |(name, _)| name)),
        });
    };
    let (train_samples, size) = split(train, train_labels)?;
    let (test_samples, test_size) = split(test, test_labels)?;
    if size != test_size {
        let ((h, w), (test_h, test_w)) = (size, test_size);
        let problem = format!("holds images of {test_h}x{test_w}, but {train:?} of {h}x{w}");
        return Err(DataError::damaged(test, problem));
    }
    let (train, test) = (train_samples, test_samples);
    let classes = classes.map(String::from).to_vec();
    Dataset::new(name, classes, [size.0, size.1, 1], train, test, false)
}

/// What makes up a data set.
const EXPECTED: &str = "train-images-idx3-ubyte, train-labels-idx1-ubyte and t10k-…, plain or .gz";

/// Says so if files of the format lie there under other names, as those of EMNIST do.
fn other_names(dir: &Path) -> String {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    let is_idx = |name: &String| {
        let known = FILES
            .iter()
            .any(|file| name.trim_end_matches(".gz") == *file);
        name.contains("-idx") && name.contains("-ubyte") && !known
    };
    // The same in every run.
    let Some(name) = names.filter(is_idx).min() else {
        return String::new();
    };
    format!(
        "; {name} and its like are there: give those of a set of ten classes these names (of EMNIST, \
         digits and mnist are such sets)"
    )
}

/// Images with their labels, and height and width.
fn split(images: &Path, labels: &Path) -> Result<(Samples, (usize, usize)), DataError> {
    let ([count, height, width], pixels) = content(images, IMAGES)?;
    let ([label_count], classes) = content(labels, LABELS)?;
    if count != label_count {
        let problem = format!("holds {label_count} labels, but {images:?} {count} images");
        return Err(DataError::damaged(labels, problem));
    }
    if let Some(bad) = classes.iter().position(|&c| usize::from(c) >= DIGITS.len()) {
        return Err(bad_label(labels, &classes, bad));
    }
    let labels = classes.into_iter().map(u32::from).collect();
    Ok((
        Samples { pixels, labels },
        (height as usize, width as usize),
    ))
}

/// Why a label above 9 cannot be used: one or few of many are damage, else it is another set.
fn bad_label(path: &Path, labels: &[u8], bad: usize) -> DataError {
    let problem = format!(
        "has the label {} for image {bad}, but labels are 0 to 9",
        labels[bad]
    );
    let mut there = labels.to_vec();
    there.sort_unstable();
    let above = |sorted: &[u8]| sorted.len() - sorted.partition_point(|c| *c <= 9);
    let rare = above(&there) * RARE < labels.len();
    there.dedup();
    if rare || above(&there) == 1 {
        return DataError::damaged(path, problem);
    }
    DataError::OtherClasses {
        path: path.to_owned(),
        first: there[0],
        last: there[there.len() - 1],
        classes: there.len(),
    }
}

/// One in so many labels that cannot be is a damaged file.
const RARE: usize = 100;

/// The dimensions that the header of a file says and the bytes that follow it, which are as many.
fn content<const D: usize>(path: &Path, magic: u32) -> Result<([u32; D], Vec<u8>), DataError> {
    let (mut file, gz) = open(path)?;
    let failed = |source: io::Error| match source.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::InvalidInput | ErrorKind::InvalidData if gz => {
            let problem = format!("is cut, damaged or more than a gzip stream ({source})");
            DataError::damaged(path, problem)
        }
        ErrorKind::UnexpectedEof => DataError::damaged(path, "ends within its header".into()),
        ErrorKind::OutOfMemory => DataError::OutOfMemory {
            name: path.display().to_string(),
            bytes: MAX_BYTES.into(),
        },
        _ => DataError::Unreadable {
            path: path.to_owned(),
            source,
        },
    };
    let mut word = || {
        let mut bytes = [0; 4];
        file.read_exact(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    };
    let found = word().map_err(failed)?;
    if found != magic {
        let problem = format!(
            "begins with {found:#010x}, but an IDX file of {} with {magic:#010x}",
            if magic == IMAGES { "images" } else { "labels" }
        );
        return Err(DataError::damaged(path, problem));
    }
    let mut shape = [0; D];
    for dimension in &mut shape {
        *dimension = word().map_err(failed)?;
    }
    if shape.contains(&0) || shape[1..].iter().any(|&side| side > MAX_SIDE) {
        let problem = format!(
            "says that it holds {}, but images have 1 to {MAX_SIDE} pixels a side",
            items(&shape)
        );
        return Err(DataError::damaged(path, problem));
    }
    // At most 2^52: a number of images times 1024².
    let promised: u64 = shape.iter().map(|&d| u64::from(d)).product();
    // One byte more, so that what follows is noticed and a gzip stream comes to its checksum.
    let limit = promised.min(MAX_BYTES) + 1;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    let problem = match bytes.len() as u64 {
        held if held == promised && held <= MAX_BYTES => return Ok((shape, bytes)),
        held if held < promised && held <= MAX_BYTES => format!("{held} bytes follow"),
        held if held > promised => "more follows".into(),
        _ => {
            return Err(DataError::TooLarge {
                path: path.to_owned(),
                size: items(&shape),
                limit: format!("{} MiB", MAX_BYTES >> 20),
            });
        }
    };
    let says = items(&shape);
    let problem = format!("says that it holds {says}, {promised} bytes, but {problem}");
    Err(DataError::damaged(path, problem))
}

/// What a header promises, for people.
fn items(shape: &[u32]) -> String {
    match shape {
        [count, height, width] => format!("{count} images of {height}x{width}"),
        _ => format!("{} labels", shape[0]),
    }
}

/// The content of a file, and whether it is gzipped: its first bytes say so, not its name, since
/// browsers unpack what they keep as `.gz`.
fn open(path: &Path) -> Result<(Box<dyn Read>, bool), DataError> {
    let open = || {
        let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
        let gz = is_gzip(file.fill_buf()?);
        Ok((file, gz))
    };
    let (file, gz) = open().map_err(|source| DataError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    Ok(match gz {
        true => (Box::new(Gunzip::new(file)), true),
        false => (Box::new(file), false),
    })
}

#[cfg(test)]
mod tests;
