//! NCCL, which carries sums between the GPUs of several ranks. Its library is loaded when there are
//! several, by its own name, so that nothing needs it to build; MPI or `torchrun`'s store has brought
//! the ranks together before.
//!
//! Its calls go into a stream as kernels do, and into graphs with them: replaying one is a
//! collective call, so all ranks must have the same graphs and replay them in the same order. Means are
//! taken in a stream beside the first.

use super::Context;
use super::beside::Beside;
use crate::backend::DeviceError;
use crate::backend::gpu::driver::{ALL_REDUCE, Launch};
use crate::world::error::{WorldError, why_not};
use crate::world::world;
use cudarc::driver::sys;
use libloading::os::unix::{Library, RTLD_NOW};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

/// The name that all its packages give it.
const LIBRARY: &str = "libnccl.so.2";
/// The first with means, 2.10.
const OLDEST: c_int = 21_000;

/// `ncclUniqueId`, by which ranks find each other.
#[repr(C)]
#[derive(Clone, Copy)]
struct Id([u8; 128]);

const FLOAT: c_int = 7;
const UINT64: c_int = 5;
const AVERAGE: c_int = 4;
const IN_PROGRESS: c_int = 7;

type Comm = *mut c_void;

macro_rules! functions {
    ($($name:ident($($arg:ty),*) -> $result:ty;)*) => {
        #[allow(non_snake_case)]
        struct Functions {
            $($name: unsafe extern "C" fn($($arg),*) -> $result,)*
            _library: Library,
        }

        impl Functions {
            fn of(library: Library) -> Result<Functions, libloading::Error> {
                Ok(Functions {
                    $(
                        // SAFETY: the signature is that of `nccl.h`, which has not changed since 2.4.
                        $name: *unsafe { library.get(stringify!($name)) }?,
                    )*
                    _library: library,
                })
            }
        }
    };
}

functions! {
    ncclGetVersion(*mut c_int) -> c_int;
    ncclGetUniqueId(*mut Id) -> c_int;
    ncclGetErrorString(c_int) -> *const c_char;
    ncclCommInitRank(*mut Comm, c_int, Id, c_int) -> c_int;
    ncclCommGetAsyncError(Comm, *mut c_int) -> c_int;
    ncclCommDestroy(Comm) -> c_int;
    ncclCommAbort(Comm) -> c_int;
    ncclAllReduce(*const c_void, *mut c_void, usize, c_int, c_int, Comm, sys::CUstream) -> c_int;
    ncclAllGather(*const c_void, *mut c_void, usize, c_int, Comm, sys::CUstream) -> c_int;
}

impl Functions {
    fn load(name: &str) -> Result<Functions, WorldError> {
        let missing = |e: libloading::Error| WorldError::NoNccl {
            reason: why_not(&e),
        };
        // SAFETY: the initialisers of a library that the system has for this.
        let library = unsafe { Library::open(Some(name), RTLD_NOW) }.map_err(missing)?;
        let nccl = Functions::of(library).map_err(missing)?;
        let mut version = 0;
        // SAFETY: a local variable.
        nccl.check("ncclGetVersion", unsafe {
            (nccl.ncclGetVersion)(&mut version)
        })?;
        match version < OLDEST {
            true => Err(WorldError::OldNccl { version }),
            false => Ok(nccl),
        }
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), WorldError> {
        if [0, IN_PROGRESS].contains(&code) {
            return Ok(());
        }
        // SAFETY: a constant text for every code.
        let text = unsafe { CStr::from_ptr((self.ncclGetErrorString)(code)) };
        Err(WorldError::Call {
            call,
            reason: format!("{}; NCCL_DEBUG=WARN says more", text.to_string_lossy()),
        })
    }
}

/// This rank's end of what connects all GPUs.
pub struct Nccl {
    functions: Functions,
    /// Null once it was given up.
    comm: Comm,
    beside: Beside,
    /// What it uses.
    context: Arc<Context>,
}

