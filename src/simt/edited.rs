//! Kernels that were edited since the program was built: compiled anew when somebody asks about
//! them, and put in the place of those that were built in. So an answer to an edit takes seconds,
//! and no build.

#[path = "../../kernels/build/host.rs"]
pub(crate) mod host;

use super::abi::{self, Kernel};
use super::checker;
use super::code::Code;
use super::symbols::SYMBOLS;
use host::Includes;
use libloading::os::unix::{self, RTLD_LOCAL, RTLD_NOW};
use rayon::prelude::*;
use std::ffi::{OsStr, c_void};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Why edited kernels cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// A file cannot be read, or a compiled one not be written.
    #[error("{what}: {error}")]
    Io {
        /// The file, or what was tried.
        what: String,
        /// The system's reason.
        error: io::Error,
    },
    /// The executor was edited, too.
    #[error("kernels/simt, the executor, was edited since this program was built: build it again")]
    Executor,
    /// The compiler of the build does not run.
    #[error("{compiler}, which compiled this program's kernels, cannot be run: {error}")]
    Compiler {
        /// Its path.
        compiler: &'static str,
        /// The system's reason.
        error: io::Error,
    },
    /// The compiler's messages.
    #[error("{file} does not compile:\n{log}")]
    Compile {
        /// The kernel's file.
        file: String,
        /// What the compiler said.
        log: String,
    },
    /// The loader's message.
    #[error("edited kernels compile and do not load: {0}")]
    Load(#[from] libloading::Error),
}

type Result<T> = std::result::Result<T, EditError>;

/// The compiler that this program's kernels were compiled with.
pub(crate) const COMPILER: &str = env!("AUTOASSIST_CXX");

struct Loaded {
    /// All kernels for checked and profiled launches, the edited ones in place of the others.
    kernels: Vec<*const Kernel>,
    /// Sources that differ from those of the build.
    texts: Vec<(String, String)>,
}

// SAFETY: kernels are constants of the program, or of a library that stays loaded.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

static LOADED: OnceLock<Loaded> = OnceLock::new();

/// All kernels for checked launches, if some were edited.
pub(super) fn kernels() -> Option<&'static [*const Kernel]> {
    LOADED.get().map(|loaded| &loaded.kernels[..])
}

/// Sources that differ from those of the build, by path.
pub(crate) fn texts() -> &'static [(String, String)] {
    LOADED.get().map_or(&[], |loaded| &loaded.texts)
}

