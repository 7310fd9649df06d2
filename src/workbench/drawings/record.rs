//! Ops at small shapes, whose requests to memory are kept.

use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::models::H100;
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::{DeviceError, Executor, Tensor};
use crate::simt::counts::Request;
use crate::simt::profiler::Profiler;
use std::ops::Range;
use std::sync::Arc;

pub(super) type Result<T = String> = std::result::Result<T, DeviceError>;

/// A device that takes no step of a ladder above one.
pub(super) struct Bench {
    pub(super) gpu: Gpu,
    profiler: Arc<Profiler>,
}

impl Bench {
    pub(super) fn new(ladder: Ladder, step: u32) -> Result<Bench> {
        let profiler = Profiler::new()?;
        profiler.keep_requests();
        let mut gpu = Gpu::simt_profiled(H100, profiler.clone());
        gpu.limit(ladder, step);
        Ok(Bench { gpu, profiler })
    }

    /// What the launches of a call ask of memory.
    pub(super) fn record(&mut self, call: impl FnOnce(&mut Gpu)) -> Result<Vec<Request>> {
        self.profiler.forget();
        call(&mut self.gpu);
        self.gpu.check()?;
        self.gpu.block(|driver| driver.synchronize())?;
        let launches = self.profiler.requests();
        Ok(launches.into_iter().flat_map(|(_, all)| all).collect())
    }

    /// Where a tensor lies, of elements of so many bytes.
    pub(super) fn span(&self, t: Tensor, each: u64) -> Span {
        let Arg::Ptr(start) = self.gpu.address(t) else {
            unreachable!("tensors have addresses")
        };
        let len = t.len() as u64;
        Span { start, each, len }
    }
}

/// Elements of a tensor, by address.
#[derive(Clone, Copy)]
pub(super) struct Span {
    start: u64,
    each: u64,
    len: u64,
}

impl Span {
    /// The element at an address.
    pub(super) fn of(&self, address: u64) -> Option<u64> {
        let at = address.checked_sub(self.start)? / self.each;
        (at < self.len).then_some(at)
    }

    /// The elements that a lane of a request accesses.
    pub(super) fn elements(&self, request: &Request, address: u64) -> Range<u64> {
        match self.of(address) {
            Some(first) => first..first + (request.size / self.each).max(1),
            None => 0..0,
        }
    }

    /// Whether a request is about this tensor.
    pub(super) fn holds(&self, request: &Request) -> bool {
        let mut lanes = request.lanes.iter();
        !request.shared && lanes.any(|(_, address)| self.of(*address).is_some())
    }

    /// All elements of the tensor that some requests access, as often as they do.
    pub(super) fn all<'r>(
        self,
        requests: impl Iterator<Item = &'r Request>,
    ) -> impl Iterator<Item = u64> {
        requests.filter(|r| !r.shared).flat_map(move |request| {
            let lanes = request.lanes.iter();
            lanes.flat_map(move |(_, address)| self.elements(request, *address))
        })
    }
}
