//! What is compiled at run time, kept by content in the user's cache: what was compiled once is
//! there at once.

use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A file or folder, and why it cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", .path.display())]
pub struct FileError {
    /// It.
    pub path: PathBuf,
    /// The system's reason.
    pub error: io::Error,
}

/// For `map_err`.
pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> FileError {
    let path = path.into();
    |error| FileError { path, error }
}

/// Where libraries are kept, and what they were compiled with.
pub(crate) struct Cache {
    /// The folder.
    pub(crate) folder: PathBuf,
    /// The same, where it goes when this does.
    pub(crate) temporary: Option<TempDir>,
    /// The user's, where only reading is allowed.
    only_read: Option<PathBuf>,
}

impl Cache {
    /// The user's cache, or a folder for this time where that cannot be written. Data sets lie beside
    /// it.
    pub(crate) fn open() -> Result<Cache, FileError> {
        let set = |key| {
            let value = std::env::var_os(key).filter(|v| !v.is_empty());
            value.map(PathBuf::from)
        };
        let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
        let kept = base.map(|base| base.join("autoassist/kernels"));
        let writable = |folder: &PathBuf| {
            let made = fs::create_dir_all(folder);
            made.and_then(|()| tempfile::tempdir_in(folder)).is_ok()
        };
        if let Some(folder) = kept.clone().filter(writable) {
            return Ok(Cache {
                folder,
                temporary: None,
                only_read: None,
            });
        }
        let temporary = tempfile::Builder::new().prefix("autoassist-").tempdir();
        let temporary = temporary.map_err(at(std::env::temp_dir()))?;
        Ok(Cache {
            folder: temporary.path().to_path_buf(),
            temporary: Some(temporary),
            only_read: kept,
        })
    }

    /// The file of this name, if it is there.
    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        let folders = self.only_read.iter().chain([&self.folder]);
        let mut places = folders.map(|folder| folder.join(name));
        places.find(|place| place.is_file())
    }

    /// A folder to make something in that is then moved into the cache.
    pub(crate) fn workplace(&self) -> Result<TempDir, FileError> {
        tempfile::tempdir_in(&self.folder).map_err(at(&self.folder))
    }
}

/// Writes a file of the cache, unless it is there.
pub(crate) fn keep(path: &Path, text: &str) -> Result<(), FileError> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(at(parent))?;
    // Whole or not at all: somebody else may be reading.
    let mut file = tempfile::NamedTempFile::new_in(parent).map_err(at(parent))?;
    file.write_all(text.as_bytes()).map_err(at(path))?;
    file.persist(path).map_err(|e| at(path)(e.error))?;
    Ok(())
}

/// A name for what is made of all of these.
pub(crate) fn key<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        digest.update(part.len().to_le_bytes());
        digest.update(part);
    }
    let bytes = digest.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
