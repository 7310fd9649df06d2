//! Why a device cannot be used, or stopped working.

use super::cpu::simd::IsaError;
use super::precision::Precision;
use crate::world::error::WorldError;
use std::time::Duration;

/// How to give a build its CUDA kernels.
pub const NVCC_REMEDY: &str = include_str!("../../kernels/build/nvcc_remedy.txt");

/// A device that cannot be used, or whose work failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeviceError {
    /// Not one of the names.
    #[error("--device {0}: choose auto, cpu, simt or cuda[:N]")]
    Unknown(String),
    /// A precision is asked of a device that has one only.
    #[error(
        "--precision {precision}: --device {device} stores activations in bf16 by nature; leave \
         --precision out, or give --device cpu"
    )]
    Precision {
        /// What was asked for.
        precision: Precision,
        /// The device.
        device: String,
    },
    /// A wish in the environment that cannot be met.
    #[error(transparent)]
    Cpu(#[from] IsaError),
    /// The ranks that train together do not come together.
    #[error(transparent)]
    World(#[from] WorldError),
    /// The build found no C++ compiler, or the machine is of another kind.
    #[error(
        "--device simt: this build has no SIMT executor; on x86-64 Linux, install g++ and build \
         again"
    )]
    NoSimt,
    /// The build's C++ compiler is clang, whose code is no measure of what a source computes.
    #[error(
        "clang compiled this build's kernels, and what arithmetic they do can only be counted in a \
         build by g++ (CXX=g++)"
    )]
    NotCounted,
    /// `AUTOASSIST_SIMT_SCHEDULE` names none.
    #[error("AUTOASSIST_SIMT_SCHEDULE={0}: choose low, high or random")]
    Schedule(String),
    /// `AUTOASSIST_SIMT_LANDING` names none.
    #[error("AUTOASSIST_SIMT_LANDING={0}: choose late, at-once or randomly")]
    Landing(String),
    /// `AUTOASSIST_SIMT_GPU` names none.
    #[error("AUTOASSIST_SIMT_GPU={name}: choose {choices}")]
    Model {
        /// What it names.
        name: String,
        /// What it might have named.
        choices: String,
    },
    /// The build found no nvcc.
    #[error("--device cuda: this build has no CUDA kernels; {NVCC_REMEDY}")]
    NoKernels,
    /// No libcuda on this machine.
    #[error(
        "--device cuda: this machine has no NVIDIA driver (no libcuda.so); install one, or use \
         --device cpu"
    )]
    NoDriver,
    /// Something that is called libcuda.
    #[error(
        "--device cuda: the libcuda.so found is not that of an NVIDIA driver ({0}); look at \
         LD_LIBRARY_PATH, or install the driver anew"
    )]
    ForeignDriver(String),
    /// A driver that cannot be initialised.
    #[error("--device cuda: the NVIDIA driver does not start ({reason}): {remedy}")]
    NoStart {
        /// What it said.
        reason: String,
        /// What helps.
        remedy: &'static str,
    },
    /// A driver, but no device.
    #[error("--device cuda: the NVIDIA driver sees no device; use --device cpu")]
    NoDevice,
    /// Fewer devices than the ordinal asks for.
    #[error("--device cuda:{ordinal}: this machine has {count} (cuda:0 to cuda:{})", count - 1)]
    NoSuchDevice {
        /// The device asked for.
        ordinal: u32,
        /// How many there are.
        count: u32,
    },
    /// Before Ampere.
    #[error("--device cuda: {name} is sm_{major}{minor}, the kernels need sm_80 or newer")]
    OldDevice {
        /// The device.
        name: String,
        /// Compute capability.
        major: u32,
        /// Its second digit.
        minor: u32,
    },
    /// Neither machine code for it nor PTX.
    #[error(
        "--device cuda: {name} is sm_{major}{minor}, this build's kernels are for {built}; build with \
         CUDA_ARCHS={major}{minor}"
    )]
    NoCode {
        /// The device.
        name: String,
        /// Compute capability.
        major: u32,
        /// Its second digit.
        minor: u32,
        /// What the kernels were compiled for.
        built: String,
    },
    /// Others use it, all of it or with a right to be alone.
    #[error(
        "--device cuda: {name} takes no more programs ({reason}); nvidia-smi shows who uses it"
    )]
    Taken {
        /// The device.
        name: String,
        /// What the driver said.
        reason: String,
    },
    /// The driver did not take the kernels of a file.
    #[error("--device cuda: the driver does not load {file}: {reason}")]
    Load {
        /// The file.
        file: &'static str,
        /// What it said, with what its compiler wrote.
        reason: String,
    },
    /// `AUTOASSIST_STEP_LIMIT` is none.
    #[error("AUTOASSIST_STEP_LIMIT={0}: give seconds, such as 600")]
    StepLimit(String),
    /// Older than the toolkit that compiled the kernels.
    #[error(
        "--device cuda: the driver supports CUDA {}.{}, the kernels were compiled by CUDA {}.{}; {}",
        driver.0, driver.1, toolkit.0, toolkit.1, newer(*driver, *toolkit)
    )]
    OldDriver {
        /// What the driver supports.
        driver: (u32, u32),
        /// What nvcc was.
        toolkit: (u32, u32),
    },
    /// `REQUIRE_CUDA=1`, and the device is not there for that reason.
    #[error("REQUIRE_CUDA=1: {0}")]
    Required(Box<DeviceError>),
    /// Not enough device memory.
    #[error(
        "out of device memory: {}{} MiB are free{}",
        match asked {
            0 => String::new(),
            _ => format!("{} MiB were asked for and ", asked >> 20),
        },
        free >> 20,
        fits.map_or(String::new(), |b| format!("; --batch {b} would fit"))
    )]
    OutOfMemory {
        /// Bytes of the request; 0 where the driver wanted memory of its own.
        asked: u64,
        /// Bytes that were free.
        free: u64,
        /// The part of the request that grows with the batch.
        per_batch: u64,
        /// The largest batch that would fit, once someone knows the present one.
        fits: Option<usize>,
    },
    /// A kernel failed; the device's work since then is lost.
    #[error("a kernel failed on the device: {0}")]
    Fault(String),
    /// What was launched does not end.
    #[error(
        "{what} has not ended within {} s, and is taken to hang; AUTOASSIST_STEP_LIMIT=SECONDS gives \
         it longer",
        limit.as_secs_f64()
    )]
    Hung {
        /// What.
        what: String,
        /// How long somebody waited.
        limit: Duration,
    },
    /// Somebody who waited for what hangs, or is very slow, was asked to stop.
    #[error("stopped; {what} was still running")]
    Interrupted {
        /// What.
        what: String,
    },
    /// A driver call that should not fail did.
    #[error("{call} failed: {reason}")]
    Call {
        /// Its name.
        call: &'static str,
        /// What the driver said.
        reason: String,
    },
}

