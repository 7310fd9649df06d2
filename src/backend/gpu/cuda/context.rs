//! A device's context with all kernels: opened once in a process, and kept as long as it runs, as
//! loading every kernel takes much longer than most of what they are then used for.

use super::fault::{check, cu, remedy, text};
use super::library;
use crate::backend::gpu::catalog::{FILES, KernelFile, TOOLKIT};
use crate::backend::gpu::driver::Capability;
use crate::backend::{DeviceError, say};
use cudarc::driver::sys::{self, CUresult};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The device's primary context, retained, with the kernels of the build.
pub struct Context {
    device: sys::CUdevice,
    handle: sys::CUcontext,
    versions: Versions,
    /// For people: `NVIDIA H100 80GB HBM3 (cuda:0, sm_90)`.
    pub description: String,
    pub capability: Capability,
    modules: Vec<sys::CUmodule>,
    functions: HashMap<&'static str, sys::CUfunction>,
    /// Why nothing can be done with it any more.
    dead: OnceLock<DeviceError>,
}

// SAFETY: contexts, and the functions in them, may be used by any thread that makes them current.
unsafe impl Send for Context {}
// SAFETY: the driver API locks what it needs to.
unsafe impl Sync for Context {}

/// Of CUDA.
#[derive(Clone, Copy)]
struct Versions {
    driver: (u32, u32),
    /// What compiled the kernels.
    toolkit: (u32, u32),
}

impl Versions {
    fn old_driver(self) -> DeviceError {
        let Versions { driver, toolkit } = self;
        DeviceError::OldDriver { driver, toolkit }
    }
}

/// Those of this process, by the device's number.
static OPEN: Mutex<BTreeMap<u32, Arc<Context>>> = Mutex::new(BTreeMap::new());

/// The context of the device of that number.
///
/// # Errors
/// No kernels, no driver, no such device, one that is too old or taken by others, or a driver that
/// is too old; or what has made an end of the context.
pub fn open(ordinal: u32) -> Result<Arc<Context>, DeviceError> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(context) = open.get(&ordinal) {
        context.lives()?;
        return Ok(context.clone());
    }
    let context = Arc::new(Context::new(ordinal)?);
    open.insert(ordinal, context.clone());
    Ok(context)
}

impl Context {
    fn new(ordinal: u32) -> Result<Context, DeviceError> {
        let toolkit = TOOLKIT.ok_or(DeviceError::NoKernels)?;
        library::load()?;
        let driver = initialise()?;
        // Machine code runs on any driver of the toolkit's major version or a later one.
        let versions = Versions { driver, toolkit };
        if driver.0 < toolkit.0 {
            return Err(versions.old_driver());
        }
        library::is_whole()?;
        let (device, name, capability) = find(ordinal)?;
        let (major, minor) = capability.arch;
        let archs = archs();
        if !archs
            .iter()
            .any(|arch| takes(arch, capability.arch) != Code::None)
        {
            let built = sm(&archs);
            return Err(DeviceError::NoCode {
                name,
                major,
                minor,
                built,
            });
        }
        if !archs
            .iter()
            .any(|arch| takes(arch, capability.arch) == Code::Machine)
        {
            say(format_args!(
                "cuda:{ordinal}: compiling the kernels for sm_{major}{minor}, for which this build has \
                 no machine code; that takes ten seconds or more, once if ~/.nv/ComputeCache can be \
                 written; a build with CUDA_ARCHS='{};{major}{minor}' does without",
                archs.iter().copied().collect::<Vec<_>>().join(";")
            ));
        }
        let taken = |reason: String| DeviceError::Taken {
            name: name.clone(),
            reason,
        };
        let mut handle = null_mut();
        // SAFETY: a local variable takes the context, which is released when it is dropped.
        match unsafe { sys::cuDevicePrimaryCtxRetain(&mut handle, device) } {
            result @ (CUresult::CUDA_ERROR_OUT_OF_MEMORY
            | CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE) => return Err(taken(text(result))),
            result => check("cuDevicePrimaryCtxRetain", result)?,
        }
        let mut context = Context {
            device,
            handle,
            versions,
            description: format!("{name} (cuda:{ordinal}, sm_{major}{minor})"),
            capability,
            modules: Vec::new(),
            functions: HashMap::new(),
            dead: OnceLock::new(),
        };
        context.bind()?;
        for file in FILES {
            let loaded = context.load(file);
            loaded.map_err(|e| match e {
                DeviceError::OutOfMemory { .. } => taken(format!("no memory for {}", file.path)),
                other => other,
            })?;
        }
        Ok(context)
    }

