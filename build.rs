//! Compiles every kernel twice: by the host's C++ compiler for the SIMT executor, and, where there
//! is an nvcc, into a fatbin that the library embeds. Writes `catalog.rs`, which lists all of it
//! (`src/backend/gpu/catalog.rs` has the types), and `sources.rs`, its text. For checker and profiler
//! kernels are compiled when they are first asked for (`src/simt/instrumented.rs`).
//!
//! An object is compiled anew only if its own fingerprint changed (source, own headers, command,
//! compiler), so that a changed header rebuilds what includes it and no more.

#[path = "kernels/build/host.rs"]
mod host;
#[path = "kernels/build/jobs.rs"]
mod jobs;
#[path = "kernels/build/log.rs"]
mod log;
#[path = "kernels/build/nvcc.rs"]
mod nvcc;

use host::{COMMON, executor, executor_digest, exported, is_header};
use jobs::{Job, compile_all, version_of};
use nvcc::Nvcc;
use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

type Result<T> = std::result::Result<T, String>;

/// What kernels take, for builds without nvcc: what `kernels list` prints in a build with it, but for
/// what files compute.
const RECORD: &str = "kernels/resources.txt";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(simt, simt_counted)");
    // Changes of this program itself cargo sees.
    println!("cargo::rerun-if-changed=kernels");
    revision();
    if let Err(e) = build() {
        for line in e.lines() {
            println!("cargo::error={line}");
        }
    }
}

/// `AUTOASSIST_REVISION` is what is built: the commit, and whether there were changes on top of it;
/// empty outside a repository of this project. Looked up whenever the sources change, so that a
/// commit alone compiles nothing anew.
fn revision() {
    println!("cargo::rerun-if-env-changed=AUTOASSIST_REVISION");
    for source in fs::read_dir("src").into_iter().flatten().flatten() {
        // Programs are linked anew without this.
        if source.file_name() != "bin" {
            println!("cargo::rerun-if-changed={}", source.path().display());
        }
    }
    let describe = || {
        let mut git = std::process::Command::new("git");
        git.args(["describe", "--always", "--exclude=*", "--dirty=-changed"]);
        let output = Path::new(".git").exists().then(|| git.output().ok())??;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_string())
    };
    let revision = env::var("AUTOASSIST_REVISION").ok().or_else(describe);
    println!(
        "cargo::rustc-env=AUTOASSIST_REVISION={}",
        revision.unwrap_or_default()
    );
}

fn warn(text: &str) {
    for line in text.lines() {
        println!("cargo::warning={line}");
    }
}

/// A file with kernels.
struct Source {
    /// Relative to the repository: `kernels/sgd/2_vectors.cu`.
    path: PathBuf,
    kernels: Vec<String>,
}

impl Source {
    fn is_planted(&self) -> bool {
        PLANTED
            .iter()
            .any(|planted| self.path == Path::new(planted))
    }
}

fn build() -> Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("run by cargo only")?);
    let mut sources = sources()?;
    let host = host_compiler();
    let clang = host.as_ref().is_ok_and(|host| host.tool.is_like_clang());
    let nvcc = Nvcc::find().unwrap_or_else(|why| {
        warn(&why);
        None
    });
    let mut jobs = Vec::new();
    match &host {
        Ok(host) => jobs.extend(host_jobs(host, &out, &sources)?),
        Err(why) => warn(why),
    }
    let objects = jobs.len();
    // What lies beside the executor is for it alone.
    sources.retain(|source| !source.path.starts_with("kernels/simt"));
    if let Some(nvcc) = &nvcc {
        jobs.extend(nvcc::jobs(nvcc, &out, &sources)?);
    }
    let logs = compile_all(&jobs)?;
    if let Ok(host) = &host {
        for log in &logs[..objects] {
            warn(log);
        }
        // Also says to the linker that there is a C++ library to link.
        host_build()
            .cpp_link_stdlib_static(host.has_static_library())
            .objects(jobs[..objects].iter().map(|job| &job.output))
            .try_compile("kernels")
            .map_err(|e| format!("cannot make a library of the kernels: {e}"))?;
        println!("cargo::rustc-cfg=simt");
        kernels_at_run_time(host, &out).map_err(|e| format!("kernels/simt: {e}"))?;
        if !clang {
            println!("cargo::rustc-cfg=simt_counted");
        }
    }
    let fatbins: Vec<&Path> = jobs[objects..].iter().map(|j| j.output.as_path()).collect();
    let text = catalog(&sources, &fatbins, &logs[objects..], nvcc.as_ref())?;
    fs::write(out.join("catalog.rs"), text).map_err(|e| format!("catalog.rs: {e}"))?;
    let text = texts().map_err(|e| format!("kernels: {e}"))?;
    fs::write(out.join("sources.rs"), text).map_err(|e| format!("sources.rs: {e}"))
}

