//! What `build.rs`, which compiles all kernels for the SIMT executor, and `src/simt/instrumented.rs`,
//! which compiles them for its checker and its profiler, both know of them.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

/// What every file is compiled with, of the executor's, too.
pub const COMMON: [&str; 5] = [
    "-std=c++17",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-Ikernels/include",
];

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
