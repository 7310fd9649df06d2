//! Which executor a name means.

use super::cpu::Cpu;
use super::cpu::simd::Isa;
use super::gpu::Gpu;
use super::precision::Precision;
use super::{DeviceError, Executor, say, wait};
use crate::world::world;
use std::sync::OnceLock;

/// Opens `auto`, `cpu`, `simt` or `cuda[:N]`, with activations of a precision where that is asked for;
/// where it is not, the CPU takes `usual`. `auto` is `cuda` where the build has kernels and the
/// machine a driver and a device that can be used, else `cpu`; where there is a device that cannot be
/// used, a line on standard error says why.
///
/// # Errors
/// A name that is unknown, a device that is not there, or a precision asked of one that has no choice.
pub fn open(
    device: &str,
    precision: Option<Precision>,
    usual: Precision,
) -> Result<Box<dyn Executor>, DeviceError> {
    let (name, number) = device
        .split_once(':')
        .map_or((device, None), |(n, i)| (n, Some(i)));
    let refused = |precision, device: &str| {
        let device = device.to_string();
        Err(DeviceError::Precision { precision, device })
    };
    if let (Some(precision), "simt" | "cuda") = (precision, name) {
        return refused(precision, name);
    }
    let gpu = match (name, number.map(str::parse::<u32>)) {
        ("auto", None) => auto()?,
        ("cpu", None) => None,
        ("simt", None) => {
            world().check_engine("simt")?;
            Some(Gpu::simt()?)
        }
        ("cuda", None) => Some(Gpu::cuda(own_gpu())?),
        ("cuda", Some(Ok(ordinal))) => Some(Gpu::cuda(ordinal)?),
        _ => return Err(DeviceError::Unknown(device.into())),
    };
    match (gpu, precision) {
        (Some(gpu), None) => Ok(Box::new(gpu)),
        (Some(_), Some(precision)) => refused(precision, "auto, here cuda,"),
        (None, _) => cpu(precision.unwrap_or(usual)),
    }
}

fn cpu(precision: Precision) -> Result<Box<dyn Executor>, DeviceError> {
    world().check_engine("cpu")?;
    Ok(Box::new(Cpu::with(Isa::detect()?, precision)))
}

/// Ranks on one machine take a GPU each.
fn own_gpu() -> u32 {
    world().local_rank() as u32
}

/// `cuda`, or nothing but the CPU. A process decides once: runs that are compared run on the same.
fn auto() -> Result<Option<Gpu>, DeviceError> {
    // Who says something that cannot be is told so wherever this ends up.
    wait::step_limit()?;
    static ON_CUDA: OnceLock<bool> = OnceLock::new();
    let mut opened = None;
    let on_cuda = *ON_CUDA.get_or_init(|| {
        let found = Gpu::cuda(own_gpu());
        found
            .as_ref()
            .err()
            .and_then(why_not_cuda)
            .iter()
            .for_each(say);
        opened = found.ok();
        opened.is_some()
    });
    match opened {
        None if on_cuda => Ok(Some(Gpu::cuda(own_gpu())?)),
        opened => Ok(opened),
    }
}

/// What to say of a GPU that cannot be used; nothing where there is none.
fn why_not_cuda(error: &DeviceError) -> Option<String> {
    let text = error.to_string();
    let reason = text.strip_prefix("--device cuda: ").unwrap_or(&text);
    (!error.is_absence()).then(|| format!("--device auto takes the CPU: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_says_in_a_line_why_a_gpu_is_not_used_and_nothing_where_there_is_none() {
        let call = |call| DeviceError::Call {
            call,
            reason: "CUDA_ERROR_INVALID_DEVICE, invalid device ordinal".into(),
        };
        let name = || "NVIDIA T4".to_string();
        let unusable = [
            DeviceError::ForeignDriver("it has no cuInit".into()),
            DeviceError::NoStart {
                reason: "CUDA_ERROR_UNKNOWN, unknown error".into(),
                remedy: "see whether nvidia-smi works",
            },
            DeviceError::OldDriver {
                driver: (12, 8),
                toolkit: (13, 0),
            },
            DeviceError::OldDevice {
                name: name(),
                major: 7,
                minor: 5,
            },
            DeviceError::NoCode {
                name: name(),
                major: 8,
                minor: 0,
                built: "sm_90a".into(),
            },
            DeviceError::Taken {
                name: name(),
                reason: "CUDA_ERROR_OUT_OF_MEMORY, out of memory".into(),
            },
            DeviceError::Load {
                file: "kernels/sgd/1_elements.cu",
                reason: "CUDA_ERROR_INVALID_IMAGE, device kernel image is invalid".into(),
            },
            call("cuDeviceGetCount"),
        ];
        for error in unusable {
            let line = why_not_cuda(&error).unwrap();
            let reason = line.strip_prefix("--device auto takes the CPU: ").unwrap();
            assert!(error.to_string().ends_with(reason), "{line}");
            assert!(
                !line.contains('\n') && !line.contains("--device cuda:"),
                "{line}"
            );
        }
        for absent in [
            DeviceError::NoKernels,
            DeviceError::NoDriver,
            DeviceError::NoDevice,
        ] {
            assert_eq!(why_not_cuda(&absent), None);
        }
    }

    #[test]
    fn auto_is_something_on_every_machine() {
        assert!(open("auto", None, Precision::F32).is_ok());
    }

    #[test]
    fn precision_is_a_choice_on_the_cpu_alone() {
        use Precision::{Bf16, F32};
        for (asked, usual, got) in [
            (None, F32, F32),
            (None, Bf16, Bf16),
            (Some(F32), Bf16, F32),
            (Some(Bf16), F32, Bf16),
        ] {
            let cpu = open("cpu", asked, usual).unwrap();
            assert_eq!(cpu.precision(), got);
            let text = cpu.describe();
            assert_eq!(text.starts_with("cpu (bf16, "), got == Bf16, "{text}");
            assert!(got == Bf16 || !text.contains("amx"), "{text}");
        }
        for device in ["simt", "cuda", "cuda:1"] {
            let error = open(device, Some(Bf16), F32).err().unwrap().to_string();
            assert!(error.starts_with("--precision bf16: --device "), "{error}");
        }
    }
}