/// What programs need to compile kernels when they are asked about them
/// (`src/simt/instrumented.rs`): the compiler, and the executor's functions for kernels to call.
fn kernels_at_run_time(host: &Host, out: &Path) -> io::Result<()> {
    let (compiler, executor) = (host.tool.path().display(), executor_digest()?);
    println!("cargo::rustc-env=AUTOASSIST_CXX={compiler}");
    let version = host.version.lines().next().unwrap_or_default();
    println!("cargo::rustc-env=AUTOASSIST_CXX_VERSION={version}");
    let library = host.has_static_library();
    println!("cargo::rustc-env=AUTOASSIST_CXX_STATIC={library}");
    println!("cargo::rustc-env=AUTOASSIST_EXECUTOR={executor}");
    let list = out.join("exported.list");
    write_if_new(
        &list,
        "{ simt_*; _ZN*simt*; cuda*; cublas*; __tsan_*; __ubsan_*; __sanitizer_*; __wrap_*; };\n",
    )?;
    let list = list.display();
    println!("cargo::rustc-link-arg=-Wl,--dynamic-list={list}");
    // Functions that programs of one's own call and this one does not.
    for function in [
        "cublasCreate",
        "cublasSaxpy",
        "cublasLtCreate",
        "simt_assert_failed",
    ] {
        println!("cargo::rustc-link-arg-bin=kernels=-Wl,-u,{function}");
    }
    Ok(())
}

/// The files below `folder` that end in `.extension`, in order.
fn files(folder: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, extension)?);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// All kernels, from the `EXPORT(name)` lines of the sources.
fn sources() -> Result<Vec<Source>> {
    let paths = files(Path::new("kernels"), "cu").map_err(|e| format!("kernels: {e}"))?;
    let mut sources: Vec<Source> = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let kernels = exported(&text);
        for kernel in &kernels {
            if let Some(other) = sources.iter().find(|s| s.kernels.contains(kernel)) {
                return Err(format!(
                    "kernel {kernel} is in {} and in {}; kernels' names are global",
                    other.path.display(),
                    path.display()
                ));
            }
        }
        sources.push(Source { path, kernels });
    }
    Ok(sources)
}

/// Kernels and headers that are no part of the executor.
fn read_by_people() -> io::Result<Vec<PathBuf>> {
    let mut paths = files(Path::new("kernels"), "cu")?;
    paths.extend(files(Path::new("kernels"), "cuh")?);
    paths.retain(|path| !path.starts_with("kernels/simt"));
    Ok(paths)
}

fn host_build() -> cc::Build {
    let mut build = cc::Build::new();
    // -O2 whatever the profile: tests wait for kernels.
    build.cargo_warnings(false);
    build.cpp(true).opt_level(2).debug(false).warnings(false);
    build
}

struct Host {
    tool: cc::Tool,
    version: String,
}

impl Host {
    /// Whether programs can have the C++ library in them, so that they run where another one or none
    /// is installed. Some distributions have that apart from the compiler.
    fn has_static_library(&self) -> bool {
        let mut command = self.tool.to_command();
        let output = command.arg("-print-file-name=libstdc++.a").output();
        // One that is not found is named without a place.
        output.is_ok_and(|output| output.stdout.starts_with(b"/"))
    }
}