    /// Makes it this thread's: before any other call.
    pub fn bind(&self) -> Result<(), DeviceError> {
        // SAFETY: the context is retained as long as `self` lives.
        unsafe { cu!(cuCtxSetCurrent(self.handle)) }
    }

    /// A kernel by its name.
    pub fn function(&self, kernel: &str) -> Option<sys::CUfunction> {
        self.functions.get(kernel).copied()
    }

    /// Says so wherever it is opened from now on: a fault ends the use of a device by its process,
    /// and so does a kernel that never ends.
    pub fn end(&self, why: &DeviceError) {
        let _ = self.dead.set(match why {
            DeviceError::Fault(text) => {
                DeviceError::Fault(format!("{text}; earlier in this process"))
            }
            other => other.clone(),
        });
    }

    pub fn lives(&self) -> Result<(), DeviceError> {
        self.dead.get().cloned().map_or(Ok(()), Err)
    }

    /// A kernel may still run, and may never end: whatever waits for it, such as freeing what it may
    /// use, would not end either.
    pub fn hangs(&self) -> bool {
        let dead = self.dead.get();
        matches!(
            dead,
            Some(DeviceError::Hung { .. } | DeviceError::Interrupted { .. })
        )
    }

    /// Loads a file's kernels, all of them before the first launch: loading one in the middle of a
    /// capture could break it.
    fn load(&mut self, file: &KernelFile) -> Result<(), DeviceError> {
        use sys::CUfunction_attribute as Attribute;
        let fatbin = file.fatbin.ok_or(DeviceError::NoKernels)?;
        let (mut module, mut log) = (null_mut(), [0_u8; 4096]);
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        // The size travels in the place of a pointer; the log stays one with a zero at its end.
        let mut values: [*mut c_void; 2] = [
            log.as_mut_ptr().cast(),
            std::ptr::without_provenance_mut(log.len() - 1),
        ];
        // SAFETY: the image is a whole fatbin, which says its own length; as many values as options,
        // of which one is a buffer of the length that the other says.
        let result = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                fatbin.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        // PTX is bound to the toolkit's minor version, too.
        if result == CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION {
            return Err(self.versions.old_driver());
        }
        check("cuModuleLoadDataEx", result).map_err(|e| match e {
            DeviceError::Call { reason, .. } => DeviceError::Load {
                file: file.path,
                reason: format!("{reason}{}", logged(&log)),
            },
            other => other,
        })?;
        self.modules.push(module);
        let most = self.capability.block_shared as c_int;
        for &kernel in file.kernels {
            let name = CString::new(kernel).expect("names have no zeros");
            let (mut function, mut own) = (null_mut(), 0);
            // SAFETY: the module is loaded; the name ends with a zero. All shared memory that a block
            // may have beside the kernel's own is allowed to it here, for whoever launches it; that
            // also makes the driver load the kernel's code now.
            unsafe {
                cu!(cuModuleGetFunction(&mut function, module, name.as_ptr()))?;
                let attribute = Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
                cu!(cuFuncGetAttribute(&mut own, attribute, function))?;
                let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                cu!(cuFuncSetAttribute(function, attribute, most - own))?;
            }
            self.functions.insert(kernel, function);
        }
        Ok(())
    }
}

