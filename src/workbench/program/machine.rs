//! What nvcc makes of a program of one's own, where the build has one: the machine code of its kernels,
//! whose instructions are what warps issue.

use super::Options;
use super::compile::Compiled;
use crate::backend::gpu::catalog::NVCC;
use crate::simt::cache::keep;
use crate::simt::counts::{LaunchProfile, Trace};
use crate::simt::symbols::own_file;
use crate::workbench::profile::gpus::Specs;
use crate::workbench::profile::sass::tools::{disassembled, nvcc};
use crate::workbench::profile::sass::{Code, flow, issue, parse};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{fs, ptr};

/// Kernels of a program, as a GPU has them.
pub struct Machine {
    /// By the name without parameters, of which there may be several.
    kernels: HashMap<String, Vec<Code>>,
    arch: (u32, u32),
    last: Mutex<HashMap<&'static str, Executed>>,
}

/// What a launch's counts say of the machine code; most launches of a kernel do the same.
struct Executed {
    trace: Trace,
    warps: u64,
    times: Vec<f64>,
}

impl Machine {
    /// By nvcc, or what it has made of the same before.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn of(
        sources: &[PathBuf],
        options: &Options,
        compiled: &Compiled,
        specs: &Specs,
    ) -> Result<Machine, String> {
        let nvcc = nvcc()?;
        let arch = specs.capability.arch;
        // `90a`: all that such a GPU has.
        let all = if arch.0 >= 9 { "a" } else { "" };
        let name = format!("{}{}{all}", arch.0, arch.1);
        let version = Command::new(nvcc).arg("--version").output();
        let version = version.map_err(|e| format!("{nvcc}: {e}"))?.stdout;
        let version = String::from_utf8_lossy(&version);
        // "Build cuda_13.0.r13.0/compiler.36424714_0"
        let build = version.split('/').nth(1).unwrap_or_default().trim();
        let kept = compiled
            .library
            .with_extension(format!("{name}.{build}.sass"));
        let text = match fs::read_to_string(&kept) {
            Ok(text) => text,
            Err(_) => {
                let text = compile(sources, options, compiled, &name)?;
                // Without it the next time takes as long.
                let _ = keep(&kept, &text);
                text
            }
        };
        let toolkit = toolkit();
        let file = |path: &str| {
            let is_toolkits = toolkit.is_some_and(|folder| Path::new(path).starts_with(folder));
            own_file(path).filter(|_| !is_toolkits)
        };
        let mut kernels: HashMap<String, Vec<Code>> = HashMap::new();
        for (mangled, code) in parse(&text, &file) {
            let name = plain(&demangled(&mangled));
            kernels.entry(name).or_default().push(code);
        }
        let last = Mutex::default();
        Ok(Machine {
            kernels,
            arch,
            last,
        })
    }

    /// Adds what its warps issue to a launch of a kernel that it has, and of which there is one.
    pub fn read(&self, launch: &mut LaunchProfile) {
        let found = self.kernels.get(&plain(launch.kernel));
        let Some([code]) = found.map(Vec::as_slice) else {
            return;
        };
        let mut last = self.last.lock().expect("no holder panics");
        let warps = launch.warps();
        let same = |last: &&Executed| last.warps == warps && last.trace == launch.trace;
        if last.get(launch.kernel).filter(same).is_none() {
            let executed = Executed {
                trace: launch.trace.clone(),
                warps,
                times: flow::executions(code, &launch.trace, warps),
            };
            last.insert(launch.kernel, executed);
        }
        issue::add(launch, code, self.arch, &last[launch.kernel].times);
    }
}

/// The folder of the CUDA toolkit.
fn toolkit() -> Option<&'static Path> {
    Path::new(NVCC?).parent()?.parent()
}

