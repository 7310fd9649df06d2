//! How the host's C++ compiler compiles a kernel's file for the SIMT executor: `build.rs` all of
//! them, `src/simt/edited.rs` those that were edited since.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

/// What every file is compiled with, of the executor's, too.
pub const COMMON: [&str; 6] = [
    "-std=c++17",
    "-g1",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-Ikernels/include",
];

/// What checker and profiler want of the compiler: a call of ours before every access to memory
/// (`kernels/simt/check.h`) and in every basic block (`kernels/simt/profile.h`).
const CHECKED: [&str; 9] = [
    "-I.",
    "-ffile-prefix-map=./kernels/=kernels/",
    "-w",
    "-DSIMT_FLAVOUR=checked",
    "-DSIMT_KERNEL(name)=simt_checked_##name",
    "-DSIMT_MARKED",
    "-fsanitize=thread,undefined",
    "-fno-sanitize=vptr",
    "-fsanitize-coverage=trace-pc",
];

/// Accesses as the source has them. Both compilers first optimise and then put the calls in, so
/// that a read by all threads whose value one thread uses would be seen of that thread alone; and
/// copies of a known size would be seen by neither. `kernels/simt/sight.cu` has what must be seen.
const AS_WRITTEN_GCC: [&str; 5] = [
    "-Og",
    "-fno-tree-sra",
    "-fno-builtin-memcpy",
    "-fno-builtin-memmove",
    "-fno-builtin-memset",
];
const AS_WRITTEN_CLANG: [&str; 4] = [
    "-O0",
    "-fno-sanitize=function",
    "-mllvm",
    "-tsan-instrument-read-before-write=1",
];

/// All of it, for a file as [`checked_text`] has it.
pub fn checked_flags(clang: bool) -> Vec<&'static str> {
    let as_written = match clang {
        true => &AS_WRITTEN_CLANG[..],
        false => &AS_WRITTEN_GCC,
    };
    [&CHECKED[..], as_written].concat()
}

/// A file with kernels in a namespace of its own, without which the linker would take functions of
/// the plain objects in place of the checked ones. Standard headers belong outside of it. Calls of
/// `memcpy` and its like are the checker's to see.
pub fn checked_text(path: &Path) -> io::Result<String> {
    let mut text = "#include \"kernels/simt/watched.h\"\n".to_string();
    for header in Includes::of(path)?.standard {
        let _ = write!(
            text,
            "#if __has_include(<{header}>)\n#include <{header}>\n#endif\n"
        );
    }
    let _ = write!(
        text,
        "#include \"kernels/include/kernel.cuh\"\n\n\
         namespace checked {{\n#include \"{}\"\n}}\n",
        path.display()
    );
    Ok(text)
}

/// What a file includes, itself or by headers of ours.
#[derive(Default)]
pub struct Includes {
    /// `<...>`.
    standard: BTreeSet<String>,
    /// The file itself, and the headers of ours.
    pub own: BTreeSet<PathBuf>,
}

impl Includes {
    /// # Errors
    /// One of them cannot be read.
    pub fn of(path: &Path) -> io::Result<Includes> {
        let mut found = Includes::default();
        found.add(path)?;
        Ok(found)
    }

    fn add(&mut self, path: &Path) -> io::Result<()> {
        if !self.own.insert(path.to_path_buf()) {
            return Ok(());
        }
        for line in fs::read_to_string(path)?.lines() {
            let directive = line.trim_start().strip_prefix('#').map(str::trim_start);
            let Some(name) = directive.and_then(|d| d.strip_prefix("include")) else {
                continue;
            };
            let name = name.trim_start();
            if let Some((header, _)) = name.strip_prefix('<').and_then(|n| n.split_once('>')) {
                self.standard.insert(header.into());
            } else if let Some((header, _)) = name.strip_prefix('"').and_then(|n| n.split_once('"'))
            {
                let beside = path.parent().map(|folder| folder.join(header));
                let places = beside
                    .into_iter()
                    .chain([Path::new("kernels/include").join(header)]);
                if let Some(found) = places.into_iter().find(|place| place.is_file()) {
                    self.add(&found)?;
                }
            }
        }
        Ok(())
    }
}

/// Names of the kernels of a file: its `EXPORT(name)` lines.
pub fn exported(text: &str) -> Vec<String> {
    let names = text.lines().filter_map(|line| {
        let (name, _) = line.trim().strip_prefix("EXPORT(")?.split_once(')')?;
        Some(name.trim().to_string())
    });
    names.collect()
}

/// Whether it is a header: those of C++ libraries have no extension.
pub fn is_header(path: &Path) -> bool {
    path.extension().is_none_or(|e| e == "h")
}

/// The executor, and the headers that programs of one's own are compiled with.
pub fn executor() -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut folders = vec![PathBuf::from("kernels/simt"), PathBuf::from("kernels/cuda")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if is_header(&path) || path.extension().is_some_and(|e| e == "cpp") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    Ok(paths)
}

/// A number for it: kernels that are compiled at run time have to meet the executor that they were
/// written for.
pub fn executor_digest() -> io::Result<String> {
    let mut hasher = DefaultHasher::new();
    for path in executor()? {
        (fs::read(&path)?, path).hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}
