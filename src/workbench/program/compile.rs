//! A program's files made into a library that the executor runs; kept by content, so that what was
//! compiled once starts at once.

use super::translate::{missing_header, translate};
use super::{ProgramError, interrupt};
use crate::simt::cache::{Cache, at, keep, key};
use crate::simt::instrumented::{self, COMPILER, VERSION, host};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// What the compiler is told.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `-I`: where headers are looked for.
    pub include: Vec<PathBuf>,
    /// `-D`: `NAME` or `NAME=VALUE`.
    pub define: Vec<String>,
    /// `-std`: `c++17` or `c++20`.
    pub standard: Option<String>,
}

/// How code is compiled that nobody looks at.
const PLAIN: [&str; 1] = ["-O2"];

/// The heap, which a kernel's accesses to it are checked for (`kernels/simt/check_hooks.cpp`): functions of
/// the C library, operators `new` and `delete`.
const HEAP: [&str; 16] = [
    "malloc",
    "free",
    "_Znwm",
    "_Znam",
    "_ZdlPv",
    "_ZdlPvm",
    "_ZdaPv",
    "_ZdaPvm",
    // Of classes that want to lie at multiples of more than 16 bytes, and those that give a null pointer.
    "_ZnwmSt11align_val_t",
    "_ZnamSt11align_val_t",
    "_ZdlPvSt11align_val_t",
    "_ZdlPvmSt11align_val_t",
    "_ZdaPvSt11align_val_t",
    "_ZdaPvmSt11align_val_t",
    "_ZnwmRKSt9nothrow_t",
    "_ZnamRKSt9nothrow_t",
];

/// Headers of what a program's host has from libraries that do not come with a compiler: for
/// [nvcc](super::machine) if it does not find them.
const HOST: [&str; 8] = [
    "cublasLt.h",
    "cublas_v2.h",
    "cuda_profiler_api.h",
    "names_begin.h",
    "names_end.h",
    "nvToolsExt.h",
    "nvtx3/nvToolsExt.h",
    "nvtx3/nvToolsExtCudaRt.h",
];

/// A program that can be loaded.
pub struct Compiled {
    /// Where it is.
    pub library: PathBuf,
    /// Headers that it was compiled with.
    pub headers: PathBuf,
    /// Where there is no cache: what goes when this does.
    _temporary: Option<TempDir>,
}

/// Makes the library, unless it is there already.
///
/// # Errors
/// Files that cannot be read or translated, or do not compile.
pub fn compile(
    sources: &[PathBuf],
    options: &Options,
    watched: bool,
) -> Result<Compiled, ProgramError> {
    let cache = Cache::open()?;
    if cache.temporary.is_some() {
        interrupt::remove(&cache.folder);
    }
    let headers = unpack(&cache)?;
    let mut flags: Vec<String> = host::COMMON
        .iter()
        .filter(|flag| !flag.starts_with("-I") && !flag.starts_with("-std"))
        .map(ToString::to_string)
        .collect();
    flags.push(format!(
        "-std={}",
        options.standard.as_deref().unwrap_or("c++17")
    ));
    flags.push(format!("-ffile-prefix-map={}=kernels", headers.display()));
    flags.extend(["-fno-plt", "-w", instrumented::LINES].map(String::from));
    match watched {
        true => flags.extend(instrumented::flags().map(String::from)),
        false => flags.extend(PLAIN.map(String::from)),
    }
    flags.push("-DSIMT_FLAVOUR=simt_program".into());
    let mut texts = Vec::new();
    for source in sources {
        let text = preprocess(source, options, &headers, &flags)?;
        texts.push(translate(&text)?);
    }
    let told = [COMPILER, VERSION, env!("AUTOASSIST_EXECUTOR")].into_iter();
    let told = told.chain(flags.iter().map(String::as_str));
    let name = format!("{}.so", key(told.chain(texts.iter().map(String::as_str))));
    if let Some(library) = cache.find(&name) {
        return Ok(compiled(cache, library, headers));
    }
    let library = cache.folder.join(name);
    // A program that includes OpenMP's header is linked with its library.
    if texts.iter().any(|text| text.contains("/omp.h\"")) {
        flags.push("-fopenmp".into());
    }
    // Somebody else may be making the same; whoever is last renames over equal bytes.
    let folder = cache.workplace()?;
    let mut objects = Vec::new();
    for (i, (text, source)) in texts.iter().zip(sources).enumerate() {
        let translated = folder.path().join(format!("{i}.ii"));
        fs::write(&translated, text).map_err(at(&translated))?;
        let object = translated.with_extension("o");
        let mut command = Command::new(COMPILER);
        command
            .args(&flags)
            .args(["-x", "c++-cpp-output", "-c", "-o"]);
        run(command.arg(&object).arg(&translated), source)?;
        objects.push(object);
    }
    let linked = folder.path().join("program.so");
    let mut command = Command::new(COMPILER);
    command.args(flags.iter().filter(|flag| *flag == "-fopenmp"));
    if watched {
        command.args(HEAP.map(|function| format!("-Wl,--wrap={function}")));
    }
    command.args(["-shared", "-o"]).arg(&linked).args(&objects);
    run(&mut command, &sources[0])?;
    fs::rename(&linked, &library).map_err(at(&library))?;
    Ok(compiled(cache, library, headers))
}

