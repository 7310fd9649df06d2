//! Fetching published data sets: each file goes to `NAME.part`, which a later try goes on with, and
//! is renamed to `NAME` when its digest is right.

mod part;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flate2::read::GzDecoder;
use indicatif::{HumanBytes, ProgressBar};
use sha2::digest::DynDigest;
use ureq::http::{Response, StatusCode, header};

use self::part::Part;
use super::cifar::{self, Set};
use super::idx;
use crate::files::{self, WriteError};

/// Bytes that a file may have: more than any published one, less than fills a disk.
const MAX_FILE: u64 = 1 << 30;
/// Bytes that a file in an archive may have: CIFAR-100's training batch has 153,700,000.
const MAX_MEMBER: u64 = 256 << 20;
/// How long a server may take to accept a connection or to send its next bytes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// The digest that a file must have, in lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // named by their algorithms
pub enum Digest {
    Md5(&'static str),
    Sha256(&'static str),
}

impl Digest {
    fn hasher(self) -> Box<dyn DynDigest> {
        match self {
            Digest::Md5(_) => Box::new(md5::Md5::default()),
            Digest::Sha256(_) => Box::new(sha2::Sha256::default()),
        }
    }

    fn hex(self) -> &'static str {
        match self {
            Digest::Md5(hex) | Digest::Sha256(hex) => hex,
        }
    }
}

/// A file that somebody has published.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// Where, up to the name.
    pub base: &'static str,
    /// Its name, there and here.
    pub name: &'static str,
    /// What it must be.
    pub digest: Digest,
}

const fn md5(base: &'static str, name: &'static str, hex: &'static str) -> Published {
    Published {
        base,
        name,
        digest: Digest::Md5(hex),
    }
}

/// CIFAR-10 (Krizhevsky, 2009), binary version.
pub const CIFAR10: Published = Published {
    base: "https://www.cs.toronto.edu/~kriz",
    name: "cifar-10-binary.tar.gz",
    digest: Digest::Sha256("c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
};

/// CIFAR-100 (Krizhevsky, 2009), binary version.
pub const CIFAR100: Published = md5(
    CIFAR10.base,
    "cifar-100-binary.tar.gz",
    "03b5dce01913d631647c71ecec9e9cb8",
);

const MNIST_BASE: &str = "https://ossci-datasets.s3.amazonaws.com/mnist";
const FASHION_BASE: &str = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com";
const TRAIN_IMAGES: &str = "train-images-idx3-ubyte.gz";
const TRAIN_LABELS: &str = "train-labels-idx1-ubyte.gz";
const TEST_IMAGES: &str = "t10k-images-idx3-ubyte.gz";
const TEST_LABELS: &str = "t10k-labels-idx1-ubyte.gz";

/// MNIST (LeCun, Cortes, Burges).
pub const MNIST: [Published; 4] = [
    md5(MNIST_BASE, TRAIN_IMAGES, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    md5(MNIST_BASE, TRAIN_LABELS, "d53e105ee54ea40749a09fcbcd1e9432"),
    md5(MNIST_BASE, TEST_IMAGES, "9fb629c4189551a2d022fa330f9573f3"),
    md5(MNIST_BASE, TEST_LABELS, "ec29112dd5afa0611ce80d1b7f02629c"),
];

/// Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017).
pub const FASHION_MNIST: [Published; 4] = [
    md5(
        FASHION_BASE,
        TRAIN_IMAGES,
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    ),
    md5(
        FASHION_BASE,
        TRAIN_LABELS,
        "25c81989df183df01b3e8a0aad5dffbe",
    ),
    md5(
        FASHION_BASE,
        TEST_IMAGES,
        "bef4ecab320f06d8554ea6380940ec79",
    ),
    md5(
        FASHION_BASE,
        TEST_LABELS,
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
];

/// Why a file did not arrive. In one line: what, from where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// No server, or none that speaks HTTP.
    #[error(
        "cannot fetch {url}: {reason}; check the network and try again, or get the file in \
         another way and put it into {dir:?}"
    )]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What went wrong.
        reason: String,
        /// Where the file belongs.
        dir: PathBuf,
    },
    /// The server has no such file.
    #[error(
        "{url}: the server answered {status}; try again later, or get the file in another way \
         and put it into {dir:?}"
    )]
    Refused {
        /// What was asked for.
        url: String,
        /// The answer.
        status: StatusCode,
        /// Where the file belongs.
        dir: PathBuf,
    },
    /// The connection ended too early.
    #[error("{url} broke off after {have} bytes ({reason}): run it again, it goes on from there")]
    BrokenOff {
        /// What was asked for.
        url: String,
        /// Bytes on the disk.
        have: u64,
        /// What went wrong.
        reason: String,
    },
    /// More bytes than any published file has.
    #[error(
        "{url} sends more than {limit} bytes, so it is not the published file; try again later"
    )]
    Endless {
        /// What was asked for.
        url: String,
        /// How many bytes are allowed.
        limit: u64,
    },
    /// Whole, but another file.
    #[error(
        "{url} arrived with the digest {found}, not {expected}, and was removed: try again; if \
         this persists the server has another file"
    )]
    WrongDigest {
        /// What was asked for.
        url: String,
        /// Of what arrived.
        found: String,
        /// Of what was published.
        expected: &'static str,
    },
    /// The archive cannot be unpacked.
    #[error("{path:?} is not the published archive ({reason}): remove it and try again")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Two at once.
    #[error("{path:?} is being downloaded by another program: wait for it")]
    Busy {
        /// The unfinished file.
        path: PathBuf,
    },
    /// The disk is full, or the folder cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The user asked to stop; what has arrived is kept.
    #[error("the download was stopped; run it again, it goes on from there")]
    Stopped,
}

