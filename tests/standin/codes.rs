//! `CUresult`: those that are returned here or asked for by `STANDIN_FAIL`, as `cuda.h` has them.

/// A `CUresult`.
pub type Code = u32;

/// Names, numbers, and what the driver says of them.
macro_rules! codes {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        $(pub const $name: Code = $number;)*
        /// `CUDA_ERROR_…` and a description, each with the zero that C wants.
        pub fn texts(code: Code) -> Option<(&'static str, &'static str)> {
            match code {
                SUCCESS => Some(("CUDA_SUCCESS\0", "no error\0")),
                $($number => Some((
                    concat!("CUDA_ERROR_", stringify!($name), "\0"),
                    concat!($text, "\0"),
                )),)*
                _ => None,
            }
        }
    };
}

pub const SUCCESS: Code = 0;

#[allow(dead_code)] // some are only ever asked for by number
mod list {
    use super::{Code, SUCCESS};
    codes! {
        INVALID_VALUE = 1, "invalid argument";
        OUT_OF_MEMORY = 2, "out of memory";
        NOT_INITIALIZED = 3, "initialization error";
        STUB_LIBRARY = 34, "CUDA driver is a stub library";
        CALL_REQUIRES_NEWER_DRIVER = 36, "API call requires a newer CUDA driver";
        DEVICE_UNAVAILABLE = 46, "CUDA-capable device(s) is/are busy or unavailable";
        NO_DEVICE = 100, "no CUDA-capable device is detected";
        INVALID_DEVICE = 101, "invalid device ordinal";
        INVALID_IMAGE = 200, "device kernel image is invalid";
        INVALID_CONTEXT = 201, "invalid device context";
        NO_BINARY_FOR_GPU = 209, "no kernel image is available for execution on the device";
        ECC_UNCORRECTABLE = 214, "uncorrectable ECC error encountered";
        INVALID_PTX = 218, "a PTX JIT compilation failed";
        UNSUPPORTED_PTX_VERSION = 222, "the provided PTX was compiled with an unsupported toolchain.";
        INVALID_HANDLE = 400, "invalid resource handle";
        ILLEGAL_STATE = 401, "the operation cannot be performed in the present state";
        NOT_FOUND = 500, "named symbol not found";
        NOT_READY = 600, "device not ready";
        ILLEGAL_ADDRESS = 700, "an illegal memory access was encountered";
        LAUNCH_OUT_OF_RESOURCES = 701, "too many resources requested for launch";
        LAUNCH_TIMEOUT = 702, "the launch timed out and was terminated";
        CONTEXT_IS_DESTROYED = 709, "context is destroyed";
        ASSERT = 710, "device-side assert triggered";
        ILLEGAL_INSTRUCTION = 715, "an illegal instruction was encountered";
        MISALIGNED_ADDRESS = 716, "misaligned address";
        LAUNCH_FAILED = 719, "unspecified launch failure";
        NOT_SUPPORTED = 801, "operation not supported";
        SYSTEM_NOT_READY = 802, "system not yet initialized";
        SYSTEM_DRIVER_MISMATCH = 803, "system has unsupported display driver / cuda driver combination";
        COMPAT_NOT_SUPPORTED_ON_DEVICE = 804, "forward compatibility was attempted on non supported HW";
        STREAM_CAPTURE_UNSUPPORTED = 900, "operation not permitted when stream is capturing";
        STREAM_CAPTURE_INVALIDATED = 901, "operation failed due to a previous error during capture";
        STREAM_CAPTURE_MERGE = 902, "operation would result in a merge of separate capture sequences";
        STREAM_CAPTURE_UNMATCHED = 903, "a capture was ended that was not begun on this stream";
        STREAM_CAPTURE_UNJOINED = 904, "capturing stream has unjoined work";
        STREAM_CAPTURE_ISOLATION = 905, "dependency created on uncaptured work in another stream";
        STREAM_CAPTURE_WRONG_THREAD = 908, "attempt to terminate a thread-local capture sequence from another thread";
        UNKNOWN = 999, "unknown error";
    }
}
pub use list::*;