/// What the preprocessor makes of a file.
fn preprocess(
    source: &Path,
    options: &Options,
    headers: &Path,
    flags: &[String],
) -> Result<String, ProgramError> {
    let is_file = fs::metadata(source).map_err(at(source))?.is_file();
    if !is_file {
        return Err(ProgramError::NoFile(source.into()));
    }
    let mut command = Command::new(COMPILER);
    command.args(flags).args(["-x", "c++", "-E", "-isystem"]);
    command.arg(headers.join("cuda"));
    for folder in &options.include {
        command.arg("-I").arg(folder);
    }
    if let Some(wrong) = options.define.iter().find(|name| !is_macro(name)) {
        return Err(ProgramError::Macro(wrong.clone()));
    }
    // What is reserved for compilers is for all headers; `-D T=16` must not be for ours.
    let is_reserved = |name: &&String| name.starts_with('_');
    for name in options.define.iter().filter(is_reserved) {
        command.arg(format!("-D{name}"));
    }
    command.args(["-include", "cuda_runtime.h", "-include"].map(OsStr::new));
    command.arg(defines(options, headers)?);
    let output = run(command.arg(source), source)?;
    String::from_utf8(output.stdout).map_err(|_| ProgramError::NotText(source.into()))
}

/// Whether something has a name to be defined: `T`, `T=16`, `T(x)=x`.
fn is_macro(define: &str) -> bool {
    let name = define.split(['=', '(']).next().unwrap_or_default();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(is_part) && name.starts_with(|c: char| !c.is_ascii_digit())
}

/// A header with the program's macros as `-D` has them, called after what is in it: where it lies the
/// preprocessor says in its result, by which what is compiled is known.
fn defines(options: &Options, headers: &Path) -> Result<PathBuf, ProgramError> {
    let names = options.define.iter().filter(|name| !name.starts_with('_'));
    let define = |name: &String| match name.split_once('=') {
        Some((name, value)) => format!("#define {name} {value}\n"),
        None => format!("#define {name} 1\n"),
    };
    // As `-D` has it, a definition ends with its line.
    let names = names.map(|name| name.lines().next().unwrap_or_default().to_string());
    let text: String = names.map(|name| define(&name)).collect();
    let name = key([&text]);
    let path = headers
        .join("defines")
        .join(&name[..16])
        .with_extension("h");
    keep(&path, &text)?;
    Ok(path)
}

/// Runs the compiler.
fn run(command: &mut Command, source: &Path) -> Result<Output, ProgramError> {
    let output = command.output().map_err(at(Path::new(COMPILER)))?;
    if output.status.success() {
        return Ok(output);
    }
    let log = String::from_utf8_lossy(&output.stderr);
    if let Some(refused) = missing_header(&log) {
        return Err(refused.into());
    }
    Err(ProgramError::Compile {
        source_file: source.into(),
        log: log.trim_end().into(),
    })
}

fn compiled(cache: Cache, library: PathBuf, headers: PathBuf) -> Compiled {
    Compiled {
        library,
        headers,
        _temporary: cache.temporary,
    }
}

/// The executor's headers, as this program was built with them.
fn unpack(cache: &Cache) -> Result<PathBuf, ProgramError> {
    let folder = cache
        .folder
        .join(concat!("headers-", env!("AUTOASSIST_EXECUTOR")));
    let all = crate::backend::gpu::sources::HEADERS.iter();
    let all = all.flat_map(|(path, text)| {
        let inner = path.strip_prefix("kernels/").unwrap_or(path);
        let for_host = inner
            .strip_prefix("cuda/")
            .filter(|name| HOST.contains(name));
        let again = for_host.map(|name| Path::new("host").join(name));
        [Some(PathBuf::from(inner)), again]
            .into_iter()
            .flatten()
            .map(move |to| (to, text))
    });
    for (inner, text) in all {
        keep(&folder.join(inner), text)?;
    }
    Ok(folder)
}
