//! Checked launches on the SIMT executor: every access to memory of every thread is looked at, and
//! what is wrong becomes a [`Finding`]. How it works is in `kernels/simt/check.h`.

use super::abi::{Kernel, RawLaunch, text};
use super::symbols::{SYMBOLS, Symbols};
use crate::backend::error::DeviceError;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

/// Device memory that a checker has room for.
const CAPACITY: usize = 256 << 20;

/// `SimtChecker` of `kernels/simt/abi.h`.
#[repr(C)]
struct Raw {
    _opaque: [u8; 0],
}

/// `SimtAct`.
#[repr(C)]
struct RawAct {
    access: u32,
    block: [u32; 3],
    thread: [u32; 3],
    site: u64,
}

/// `SimtFinding`.
#[repr(C)]
struct RawFinding {
    kind: u32,
    acts: u32,
    act: [RawAct; 2],
    kernel: *const Kernel,
    count: u64,
    what: [c_char; 256],
}

unsafe extern "C" {
    fn simt_checker_new(capacity: usize) -> *mut Raw;
    fn simt_checker_delete(checker: *mut Raw);
    fn simt_checker_alloc(checker: *mut Raw, bytes: usize, align: usize) -> *mut u8;
    fn simt_checker_share(checker: *mut Raw, p: *const c_void, bytes: usize);
    fn simt_checker_scratch(checker: *mut Raw, allocation: *mut c_void, bytes: usize);
    fn simt_checker_define(checker: *mut Raw, p: *mut c_void, bytes: usize);
    fn simt_checker_carry(checker: *mut Raw, to: *mut c_void, from: *const c_void, bytes: usize);
    fn simt_checker_written(checker: *mut Raw, p: *const c_void, bytes: usize) -> bool;
    fn simt_checker_free(checker: *mut Raw, allocation: *mut c_void);
    fn simt_launch_checked(
        checker: *mut Raw,
        kernel: *const Kernel,
        launch: *const RawLaunch,
        args: *mut *mut c_void,
        error: *mut c_char,
        error_size: usize,
    ) -> i32;
    fn simt_checker_findings(checker: *const Raw, findings: *mut *const RawFinding) -> usize;
}

pub use super::symbols::Site;

/// What may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mistake {
    /// Two accesses, one of them a write, that nothing orders.
    Race,
    /// An access to bytes that an asynchronous copy may still be writing.
    Copy,
    /// An access that leaves its allocation or shared variable. It is not done, and ends the block.
    Bounds,
    /// A read of bytes that nothing has written.
    Uninitialised,
    /// A vector access at an address that is no multiple of its size. Ends the block.
    Misaligned,
    /// Arithmetic that C++ does not define: shifts, overflow, division by zero.
    Undefined,
}

const MISTAKES: [Mistake; 6] = [
    Mistake::Race,
    Mistake::Copy,
    Mistake::Bounds,
    Mistake::Uninitialised,
    Mistake::Misaligned,
    Mistake::Undefined,
];

/// What a thread was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// A plain read.
    Read,
    /// A plain write.
    Write,
    /// Any atomic access.
    Atomic,
    /// Asking for an asynchronous copy to there.
    Copy,
    /// Computing.
    None,
}

const ACCESSES: [Access; 5] = [
    Access::Read,
    Access::Write,
    Access::Atomic,
    Access::Copy,
    Access::None,
];

/// What one thread did.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Act {
    /// How it accessed memory.
    pub access: Access,
    /// `blockIdx`.
    pub block: [u32; 3],
    /// `threadIdx`.
    pub thread: [u32; 3],
    /// Where.
    pub site: Site,
}

/// A mistake that a checked launch has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its kind.
    pub mistake: Mistake,
    /// The kernel's name.
    pub kernel: &'static str,
    /// Who did it; of races and copies the later access, then the earlier one.
    pub acts: Vec<Act>,
    /// Which bytes, or which operation.
    pub what: String,
    /// How often it was seen.
    pub count: u64,
}

/// Memory for checked launches, and what they have shown.
pub struct Checker {
    inner: Mutex<Inner>,
}

struct Inner {
    raw: NonNull<Raw>,
    launches: BTreeMap<&'static str, u64>,
}

