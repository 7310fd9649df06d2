//! Writing files so that nothing is lost: aside, to the disk, then renamed over the old one.

use std::io::Write;
use std::path::{Path, PathBuf};

/// How files are called that are not whole yet.
pub const ASIDE: &str = ".aside-";

/// A file could not be written; what was there before is untouched.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}; free some space or choose another place", path.display())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}

/// A file of a run could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}; put it back or train anew in another folder", path.display())]
pub struct ReadError {
    /// The file.
    pub path: PathBuf,
    /// What the system, or the parser, said.
    pub source: std::io::Error,
}

/// Reads a text file of a run.
///
/// # Errors
/// Whatever the system says, with the path.
pub fn read(path: &Path) -> Result<String, ReadError> {
    std::fs::read_to_string(path).map_err(|source| ReadError {
        path: path.to_path_buf(),
        source,
    })
}

/// Replaces `path` by a file with these bytes, or leaves it as it was. The folder must exist.
///
/// # Errors
/// Whatever the system says, with the path.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let attempt = || -> std::io::Result<()> {
        let folder = match path.parent() {
            Some(p) if p != Path::new("") => p,
            _ => Path::new("."),
        };
        // Not a hidden temporary of mode 0600: what users get must be readable as any file they
        // make.
        let mut aside = tempfile::Builder::new()
            .prefix(ASIDE)
            .make_in(folder, |p| std::fs::File::create_new(p))?;
        aside.write_all(bytes)?;
        aside.as_file().sync_all()?;
        aside.persist(path)?;
        // The rename itself must survive a power cut too.
        std::fs::File::open(folder)?.sync_all()
    };
    attempt().map_err(|source| WriteError {
        path: path.to_path_buf(),
        source,
    })
}

/// Fails unless the folder of `path` exists, so that a long run does not end in front of a missing
/// one.
///
/// # Errors
/// The folder is not there.
pub fn check_folder_of(path: &Path) -> Result<(), WriteError> {
    let folder = path
        .parent()
        .filter(|p| *p != Path::new(""))
        .unwrap_or(Path::new("."));
    let source = match std::fs::metadata(folder) {
        Ok(meta) if meta.is_dir() && !path.is_dir() => return Ok(()),
        Ok(_) => std::io::Error::from(std::io::ErrorKind::IsADirectory),
        Err(e) => e,
    };
    Err(WriteError {
        path: path.to_path_buf(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        // A folder in its place cannot be replaced; nothing is left aside.
        let taken = dir.path().join("taken");
        std::fs::create_dir_all(taken.join("inside")).unwrap();
        let error = write(&taken, b"three").unwrap_err().to_string();
        assert!(
            error.contains("taken") && error.contains("choose another place"),
            "{error}"
        );
        let names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(check_folder_of(&path).is_ok() && check_folder_of(&taken).is_err());
        assert!(check_folder_of(&dir.path().join("no/b")).is_err());
    }
}
