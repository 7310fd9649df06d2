//! What is compiled at run time, kept by content in the user's cache: what was compiled once is
//! there at once.

use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
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
}

/// What nobody has needed for so long goes when something is compiled.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl Cache {
    /// What it is called in the folder for all caches.
    pub(crate) const NAME: &str = "autoassist";

    /// The user's cache, or a folder for this time where that cannot be written.
    pub(crate) fn open() -> Result<Cache, FileError> {
        let set = |key| {
            let value = std::env::var_os(key).filter(|v| !v.is_empty());
            value.map(PathBuf::from)
        };
        let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
        let kept = base.map(|base| base.join(Cache::NAME));
        let writable = |folder: &PathBuf| {
            let made = fs::create_dir_all(folder);
            made.and_then(|()| tempfile::tempdir_in(folder)).is_ok()
        };
        if let Some(folder) = kept.filter(writable) {
            let temporary = None;
            return Ok(Cache { folder, temporary });
        }
        let temporary = tempfile::Builder::new().prefix("autoassist-").tempdir();
        let temporary = temporary.map_err(at(std::env::temp_dir()))?;
        Ok(Cache {
            folder: temporary.path().to_path_buf(),
            temporary: Some(temporary),
        })
    }

    /// The file of this name, if it is there.
    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        let path = self.folder.join(name);
        let file = fs::File::open(&path).ok()?;
        // Younger from now on; where that is forbidden it is compiled again next month.
        let _ = file.set_modified(SystemTime::now());
        Some(path)
    }

    /// A folder to make something in that is then moved into the cache. What nobody has needed for
    /// long goes meanwhile.
    pub(crate) fn workplace(&self) -> Result<TempDir, FileError> {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let time = entry.metadata().and_then(|meta| meta.modified());
            let age = time.map(|time| time.elapsed().unwrap_or_default());
            if age.is_ok_and(|age| age > KEPT) {
                // Somebody else may be doing the same.
                let _ = match entry.path().is_dir() {
                    true => fs::remove_dir_all(entry.path()),
                    false => fs::remove_file(entry.path()),
                };
            }
        }
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