/// Called with the URL, the bytes that are there already and, if the server says it, how many there
/// will be, when a file begins to arrive; the bar that it returns is moved along.
pub type OnStart<'a> = &'a dyn Fn(&str, u64, Option<u64>) -> ProgressBar;

/// Fetches files.
pub struct Downloader<'a> {
    /// Fetch from below this URL instead of where the files were published.
    pub mirror: Option<String>,
    /// Shows the progress.
    pub on_start: OnStart<'a>,
    /// Set to stop soon.
    pub interrupt: &'a AtomicBool,
}

impl Downloader<'_> {
    /// Brings the binary version of CIFAR-10 into `dir`, unless it is there. `archive` is
    /// [`CIFAR10`]; it is removed when it has been unpacked.
    ///
    /// # Errors
    /// Any [`DownloadError`].
    pub fn cifar10(&self, archive: &Published, dir: &Path) -> Result<(), DownloadError> {
        self.archive(archive, &cifar::CIFAR10, dir)
    }

    /// The same for CIFAR-100, of which `archive` is [`CIFAR100`].
    ///
    /// # Errors
    /// Any [`DownloadError`].
    pub fn cifar100(&self, archive: &Published, dir: &Path) -> Result<(), DownloadError> {
        self.archive(archive, &cifar::CIFAR100, dir)
    }

    fn archive(&self, archive: &Published, set: &Set, dir: &Path) -> Result<(), DownloadError> {
        if set.is_complete(dir) {
            return Ok(());
        }
        let path = self.fetch(archive, dir)?;
        unpack(&path, set, dir)?;
        fs::remove_file(&path).map_err(|source| WriteError { path, source }.into())
    }

    /// Brings those of four IDX files into `dir` that are not there, under any of their names.
    /// `files` is [`MNIST`] or [`FASHION_MNIST`].
    ///
    /// # Errors
    /// Any [`DownloadError`].
    pub fn idx(&self, files: &[Published; 4], dir: &Path) -> Result<(), DownloadError> {
        for file in files {
            if idx::find(dir, file.name.trim_end_matches(".gz")).is_none() {
                self.fetch(file, dir)?;
            }
        }
        Ok(())
    }

    /// Brings one file into `dir`, which is made if need be, and returns its path. A file of that
    /// name is taken as it is; the rest of an earlier try is gone on with.
    ///
    /// # Errors
    /// Any [`DownloadError`] but `Archive`.
    pub fn fetch(&self, file: &Published, dir: &Path) -> Result<PathBuf, DownloadError> {
        let whole = dir.join(file.name);
        if whole.is_file() {
            return Ok(whole);
        }
        fs::create_dir_all(dir).map_err(|source| WriteError {
            path: dir.to_owned(),
            source,
        })?;
        let base = self.mirror.as_deref().unwrap_or(file.base);
        let url = format!("{}/{}", base.trim_end_matches('/'), file.name);
        let mut part = Part::open(dir.join(format!("{}.part", file.name)), file.digest)?;
        let resumed = self.transfer(&url, dir, &mut part)?;
        let mut found = part.digest();
        if found != file.digest.hex() && resumed {
            // The bad half may be the old one.
            part.clear()?;
            self.transfer(&url, dir, &mut part)?;
            found = part.digest();
        }
        if found != file.digest.hex() {
            part.remove()?;
            return Err(DownloadError::WrongDigest {
                url,
                found,
                expected: file.digest.hex(),
            });
        }
        part.finish(&whole)?;
        Ok(whole)
    }

    /// Appends what the file still lacks, or replaces it. True if what was there before is still
    /// in it: then a wrong digest says nothing against the server.
    fn transfer(&self, url: &str, dir: &Path, part: &mut Part) -> Result<bool, DownloadError> {
        let mut request = agent(url).get(url);
        if part.len > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", part.len));
        }
        let response = request.call().map_err(|e| DownloadError::Unreachable {
            url: url.into(),
            reason: reason(e),
            dir: dir.into(),
        })?;
        let resumes = match response.status() {
            StatusCode::OK => {
                part.clear()?;
                false
            }
            StatusCode::PARTIAL_CONTENT if part.len > 0 => {
                if range_start(&response) != Some(part.len) {
                    return Ok(true);
                }
                true
            }
            // Nothing lies beyond what is there: it is whole, or another file.
            StatusCode::RANGE_NOT_SATISFIABLE if part.len > 0 => return Ok(true),
            status => {
                return Err(DownloadError::Refused {
                    url: url.into(),
                    status,
                    dir: dir.into(),
                });
            }
        };
        let total = response
            .body()
            .content_length()
            .map(|n| part.len.saturating_add(n));
        if total > Some(MAX_FILE) {
            return Err(endless(url));
        }
        let bar = (self.on_start)(url, part.len, total);
        let result = self.receive(url, response.into_body().into_reader(), part, &bar);
        bar.finish_and_clear();
        result.map(|()| resumes)
    }

    fn receive(
        &self,
        url: &str,
        mut body: impl Read,
        part: &mut Part,
        bar: &ProgressBar,
    ) -> Result<(), DownloadError> {
        let mut chunk = vec![0; CHUNK];
        loop {
            if self.interrupt.load(Ordering::Relaxed) {
                return Err(DownloadError::Stopped);
            }
            let n = body
                .read(&mut chunk)
                .map_err(|e| DownloadError::BrokenOff {
                    url: url.into(),
                    have: part.len,
                    reason: reason(e),
                })?;
            if n == 0 {
                return Ok(());
            }
            part.append(&chunk[..n])?;
            if part.len > MAX_FILE {
                part.remove()?;
                return Err(endless(url));
            }
            bar.set_position(part.len);
            bar.set_message(HumanBytes(part.len).to_string());
        }
    }
}

