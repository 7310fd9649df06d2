//! The folders of runs, and who owns them.

use super::checkpoint::Checkpoint;
use super::job::Job;
use super::{Arm, ConfigError, Console, TrainError, files_error};
use crate::files::{self, WriteError};
use clap::ValueEnum;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The file that is locked while a process uses a folder, and that names the process.
const LOCK: &str = "run.lock";
/// Times that the folders above a new one are made again, if somebody takes them away.
const ATTEMPTS: usize = 3;
/// How often, and after how long each time, a lock is looked at again that names nobody yet: its owner
/// takes it first and writes its name then.
const LOOKS: u32 = 100;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// The folder of a run or of a comparison, which this process has for itself: the lock is the system's,
/// so that it ends with the process, however that ends. Dropped, a folder without any checkpoint
/// holds no run, and what was put into it is taken out again.
pub struct RunFolder(Arc<Owned>);

/// All folders that are owned, for a process that ends where nothing is dropped.
static OWNED: Mutex<Vec<Arc<Owned>>> = Mutex::new(Vec::new());

struct Owned {
    path: PathBuf,
    /// `None` where nobody may write: what cannot change needs no owner.
    lock: Option<File>,
    /// The folders made for it, itself the last.
    made: Vec<PathBuf>,
    /// What was in it before.
    before: HashSet<OsString>,
}

impl RunFolder {
    /// Makes the folder of a new run: `out`, or `runs/PROGRAM-TIME`, which no other run has.
    ///
    /// # Errors
    /// A place that holds a run, is in use, or cannot be written.
    pub fn create(
        out: Option<&Path>,
        program: &str,
        console: Console,
    ) -> Result<RunFolder, TrainError> {
        let Some(out) = out else {
            let time = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S");
            let first = format!("runs/{program}-{time}");
            let more = (2..).map(|n| format!("{first}-{n}"));
            for path in std::iter::once(first.clone()).chain(more) {
                let path = PathBuf::from(path);
                let made = make(&path).map_err(TrainError::unusable)?;
                if made.last() == Some(&path) {
                    return RunFolder::own(path, made, console);
                }
            }
            unreachable!("numbers do not end");
        };
        check_free(Some(out))?;
        let made = make(out).map_err(TrainError::unusable)?;
        let folder = RunFolder::own(out.to_path_buf(), made, console)?;
        // Another may have come and gone in the meantime.
        check_free(Some(out))?;
        Ok(folder)
    }

    /// Takes the folder of a run to go on with.
    ///
    /// # Errors
    /// A folder without a run, or one that is in use.
    pub fn open(dir: &Path, console: Console) -> Result<RunFolder, TrainError> {
        if !dir.join("config.toml").is_file() {
            let remedy = match dir.join("..").join("config.toml").is_file() && dir.is_file() {
                true => "it is a file: give the folder that it is in",
                false => "no run is there: give the folder that --out named, or one in runs/",
            };
            let refusal = format!("--resume {}: {remedy}", dir.display());
            return Err(ConfigError::Together(refusal).into());
        }
        RunFolder::own(dir.to_path_buf(), Vec::new(), console)
    }

