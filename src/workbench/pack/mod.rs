//! A folder with everything that shows what the kernels do on a GPU, for a machine that has one
//! and neither Rust nor a network.

use crate::backend::NVCC_REMEDY;
use crate::backend::gpu::catalog::{TOOLKIT, TOOLKIT_ARCHS};
use serde::Deserialize;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The program that runs the pack on the other machine.
const RUN: &str = include_str!("run.sh");
/// All programs.
const ARCHIVE: &str = "programs.tar.xz";
/// A window that reaches from a program back to the same bytes of the one before: all embed the
/// same kernels and most of the same library.
const XZ: [&str; 1] = ["--lzma2=preset=6,dict=64MiB"];
/// Lists a pack's files; also tells a pack from any other folder.
const MANIFEST: &str = "pack.txt";
/// What fits through a mail or a chat.
const LIMIT: u64 = 30 << 20;

/// No pack could be made.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Not ours to overwrite.
    #[error("{}: holds something else than an earlier pack; choose a new folder", .0.display())]
    Occupied(PathBuf),
    /// The program was moved away from its sources.
    #[error(
        "no sources in {}; run `cargo run --release --bin kernels -- pack DIR` in a checkout",
        .0.display()
    )]
    NoSources(PathBuf),
    /// Not one that nvcc has.
    #[error("--arch {arch}: the kernels can be compiled for {}", TOOLKIT_ARCHS.join(", "))]
    Arch {
        /// What was asked for.
        arch: String,
    },
    /// There would be nothing to run on a GPU.
    #[error("this build has no CUDA kernels to pack; {NVCC_REMEDY}")]
    NoKernels,
    /// Cargo has said why.
    #[error("`cargo build` failed ({0})")]
    Build(String),
    /// A program could not be started.
    #[error("cannot run {program}: {source}; {remedy}")]
    Start {
        /// Its name.
        program: &'static str,
        /// What the system said.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A program was started and failed.
    #[error("{program} failed: {reason}")]
    Tool {
        /// Its name.
        program: &'static str,
        /// What it said.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The pack is there, but too big to be sent.
    #[error("{} MiB, above the limit of {} MiB; the biggest: {biggest}", size >> 20, LIMIT >> 20)]
    TooBig {
        /// Bytes of all files.
        size: u64,
        /// The biggest files with their sizes.
        biggest: String,
    },
}

impl PackError {
    /// What the program ends with: 2 for unusable arguments, 1 for a failure.
    pub fn exit_code(&self) -> u8 {
        match self {
            PackError::Occupied(_) | PackError::Arch { .. } => 2,
            _ => 1,
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PackError {
    let path = path.to_path_buf();
    |source| PackError::File { path, source }
}

/// Builds tests, benches and programs and puts them with the fixtures and `run.sh` into `dir`,
/// which is new, empty or an earlier pack. The programs are of cargo's `profile`, and have code for
/// `archs`, or, where none are named, for those of any build. Returns the pack's size in bytes.
///
/// # Errors
/// [`PackError`], before anything in `dir` is touched unless writing to it fails.
pub fn pack(dir: &Path, profile: &str, archs: &[String]) -> Result<u64, PackError> {
    check_folder(dir)?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !sources.join("Cargo.toml").is_file() {
        return Err(PackError::NoSources(sources.into()));
    }
    if TOOLKIT.is_none() {
        return Err(PackError::NoKernels);
    }
    let known = |arch: &&String| TOOLKIT_ARCHS.contains(&arch.as_str());
    if let Some(arch) = archs.iter().find(|arch| !known(arch)) {
        return Err(PackError::Arch { arch: arch.clone() });
    }
    let mut programs = build(sources, profile, archs)?;
    let made = tempfile::tempdir().map_err(at(&std::env::temp_dir()))?;
    let kernels = programs.iter().find(|(inside, _)| inside == "bin/kernels");
    if let Some((_, kernels)) = kernels.filter(|_| cfg!(simt)) {
        programs.extend(looked_at(kernels, made.path())?);
    }
    // First, so that a pack that was cut short can be made again.
    let manifest = dir.join(MANIFEST);
    let head = format!("autoassist {}: bash run.sh\n", env!("CARGO_PKG_VERSION"));
    fs::create_dir_all(dir).map_err(at(dir))?;
    fs::write(&manifest, &head).map_err(at(&manifest))?;
    // An earlier pack's files must not be taken for this one's.
    for folder in ["bin", "cache", "tests"].map(|name| dir.join(name)) {
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(at(&folder))?;
        }
    }
    let from = sources.join("tests/fixtures");
    let mut fixtures = Vec::new();
    for entry in fs::read_dir(&from).map_err(at(&from))? {
        fixtures.push(entry.map_err(at(&from))?.path());
    }
    fixtures.sort();
    let archive = dir.join(ARCHIVE);
    write_archive(&programs, &fixtures, &archive)?;
    let run = dir.join("run.sh");
    fs::write(&run, RUN).map_err(at(&run))?;
    let mut sizes = Vec::new();
    for path in &[archive, run] {
        let size = fs::metadata(path).map_err(at(path))?.len();
        let name = path.strip_prefix(dir).unwrap_or(path);
        sizes.push((size, name.display().to_string()));
    }
    sizes.sort_by(|a, b| b.cmp(a));
    let lines: Vec<String> = sizes
        .iter()
        .map(|(n, name)| format!("{n:>9} {name}\n"))
        .collect();
    fs::write(&manifest, head + &lines.concat()).map_err(at(&manifest))?;
    check_size(&sizes)
}

fn check_folder(dir: &Path) -> Result<(), PackError> {
    let occupied = || Err(PackError::Occupied(dir.into()));
    match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => occupied(),
        Ok(mut entries) => match entries.next().is_some() && !dir.join(MANIFEST).is_file() {
            true => occupied(),
            false => Ok(()),
        },
    }
}

/// Total of sizes that are in descending order.
fn check_size(sizes: &[(u64, String)]) -> Result<u64, PackError> {
    let size = sizes.iter().map(|(n, _)| n).sum();
    if size <= LIMIT {
        return Ok(size);
    }
    let mib = |n: u64| n as f64 / f64::from(1 << 20);
    let biggest = sizes.iter().take(5);
    let biggest = biggest.map(|(n, name)| format!("{name} ({:.1} MiB)", mib(*n)));
    Err(PackError::TooBig {
        size,
        biggest: biggest.collect::<Vec<_>>().join(", "),
    })
}

/// One line of cargo's JSON.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

/// Builds everything; places in the archive, and where cargo put it.
fn build(
    sources: &Path,
    profile: &str,
    archs: &[String],
) -> Result<Vec<(String, PathBuf)>, PackError> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--message-format=json-render-diagnostics"]);
    command.args(["--profile", profile, "--bins", "--bench", "*"]);
    command.args(["--test", "oracle", "--test", "gpu"]);
    // What a cargo that runs this program has told it of itself would have crates built anew that
    // look at it.
    for (key, _) in std::env::vars_os() {
        let of_cargo = ["CARGO_PKG_", "CARGO_MANIFEST_", "AUTOASSIST_REVISION"];
        if of_cargo
            .iter()
            .any(|own| key.to_string_lossy().starts_with(own))
        {
            command.env_remove(key);
        }
    }
    command.env_remove("OUT_DIR");
    if !archs.is_empty() {
        command.env("CUDA_ARCHS", archs.join(";"));
    }
    let output = command
        .current_dir(sources)
        .stderr(Stdio::inherit())
        .output();
    let output = output.map_err(not_started("cargo", "install Rust"))?;
    if !output.status.success() {
        return Err(PackError::Build(output.status.to_string()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let programs = messages.filter_map(|message: Message| {
        let (path, target) = (message.executable?, message.target?);
        let prefix = match target.kind.first()?.as_str() {
            "bin" => "",
            "test" => "test-",
            "bench" => "bench-",
            _ => return None,
        };
        Some((format!("bin/{prefix}{}", target.name), path))
    });
    Ok(programs.collect())
}

fn not_started(program: &'static str, remedy: &'static str) -> impl FnOnce(io::Error) -> PackError {
    move |source| PackError::Start {
        program,
        source,
        remedy,
    }
}

/// What a tool has to say of its failure, if it failed.
fn ended(program: &'static str, output: &Output) -> Result<(), PackError> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(PackError::Tool {
        program,
        reason: said.trim().replace('\n', "; "),
    })
}

/// The kernels that ladders profile, compiled by the `kernels` that is packed, for its own: where there
/// is no compiler, it finds them in their place in the archive.
fn looked_at(kernels: &Path, folder: &Path) -> Result<Vec<(String, PathBuf)>, PackError> {
    // A command that has all of them compiled, of a text without tables.
    let text = folder.join("none.md");
    fs::write(&text, "").map_err(at(&text))?;
    let mut command = Command::new(kernels);
    command.args(["tables".as_ref(), text.as_os_str()]);
    command.env("XDG_CACHE_HOME", folder).current_dir(folder);
    ended("kernels", &command.output().map_err(at(kernels))?)?;
    let made = folder.join("autoassist/kernels");
    let mut libraries = Vec::new();
    for entry in fs::read_dir(&made).map_err(at(&made))? {
        let path = entry.map_err(at(&made))?.path();
        if path.extension().is_some_and(|extension| extension == "so") {
            let inside = path.strip_prefix(folder).unwrap_or(&path);
            libraries.push((format!("cache/{}", inside.display()), path.clone()));
        }
    }
    Ok(libraries)
}

/// Stripped code at its places, and fixtures as `tests/fixtures/NAME`, in one compressed archive.
fn write_archive(
    programs: &[(String, PathBuf)],
    fixtures: &[PathBuf],
    to: &Path,
) -> Result<(), PackError> {
    let folder = tempfile::tempdir().map_err(at(&std::env::temp_dir()))?;
    let file = File::create(to).map_err(at(to))?;
    let xz = Command::new("xz")
        .args(XZ)
        .stdin(Stdio::piped())
        .stdout(file)
        .stderr(Stdio::piped())
        .spawn();
    let mut xz = xz.map_err(not_started("xz", "install xz-utils"))?;
    let mut archive = tar::Builder::new(xz.stdin.take().expect("it is piped"));
    archive.mode(tar::HeaderMode::Deterministic);
    let stripped = folder.path().join("stripped");
    let mut add = |(inside, built): &(String, PathBuf)| {
        let strip = Command::new("strip")
            .arg("-o")
            .args([&stripped, built])
            .output();
        ended(
            "strip",
            &strip.map_err(not_started("strip", "install binutils"))?,
        )?;
        let added = archive.append_path_with_name(&stripped, inside);
        added.map_err(at(&stripped))
    };
    let added = programs.iter().try_for_each(&mut add);
    let added = added.and_then(|()| {
        fixtures.iter().try_for_each(|fixture| {
            let name = fixture.file_name().unwrap_or_default();
            let inside = Path::new("tests/fixtures").join(name);
            let added = archive.append_path_with_name(fixture, inside);
            added.map_err(at(fixture))
        })
    });
    let added = added.and_then(|()| archive.into_inner().map(drop).map_err(at(to)));
    // Where it ended early it says why, and what was being written when it did is no news.
    ended("xz", &xz.wait_with_output().map_err(at(to))?)?;
    added
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_that_is_too_big_says_what_is_big() {
        let files = |big: u64| vec![(big << 20, "bin/a".to_string()), (1 << 20, "b".into())];
        assert_eq!(check_size(&files(29)).unwrap(), LIMIT);
        let error = check_size(&files(40)).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        let text = error.to_string();
        assert!(
            text.contains("41 MiB") && text.contains("bin/a (40.0 MiB)"),
            "{text}"
        );
    }

    #[test]
    fn what_programs_have_in_common_is_stored_once() {
        let dir = tempfile::tempdir().unwrap();
        // A small program that is there, since packing needs it.
        let found = Command::new("sh").args(["-c", "command -v xz"]).output();
        let found = String::from_utf8(found.unwrap().stdout).unwrap();
        let program = fs::canonicalize(found.trim()).unwrap();
        let programs: Vec<(String, PathBuf)> = ["bin/one", "bin/two", "bin/three"]
            .map(|name| (name.to_string(), program.clone()))
            .into();
        let fixture = dir.path().join("a.safetensors");
        fs::write(&fixture, "numbers").unwrap();
        write_archive(&programs, &[fixture], &dir.path().join(ARCHIVE)).unwrap();
        let untar = "xz -dc programs.tar.xz | tar -xf - && bin/two --help >help";
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", untar]).current_dir(&dir);
        assert!(shell.status().unwrap().success());
        let inside = dir.path().join("tests/fixtures/a.safetensors");
        assert_eq!(fs::read_to_string(inside).unwrap(), "numbers");
        let help = fs::read_to_string(dir.path().join("help")).unwrap();
        assert!(help.contains("--decompress"), "{help}");
        // A program shrinks to half; three that shared nothing would take more than one.
        let size = |name: &str| fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size(ARCHIVE) < size("bin/one") * 3 / 4);
        // What cannot be packed says where, and what ran out is not taken for an archive.
        let gone = vec![("bin/gone".to_string(), dir.path().join("gone"))];
        let error = write_archive(&gone, &[], &dir.path().join("x")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("strip") && text.lines().count() == 1,
            "{text}"
        );
    }

    #[test]
    fn only_new_empty_and_packed_folders_are_packed_into() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_folder(&dir.path().join("new")).is_ok());
        assert!(check_folder(dir.path()).is_ok());
        fs::write(dir.path().join("thesis.tex"), "").unwrap();
        assert_eq!(check_folder(dir.path()).unwrap_err().exit_code(), 2);
        assert!(check_folder(&dir.path().join("thesis.tex")).is_err());
        fs::write(dir.path().join(MANIFEST), "").unwrap();
        assert!(check_folder(dir.path()).is_ok());
    }
}
