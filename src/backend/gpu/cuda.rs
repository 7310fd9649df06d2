//! The driver for NVIDIA GPUs.

use super::driver::{Driver, Graph, Launch, Mapped};
use crate::backend::DeviceError;

/// An NVIDIA GPU as a [`Driver`].
pub struct Cuda {}

impl Cuda {
    /// Opens the device of that number.
    pub fn new(_: u32) -> Result<Cuda, DeviceError> {
        Err(DeviceError::NoKernels)
    }
}

impl Driver for Cuda {
    fn describe(&self) -> String {
        todo!()
    }
    fn alloc(&mut self, _: usize) -> Result<u64, DeviceError> {
        todo!()
    }
    fn alloc_mapped(&mut self, _: usize) -> Result<Mapped, DeviceError> {
        todo!()
    }
    fn launch(&mut self, _: &Launch) -> Result<(), DeviceError> {
        todo!()
    }
    fn begin_capture(&mut self) -> Result<(), DeviceError> {
        todo!()
    }
    fn end_capture(&mut self) -> Result<Graph, DeviceError> {
        todo!()
    }
    fn replay(&mut self, _: Graph) -> Result<(), DeviceError> {
        todo!()
    }
    fn is_idle(&mut self) -> Result<bool, DeviceError> {
        todo!()
    }
    fn upload(&mut self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
        todo!()
    }
    fn download(&mut self, _: u64, _: &mut [u8]) -> Result<(), DeviceError> {
        todo!()
    }
    fn synchronize(&mut self) -> Result<(), DeviceError> {
        todo!()
    }
}