    /// Makes or takes the folder of one run of a comparison, whose own folder is owned already.
    ///
    /// # Errors
    /// One that is in use or cannot be written.
    pub(super) fn arm(path: &Path, console: Console) -> Result<RunFolder, TrainError> {
        let made = make(path).map_err(TrainError::failed)?;
        RunFolder::lock(path.to_path_buf(), made, console)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    fn own(path: PathBuf, made: Vec<PathBuf>, console: Console) -> Result<RunFolder, TrainError> {
        // Who owns a comparison owns the folders of its runs.
        let whole = path.canonicalize().ok();
        let above = whole.as_deref().and_then(Path::parent);
        match above.and_then(owner) {
            None => RunFolder::lock(path, made, console),
            Some(owner) => {
                remove_empty(&made);
                Err(in_use(&path, &owner).into())
            }
        }
    }

    fn lock(path: PathBuf, made: Vec<PathBuf>, console: Console) -> Result<RunFolder, TrainError> {
        match lock(&path, console, || std::thread::sleep(BETWEEN_LOOKS)) {
            Ok(lock) => {
                if holds_run(&path) {
                    clear_asides(&path);
                }
                let owned = Arc::new(Owned {
                    before: names(&path).collect(),
                    path,
                    lock,
                    made,
                });
                all_owned().push(owned.clone());
                Ok(RunFolder(owned))
            }
            Err(e) => {
                remove_empty(&made);
                Err(e)
            }
        }
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        all_owned().retain(|owned| !Arc::ptr_eq(owned, &self.0));
        self.0.give_up();
    }
}

fn all_owned() -> MutexGuard<'static, Vec<Arc<Owned>>> {
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives up all folders before the process ends without dropping them, unless somebody else is about to
/// do it: then there is no time to wait.
pub fn give_up_all() {
    if let Ok(mut all) = OWNED.try_lock() {
        all.drain(..).rev().for_each(|owned| owned.give_up());
    }
}

impl Owned {
    fn give_up(&self) {
        if !holds_run(&self.path) {
            let new = names(&self.path).filter(|name| !self.before.contains(name));
            for name in new.filter(|name| is_of_a_run(&name.to_string_lossy())) {
                let path = self.path.join(name);
                let _ = match path.is_dir() {
                    true => fs::remove_dir_all(&path),
                    false => fs::remove_file(&path),
                };
            }
        }
        // Still locked: nobody can have taken the folder over.
        let path = self.path.join(LOCK);
        if self.lock.as_ref().is_some_and(|lock| is_at(lock, &path)) {
            let _ = fs::remove_file(path);
        }
        remove_empty(&self.made);
    }
}

/// Writes the settings into the job's folder, and what a model needs beside its weights.
///
/// # Errors
/// A place that cannot be written.
pub fn write_settings(job: &Job) -> Result<(), WriteError> {
    let settings = toml::to_string(&job.settings()).expect("settings are plain values");
    files::write(&job.dir.join("config.toml"), settings.as_bytes())?;
    job.task.write_into(&job.dir)
}

/// Fails if `out` holds a run already.
///
/// # Errors
/// [`ConfigError::Together`].
pub fn check_free(out: Option<&Path>) -> Result<(), ConfigError> {
    match out.filter(|dir| holds_run(dir)) {
        None => Ok(()),
        Some(dir) => Err(ConfigError::Together(format!(
            "--out {0} already holds a run; go on with it by --resume {0}, or choose another folder",
            dir.display()
        ))),
    }
}

/// Whether a folder holds a run, or a comparison's runs, that got as far as its first checkpoint.
fn holds_run(dir: &Path) -> bool {
    let inside = names(dir).map(|name| dir.join(name));
    let mut folders = inside.chain([dir.to_path_buf()]);
    folders.any(|folder| Checkpoint::path(&folder).exists())
}

/// Whether that is how a run calls what it writes before its first checkpoint.
fn is_of_a_run(name: &str) -> bool {
    let arms = Arm::value_variants().iter();
    [
        "config.toml",
        "data.json",
        "metrics.jsonl",
        "tokenizer.json",
    ]
    .contains(&name)
        || name.starts_with("events.out.tfevents.")
        || name.starts_with(files::ASIDE)
        || arms.map(|arm| arm.name()).any(|arm| {
            let seed = name.strip_prefix(arm).and_then(|n| n.strip_prefix("-seed"));
            seed.is_some_and(|seed| seed.parse::<u64>().is_ok())
        })
}

fn names(dir: &Path) -> impl Iterator<Item = OsString> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name())
}

/// Removes what a process that was killed has left half written.
fn clear_asides(dir: &Path) {
    for name in names(dir).filter(|name| name.to_string_lossy().starts_with(files::ASIDE)) {
        let _ = fs::remove_file(dir.join(name));
    }
}

/// Makes a folder and those above it. Returns those that were not there, the outermost first.
fn make(dir: &Path) -> Result<Vec<PathBuf>, WriteError> {
    let mut all: Vec<&Path> = dir.ancestors().filter(|p| *p != Path::new("")).collect();
    all.reverse();
    let mut made = Vec::new();
    let mut result = Ok(());
    // A start that fails takes away the empty folders that it made, of which this may need one.
    for _ in 0..ATTEMPTS {
        result = all
            .iter()
            .try_for_each(|folder| match fs::create_dir(folder) {
                Ok(()) => {
                    made.push(folder.to_path_buf());
                    Ok(())
                }
                Err(_) if folder.is_dir() => Ok(()),
                Err(e) => Err(e),
            });
        if !matches!(&result, Err(e) if e.kind() == ErrorKind::NotFound) {
            break;
        }
    }
    match result {
        Ok(()) => Ok(made),
        Err(source) => {
            remove_empty(&made);
            let path = dir.to_path_buf();
            Err(WriteError { path, source })
        }
    }
}

/// Removes folders, the innermost first, as far as nobody has put anything into them.
fn remove_empty(made: &[PathBuf]) {
    for dir in made.iter().rev() {
        let _ = fs::remove_dir(dir);
    }
}

/// Locks a folder and leaves the name of this process in it. `pause` is called between two looks at a
/// lock that names nobody.
fn lock(dir: &Path, console: Console, mut pause: impl FnMut()) -> Result<Option<File>, TrainError> {
    let path = dir.join(LOCK);
    let unusable = |source: io::Error| {
        let path = path.clone();
        TrainError::unusable(WriteError { path, source })
    };
    let mut looks = 0;
    loop {
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let mut file = match open {
            Ok(file) => file,
            Err(e)
                if [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem]
                    .contains(&e.kind()) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(unusable(e)),
        };
        match file.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => {
                let owner = fs::read_to_string(&path).unwrap_or_default();
                if !owner.is_empty() || looks == LOOKS {
                    return Err(in_use(dir, &owner).into());
                }
                looks += 1;
                pause();
                continue;
            }
            Err(TryLockError::Error(e)) => console.note(format_args!(
                "{}: this file system has no locks ({e}); see to it that no other run uses the folder",
                dir.display()
            )),
        }
        // Its last owner may have removed it since it was opened.
        if is_at(&file, &path) {
            let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let owner = format!("pid {} on {}\n", std::process::id(), host.trim());
            let named = file
                .set_len(0)
                .and_then(|()| file.write_all(owner.as_bytes()));
            named.map_err(unusable)?;
            return Ok(Some(file));
        }
    }
}

