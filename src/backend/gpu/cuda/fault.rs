//! What the driver says, as errors.

use crate::backend::DeviceError;
use cudarc::driver::sys::{self, CUresult};
use std::ffi::CStr;

/// What makes the next run name the kernel that failed.
pub const STEPWISE: &str = "AUTOASSIST_CUDA_STEPWISE";

/// A result's name and what it means, as the driver has them. A driver may know results that
/// `CUresult` does not, newer ones than its version; all lie between its first and its last value,
/// which is all that the compiler takes for granted, and every `match` here has an arm for them.
/// (Bindings of a later version know more results, but not `cuEventElapsedTime`, without which no
/// driver before 12.8 would do.)
pub fn text(result: CUresult) -> String {
    let mut name = std::ptr::null();
    let mut reason = std::ptr::null();
    // SAFETY: both calls set their pointer to a literal of the driver, or to null.
    unsafe {
        let _ = sys::cuGetErrorName(result, &mut name);
        let _ = sys::cuGetErrorString(result, &mut reason);
    }
    if name.is_null() || reason.is_null() {
        return format!("error {} of the driver", result as u32);
    }
    // SAFETY: the driver's literals end with a zero and live as long as the program.
    let [name, reason] = [name, reason].map(|s| unsafe { CStr::from_ptr(s) }.to_string_lossy());
    format!("{name}, {reason}")
}

/// `Ok`, or what the driver said; `call` names what was asked of it.
pub fn check(call: &'static str, result: CUresult) -> Result<(), DeviceError> {
    use CUresult::*;
    match result {
        CUDA_SUCCESS => Ok(()),
        CUDA_ERROR_ILLEGAL_ADDRESS
        | CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUDA_ERROR_LAUNCH_FAILED
        | CUDA_ERROR_LAUNCH_TIMEOUT
        | CUDA_ERROR_MISALIGNED_ADDRESS
        | CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUDA_ERROR_INVALID_PC
        | CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUDA_ERROR_ASSERT
        | CUDA_ERROR_CONTAINED
        | CUDA_ERROR_ECC_UNCORRECTABLE
        | CUDA_ERROR_NVLINK_UNCORRECTABLE
        | CUDA_ERROR_TENSOR_MEMORY_LEAK => Err(DeviceError::Fault(text(result))),
        CUDA_ERROR_OUT_OF_MEMORY => Err(DeviceError::OutOfMemory {
            asked: 0,
            free: 0,
            per_batch: 0,
            fits: None,
        }),
        _ => Err(DeviceError::Call {
            call,
            reason: text(result),
        }),
    }
}

/// `cuName(args)` as a `Result`. Only to be used where an `unsafe` block argues for the call.
macro_rules! cu {
    ($name:ident($($arg:expr),* $(,)?)) => {
        $crate::backend::gpu::cuda::fault::check(
            stringify!($name),
            cudarc::driver::sys::$name($($arg),*),
        )
    };
}
pub(super) use cu;

/// What is wrong where the driver cannot be initialised, and what helps.
pub fn remedy(init: CUresult) -> &'static str {
    use CUresult::*;
    match init {
        CUDA_ERROR_STUB_LIBRARY => {
            "the libcuda.so found is a toolkit's stub; take its folder out of LD_LIBRARY_PATH"
        }
        CUDA_ERROR_SYSTEM_NOT_READY => {
            "on machines with NVSwitch start nvidia-fabricmanager, of the driver's version"
        }
        CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "libcuda.so and the kernel's module are of different versions; restart the machine after \
             an update of the driver, or the container"
        }
        CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "a cuda-compat package's libcuda.so does not take this GPU; take its folder out of \
             LD_LIBRARY_PATH"
        }
        _ => "see whether nvidia-smi works, and what dmesg has to say",
    }
}
