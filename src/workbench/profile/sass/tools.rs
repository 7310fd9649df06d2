//! Machine code of this build's kernels, by the tools of the CUDA toolkit that it was made with.

use super::{Code, in_repository, parse};
use crate::backend::gpu::catalog::{NVCC, sources};
use rayon::prelude::*;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Kernels of some files (`kernels/sgd/2_vectors.cu`) by name, compiled for an architecture: `90a`. Sources are
/// those of the build, or as they were edited since.
///
/// # Errors
/// In words why there is none: no nvcc in the build, no nvdisasm beside it, or one that fails.
pub fn machine_code(files: &[&str], arch: &str) -> Result<HashMap<String, Code>, String> {
    let nvcc = nvcc()?;
    let said = |e: io::Error| format!("a temporary folder: {e}");
    let folder = tempfile::Builder::new().prefix("autoassist-").tempdir();
    let folder = folder.map_err(said)?;
    for (path, text) in sources() {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(said)?;
        fs::write(path, text).map_err(said)?;
    }
    let all = files.par_iter().enumerate().map(|(number, file)| {
        let cubin = folder.path().join(format!("{number}.cubin"));
        let mut compile = Command::new(nvcc);
        compile.args(["-cubin", "-std=c++17", "-lineinfo", "-Ikernels/include"]);
        compile.args([&format!("-arch=sm_{arch}"), *file]);
        let text = disassembled(compile.current_dir(&folder), &cubin)?;
        Ok(parse(&text, &in_repository))
    });
    let all: Vec<HashMap<String, Code>> = all.collect::<Result<_, String>>()?;
    Ok(all.into_iter().flatten().collect())
}

/// The compiler, which has its disassembler beside it.
///
/// # Errors
/// In words what is missing.
pub fn nvcc() -> Result<&'static str, String> {
    let nvcc = NVCC.ok_or("this build has no nvcc")?;
    let nvdisasm = disassembler(nvcc);
    match nvdisasm.is_file() {
        true => Ok(nvcc),
        false => Err(format!("there is no {}", nvdisasm.display())),
    }
}

fn disassembler(nvcc: &str) -> PathBuf {
    Path::new(nvcc).with_file_name("nvdisasm")
}

/// What a call of nvcc says of what it makes, and nvdisasm prints of that.
///
/// # Errors
/// What either says first.
pub fn disassembled(compile: &mut Command, cubin: &Path) -> Result<String, String> {
    let made = run(compile.arg("-o").arg(cubin), "nvcc")?;
    let mut disassemble = Command::new(disassembler(nvcc()?));
    disassemble.args(["-c", "-gi", "-hex"]).arg(cubin);
    let code = run(&mut disassemble, "nvdisasm")?;
    let text = [made.stderr, code.stdout].concat();
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Runs a tool.
fn run(command: &mut Command, name: &str) -> Result<Output, String> {
    let output = command.output().map_err(|e| format!("{name}: {e}"))?;
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{name}: {}",
            log.lines().next().unwrap_or("failed")
        ));
    }
    Ok(output)
}