/// How such a driver and such kernels come together.
fn newer(driver: (u32, u32), toolkit: (u32, u32)) -> String {
    if driver.0 == toolkit.0 {
        return format!(
            "update the driver, build with nvcc {}.{}, or name this GPU in CUDA_ARCHS: machine code of \
             any CUDA {} runs",
            driver.0, driver.1, toolkit.0
        );
    }
    // The first driver of a major version.
    let release = match toolkit.0 {
        12 => " to R525 or newer".to_string(),
        13 => " to R580 or newer".to_string(),
        _ => String::new(),
    };
    format!(
        "update the driver{release} (on data-centre GPUs the package cuda-compat-{}-{} does as well), \
         or build with a CUDA {} toolkit: CUDA_HOME names its folder, NVCC its nvcc",
        toolkit.0, toolkit.1, driver.0
    )
}

impl DeviceError {
    /// The reason why a program does without `cuda`, if it may.
    ///
    /// # Errors
    /// [`Required`](DeviceError::Required) with `REQUIRE_CUDA=1`, which every test, bench and
    /// program heeds that would take another device where there is no GPU.
    pub fn unless_required(self) -> Result<DeviceError, DeviceError> {
        match std::env::var_os("REQUIRE_CUDA") {
            Some(value) if value == "1" => Err(DeviceError::Required(self.into())),
            _ => Ok(self),
        }
    }

    /// Whether there is nothing to be used, and nobody would expect it: what `--device auto` does
    /// not mention.
    pub fn is_absence(&self) -> bool {
        matches!(
            self,
            DeviceError::NoKernels | DeviceError::NoDriver | DeviceError::NoDevice
        )
    }

    /// With the largest batch that would fit, where memory ran out with one of `batch`.
    pub fn at_batch(self, batch: usize) -> DeviceError {
        match self {
            DeviceError::OutOfMemory {
                asked,
                free,
                per_batch,
                ..
            } => {
                let fixed = asked - per_batch;
                let fits = free.saturating_sub(fixed) as u128 * batch as u128
                    / u128::from(per_batch.max(1));
                DeviceError::OutOfMemory {
                    asked,
                    free,
                    per_batch,
                    fits: Some(fits as usize).filter(|b| (1..batch).contains(b)),
                }
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_driver_is_told_what_exists() {
        let text = |driver, toolkit| DeviceError::OldDriver { driver, toolkit }.to_string();
        let old = text((12, 8), (13, 0));
        for remedy in [
            "R580",
            "cuda-compat-13-0",
            "CUDA 12 toolkit",
            "CUDA_HOME",
            "NVCC",
        ] {
            assert!(old.contains(remedy), "{old}");
        }
        // The same major version: what is too new is PTX.
        let ptx = text((13, 0), (13, 5));
        assert!(
            ptx.contains("nvcc 13.0") && ptx.contains("CUDA_ARCHS"),
            "{ptx}"
        );
        assert!(!ptx.contains("R580"), "{ptx}");
    }

    #[test]
    fn memory_that_the_driver_wanted_has_no_size() {
        let error = DeviceError::OutOfMemory {
            asked: 0,
            free: 3 << 20,
            per_batch: 0,
            fits: None,
        };
        let text = "out of device memory: 3 MiB are free";
        assert_eq!(error.at_batch(8).to_string(), text);
    }

    #[test]
    fn out_of_memory_names_the_batch_that_fits() {
        let error = |free: u64| DeviceError::OutOfMemory {
            asked: 1000 << 20,
            free: free << 20,
            per_batch: 800 << 20,
            fits: None,
        };
        let text = error(600).at_batch(128).to_string();
        assert!(
            text.contains("1000 MiB") && text.contains("600 MiB"),
            "{text}"
        );
        assert!(text.ends_with("--batch 64 would fit"), "{text}");
        // Not even one image.
        assert!(error(100).at_batch(128).to_string().ends_with("are free"));
    }
}