fn compile(
    sources: &[PathBuf],
    options: &Options,
    compiled: &Compiled,
    arch: &str,
) -> Result<String, String> {
    // Where the library is, and nowhere else, as Ctrl-C may leave it behind.
    let folder = compiled.library.parent().unwrap_or(Path::new("."));
    let folder = tempfile::tempdir_in(folder).map_err(|e| format!("a temporary folder: {e}"))?;
    let mut all = String::new();
    let kernels = |source: &&PathBuf| source.extension().is_some_and(|e| e == "cu");
    for source in sources.iter().filter(kernels) {
        let cubin = folder.path().join("program.cubin");
        let mut command = Command::new(nvcc()?);
        command
            .args(["-cubin", "-lineinfo", "-w", "-Xptxas=-v"])
            .arg(format!("-arch=sm_{arch}"));
        let standard = options.standard.as_deref().unwrap_or("c++17");
        command.arg(format!("-std={standard}"));
        for folder in &options.include {
            command.arg("-I").arg(folder);
        }
        for name in &options.define {
            // A comma begins another definition.
            command.arg(format!("-D{}", name.replace(',', "\\,")));
        }
        // Of libraries that are no part of the compiler, what is for the host alone.
        let behind = compiled.headers.join("host");
        command.arg(format!("-Xcompiler=-idirafter,{}", behind.display()));
        all += &disassembled(command.arg(source), &cubin)?;
    }
    Ok(all)
}

unsafe extern "C" {
    /// Of the C++ library: the name of a function in C++'s words, in memory of the C library's.
    fn __cxa_demangle(
        name: *const c_char,
        into: *mut c_char,
        size: *mut usize,
        status: *mut c_int,
    ) -> *mut c_char;
}

/// `void f<4, float>(float const*)` of `_Z1fILi4EfEvPKT0_`; what is no name of C++ stays.
fn demangled(name: &str) -> String {
    let Ok(mangled) = CString::new(name) else {
        return name.into();
    };
    let mut status = 0;
    // SAFETY: a terminated name; the result is ours, terminated, and freed once.
    unsafe {
        let text = __cxa_demangle(
            mangled.as_ptr(),
            ptr::null_mut(),
            ptr::null_mut(),
            &mut status,
        );
        if text.is_null() {
            return name.into();
        }
        let found = CStr::from_ptr(text).to_string_lossy().into_owned();
        libc::free(text.cast());
        found
    }
}

/// A kernel's name as both compilers have it: `f<4,float>` of `void space::f<4u, float>(float*)`.
fn plain(name: &str) -> String {
    let name = name.replace("(anonymous namespace)", "");
    let (mut depth, mut start, mut end) = (0, 0, name.len());
    // Result and namespaces before it, parameters behind it, and not within `<>`.
    for (at, c) in name.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            ' ' | ':' if depth == 0 => start = at + 1,
            '(' if depth == 0 => {
                end = at;
                break;
            }
            _ => {}
        }
    }
    let mut plain = String::new();
    let mut in_number = false;
    for c in name[start..end].chars().filter(|c| *c != ' ') {
        let goes_on = plain.ends_with(|last: char| last.is_alphanumeric() || last == '_');
        in_number = c.is_ascii_digit() && (in_number || !goes_on) || in_number && "ul".contains(c);
        // `4ul` is 4.
        if !(in_number && "ul".contains(c)) {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_have_one_name_by_both_compilers() {
        for (mangled, ours) in [
            ("_Z1fILi4EfEvPKT0_PS0_", "f<4, float>"),
            ("_ZN1q1gEPf", "g"),
            ("_ZN1q32_GLOBAL__N__23b177fa_4_v_cu_main1hEPf", "h"),
            (
                "_Z6reduceIdLj512ELb1EEvPT_S1_j",
                "reduce<double, 512, true>",
            ),
            ("_Z1kIN5space4pairIiLm8EEEEvT_", "k<space::pair<int, 8> >"),
            ("_Z5u8x16v", "u8x16"),
            ("plain_c", "plain_c"),
        ] {
            assert_eq!(plain(&demangled(mangled)), plain(ours), "{mangled}");
        }
    }
}
