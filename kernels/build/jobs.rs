//! Part of `build.rs`: runs compilers in parallel, and only where something changed.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::SystemTime;

/// One run of a compiler.
pub struct Job {
    source: PathBuf,
    /// What it makes.
    pub output: PathBuf,
    command: Command,
    /// The compiler's version, and what else counts and is not in the command.
    identity: String,
}

impl Job {
    /// `command` lacks what names the files.
    pub fn new(source: &Path, output: PathBuf, mut command: Command, identity: &str) -> Job {
        let depfile = output.with_extension("d");
        command.args(["-MMD".as_ref(), "-MF".as_ref(), depfile.as_os_str()]);
        command.args(["-o".as_ref(), output.as_os_str(), source.as_os_str()]);
        Job {
            source: source.to_path_buf(),
            output,
            command,
            identity: identity.into(),
        }
    }

    /// The source and the project's own headers, as the last run noted them. Toolkits and system
    /// headers have absolute paths; the compiler's version stands for them.
    fn inputs(&self) -> io::Result<Vec<PathBuf>> {
        let text = fs::read_to_string(self.output.with_extension("d"))?;
        let (_, listed) = text.split_once(": ").unwrap_or_default();
        let listed = listed.replace("\\\n", " ");
        let own = listed.split_whitespace().map(PathBuf::from);
        let own = own.filter(|path| path.is_relative() && *path != self.source);
        Ok([self.source.clone()].into_iter().chain(own).collect())
    }

    /// Of everything that decides what comes out.
    fn fingerprint(&self) -> io::Result<String> {
        let mut hasher = DefaultHasher::new();
        self.command.get_program().hash(&mut hasher);
        self.command
            .get_args()
            .for_each(|arg| arg.hash(&mut hasher));
        self.identity.hash(&mut hasher);
        for input in self.inputs()? {
            (fs::read(&input)?, input).hash(&mut hasher);
        }
        Ok(format!("{:016x}", hasher.finish()))
    }

    fn side(&self, extension: &str) -> PathBuf {
        self.output.with_extension(extension)
    }

    /// What the compiler said, now or when it last had to run.
    fn run(&self) -> Result<String, String> {
        let io = |e: io::Error| format!("{}: {e}", self.output.display());
        let (stamp, log) = (self.side("stamp"), self.side("log"));
        let known = fs::read_to_string(&stamp).ok();
        if known.is_some() && known == self.fingerprint().ok() && self.output.exists() {
            return fs::read_to_string(log).map_err(io);
        }
        if known.is_some() {
            fs::remove_file(&stamp).map_err(io)?;
        }
        let started = SystemTime::now();
        let mut command = Command::new(self.command.get_program());
        command.args(self.command.get_args());
        let set = self.command.get_envs().filter_map(|(k, v)| Some((k, v?)));
        let output = command.envs(set).output().map_err(io)?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        if !output.status.success() {
            let source = self.source.display();
            return Err(format!("{source} does not compile:\n{text}"));
        }
        fs::write(log, &text).map_err(io)?;
        // A file that was edited meanwhile may or may not have been seen.
        let edited = |path: &PathBuf| {
            let time = fs::metadata(path).and_then(|meta| meta.modified());
            time.map_or(true, |time| time >= started)
        };
        if !self.inputs().map_err(io)?.iter().any(edited) {
            fs::write(stamp, self.fingerprint().map_err(io)?).map_err(io)?;
        }
        Ok(text)
    }
}

/// Runs the jobs on the available cores; their messages, in order.
pub fn compile_all(jobs: &[Job]) -> Result<Vec<String>, String> {
    let cores = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok());
    let queue = Mutex::new(jobs.iter().enumerate());
    let next = || queue.lock().expect("no holder panics").next();
    let worker = || {
        let one = |(i, job): (usize, &Job)| (i, job.run());
        std::iter::from_fn(|| next().map(one)).collect::<Vec<_>>()
    };
    let mut results: Vec<(usize, Result<String, String>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..cores.unwrap_or(1))
            .map(|_| scope.spawn(worker))
            .collect();
        let done = workers
            .into_iter()
            .flat_map(|w| w.join().expect("no job panics"));
        done.collect()
    });
    results.sort_by_key(|(i, _)| *i);
    let failed = results.iter().filter_map(|(_, r)| r.as_ref().err());
    let failed: Vec<&str> = failed.map(String::as_str).collect();
    if !failed.is_empty() {
        return Err(failed.join("\n"));
    }
    Ok(results.into_iter().filter_map(|(_, r)| r.ok()).collect())
}

/// What a compiler says to `--version`.
pub fn version_of(mut command: Command) -> Option<String> {
    let output = command.arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}