// SAFETY: the checker's memory belongs to no thread, and the mutex around it lets in one at a time.
unsafe impl Send for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: made by simt_checker_new, deleted once.
        unsafe { simt_checker_delete(self.raw.as_ptr()) }
    }
}

impl Checker {
    /// With nothing allocated and nothing found.
    ///
    /// # Errors
    /// The system refuses the address space (tens of GiB, of which little is used).
    pub fn new() -> Result<Arc<Checker>, DeviceError> {
        Checker::with_room(CAPACITY)
    }

    /// With room for so many bytes of device memory in all.
    ///
    /// # Errors
    /// As for [`new`](Checker::new).
    pub fn with_room(bytes: usize) -> Result<Arc<Checker>, DeviceError> {
        // SAFETY: has no preconditions.
        let raw = NonNull::new(unsafe { simt_checker_new(bytes) });
        let raw = raw.ok_or_else(|| out_of_memory(bytes))?;
        Ok(Arc::new(Checker {
            inner: Mutex::new(Inner {
                raw,
                launches: BTreeMap::new(),
            }),
        }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }

    /// Zeroed device memory that lives as long as the checker.
    pub(crate) fn alloc(&self, bytes: usize) -> Result<NonNull<u8>, DeviceError> {
        self.alloc_aligned(bytes, 256)
    }

    /// The same, from a multiple of `align` on, a power of two from 256 on; up to the next one there
    /// is nothing else.
    pub(crate) fn alloc_aligned(
        &self,
        bytes: usize,
        align: usize,
    ) -> Result<NonNull<u8>, DeviceError> {
        let inner = self.lock();
        // SAFETY: the checker lives.
        let start = unsafe { simt_checker_alloc(inner.raw.as_ptr(), bytes, align) };
        NonNull::new(start).ok_or_else(|| out_of_memory(bytes))
    }

    /// Kernels may access so many bytes of other memory from now on; with 0 no more.
    pub(crate) fn share(&self, p: *const c_void, bytes: usize) {
        let inner = self.lock();
        // SAFETY: the checker lives, and only compares addresses with this one.
        unsafe { simt_checker_share(inner.raw.as_ptr(), p, bytes) }
    }

    /// Makes the contents of an allocation undefined; of it, `bytes` may be used from now on.
    pub(crate) fn scratch(&self, allocation: u64, bytes: usize) {
        let inner = self.lock();
        // SAFETY: the checker lives, and ignores what is no allocation of its.
        unsafe { simt_checker_scratch(inner.raw.as_ptr(), allocation as *mut c_void, bytes) }
    }

    /// The host has written these bytes of an allocation.
    pub(crate) fn define(&self, address: u64, bytes: usize) {
        let inner = self.lock();
        // SAFETY: the checker lives; the caller has looked whether it is in an allocation.
        unsafe { simt_checker_define(inner.raw.as_ptr(), address as *mut c_void, bytes) }
    }

    /// The host has copied these bytes into an allocation: those of them that something has written are
    /// written there, too.
    pub(crate) fn carry(&self, to: u64, from: u64, bytes: usize) {
        let inner = self.lock();
        let (to, from) = (to as *mut c_void, from as *const c_void);
        // SAFETY: the checker lives; the caller has looked whether all of it is in allocations, or, of the
        // source, in memory that the checker does not know.
        unsafe { simt_checker_carry(inner.raw.as_ptr(), to, from, bytes) }
    }

    /// Whether something has written any of these bytes.
    pub(crate) fn written(&self, address: u64, bytes: usize) -> bool {
        let inner = self.lock();
        // SAFETY: as above.
        unsafe { simt_checker_written(inner.raw.as_ptr(), address as *const c_void, bytes) }
    }

    /// An allocation is no more: who accesses it from now on is found out.
    pub(crate) fn free(&self, allocation: u64) {
        let inner = self.lock();
        // SAFETY: the checker lives, and ignores what is no allocation of its.
        unsafe { simt_checker_free(inner.raw.as_ptr(), allocation as *mut c_void) }
    }

    /// `simt_launch_checked`.
    ///
    /// # Safety
    /// `kernel` is one for checked launches, and `args` are as many as it has parameters, each of their
    /// sizes.
    pub(crate) unsafe fn launch(
        &self,
        kernel: *const Kernel,
        raw: &RawLaunch,
        args: &mut [*mut c_void],
        error: &mut [u8],
    ) -> i32 {
        let mut inner = self.lock();
        // SAFETY: kernels and their names are constants of the program.
        let name = text(unsafe { (*kernel).name });
        *inner.launches.entry(name).or_default() += 1;
        // SAFETY: the checker lives and is ours alone as long as the lock is; the caller vouches
        // for the rest.
        unsafe {
            simt_launch_checked(
                inner.raw.as_ptr(),
                kernel,
                raw,
                args.as_mut_ptr(),
                error.as_mut_ptr().cast(),
                error.len(),
            )
        }
    }

    /// Kernels that were launched, and how often.
    pub fn launches(&self) -> BTreeMap<&'static str, u64> {
        self.lock().launches.clone()
    }

    /// What was found so far, each kind at each pair of sites once. The driver must be idle.
    pub fn findings(&self) -> Vec<Finding> {
        let inner = self.lock();
        let mut start = std::ptr::null();
        // SAFETY: the checker lives.
        let count = unsafe { simt_checker_findings(inner.raw.as_ptr(), &mut start) };
        if count == 0 {
            return Vec::new();
        }
        // SAFETY: so many findings lie there until the next launch, which waits for the lock.
        let all = unsafe { std::slice::from_raw_parts(start, count) };
        let symbols = SYMBOLS.lock().expect("no holder panics");
        let mut findings: Vec<Finding> = Vec::new();
        for raw in all {
            let finding = Finding::new(raw, &symbols);
            match findings.iter_mut().find(|known| known.is_like(&finding)) {
                Some(known) => known.count += finding.count,
                None => findings.push(finding),
            }
        }
        findings
    }
}

pub(super) fn out_of_memory(bytes: usize) -> DeviceError {
    DeviceError::OutOfMemory {
        asked: bytes as u64,
        free: 0,
        per_batch: 0,
        fits: None,
    }
}

impl Finding {
    fn new(raw: &RawFinding, symbols: &Symbols) -> Finding {
        // SAFETY: kernels and their names are constants of the program.
        let (kernel, file) = unsafe { (text((*raw.kernel).name), text((*raw.kernel).file)) };
        let act = |raw: &RawAct| Act {
            access: ACCESSES[raw.access as usize],
            block: raw.block,
            thread: raw.thread,
            site: symbols.site(raw.site, file),
        };
        // SAFETY: the text is terminated.
        let what = unsafe { CStr::from_ptr(raw.what.as_ptr()) };
        Finding {
            mistake: MISTAKES[raw.kind as usize],
            kernel,
            acts: raw.act[..raw.acts as usize].iter().map(act).collect(),
            what: what.to_string_lossy().into_owned(),
            count: raw.count,
        }
    }