impl Nccl {
    /// Connects the GPU of this rank to all others', which do the same.
    ///
    /// # Errors
    /// No library, or what it says, of this rank or of another.
    pub fn join(context: &Arc<Context>) -> Result<Nccl, DeviceError> {
        let world = world();
        let prepare = || {
            let (functions, mut id) = (Functions::load(LIBRARY)?, Id([0; 128]));
            if world.is_first() {
                // SAFETY: a local variable.
                let code = unsafe { (functions.ncclGetUniqueId)(&mut id) };
                functions.check("ncclGetUniqueId", code)?;
            }
            Ok::<_, DeviceError>((functions, id))
        };
        let (functions, mut id) = world.everywhere("NCCL's library", prepare())?;
        let first = world.first("NCCL's id", &id.0)?;
        id.0.copy_from_slice(&first);
        let (ranks, rank) = (world.size() as c_int, world.rank() as c_int);
        let mut comm = null_mut();
        context.bind()?;
        // SAFETY: a local variable; the context is current.
        let code = unsafe { (functions.ncclCommInitRank)(&mut comm, ranks, id, rank) };
        functions.check("ncclCommInitRank", code)?;
        Ok(Nccl {
            functions,
            comm,
            beside: Beside::new(context)?,
            context: context.clone(),
        })
    }

    /// Puts a collective launch of that address and count into the stream, or a mean beside it, if it
    /// may be there.
    ///
    /// # Errors
    /// NCCL's, or the driver's.
    pub fn launch(
        &mut self,
        launch: &Launch,
        (address, count): (u64, u64),
        stream: sys::CUstream,
        may_be_beside: bool,
    ) -> Result<(), DeviceError> {
        let (f, all, world) = (&self.functions, address as *mut c_void, world());
        let code = if launch.kernel == ALL_REDUCE {
            let stream = match may_be_beside {
                true => self.beside.fork(stream)?,
                false => stream,
            };
            let count = count as usize;
            // SAFETY: device memory of so many floats, which nobody touches before the streams join.
            unsafe { (f.ncclAllReduce)(all, all, count, FLOAT, AVERAGE, self.comm, stream) }
        } else {
            self.beside.join(stream)?;
            let part = count as usize / world.size();
            let own = (address + (8 * part * world.rank()) as u64) as *const c_void;
            // SAFETY: device memory of so many words, which the stream's order keeps others from; this
            // rank's part lies where it will.
            unsafe { (f.ncclAllGather)(own, all, part, UINT64, self.comm, stream) }
        };
        let call = match launch.kernel {
            ALL_REDUCE => "ncclAllReduce",
            _ => "ncclAllGather",
        };
        Ok(f.check(call, code)?)
    }

    /// Whether it still works: a rank that is gone is found here. What waits for it on the GPU would
    /// wait for ever and is given up.
    ///
    /// # Errors
    /// It does not, once; who asks again knows.
    pub fn lives(&mut self) -> Result<(), DeviceError> {
        if self.comm.is_null() {
            return Ok(());
        }
        let (f, mut state) = (&self.functions, 0);
        // SAFETY: a local variable; the communicator is alive.
        let code = unsafe { (f.ncclCommGetAsyncError)(self.comm, &mut state) };
        f.check("ncclCommGetAsyncError", code)?;
        let failed = f.check("NCCL", state);
        if failed.is_err() {
            // SAFETY: aborted once, and not used after it.
            let _ = unsafe { (f.ncclCommAbort)(self.comm) };
            self.comm = null_mut();
        }
        Ok(failed?)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // After a fault nothing of the context can be used, and a hanging device would be waited for.
        if !self.comm.is_null() && self.context.lives().is_ok() && self.context.bind().is_ok() {
            // SAFETY: destroyed once, after all graphs and all work that use it.
            let _ = unsafe { (self.functions.ncclCommDestroy)(self.comm) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_missing_or_another_is_named_in_one_line() {
        for (name, want) in [
            ("libno-such-nccl.so.2", "libno-such-nccl.so.2"),
            ("libm.so.6", "ncclGetVersion"),
        ] {
            let text = Functions::load(name).err().unwrap().to_string();
            assert!(
                text.contains(want) && text.contains("pip install"),
                "{text}"
            );
            assert!(!text.contains('\n'), "{text}");
        }
    }
}
