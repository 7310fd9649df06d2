//! The unfinished file of a download.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use sha2::digest::DynDigest;

use super::{CHUNK, Digest, DownloadError, MAX_FILE};
use crate::files::WriteError;

/// The rest of a file, as far as it has come, open and locked.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    /// Bytes so far.
    pub(super) len: u64,
    hash: Box<dyn DynDigest>,
}

impl Part {
    /// Opens or makes the file and reads what is in it.
    pub(super) fn open(path: PathBuf, digest: Digest) -> Result<Part, DownloadError> {
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = match open {
            Ok(file) => file,
            Err(source) => return Err(WriteError { path, source }.into()),
        };
        // Where locks do not exist two programs must do without; the digest guards the result.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(DownloadError::Busy { path });
        }
        let mut part = Part {
            path,
            file,
            len: 0,
            hash: digest.hasher(),
        };
        let read = part.read();
        part.written(read)?;
        Ok(part)
    }

    /// Takes in what the file holds and leaves the cursor behind it.
    fn read(&mut self) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        if len > MAX_FILE {
            return self.file.set_len(0);
        }
        let mut chunk = vec![0; CHUNK];
        let mut rest = (&self.file).take(len);
        loop {
            match rest.read(&mut chunk)? {
                0 => return Ok(()),
                n => {
                    self.hash.update(&chunk[..n]);
                    self.len += n as u64;
                }
            }
        }
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), DownloadError> {
        let wrote = self.file.write_all(bytes);
        self.written(wrote)?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Back to the start.
    pub(super) fn clear(&mut self) -> Result<(), DownloadError> {
        if self.len > 0 {
            let cleared = self.file.set_len(0).and_then(|()| self.file.rewind());
            self.written(cleared)?;
            self.hash.reset();
            self.len = 0;
        }
        Ok(())
    }

    /// The digest so far, in hexadecimal.
    pub(super) fn digest(&self) -> String {
        let digest = self.hash.box_clone().finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Makes it the whole file, on the disk.
    pub(super) fn finish(&self, whole: &Path) -> Result<(), DownloadError> {
        let folder = whole.parent().unwrap_or(Path::new("."));
        let renamed = self
            .file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, whole))
            .and_then(|()| File::open(folder)?.sync_all());
        self.written(renamed)
    }

    pub(super) fn remove(&self) -> Result<(), DownloadError> {
        self.written(fs::remove_file(&self.path))
    }

    fn written<T>(&self, result: io::Result<T>) -> Result<T, DownloadError> {
        result.map_err(|source| {
            let path = self.path.clone();
            WriteError { path, source }.into()
        })
    }
}

impl Drop for Part {
    /// What a try that brought nothing leaves is of no use to the next.
    fn drop(&mut self) {
        if self.len == 0 {
            let _ = fs::remove_file(&self.path);
        }
    }
}
