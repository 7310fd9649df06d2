//! Is there a driver? Its library is loaded when it is asked for, so that no CUDA is needed to
//! build; a call that the library does not have would be a panic, so all are looked up first.

use crate::backend::DeviceError;
use cudarc::driver::sys;
use std::ffi::CStr;

/// Every function of the driver that is called from here: what any driver has, then those that one
/// may be too old for.
const CALLS: [&[&CStr]; 2] = [
    &[
        c"cuInit",
        c"cuDriverGetVersion",
        c"cuGetErrorName",
        c"cuGetErrorString",
    ],
    &[
        c"cuCtxSetCurrent",
        c"cuDeviceGet",
        c"cuDeviceGetAttribute",
        c"cuDeviceGetCount",
        c"cuDeviceGetName",
        c"cuDevicePrimaryCtxRelease_v2",
        c"cuDevicePrimaryCtxRetain",
        c"cuEventCreate",
        c"cuEventDestroy_v2",
        c"cuEventElapsedTime",
        c"cuEventRecord",
        c"cuFuncGetAttribute",
        c"cuFuncSetAttribute",
        c"cuGraphDestroy",
        c"cuGraphExecDestroy",
        c"cuGraphInstantiateWithFlags",
        c"cuGraphLaunch",
        c"cuLaunchKernel",
        c"cuMemAlloc_v2",
        c"cuMemFreeHost",
        c"cuMemFree_v2",
        c"cuMemGetInfo_v2",
        c"cuMemHostAlloc",
        c"cuMemHostGetDevicePointer_v2",
        c"cuMemcpyDtoHAsync_v2",
        c"cuMemcpyHtoDAsync_v2",
        c"cuMemsetD8Async",
        c"cuModuleGetFunction",
        c"cuModuleLoadDataEx",
        c"cuModuleUnload",
        c"cuStreamBeginCapture_v2",
        c"cuStreamCreate",
        c"cuStreamDestroy_v2",
        c"cuStreamEndCapture",
        c"cuStreamQuery",
        c"cuStreamWaitEvent",
        c"cuTensorMapEncodeTiled",
    ],
];

/// Loads the library, with what asks for its version.
///
/// # Errors
/// There is none, or what has its name is something else.
pub fn load() -> Result<(), DeviceError> {
    // SAFETY: only tries to open the library. Asked first because every other call panics where
    // there is none.
    match unsafe { sys::is_culib_present() } {
        true => has(CALLS[0]),
        false => Err(why_not()),
    }
}

/// With everything else.
///
/// # Errors
/// A function that is missing.
pub fn is_whole() -> Result<(), DeviceError> {
    has(CALLS[1])
}

fn has(calls: &[&CStr]) -> Result<(), DeviceError> {
    // SAFETY: the library has been opened. A symbol is only looked for, and not called.
    let library = unsafe { sys::culib() };
    for call in calls {
        // SAFETY: as above.
        let found = unsafe { library.get::<unsafe extern "C" fn()>(call.to_bytes_with_nul()) };
        if found.is_err() {
            let call = call.to_string_lossy();
            return Err(DeviceError::ForeignDriver(format!("it has no {call}")));
        }
    }
    Ok(())
}

/// As most machines have the library.
const NAME: &CStr = c"libcuda.so.1";

/// There is no library, unless the loader has something else to say.
fn why_not() -> DeviceError {
    // SAFETY: opens a library if there is one, which nothing is asked of; the loader's text is
    // copied before anyone else loads anything in this thread.
    let text = unsafe {
        if !libc::dlopen(NAME.as_ptr(), libc::RTLD_LAZY).is_null() {
            return DeviceError::NoDriver;
        }
        let text = libc::dlerror();
        match text.is_null() {
            true => return DeviceError::NoDriver,
            false => CStr::from_ptr(text).to_string_lossy(),
        }
    };
    match is_absence(&text) {
        true => DeviceError::NoDriver,
        false => DeviceError::ForeignDriver(text.into_owned()),
    }
}

/// Whether the loader means that there is no such file: not that one it needs is missing.
fn is_absence(text: &str) -> bool {
    let name = NAME.to_string_lossy();
    text.starts_with(&format!(
        "{name}: cannot open shared object file: No such file"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_looked_up_first() {
        let sources = [
            include_str!("beside.rs"),
            include_str!("context.rs"),
            include_str!("fault.rs"),
            include_str!("mod.rs"),
            include_str!("nccl.rs"),
            include_str!("tensor_map.rs"),
        ];
        let mut called: Vec<&str> = sources
            .iter()
            .flat_map(|text| ["cu!(", "sys::"].map(|start| text.split(start).skip(1)))
            .flatten()
            .filter_map(|rest| rest.trim_start().split_once('('))
            .map(|(name, _)| name)
            .filter(|name| {
                name.starts_with("cu") && name.chars().all(|c| c.is_alphanumeric() || c == '_')
            })
            .filter(|name| *name != "culib")
            .collect();
        called.sort_unstable();
        called.dedup();
        let looked_up = CALLS.concat();
        let mut looked_up: Vec<&str> = looked_up.iter().map(|c| c.to_str().unwrap()).collect();
        looked_up.sort_unstable();
        assert_eq!(looked_up, called);
    }

    #[test]
    fn a_library_that_cannot_be_loaded_is_not_a_missing_one() {
        assert!(is_absence(
            "libcuda.so.1: cannot open shared object file: No such file or directory"
        ));
        for broken in [
            "/usr/lib/libcuda.so.1: file too short",
            "libnvidia-ptx.so: cannot open shared object file: No such file or directory",
            "libcuda.so.1: cannot open shared object file: Permission denied",
        ] {
            assert!(!is_absence(broken), "{broken}");
        }
    }
}
