//! Part of `build.rs`: finds nvcc, compiles kernels with it and reads what ptxas reports.

use super::jobs::{Job, version_of};
use super::{Source, flat_name};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const REMEDY: &str = include_str!("nvcc_remedy.txt");
/// Machine code for an A100 and all after it but sm_110: newer GPUs run that of their own major version.
const ARCHS: &str = "80;90a;100;120";
/// The first that knows sm_90a.
const OLDEST: (u32, u32) = (12, 0);

/// An nvcc that runs.
pub struct Nvcc {
    /// Where it is.
    pub path: PathBuf,
    /// Of the CUDA toolkit.
    pub version: (u32, u32),
    identity: String,
    /// What it says of its options.
    help: String,
}

impl Nvcc {
    /// The first usable one of all places, if there is one.
    ///
    /// # Errors
    /// Why there is none: the only ones are unusable, or there is a GPU that would want one. Who has
    /// neither need not be told.
    pub fn find() -> Result<Option<Nvcc>, String> {
        let mut problem = None;
        for path in candidates() {
            match Nvcc::probe(path) {
                Ok(nvcc) => return Ok(Some(nvcc)),
                Err(why) => problem = problem.or(Some(why)),
            }
        }
        let has_gpu = Path::new("/dev/nvidiactl").exists();
        let problem = problem.or(has_gpu.then(|| "a GPU and no nvcc".into()));
        problem.map_or(Ok(None), |problem| {
            Err(format!(
                "{problem}: no CUDA kernels in this build; {REMEDY}"
            ))
        })
    }

    fn probe(path: PathBuf) -> Result<Nvcc, String> {
        let text = version_of(Command::new(&path)).unwrap_or_default();
        // "Cuda compilation tools, release 13.0, V13.0.88"
        let release = text.split("release ").nth(1).and_then(|rest| {
            let (major, minor) = rest.split(',').next()?.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        let Some(version) = release else {
            return Err(format!("{} does not run", path.display()));
        };
        if version < OLDEST {
            let ((major, minor), path) = (version, path.display());
            return Err(format!(
                "{path} is of CUDA {major}.{minor}, before {}.{}",
                OLDEST.0, OLDEST.1
            ));
        }
        let mut identity = text;
        // These nvcc reads itself.
        for key in ["NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"] {
            println!("cargo::rerun-if-env-changed={key}");
            identity += &format!("{key}={:?}\n", env::var_os(key));
        }
        let help = Command::new(&path).arg("--help").output();
        let help = help.map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Nvcc {
            path,
            version,
            identity,
            help: String::from_utf8_lossy(&help.stdout).into_owned(),
        })
    }
}

impl Nvcc {
    /// All that it compiles for and that have what the kernels are made of, as it names them:
    /// `80`, `90a`.
    pub fn archs(&self) -> Vec<String> {
        let quoted = self.help.split("'compute_").skip(1);
        let names = quoted.filter_map(|text| Some(text.split_once('\'')?.0.to_string()));
        let number = |arch: &String| arch.trim_end_matches(['a', 'f']).parse::<u32>();
        let mut archs: Vec<String> = names
            .filter(|arch| number(arch).is_ok_and(|n| n >= 80))
            .collect();
        archs.sort_by_key(|arch| (number(arch).ok(), arch.clone()));
        archs.dedup();
        archs
    }
}

/// Where nvcc may be, best first. `NVCC` decides alone if it is set; empty, it says none.
///
/// Of what is read here PATH is not watched: it differs from shell to shell, and each change would
/// build everything anew.
fn candidates() -> Vec<PathBuf> {
    for key in ["NVCC", "CUDA_HOME", "VIRTUAL_ENV"] {
        println!("cargo::rerun-if-env-changed={key}");
    }
    if let Some(nvcc) = env::var_os("NVCC") {
        let named = (!nvcc.is_empty()).then(|| nvcc.into());
        return named.into_iter().collect();
    }
    let folder = |key| env::var_os(key).map(PathBuf::from);
    let mut bins = Vec::new();
    bins.extend(folder("CUDA_HOME").map(|home| home.join("bin")));
    bins.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    bins.push("/usr/local/cuda/bin".into());
    let mut packages = Vec::new();
    if let Some(environment) = folder("VIRTUAL_ENV") {
        let versions = fs::read_dir(environment.join("lib")).into_iter().flatten();
        packages.extend(versions.flatten().map(|v| v.path().join("site-packages")));
    }
    let print_path = ["-c", "import sys; print(*sys.path, sep='\\n')"];
    if let Ok(output) = Command::new("python3").args(print_path).output() {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        packages.extend(text.lines().map(PathBuf::from));
    }
    bins.extend(packages.iter().map(|p| p.join("nvidia/cu13/bin")));
    let found = bins.iter().map(|bin| bin.join("nvcc"));
    found.filter(|path| path.is_file()).collect()
}

/// The architectures to compile for, of which this nvcc has to know all.
fn archs(nvcc: &Nvcc) -> Result<Vec<String>, String> {
    println!("cargo::rerun-if-env-changed=CUDA_ARCHS");
    let wish = env::var("CUDA_ARCHS").unwrap_or_else(|_| ARCHS.into());
    let (known, mut archs) = (nvcc.archs(), Vec::new());
    for arch in wish.split([';', ',']).map(|arch| arch.trim().to_string()) {
        if !known.contains(&arch) {
            let (major, minor) = nvcc.version;
            return Err(format!(
                "CUDA_ARCHS={wish}: {arch:?} is no architecture that nvcc {major}.{minor} compiles \
                 these kernels for; it takes {}, several with ; between",
                known.join(" ")
            ));
        }
        if !archs.contains(&arch) {
            archs.push(arch);
        }
    }
    Ok(archs)
}

/// A fatbin for each source, in their order.
pub fn jobs(nvcc: &Nvcc, out: &Path, sources: &[Source]) -> Result<Vec<Job>, String> {
    let archs = archs(nvcc)?;
    let folder = out.join("device");
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    // Every program embeds all of it: before CUDA 12.8 all there was is `-compress-all`.
    let compress = match nvcc.help.contains("--compress-mode") {
        true => &["--compress-mode=size"][..],
        false => &["-Xfatbin", "-compress-all"],
    };
    let job = |source: &Source| {
        let mut command = Command::new(&nvcc.path);
        command.args(["-fatbin", "-std=c++17", "-lineinfo", "-Ikernels/include"]);
        command.args(["-Xptxas", "-v,--warn-on-spills"]);
        command.args(compress);
        for arch in &archs {
            command.arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
        }
        // For devices newer than all of these; `a` and `f` code runs on none but its own.
        let plain = archs.iter().filter(|arch| !arch.ends_with(['a', 'f']));
        if let Some(oldest) = plain.min_by_key(|arch| arch.parse::<u32>().ok()) {
            command.arg(format!(
                "-gencode=arch=compute_{oldest},code=compute_{oldest}"
            ));
        }
        let output = folder
            .join(flat_name(&source.path))
            .with_extension("fatbin");
        Job::new(&source.path, output, command, &nvcc.identity)
    };
    Ok(sources.iter().map(job).collect())
}
