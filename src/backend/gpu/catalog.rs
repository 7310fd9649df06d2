//! The kernels of this build, as `build.rs` found and compiled them.

use super::head::head;
use super::sources::SOURCES;
use crate::backend::NVCC_REMEDY;

/// A file of `kernels/`, with what nvcc made of it.
#[derive(Debug)]
pub struct KernelFile {
    /// Relative to the repository: `kernels/sgd/2_vectors.cu`.
    pub path: &'static str,
    /// Names of its kernels, in the order of the source.
    pub kernels: &'static [&'static str],
    /// Machine code of all architectures and PTX; none in a build without nvcc.
    pub fatbin: Option<&'static [u8]>,
    /// What each kernel takes on each architecture, as [`COMPILED_BY`] has compiled it.
    pub resources: &'static [Resources],
}

/// What a kernel takes on an architecture, as ptxas reports it.
#[derive(Debug)]
pub struct Resources {
    /// The kernel's name.
    pub kernel: &'static str,
    /// The architecture: `90a`.
    pub arch: &'static str,
    /// Registers per thread.
    pub registers: u32,
    /// Static shared memory in bytes per block.
    pub shared: u32,
    /// Stack frame in bytes per thread.
    pub stack: u32,
    /// Bytes per thread stored where registers ran out, and loaded back.
    pub spills: u32,
}

include!(concat!(env!("OUT_DIR"), "/catalog.rs"));

/// Texts of all kernels and of the headers that they share, by path, as they are now: edited ones
/// if such kernels are [looked at](crate::simt::instrumented).
pub fn sources() -> impl Iterator<Item = (&'static str, &'static str)> {
    #[cfg(simt)]
    let edited = crate::simt::instrumented::edited();
    #[cfg(not(simt))]
    let edited = std::iter::empty::<(&str, &str)>();
    let edited: Vec<(&str, &str)> = edited.collect();
    let is_edited = {
        let paths: Vec<&str> = edited.iter().map(|(path, _)| *path).collect();
        move |path: &str| paths.contains(&path)
    };
    let built = SOURCES.iter().copied();
    built
        .filter(move |(path, _)| !is_edited(path))
        .chain(edited)
}

/// Static shared memory of a kernel in bytes per block, the most of all architectures.
pub(crate) fn static_shared(kernel: &str) -> u32 {
    let all = FILES.iter().flat_map(|file| file.resources);
    let of_kernel = all.filter(|r| r.kernel == kernel);
    of_kernel.map(|r| r.shared).max().unwrap_or(0)
}

/// The kernels whose name or file contains `name` with their files, what they take and, of each
/// file, what it computes, as a table for people; `None` if there are none.
pub fn table(name: &str) -> Option<String> {
    let header = [
        "kernel",
        "file",
        "arch",
        "registers",
        "shared",
        "stack",
        "spills",
        "# computes",
    ];
    let mut rows = vec![header.map(String::from).to_vec()];
    for file in FILES {
        // Said once, by the first row of the file.
        let mut what = head(file.path).map(|head| format!("# {}", head.what));
        let named = |kernel: &&&str| kernel.contains(name) || file.path.contains(name);
        for kernel in file.kernels.iter().filter(named) {
            let place = [kernel.to_string(), file.path.to_string()];
            let of_kernel = || file.resources.iter().filter(|r| r.kernel == *kernel);
            if of_kernel().next().is_none() {
                rows.push(place.to_vec());
            }
            for r in of_kernel() {
                let numbers = [r.registers, r.shared, r.stack, r.spills].map(|n| n.to_string());
                let arch = [format!("sm_{}", r.arch)];
                let what: Vec<String> = what.take().into_iter().collect();
                rows.push([&place[..], &arch, &numbers, &what].concat());
            }
        }
    }
    if rows.len() == 1 {
        return None;
    }
    let (major, minor) = COMPILED_BY;
    let compiled = match TOOLKIT {
        Some(_) => format!("Compiled by CUDA {major}.{minor}."),
        None => format!(
            "As CUDA {major}.{minor} compiles them (kernels/resources.txt); this build has none of \
             them: {NVCC_REMEDY}."
        ),
    };
    let note = format!("{compiled} Shared: static, bytes a block. Stack, spills: bytes a thread.");
    Some(format!("{}\n{note}\n", aligned(&rows)))
}

/// Text columns left, numbers right.
fn aligned(rows: &[Vec<String>]) -> String {
    const NUMBERS: std::ops::Range<usize> = 3..7;
    let width = |column| {
        rows.iter()
            .filter_map(|r| r.get(column))
            .map(String::len)
            .max()
    };
    let widths: Vec<usize> = (0..).map_while(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells =
            row.iter()
                .zip(&widths)
                .enumerate()
                .map(|(i, (cell, &w))| match NUMBERS.contains(&i) {
                    true => format!("{cell:>w$}"),
                    false => format!("{cell:<w$}"),
                });
        let line = cells.collect::<Vec<_>>().join("  ");
        text += line.trim_end();
        text.push('\n');
    }
    text
}
