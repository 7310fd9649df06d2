//! Kernels for checked and profiled launches: compiled with a call of ours before every access to
//! memory and in every basic block when somebody first asks about them, and kept in the user's
//! cache (`cache.rs`). So a build does not wait for them, and an edit is answered in seconds:
//! kernels that were edited since the program was built take the place of those of the build.

#[path = "../../kernels/build/host.rs"]
pub(crate) mod host;

use super::abi::{self, Kernel};
use super::cache::{Cache, FileError, at, key};
use super::code::Code;
use super::symbols::SYMBOLS;
use crate::backend::gpu::sources::{HEADERS, PLANTED, SOURCES};
use libloading::os::unix::{self, RTLD_LOCAL, RTLD_NOW};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, c_void};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Why kernels cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InstrumentError {
    /// A file cannot be read, or a compiled one not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The executor was edited, too.
    #[error("kernels/simt, the executor, was edited since this program was built: build it again")]
    Executor,
    /// The compiler of the build does not run.
    #[error(
        "{compiler}, which compiles kernels for the checker and the profiler, cannot be run \
         ({error}); install it"
    )]
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
    #[error("kernels to be looked at do not load: {reason}; remove {} and ask again", library.display())]
    Load {
        /// The library.
        library: PathBuf,
        /// What the loader says.
        reason: String,
    },
}

type Result<T> = std::result::Result<T, InstrumentError>;

/// The compiler that this program's kernels were compiled with.
pub(crate) const COMPILER: &str = env!("AUTOASSIST_CXX");

/// What it has said to `--version`, in a line.
pub(crate) const VERSION: &str = env!("AUTOASSIST_CXX_VERSION");

/// Lines of the source, which are what people are told of.
pub(crate) const LINES: &str = "-g1";

/// What checker and profiler want of the compiler: a call of ours before every access to memory
/// (`kernels/simt/check.h`) and in every basic block (`kernels/simt/profile.h`).
const INSTRUMENTED: [&str; 5] = [
    "-w",
    "-DSIMT_MARKED",
    "-fsanitize=thread,undefined",
    "-fno-sanitize=vptr",
    "-fsanitize-coverage=trace-pc",
];

/// Accesses as the source has them. Both compilers first optimise and then put the calls in, so
/// that a read by all threads whose value one thread uses would be seen of that thread alone; and
/// copies of a known size would be seen by neither. `kernels/simt/sight.cu` has what must be seen.
const AS_WRITTEN: &[&str] = match cfg!(simt_counted) {
    // g++.
    true => &[
        "-Og",
        "-fno-tree-sra",
        "-fno-builtin-memcpy",
        "-fno-builtin-memmove",
        "-fno-builtin-memset",
    ],
    // clang.
    false => &[
        "-O0",
        "-fno-sanitize=function",
        "-mllvm",
        "-tsan-instrument-read-before-write=1",
    ],
};

/// What the compiler is told of everything that is looked at.
pub(crate) fn flags() -> impl Iterator<Item = &'static str> {
    INSTRUMENTED.iter().chain(AS_WRITTEN).copied()
}

/// Of this project's kernels, too: a name for what `EXPORT` makes of a kernel, and a namespace for
/// headers. Calls go through the table of addresses, as the executor is in another image.
const OWN: [&str; 6] = [
    LINES,
    "-fno-plt",
    "-I.",
    "-ffile-prefix-map=./kernels/=kernels/",
    "-DSIMT_FLAVOUR=checked",
    "-DSIMT_KERNEL(name)=simt_checked_##name",
];

/// What [`load`] did.
pub struct Prepared {
    /// Files that were edited since the build.
    pub edited: Vec<String>,
    /// How many files were compiled now.
    pub compiled: usize,
}

struct Loaded {
    /// All kernels for checked and profiled launches.
    kernels: Vec<*const Kernel>,
    /// Sources that differ from those of the build.
    edited: BTreeMap<String, String>,
}

// SAFETY: kernels are constants of a library that stays loaded.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

static LOADED: OnceLock<Result<Loaded>> = OnceLock::new();

