//! Programs with the stand-in for `libcuda.so` (`tests/standin/`) in its place.

use autoassist::backend::gpu::catalog::TOOLKIT;
use rayon::prelude::*;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// GPUs of each kind that differs for us, as `STANDIN_GPU` calls them.
#[allow(dead_code)] // not by every test
pub const GPUS: [&str; 5] = ["a100", "4090", "h100", "b200", "5090"];

/// Builds it, unless cargo has done so already. The same folder and profile as this test's.
fn build() -> Result<PathBuf, String> {
    let exe = std::env::current_exe().map_err(|e| e.to_string())?;
    let no_folder = || format!("{} is in no folder of cargo's", exe.display());
    let profile = exe.ancestors().nth(2).ok_or_else(no_folder)?;
    let name = profile.file_name().and_then(OsStr::to_str);
    let target = profile.parent().ok_or_else(no_folder)?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--locked", "--example", "standin"])
        .arg("--profile")
        .arg(match name {
            Some("debug") => "dev",
            Some(other) => other,
            None => return Err(no_folder()),
        })
        .arg("--target-dir")
        .arg(target);
    // What cargo tells a test about itself would have crates that look at it built anew.
    for (key, _) in std::env::vars_os() {
        let own = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "OUT_DIR",
            "AUTOASSIST_REVISION",
        ];
        if own.iter().any(|own| key.to_string_lossy().starts_with(own)) {
            cargo.env_remove(key);
        }
    }
    let output = cargo.output().map_err(|e| format!("cargo: {e}"))?;
    match output.status.success() {
        true => Ok(profile.join("examples/libstandin.so")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Whether there is anything to run behind it, and why not.
pub fn absent() -> Option<&'static str> {
    match TOOLKIT {
        _ if cfg!(not(simt)) => Some("the stand-in runs kernels on the SIMT executor"),
        None => Some("the stand-in loads what nvcc has compiled"),
        Some(_) => None,
    }
}

/// A folder with a `libcuda.so`, a `libnccl.so.2`, and the log of what was asked of it.
pub struct StandIn {
    folder: tempfile::TempDir,
}

impl StandIn {
    pub fn new() -> StandIn {
        static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let built = BUILT.get_or_init(build).as_ref();
        let library = built.unwrap_or_else(|e| panic!("the stand-in cannot be built: {e}"));
        let folder = tempfile::tempdir().expect("a temporary folder");
        // NCCL's functions are in it, too.
        for name in ["libcuda.so", "libnccl.so.2"] {
            std::os::unix::fs::symlink(library, folder.path().join(name)).expect("a link");
        }
        StandIn { folder }
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// A program that finds this driver, and takes it for a GPU's.
    pub fn command(&self, program: impl AsRef<Path>, gpu: &str) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env("LD_LIBRARY_PATH", self.folder.path())
            .env("STANDIN_GPU", gpu)
            .env("STANDIN_LOG", self.log_file());
        command
    }

    /// What there is in the log: findings and totals of all programs until now.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The last program's totals.
    ///
    /// # Errors
    /// The log where something was found, or nothing was said at the end.
    #[allow(dead_code)] // not by every test
    pub fn totals(&self) -> Result<String, String> {
        let log = self.log();
        let last = log.lines().last().unwrap_or_default().to_string();
        match last.ends_with(" 0 findings, 0 leaks") {
            true => Ok(last),
            false => Err(log),
        }
    }
}

/// A test with a `main` of its own runs itself again, with nothing but `cuda`, as each of [`GPUS`].
/// Returns how often it failed, having said so.
#[allow(dead_code)] // not by every test
pub fn again() -> usize {
    if let Some(why) = absent() {
        println!("stand-in for cuda: skipped: {why}");
        return 0;
    }
    let exe = std::env::current_exe().expect("a program");
    let run = |gpu: &str| {
        let standin = StandIn::new();
        let mut own = standin.command(&exe, gpu);
        own.env("AUTOASSIST_TEST_DEVICES", "cuda");
        let output = own.env("REQUIRE_CUDA", "1").output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let result = text.lines().find(|line| line.starts_with("test result:"));
        let totals = standin.totals();
        let passed = output.status.success() && totals.is_ok();
        let verdict = if passed { "ok" } else { "FAILED" };
        let more = match totals {
            Ok(totals) if passed => format!("     ({}; {totals})", result.unwrap_or_default()),
            totals => format!(
                "{text}{}{}",
                String::from_utf8_lossy(&output.stderr),
                totals.unwrap_or_else(|log| log)
            ),
        };
        println!("test cuda as {gpu} ... {verdict}\n{more}");
        passed
    };
    // Each keeps one thread busy.
    GPUS.par_iter().filter(|gpu| !run(gpu)).count()
}
