//! A driver that notes which kernels are launched, and runs none.

use super::{Landing, Schedule, Simt};
use crate::backend::error::DeviceError;
use crate::backend::gpu::driver::{Capability, Driver, Graph, Launch, Mapped};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Kernels that were launched, and the blocks of the last launch of each.
pub type Names = Arc<Mutex<BTreeMap<&'static str, u64>>>;

/// Memory is the SIMT executor's, and so is what it says of itself but for its capabilities.
pub struct Notes {
    simt: Simt,
    capability: Capability,
    names: Names,
}

impl Notes {
    /// Adds to `names`.
    pub fn new(capability: Capability, names: Names) -> Notes {
        Notes {
            simt: Simt::new(Schedule::Low, Landing::Late),
            capability,
            names,
        }
    }
}

impl Driver for Notes {
    fn describe(&self) -> String {
        self.simt.describe()
    }

    fn capability(&self) -> Capability {
        self.capability
    }

    fn alloc(&mut self, bytes: usize) -> Result<u64, DeviceError> {
        self.simt.alloc(bytes)
    }

    fn alloc_each(&mut self, sizes: &[usize]) -> Result<Vec<u64>, DeviceError> {
        self.simt.alloc_each(sizes)
    }

    fn alloc_mapped(&mut self, bytes: usize) -> Result<Mapped, DeviceError> {
        self.simt.alloc_mapped(bytes)
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        let mut names = self.names.lock().expect("no holder panics");
        let blocks = launch.grid.iter().map(|n| u64::from(*n)).product();
        names.insert(launch.kernel, blocks);
        Ok(())
    }

    fn begin_capture(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// What it launches has been noted.
    fn end_capture(&mut self) -> Result<Graph, DeviceError> {
        Ok(Graph(0))
    }

    fn replay(&mut self, _: Graph) -> Result<(), DeviceError> {
        Ok(())
    }

    fn time(&mut self, _: Graph) -> Result<Option<f64>, DeviceError> {
        Ok(None)
    }

    fn is_idle(&mut self) -> Result<bool, DeviceError> {
        Ok(true)
    }

    /// Nothing reads it.
    fn upload(&mut self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.simt.download(from, bytes)
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}