/// The client for `url`. The digests guard what it brings, so no answer is believed.
fn agent(url: &str) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("autoassist/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE));
    // A proxy's loopback is not ours.
    let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
    match local.iter().any(|host| url.starts_with(host)) {
        true => config.proxy(None).build().into(),
        false => config.build().into(),
    }
}

fn endless(url: &str) -> DownloadError {
    DownloadError::Endless {
        url: url.into(),
        limit: MAX_FILE,
    }
}

/// The first byte that a partial answer holds: `Content-Range: bytes FIRST-LAST/TOTAL`.
fn range_start<B>(response: &Response<B>) -> Option<u64> {
    let range = response
        .headers()
        .get(header::CONTENT_RANGE)?
        .to_str()
        .ok()?;
    let (first, _) = range.strip_prefix("bytes ")?.split_once('-')?;
    first.trim().parse().ok()
}

/// What went wrong, in one line.
fn reason(error: impl Into<ureq::Error>) -> String {
    let text = match error.into() {
        ureq::Error::Timeout(_) => format!("no answer for {} seconds", PATIENCE.as_secs()),
        ureq::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Unpacks the files of a set and nothing else into their folder in `dir`, each as a whole.
fn unpack(archive: &Path, set: &Set, dir: &Path) -> Result<(), DownloadError> {
    let broken = |reason: String| DownloadError::Archive {
        path: archive.to_owned(),
        reason,
    };
    let failed = |error: io::Error| broken(reason(error));
    let folder = dir.join(set.folder);
    fs::create_dir_all(&folder).map_err(|source| WriteError {
        path: folder.clone(),
        source,
    })?;
    let file = File::open(archive).map_err(failed)?;
    let mut tar = tar::Archive::new(GzDecoder::new(io::BufReader::new(file)));
    for entry in tar.entries().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path().map_err(failed)?.into_owned();
        let mut known = [set.names].into_iter().chain(set.batches.iter().copied());
        let is = |name: &&str| path == Path::new(set.folder).join(name);
        let Some(name) = known.find(is) else {
            continue;
        };
        let mut bytes = Vec::new();
        let read = entry.take(MAX_MEMBER + 1).read_to_end(&mut bytes);
        read.map_err(failed)?;
        if bytes.len() as u64 > MAX_MEMBER {
            return Err(broken(format!("{name} is too large")));
        }
        files::write(&folder.join(name), &bytes)?;
    }
    match set.is_complete(dir) {
        true => Ok(()),
        false => Err(broken("batches are missing in it".into())),
    }
}
