//! A second stream, for what the device does beside the first: NCCL's sums, while the backward pass goes
//! on.
//!
//! Events order the two. In a capture, which a stream joins by waiting for an event of one that is
//! captured, they make a branch of the graph.

use super::Context;
use super::fault::cu;
use crate::backend::DeviceError;
use cudarc::driver::sys;
use std::ptr::null_mut;
use std::sync::Arc;

/// The second stream.
pub struct Beside {
    stream: sys::CUstream,
    forked: sys::CUevent,
    joined: sys::CUevent,
    /// It was given something that the first stream has not waited for.
    open: bool,
    context: Arc<Context>,
}

impl Beside {
    /// With nothing to do. The context is current.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(context: &Arc<Context>) -> Result<Beside, DeviceError> {
        let mut beside = Beside {
            stream: null_mut(),
            forked: null_mut(),
            joined: null_mut(),
            open: false,
            context: context.clone(),
        };
        let stream = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        let event = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: fields take the handles, each of which is destroyed once.
        unsafe {
            cu!(cuStreamCreate(&mut beside.stream, stream))?;
            cu!(cuEventCreate(&mut beside.forked, event))?;
            cu!(cuEventCreate(&mut beside.joined, event))?;
        }
        Ok(beside)
    }

    /// The stream, which goes on when all is done that the first was told until now.
    ///
    /// # Errors
    /// The driver's.
    pub fn fork(&mut self, first: sys::CUstream) -> Result<sys::CUstream, DeviceError> {
        // SAFETY: our own event and streams.
        unsafe {
            cu!(cuEventRecord(self.forked, first))?;
            cu!(cuStreamWaitEvent(self.stream, self.forked, 0))?;
        }
        self.open = true;
        Ok(self.stream)
    }

    /// The first stream goes on when all is done that was put beside it.
    ///
    /// # Errors
    /// The driver's.
    pub fn join(&mut self, first: sys::CUstream) -> Result<(), DeviceError> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        // SAFETY: as above.
        unsafe {
            cu!(cuEventRecord(self.joined, self.stream))?;
            cu!(cuStreamWaitEvent(first, self.joined, 0))
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // After a fault the context takes everything with it.
        if self.context.lives().is_err() || self.context.bind().is_err() {
            return;
        }
        for event in [self.forked, self.joined] {
            if !event.is_null() {
                // SAFETY: destroyed once, and nobody waits for it any more.
                let _ = unsafe { sys::cuEventDestroy_v2(event) };
            }
        }
        if !self.stream.is_null() {
            // SAFETY: destroyed once.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.stream) };
        }
    }
}
