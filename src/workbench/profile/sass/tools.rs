//! Machine code of this build's kernels, by the tools of the CUDA toolkit that it was made with.

use super::{Code, parse};
use crate::backend::gpu::catalog::{NVCC, sources};
use rayon::prelude::*;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

/// Kernels of some files (`kernels/sgd/2_vectors.cu`) by name, compiled for an architecture: `90a`. Sources are
/// those of the build, or edited ones if kernels were compiled anew.
///
/// # Errors
/// In words why there is none: no nvcc in the build, no nvdisasm beside it, or one that fails.
pub fn machine_code(files: &[&str], arch: &str) -> Result<HashMap<String, Code>, String> {
    let nvcc = NVCC.ok_or("this build has no nvcc")?;
    let nvdisasm = Path::new(nvcc).with_file_name("nvdisasm");
    if !nvdisasm.is_file() {
        return Err(format!("there is no {}", nvdisasm.display()));
    }
    let said = |e: io::Error| format!("a temporary folder: {e}");
    let folder = tempfile::Builder::new().prefix("autoassist-").tempdir();
    let folder = folder.map_err(said)?;
    for (path, text) in sources() {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(said)?;
        fs::write(path, text).map_err(said)?;
    }
    let all = files.par_iter().enumerate().map(|(number, file)| {
        let cubin = format!("{number}.cubin");
        let mut compile = Command::new(nvcc);
        compile.args(["-cubin", "-std=c++17", "-lineinfo", "-Ikernels/include"]);
        compile.args([&format!("-arch=sm_{arch}"), *file, "-o", &cubin]);
        run(compile.current_dir(&folder), nvcc)?;
        let mut disassemble = Command::new(&nvdisasm);
        disassemble.args(["-c", "-gi", "-hex", &cubin]);
        let text = run(disassemble.current_dir(&folder), "nvdisasm")?;
        Ok(parse(&text))
    });
    let all: Vec<HashMap<String, Code>> = all.collect::<Result<_, String>>()?;
    Ok(all.into_iter().flatten().collect())
}

/// What a tool prints.
fn run(command: &mut Command, name: &str) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{name}: {e}"))?;
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{name}: {}",
            log.lines().next().unwrap_or("failed")
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