fn host_compiler() -> Result<Host> {
    let target = |key| env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    if (target("ARCH").as_str(), target("OS").as_str()) != ("x86_64", "linux") {
        let why = "the SIMT executor (--device simt) is left out: it runs on x86-64 Linux only";
        return Err(why.into());
    }
    let tool = host_build().try_get_compiler().ok();
    let found = tool.and_then(|tool| {
        let version = version_of(tool.to_command())?;
        Some(Host { tool, version })
    });
    found.ok_or_else(|| {
        "no C++ compiler, so the SIMT executor (--device simt) is left out; install g++ or set \
         CXX, then `touch build.rs` and build again"
            .into()
    })
}

/// Mistakes for the checker to find, and what tests count. Nobody else wants them.
const PLANTED: [&str; 6] = [
    "kernels/simt/profiled.cu",
    "kernels/simt/sight.cu",
    "kernels/simt/planted.cu",
    "kernels/simt/planted_barrier.cu",
    "kernels/simt/planted_order.cu",
    "kernels/simt/planted_waits.cu",
];

/// The kernels, the executor, and the table that leads from one to the other.
fn host_jobs(host: &Host, out: &Path, sources: &[Source]) -> Result<Vec<Job>> {
    let io = |e: io::Error| format!("kernels/simt: {e}");
    let registry = out.join("registry.cpp");
    let text = registry_text(sources);
    write_if_new(&registry, &text).map_err(io)?;
    let executor = files(Path::new("kernels/simt"), "cpp").map_err(io)?;
    let folder = out.join("host");
    fs::create_dir_all(&folder).map_err(io)?;
    let job = |source: &Path| {
        let mut command = host.tool.to_command();
        command
            .args(COMMON)
            .args(["-Wall", "-Wextra", "-Wno-unknown-pragmas"]);
        command.args(["-funroll-loops", "-xc++", "-c"]);
        let output = folder.join(flat_name(source)).with_extension("o");
        Job::new(source, output, command, &host.version)
    };
    let kernels = sources.iter().filter(|source| !source.is_planted());
    let all = kernels.map(|source| &source.path).chain(&executor);
    Ok(all.chain([&registry]).map(|source| job(source)).collect())
}

/// Leaves a file alone that is as it should be.
fn write_if_new(path: &Path, text: &str) -> io::Result<()> {
    match fs::read_to_string(path) {
        Ok(old) if old == text => Ok(()),
        _ => fs::write(path, text),
    }
}

/// `kernels/sgd/2_vectors.cu` as one name.
fn flat_name(path: &Path) -> OsString {
    let file = || path.file_name().map(Path::new);
    let inner = path.strip_prefix("kernels").ok().or_else(file);
    let parts: Vec<_> = inner.into_iter().flatten().collect();
    parts.join("-".as_ref())
}

/// `simt_kernels` of `kernels/simt/abi.h`.
fn registry_text(sources: &[Source]) -> String {
    let sources = sources.iter().filter(|source| !source.is_planted());
    let names: Vec<&String> = sources.flat_map(|source| &source.kernels).collect();
    let mut text = "// Generated by build.rs.\n#include \"../simt/abi.h\"\n\n".to_string();
    for name in &names {
        let _ = writeln!(text, "extern \"C\" const SimtKernel simt_kernel_{name};");
    }
    text += "\nextern \"C\" const SimtKernel *const *simt_kernels(size_t *count) {\n    \
             static const SimtKernel *const kernels[] = {\n";
    for name in &names {
        let _ = writeln!(text, "        &simt_kernel_{name},");
    }
    let count = names.len();
    let _ = write!(
        text,
        "        nullptr,\n    }};\n    *count = {count};\n    return kernels;\n}}\n"
    );
    text
}