/// Only of one whose kernels could not be loaded: all others last as long as the process.
impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: modules are unloaded once, and no kernel of theirs has ever run; the context was
        // retained once and is released once.
        unsafe {
            for module in self.modules.drain(..) {
                let _ = sys::cuModuleUnload(module);
            }
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

/// Initialises the driver; its version.
fn initialise() -> Result<(u32, u32), DeviceError> {
    let mut number = 0;
    // SAFETY: the first call of all; then a local variable takes a number.
    unsafe {
        match sys::cuInit(0) {
            CUresult::CUDA_SUCCESS => {}
            CUresult::CUDA_ERROR_NO_DEVICE => return Err(DeviceError::NoDevice),
            result => {
                return Err(DeviceError::NoStart {
                    reason: text(result),
                    remedy: remedy(result),
                });
            }
        }
        cu!(cuDriverGetVersion(&mut number))?;
    }
    Ok(version(number))
}

/// `(major, minor)` of the driver API's version number.
fn version(number: c_int) -> (u32, u32) {
    (number as u32 / 1000, number as u32 % 1000 / 10)
}

/// A device by its number, its name, and what it is capable of.
fn find(ordinal: u32) -> Result<(sys::CUdevice, String, Capability), DeviceError> {
    use sys::CUdevice_attribute as Attribute;
    let (mut count, mut device, mut buffer) = (0, 0, [0; 256]);
    // SAFETY: every pointer is to a local variable or a buffer of the length given.
    unsafe {
        cu!(cuDeviceGetCount(&mut count))?;
        let count = count as u32;
        if count == 0 {
            return Err(DeviceError::NoDevice);
        }
        if ordinal >= count {
            return Err(DeviceError::NoSuchDevice { ordinal, count });
        }
        cu!(cuDeviceGet(&mut device, ordinal as c_int))?;
        let len = buffer.len() as c_int;
        cu!(cuDeviceGetName(buffer.as_mut_ptr(), len, device))?;
    }
    // SAFETY: the driver ends the name with a zero.
    let name = unsafe { CStr::from_ptr(buffer.as_ptr()) };
    let name = name.to_string_lossy().into_owned();
    let attribute = |which| {
        let mut value = 0;
        // SAFETY: a local variable takes the number.
        unsafe { cu!(cuDeviceGetAttribute(&mut value, which, device)) }.map(|()| value as u32)
    };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    if major < 8 {
        return Err(DeviceError::OldDevice { name, major, minor });
    }
    let block_shared = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    let shared = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR;
    let capability = Capability {
        arch: (major, minor),
        hopper: (major, minor) == (9, 0) && archs().contains("90a"),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        block_shared: attribute(block_shared)?,
        shared: attribute(shared)?,
    };
    Ok((device, name, capability))
}

/// The architectures that the kernels were compiled for: `80`, `90a`.
fn archs() -> BTreeSet<&'static str> {
    let resources = FILES.iter().flat_map(|file| file.resources);
    resources.map(|r| r.arch).collect()
}

/// `sm_80 and sm_90a`.
fn sm(archs: &BTreeSet<&str>) -> String {
    let names: Vec<String> = archs.iter().map(|arch| format!("sm_{arch}")).collect();
    names.join(" and ")
}

/// What a device can take of what was compiled for an architecture.
#[derive(Debug, PartialEq)]
enum Code {
    /// It runs as it is.
    Machine,
    /// The driver compiles it first.
    Ptx,
    None,
}

/// What a device takes of what was compiled for `arch`. Machine code runs on devices of the same
/// generation that are no older; with an `a` on none but its own, with an `f` on its family. PTX goes
/// with architectures without a letter.
fn takes(arch: &str, device: (u32, u32)) -> Code {
    let digits = arch.trim_end_matches(['a', 'f']);
    let Ok(number) = digits.parse::<u32>() else {
        return Code::None;
    };
    let own = (number / 10, number % 10);
    let runs = match arch.ends_with('a') {
        true => own == device,
        false => own.0 == device.0 && own.1 <= device.1,
    };
    match runs {
        true => Code::Machine,
        false if digits == arch && own <= device => Code::Ptx,
        false => Code::None,
    }
}

/// What the driver's compiler wrote, behind a reason: in one line.
fn logged(log: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(log).unwrap_or_default();
    let text = text.to_string_lossy();
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.is_empty() {
        true => String::new(),
        false => format!("; its log: {}", words.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_driver_writes_them() {
        assert_eq!((version(12_080), version(13_000)), ((12, 8), (13, 0)));
    }

    #[test]
    fn code_runs_where_it_was_compiled_for() {
        let cases = [
            ("80", (8, 0), Code::Machine),
            ("80", (8, 9), Code::Machine),
            ("80", (9, 0), Code::Ptx),
            ("80", (12, 1), Code::Ptx),
            ("86", (8, 0), Code::None),
            ("90a", (9, 0), Code::Machine),
            ("90a", (10, 0), Code::None),
            ("100f", (10, 3), Code::Machine),
            ("100f", (12, 0), Code::None),
            ("100a", (10, 3), Code::None),
            ("120", (12, 1), Code::Machine),
            ("120", (10, 3), Code::None),
        ];
        for (arch, device, expected) in cases {
            assert_eq!(takes(arch, device), expected, "{arch} on {device:?}");
        }
    }

    #[test]
    fn a_compilers_log_is_one_line() {
        assert_eq!(logged(&[0; 8]), "");
        let log = b"ptxas error :\n  no such\tregister\n\0rest";
        assert_eq!(logged(log), "; its log: ptxas error : no such register");
    }
}