    /// Whether it is the same mistake of the same kernel at the same sites.
    pub fn is_like(&self, other: &Finding) -> bool {
        let sites = |f: &Finding| {
            let mut sites: Vec<Site> = f.acts.iter().map(|a| a.site.clone()).collect();
            sites.sort();
            sites
        };
        (self.mistake, self.kernel) == (other.mistake, other.kernel) && sites(self) == sites(other)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mistake = match self.mistake {
            Mistake::Race => "race",
            Mistake::Copy => "asynchronous copy not waited for",
            Mistake::Bounds => "out of bounds",
            Mistake::Uninitialised => "uninitialised",
            Mistake::Misaligned => "misaligned",
            Mistake::Undefined => "undefined",
        };
        write!(f, "{}: {mistake}: {}", self.kernel, self.what)?;
        if self.count > 1 {
            write!(f, " ({} times)", self.count)?;
        }
        for (i, act) in self.acts.iter().enumerate() {
            let access = match act.access {
                Access::Read => "read",
                Access::Write => "write",
                Access::Atomic => "atomic access",
                Access::Copy => "asynchronous copy",
                Access::None => "computed",
            };
            let after = if i == 0 { "" } else { "after " };
            let [x, y, z] = act.block;
            write!(f, "\n  {after}{access} by block ({x},{y},{z}), ")?;
            let [x, y, z] = act.thread;
            write!(f, "thread ({x},{y},{z}) at {}", act.site.place)?;
            if let Some(caller) = &act.site.caller {
                write!(f, ", from {caller}")?;
            }
        }
        Ok(())
    }
}