/// Compares the kernels' files `wanted` (`kernels/sgd/2_vectors.cu`), and the headers that they
/// include, with the sources of the build, where the current folder is a repository; compiles what
/// differs, for checked and profiled launches from now on. Returns the files that were compiled.
///
/// # Errors
/// What stands in the way: of a kernel that does not compile the compiler's messages.
///
/// # Panics
/// If it was called before.
pub fn load(built: &[(&'static str, &'static str)], wanted: &[&str]) -> Result<Vec<String>> {
    if !Path::new("kernels/include/kernel.cuh").is_file() {
        return Ok(Vec::new());
    }
    let executor = host::executor_digest().map_err(io("kernels/simt"))?;
    if executor != env!("AUTOASSIST_EXECUTOR") {
        return Err(EditError::Executor);
    }
    let mut texts = Vec::new();
    let mut files = Vec::new();
    for file in wanted.iter().filter(|file| Path::new(file).is_file()) {
        let differing = differing(file, built)?;
        if !differing.is_empty() {
            files.push(file.to_string());
        }
        for text in differing {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
    }
    if files.is_empty() {
        return Ok(files);
    }
    let of_others = |kernel: &*const Kernel| {
        // SAFETY: kernels of the build are constants of the program.
        let file = unsafe { abi::text((**kernel).file) };
        !files.iter().any(|edited| edited == file)
    };
    let built = checker::built().iter().copied();
    let mut kernels: Vec<*const Kernel> = built.filter(of_others).collect();
    kernels.extend(compile(&files)?);
    let first = LOADED.set(Loaded { kernels, texts }).is_ok();
    assert!(first, "edited kernels are loaded once");
    Ok(files)
}

fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> EditError {
    let what = what.into();
    |error| EditError::Io { what, error }
}

/// `kernels/include/mma.cuh` for `kernels/gemm/../include/mma.cuh`.
fn plain(path: &Path) -> String {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain.display().to_string()
}

/// Of a kernel's file and its headers those that differ from the build's, with their texts.
fn differing(file: &str, built: &[(&'static str, &'static str)]) -> Result<Vec<(String, String)>> {
    let includes = Includes::of(Path::new(file)).map_err(io(file))?;
    let mut differing = Vec::new();
    for path in includes.own {
        let name = plain(&path);
        if name.starts_with("kernels/simt/") {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(io(&name))?;
        if !built.contains(&(name.as_str(), text.as_str())) {
            differing.push((name, text));
        }
    }
    Ok(differing)
}

/// Makes a library of the files, loads it, and finds their kernels in it.
fn compile(files: &[String]) -> Result<Vec<*const Kernel>> {
    let folder = tempfile::Builder::new().prefix("autoassist-").tempdir();
    let folder = folder.map_err(io("a temporary folder"))?;
    let compiled = files.par_iter().enumerate().map(|(i, file)| {
        let source = folder.path().join(format!("{i}.cpp"));
        let text = host::checked_text(Path::new(file)).map_err(io(file))?;
        fs::write(&source, text).map_err(io(source.display().to_string()))?;
        let object = source.with_extension("o");
        let mut command = Command::new(COMPILER);
        // Through the table of addresses, as the executor is in another image.
        command.args(["-O2", "-fno-plt"]).args(host::COMMON);
        command.args(host::checked_flags(!cfg!(simt_counted)));
        command.args(["-xc++", "-c", "-o"].map(OsStr::new));
        run(command.arg(&object).arg(&source), file)?;
        Ok(object)
    });
    let objects = compiled.collect::<Result<Vec<PathBuf>>>()?;
    let library = folder.path().join("edited.so");
    let mut command = Command::new(COMPILER);
    command.args(["-shared", "-o"]).arg(&library).args(&objects);
    run(&mut command, &files.join(", "))?;
    // SAFETY: kernels have no constructors, so loading them runs nothing.
    let loaded = unsafe { Library::open(&library)? };
    let mut kernels = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).map_err(io(file))?;
        for name in host::exported(&text) {
            // That is what `EXPORT(name)` makes of a kernel that is compiled for the checker.
            let kernel: *const Kernel = loaded.address(&format!("simt_checked_{name}"))?.cast();
            kernels.push(kernel);
        }
    }
    if let Some(&kernel) = kernels.first() {
        // SAFETY: the kernel is a constant of the library.
        unsafe { loaded.keep((*kernel).code()) };
    }
    Ok(kernels)
}

/// A library with kernels, which call the executor of this program.
pub struct Library {
    loaded: unix::Library,
    path: PathBuf,
}

impl Library {
    /// Loads it.
    ///
    /// # Errors
    /// The loader's.
    ///
    /// # Safety
    /// Its constructors run.
    pub unsafe fn open(path: &Path) -> std::result::Result<Library, libloading::Error> {
        // SAFETY: the caller's.
        let loaded = unsafe { unix::Library::open(Some(path), RTLD_NOW | RTLD_LOCAL)? };
        let path = path.to_path_buf();
        Ok(Library { loaded, path })
    }

    /// Where something of this name is.
    ///
    /// # Errors
    /// There is nothing of this name.
    pub fn address(&self, name: &str) -> std::result::Result<*const c_void, libloading::Error> {
        // SAFETY: only its address is wanted, as a pointer to anything.
        let symbol = unsafe { self.loaded.get::<*const c_void>(name)? };
        Ok(symbol.into_raw().cast_const())
    }

    /// Has it stay to the end of the process, and lines of its code be known by their numbers.
    ///
    /// # Safety
    /// `function` is one of it.
    pub unsafe fn keep(self, function: *const c_void) {
        std::mem::forget(self.loaded);
        // SAFETY: the library stays loaded.
        let code = unsafe {
            abi::simt_loaded(function);
            Code::of(function)
        };
        let mut symbols = SYMBOLS.lock().expect("no holder panics");
        symbols.add(code, &self.path);
    }
}

/// Runs the compiler.
fn run(command: &mut Command, file: &str) -> Result<()> {
    let output = command.output().map_err(|error| EditError::Compiler {
        compiler: COMPILER,
        error,
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(EditError::Compile {
        file: file.into(),
        log: String::from_utf8_lossy(&output.stderr).trim_end().into(),
    })
}