/// The text of `sources.rs`: what `kernels/` has, by path.
fn texts() -> io::Result<String> {
    let root = env::current_dir()?;
    let mut text = "// Generated by build.rs.\n".to_string();
    let mut table = |name: &str, of: &str, paths: &[PathBuf]| {
        let only = match name {
            "SOURCES" => "",
            _ => "#[cfg(simt)]\n",
        };
        let _ = write!(
            text,
            "\n/// {of}, by path, as they were built.\n{only}\
             pub(crate) static {name}: &[(&str, &str)] = &[\n"
        );
        for path in paths {
            let whole = root.join(path);
            let _ = writeln!(text, "    ({path:?}, include_str!({whole:?})),");
        }
        text += "];\n";
    };
    let of = "Kernels and the headers that they share";
    table("SOURCES", of, &read_by_people()?);
    let of = "Mistakes for the checker to find, and what tests count";
    table("PLANTED", of, &PLANTED.map(PathBuf::from));
    let mut headers = executor()?;
    headers.retain(|path| is_header(path));
    let of = "Headers of the executor, and those that programs of one's own are compiled with";
    table("HEADERS", of, &headers);
    Ok(text)
}

/// The text of `catalog.rs`: `FILES`, and what is known of nvcc.
fn catalog(
    sources: &[Source],
    fatbins: &[&Path],
    logs: &[String],
    nvcc: Option<&Nvcc>,
) -> Result<String> {
    let mut text = "// Generated by build.rs.\n\n".to_string();
    if !fatbins.is_empty() {
        text += "/// The driver reads an image as structs.\n\
                 #[repr(align(16))]\nstruct Aligned<T>(T);\n\n";
    }
    let record = fs::read_to_string(RECORD).map_err(|e| format!("{RECORD}: {e}"))?;
    let record = log::recorded(&record).ok_or_else(|| format!("{RECORD}: no table of kernels"))?;
    text += "/// All files with kernels.\npub static FILES: &[KernelFile] = &[\n";
    for (i, Source { path, kernels }) in sources.iter().enumerate() {
        let path = path.display().to_string();
        let (mut fatbin, mut compiled) = ("None".to_string(), Vec::new());
        if let Some(file) = fatbins.get(i) {
            fatbin = format!("Some(&Aligned(*include_bytes!({file:?})).0)");
            warn(&log::remarks(&logs[i]));
            compiled = log::usage(&logs[i]);
            if let Some(usage) = compiled.iter().find(|u| !kernels.contains(&u.kernel)) {
                let kernel = &usage.kernel;
                return Err(format!(
                    "{path}: EXPORT({kernel}) is missing after {kernel}"
                ));
            }
        }
        let usages = if nvcc.is_some() { &compiled } else { &record.1 };
        let mut resources = String::new();
        for usage in usages.iter().filter(|u| kernels.contains(&u.kernel)) {
            let _ = writeln!(
                resources,
                "            Resources {{ kernel: {:?}, arch: {:?}, registers: {}, shared: {}, \
                 stack: {}, spills: {} }},",
                usage.kernel, usage.arch, usage.registers, usage.shared, usage.stack, usage.spills
            );
        }
        let _ = write!(
            text,
            "    KernelFile {{\n        path: {path:?},\n        kernels: &{kernels:?},\n        \
                 fatbin: {fatbin},\n        resources: &[\n{resources}        ],\n    }},\n"
        );
    }
    let toolkit = nvcc.map(|nvcc| nvcc.version);
    let compiled_by = toolkit.unwrap_or(record.0);
    let archs = nvcc.map_or(Vec::new(), Nvcc::archs);
    let path = nvcc.map(|nvcc| nvcc.path.display().to_string());
    let _ = write!(
        text,
        "];\n\n/// Version of the nvcc that compiled the kernels, if one did.\n\
         pub static TOOLKIT: Option<(u32, u32)> = {toolkit:?};\n\n\
         /// Where it was.\n\
         pub static NVCC: Option<&str> = {path:?};\n\n\
         /// Version of the nvcc of which it is known what kernels take.\n\
         pub static COMPILED_BY: (u32, u32) = {compiled_by:?};\n\n\
         /// All architectures that this nvcc can compile them for.\n\
         pub static TOOLKIT_ARCHS: &[&str] = &{archs:?};\n"
    );
    Ok(text)
}
