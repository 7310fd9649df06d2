//! Why a data set cannot be used.

use std::io;
use std::path::{Path, PathBuf};

/// Why a data set cannot be used: what, where, and what to do, in one line. Nothing but other
/// arguments or other files helps, so programs exit with 2.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The folder itself, or one that must be in it, is not there.
    #[error("{path:?} is not a folder: expected {expected}")]
    NoFolder {
        /// What was looked for.
        path: PathBuf,
        /// What it should have been.
        expected: &'static str,
    },
    /// Fewer than two classes.
    #[error(
        "{path:?} holds {found} class folder(s): at least two are needed, each \
         named by its class, images inside"
    )]
    TooFewClasses {
        /// The `train` folder.
        path: PathBuf,
        /// How many there are.
        found: usize,
    },
    /// A class folder without images.
    #[error(
        "{path:?} holds no .jpg, .jpeg or .png file{others}: put the images of the \
         class straight into it, converted to one of these, or remove it"
    )]
    EmptyClass {
        /// The class folder.
        path: PathBuf,
        /// What it holds, as the rest of a sentence.
        others: String,
    },
    /// A class to train on that could not be evaluated, or the reverse.
    #[error(
        "{missing:?} is missing, but {present:?} exists: training and test images must have the \
         same class folders"
    )]
    ClassMismatch {
        /// The class folder that should be there.
        missing: PathBuf,
        /// Its counterpart.
        present: PathBuf,
    },
    /// The file system said no.
    #[error("cannot read {path:?}: {source}; check that it exists and its permissions")]
    Unreadable {
        /// File or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Not an image, or a damaged one.
    #[error("{path:?} is not a whole JPEG or PNG image ({reason}): replace or remove it")]
    Undecodable {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// An image, or the file it is in, beyond the limits.
    #[error(
        "{path:?} is too large ({size}; at most {limit}): shrink the images first, all to one size"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How large.
        size: String,
        /// How large is allowed.
        limit: String,
    },
    /// Several files that cannot be used.
    #[error(
        "{} files cannot be used: {}{}", .errors.len() + .more, joined(.errors),
        if *.more > 0 { format!("; and {} more", .more) } else { String::new() }
    )]
    Several {
        /// What is wrong with the first.
        errors: Vec<DataError>,
        /// How many more there are.
        more: usize,
    },
    /// Two images of different sizes.
    #[error(
        "{path:?} is {}x{} pixels, but {first:?} is {2}x{3}: resize all images to one size, for \
         example by ImageMagick's mogrify -resize {2}x{3}!",
        .size.0, .size.1, .first_size.0, .first_size.1
    )]
    SizeMismatch {
        /// The file that differs.
        path: PathBuf,
        /// Its width and height.
        size: (u32, u32),
        /// The first file.
        first: PathBuf,
        /// Its width and height.
        first_size: (u32, u32),
    },
    /// A published data set, or a file of it, is not there.
    #[error(
        "no {what} in {dir:?}: add --download to fetch what is missing, or give --data-dir DIR \
         with {expected}"
    )]
    Missing {
        /// The data set or the file.
        what: String,
        /// Where it was looked for.
        dir: PathBuf,
        /// What makes up the data set.
        expected: String,
    },
    /// A file of a published data set whose bytes are not what its format says.
    #[error("{path:?} {problem}: replace it, or remove it and fetch it anew with --download")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, as the rest of a sentence about the file.
        problem: String,
    },
    /// A set of MNIST's format that has more classes.
    #[error(
        "{path:?} has {classes} classes, labels {first} to {last}, but --data mnist reads sets of ten, \
         labels 0 to 9 (of EMNIST, digits and mnist): write the images of others as PNG into a tree \
         train/<class>/, test/<class>/ and use --data folder"
    )]
    OtherClasses {
        /// The file of labels.
        path: PathBuf,
        /// Least label.
        first: u8,
        /// Largest.
        last: u8,
        /// How many labels occur.
        classes: usize,
    },
    /// More than memory holds.
    #[error("{name}: {bytes} bytes of pixels do not fit into memory: use fewer or smaller images")]
    OutOfMemory {
        /// The data set.
        name: String,
        /// Wanted for one split.
        bytes: u128,
    },
    /// Parts that do not belong together.
    #[error("{name}: {problem}")]
    Inconsistent {
        /// The data set.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// One after the other.
fn joined(errors: &[DataError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

/// Files that are named at once.
const NAMED: usize = 10;

impl DataError {
    /// All of them, of which the first are named. There must be one.
    pub(super) fn several(mut errors: Vec<DataError>) -> DataError {
        let more = errors.len().saturating_sub(NAMED);
        errors.truncate(NAMED);
        match errors.len() {
            1 => errors.swap_remove(0),
            _ => DataError::Several { errors, more },
        }
    }

    /// The file of an image that cannot be used.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            DataError::Unreadable { path, .. }
            | DataError::Undecodable { path, .. }
            | DataError::TooLarge { path, .. }
            | DataError::SizeMismatch { path, .. } => Some(path),
            _ => None,
        }
    }

    pub(super) fn damaged(path: &Path, problem: String) -> DataError {
        DataError::Damaged {
            path: path.to_owned(),
            problem,
        }
    }
}