/// Whether that open file is still the one of this name.
fn is_at(file: &File, path: &Path) -> bool {
    let ids = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let open = file.metadata().map(ids);
    matches!((open, fs::metadata(path).map(ids)), (Ok(a), Ok(b)) if a == b)
}

/// Which other process owns a folder, if one does.
fn owner(dir: &Path) -> Option<String> {
    let path = dir.join(LOCK);
    let file = File::open(&path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Some(fs::read_to_string(&path).unwrap_or_default()),
        _ => None,
    }
}

fn in_use(dir: &Path, owner: &str) -> ConfigError {
    let owner = match owner.trim() {
        "" => "another run",
        owner => owner,
    };
    ConfigError::InUse {
        dir: dir.to_path_buf(),
        owner: owner.into(),
    }
}

/// Waits until the process that owns a folder has given it up, however that ended.
///
/// # Errors
/// A lock that cannot be waited for.
pub fn wait_for(dir: &Path) -> Result<(), TrainError> {
    let path = dir.join(LOCK);
    match File::open(&path) {
        Ok(file) => file.lock_shared().map_err(|e| files_error(&path, e)),
        // Given up already.
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(files_error(&path, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Console = Console { quiet: true };

    #[test]
    fn a_folder_has_one_owner_at_a_time_and_names_it() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("a/b");
        let first = RunFolder::create(Some(&dir), "p", QUIET).unwrap();
        let refused = |dir: &Path| match RunFolder::create(Some(dir), "p", QUIET) {
            Ok(_) => panic!("two owners"),
            Err(e) => e.to_string(),
        };
        let owner = format!("pid {} on ", std::process::id());
        assert!(refused(&dir).contains(&owner), "{}", refused(&dir));
        assert!(
            fs::read_to_string(dir.join(LOCK))
                .unwrap()
                .starts_with(&owner)
        );
        // What lies in it is its owner's, too.
        assert!(refused(&dir.join("memory-seed0")).contains(&owner));
        assert!(!dir.join("memory-seed0").exists());
        drop(first);
        assert!(!temp.path().join("a").exists(), "made for nothing");
    }

    #[test]
    fn an_owner_that_has_not_written_its_name_yet_is_waited_for() {
        let temp = tempfile::tempdir().unwrap();
        let held = || {
            let lock = File::create(temp.path().join(LOCK)).unwrap();
            lock.lock().unwrap();
            lock
        };
        let mut owner = held();
        let named = || owner.write_all(b"pid 7 on here\n").unwrap();
        let refused = lock(temp.path(), QUIET, named).unwrap_err().to_string();
        assert!(refused.contains("in use by pid 7 on here:"), "{refused}");
        drop(owner);
        // One that has given up in the meantime is none, and one that is never named is still one.
        let mut owner = Some(held());
        assert!(lock(temp.path(), QUIET, || drop(owner.take())).is_ok());
        let owner = held();
        let refused = lock(temp.path(), QUIET, || ()).unwrap_err().to_string();
        assert!(refused.contains("in use by another run:"), "{refused}");
        drop(owner);
    }

    #[test]
    fn what_was_there_before_stays_and_so_does_a_run() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        fs::write(dir.join("notes"), "").unwrap();
        let begin = || {
            let folder = RunFolder::create(Some(dir), "p", QUIET).unwrap();
            fs::write(dir.join("config.toml"), "").unwrap();
            fs::create_dir(dir.join("full-seed3")).unwrap();
            fs::write(dir.join("somebody's"), "").unwrap();
            folder
        };
        let all = || {
            let mut all: Vec<_> = names(dir).collect();
            all.sort();
            all
        };
        drop(begin());
        assert_eq!(all(), ["notes", "somebody's"]);
        let folder = begin();
        fs::write(Checkpoint::path(&dir.join("full-seed3")), "").unwrap();
        drop(folder);
        assert_eq!(all(), ["config.toml", "full-seed3", "notes", "somebody's"]);
        assert!(RunFolder::create(Some(dir), "p", QUIET).is_err());
        // A killed process's leavings do not pile up.
        fs::write(dir.join(".aside-x"), "").unwrap();
        drop(RunFolder::open(dir, QUIET).unwrap());
        assert_eq!(all(), ["config.toml", "full-seed3", "notes", "somebody's"]);
    }
}