/// Kernels for checked launches: those that were [loaded](load), or, where nobody has asked for some of
/// them, all of the build.
///
/// # Errors
/// [`load`]'s.
pub(super) fn kernels() -> std::result::Result<&'static [*const Kernel], &'static InstrumentError> {
    let all = || Ok(prepare(Sources::of_the_build(), &files(), &|_, _| ())?.0);
    let loaded = LOADED.get_or_init(all);
    loaded.as_ref().map(|loaded| &loaded.kernels[..])
}

/// Sources that differ from those of the build, by path.
pub(crate) fn edited() -> impl Iterator<Item = (&'static str, &'static str)> {
    let loaded = LOADED.get().and_then(|loaded| loaded.as_ref().ok());
    let edited = loaded.into_iter().flat_map(|loaded| &loaded.edited);
    edited.map(|(path, text)| (path.as_str(), text.as_str()))
}

/// All files of kernels, also those that are there to be found fault with.
pub fn files() -> Vec<&'static str> {
    let all = SOURCES.iter().chain(PLANTED).map(|(path, _)| *path);
    all.filter(|path| path.ends_with(".cu")).collect()
}

/// Prepares the kernels of these files (`kernels/sgd/2_vectors.cu`) for checked and profiled launches:
/// where the current folder is a repository, as they and their headers are there. `progress` is told
/// how many of how many files are compiled.
///
/// # Errors
/// What stands in the way: of a kernel that does not compile the compiler's messages.
///
/// # Panics
/// If there were such launches before.
pub fn load(wanted: &[&str], progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Prepared> {
    let (loaded, prepared) = prepare(Sources::here()?, wanted, progress)?;
    let first = LOADED.set(Ok(loaded)).is_ok();
    assert!(first, "kernels are loaded before they are launched");
    Ok(prepared)
}

/// Texts of kernels and headers by path.
struct Sources {
    built: HashMap<&'static str, &'static str>,
    /// Whether files in the current folder take their place.
    here: bool,
    edited: BTreeMap<String, String>,
}

impl Sources {
    fn of_the_build() -> Sources {
        let built = SOURCES.iter().chain(PLANTED).chain(HEADERS).copied();
        Sources {
            built: built.collect(),
            here: false,
            edited: BTreeMap::new(),
        }
    }

    fn here() -> Result<Sources> {
        let here = Path::new("kernels/include/kernel.cuh").is_file();
        if here {
            let executor = host::executor_digest().map_err(at("kernels/simt"))?;
            if executor != env!("AUTOASSIST_EXECUTOR") {
                return Err(InstrumentError::Executor);
            }
        }
        Ok(Sources {
            here,
            ..Sources::of_the_build()
        })
    }

    /// `None` if there is no such file.
    fn read(&mut self, path: &str) -> Result<Option<String>> {
        let built = self.built.get(path).copied();
        if self.here && Path::new(path).is_file() {
            let text = fs::read_to_string(path).map_err(at(path))?;
            if built != Some(&text) {
                self.edited.insert(path.into(), text.clone());
            }
            return Ok(Some(text));
        }
        Ok(built.map(String::from))
    }

    /// Writes them all into a folder.
    fn write(&self, folder: &Path) -> Result<()> {
        let edited = self
            .edited
            .iter()
            .map(|(path, text)| (&path[..], &text[..]));
        let built = self.built.iter().map(|(path, text)| (*path, *text));
        for (path, text) in built.chain(edited) {
            let to = folder.join(path);
            let parent = to.parent().unwrap_or(folder);
            fs::create_dir_all(parent).map_err(at(parent))?;
            fs::write(&to, text).map_err(at(&to))?;
        }
        Ok(())
    }
}

/// What a file includes, itself or by headers of ours.
#[derive(Default)]
struct Includes {
    /// `<...>`.
    standard: BTreeSet<String>,
    /// The file itself, and the headers of ours.
    own: BTreeSet<String>,
    /// All that is written there.
    texts: Vec<String>,
}

impl Includes {
    fn of(path: &str, sources: &mut Sources) -> Result<Includes> {
        let mut found = Includes::default();
        found.add(path, sources)?;
        Ok(found)
    }

    /// Whether there is such a file.
    fn add(&mut self, path: &str, sources: &mut Sources) -> Result<bool> {
        if self.own.contains(path) {
            return Ok(true);
        }
        let Some(text) = sources.read(path)? else {
            return Ok(false);
        };
        self.own.insert(path.into());
        for line in text.lines() {
            let directive = line.trim_start().strip_prefix('#').map(str::trim_start);
            let Some(name) = directive.and_then(|d| d.strip_prefix("include")) else {
                continue;
            };
            let name = name.trim_start();
            // One of the system's by its whole path is not ours.
            if name.starts_with("\"/") {
                continue;
            }
            if let Some((header, _)) = name.strip_prefix('<').and_then(|n| n.split_once('>')) {
                self.standard.insert(header.into());
            } else if let Some((header, _)) = name.strip_prefix('"').and_then(|n| n.split_once('"'))
            {
                let beside = Path::new(path).parent().map(|folder| folder.join(header));
                let shared = Path::new("kernels/include").join(header);
                for place in beside.into_iter().chain([shared]) {
                    if self.add(&plain(&place), sources)? {
                        break;
                    }
                }
            }
        }
        self.texts.push(text);
        Ok(true)
    }
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

/// A file to be compiled.
struct Unit<'a> {
    file: &'a str,
    /// What the compiler is given.
    wrapper: String,
    /// Of all that decides what comes out.
    key: String,
    /// The file and headers of ours.
    own: BTreeSet<String>,
    /// Names of its kernels.
    kernels: Vec<String>,
}

impl<'a> Unit<'a> {
    /// The file's kernels in a namespace of their own, without which the loader would take functions
    /// of the plain objects in place of the checked ones. Standard headers belong outside of it. Calls
    /// of `memcpy` and its like are the checker's to see.
    fn new(file: &'a str, sources: &mut Sources) -> Result<Unit<'a>> {
        let includes = Includes::of(file, sources)?;
        let mut wrapper = "#include \"kernels/simt/watched.h\"\n".to_string();
        for header in &includes.standard {
            let _ = write!(
                wrapper,
                "#if __has_include(<{header}>)\n#include <{header}>\n#endif\n"
            );
        }
        let _ = write!(
            wrapper,
            "#include \"kernels/include/kernel.cuh\"\n\n\
             namespace checked {{\n#include \"{file}\"\n}}\n"
        );
        let told = [COMPILER, VERSION, env!("AUTOASSIST_EXECUTOR"), &wrapper];
        let texts = includes.texts.iter().map(String::as_str);
        let key = key(command().into_iter().chain(told).chain(texts));
        Ok(Unit {
            file,
            wrapper,
            key,
            // Its own text comes last.
            kernels: host::exported(includes.texts.last().map_or("", |text| text)),
            own: includes.own,
        })
    }

    fn object(&self) -> String {
        format!("{}.o", self.key)
    }
}

/// What the compiler is told.
fn command() -> Vec<&'static str> {
    let own = OWN.into_iter().chain(host::COMMON);
    own.chain(flags()).collect()
}

/// A library in the cache.
struct Made {
    library: PathBuf,
    /// Names of its kernels.
    kernels: Vec<String>,
    prepared: Prepared,
}

impl Made {
    /// Finds or makes one with the kernels of these files.
    fn new(
        cache: &Cache,
        sources: &mut Sources,
        wanted: &[&str],
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Made> {
        let units = files().into_iter().map(|file| Unit::new(file, sources));
        let mut units = units.collect::<Result<Vec<Unit>>>()?;
        let is_wanted = |unit: &Unit| wanted.contains(&unit.file);
        let edited = units.iter().filter(|unit| {
            let is_edited = |path| sources.edited.contains_key(path);
            is_wanted(unit) && unit.own.iter().any(is_edited)
        });
        let mut prepared = Prepared {
            edited: edited.map(|unit| unit.file.to_string()).collect(),
            compiled: 0,
        };
        let name = |units: &[Unit]| format!("{}.so", key(units.iter().map(|unit| &unit.key)));
        // One of all kernels serves for any of them.
        let mut found = cache.find(&name(&units));
        if found.is_none() {
            units.retain(is_wanted);
            found = cache.find(&name(&units));
        }
        let library = match found {
            Some(library) => library,
            None => {
                prepared.compiled = compile(cache, sources, &units, progress)?;
                let library = cache.folder.join(name(&units));
                link(cache, &units, &library)?;
                library
            }
        };
        Ok(Made {
            library,
            kernels: units.into_iter().flat_map(|unit| unit.kernels).collect(),
            prepared,
        })
    }
}

/// Loads a library with the kernels of these files, which is made if it is not there.
fn prepare(
    mut sources: Sources,
    wanted: &[&str],
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<(Loaded, Prepared)> {
    let cache = Cache::open()?;
    let made = Made::new(&cache, &mut sources, wanted, progress)?;
    // SAFETY: kernels have no constructors, so loading them runs nothing.
    let loaded = unsafe { Library::open(&made.library) };
    let failed = |error: libloading::Error| InstrumentError::Load {
        library: made.library.clone(),
        reason: std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string),
    };
    let loaded = loaded.map_err(failed)?;
    let mut kernels = Vec::new();
    for name in &made.kernels {
        // That is what `EXPORT(name)` makes of a kernel that is compiled for the checker.
        let kernel = loaded.address(&format!("simt_checked_{name}"));
        kernels.push(kernel.map_err(failed)?.cast::<Kernel>());
    }
    if let Some(&kernel) = kernels.first() {
        // SAFETY: the kernel is a constant of the library.
        unsafe { loaded.keep((*kernel).code()) };
    }
    let edited = sources.edited;
    Ok((Loaded { kernels, edited }, made.prepared))
}

/// Compiles what is not in the cache; returns how many files that were.
fn compile(
    cache: &Cache,
    sources: &Sources,
    units: &[Unit],
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<usize> {
    let missing: Vec<&Unit> = units
        .iter()
        .filter(|unit| cache.find(&unit.object()).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(0);
    }
    let workplace = cache.workplace()?;
    let folder = workplace.path();
    sources.write(folder)?;
    let done = AtomicUsize::new(0);
    progress(0, missing.len());
    missing.par_iter().try_for_each(|unit| {
        let source = format!("{}.cpp", unit.key);
        let path = folder.join(&source);
        fs::write(&path, &unit.wrapper).map_err(at(&path))?;
        let object = path.with_extension("o");
        let mut compiler = Command::new(COMPILER);
        compiler.current_dir(folder).args(command());
        // The same bytes, wherever they are made.
        compiler.arg(format!("-fdebug-prefix-map={}=.", folder.display()));
        compiler.args(["-xc++", "-c", "-o"].map(OsStr::new));
        run(compiler.arg(&object).arg(&source), unit.file)?;
        let kept = cache.folder.join(unit.object());
        fs::rename(&object, &kept).map_err(at(&kept))?;
        progress(1 + done.fetch_add(1, Ordering::Relaxed), missing.len());
        Ok::<(), InstrumentError>(())
    })?;
    Ok(missing.len())
}

/// Makes a library of objects.
fn link(cache: &Cache, units: &[Unit], to: &Path) -> Result<()> {
    let workplace = cache.workplace()?;
    let linked = workplace.path().join("kernels.so");
    let mut compiler = Command::new(COMPILER);
    compiler.args(["-shared", "-o"]).arg(&linked);
    // As the programs have it, where build.rs found it.
    if env!("AUTOASSIST_CXX_STATIC") == "true" {
        compiler.arg("-static-libstdc++");
    }
    // Some may lie where only reading is allowed.
    compiler.args(units.iter().filter_map(|unit| cache.find(&unit.object())));
    run(&mut compiler, "a library of kernels")?;
    // Somebody else may have made the same; whoever is last renames over equal bytes.
    fs::rename(&linked, to).map_err(at(to))?;
    Ok(())
}

/// Runs the compiler.
fn run(command: &mut Command, file: &str) -> Result<()> {
    let output = command
        .output()
        .map_err(|error| InstrumentError::Compiler {
            compiler: COMPILER,
            error,
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(InstrumentError::Compile {
        file: file.into(),
        log: String::from_utf8_lossy(&output.stderr).trim_end().into(),
    })
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
