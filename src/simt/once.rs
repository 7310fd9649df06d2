//! A driver that profiles a captured step, each launch that is like no earlier one of it once.

use super::Simt;
use crate::backend::error::DeviceError;
use crate::backend::gpu::driver::{Capability, Driver, Graph, Launch, Mapped};
use std::sync::{Arc, Mutex};

/// Of each launch of the last captured step the number of the first that is like it, among those that
/// are like no earlier one.
pub type Order = Arc<Mutex<Vec<usize>>>;

/// Memory is the profiling executor's. Only what a graph has launched is run, when it is replayed.
pub struct Once {
    simt: Simt,
    order: Order,
    /// The launches to run.
    captured: Vec<Launch>,
    capturing: bool,
}

impl Once {
    /// Over an executor that [profiles](Simt::profiled).
    pub fn new(simt: Simt, order: Order) -> Once {
        Once {
            simt,
            order,
            captured: Vec::new(),
            capturing: false,
        }
    }
}

impl Driver for Once {
    fn describe(&self) -> String {
        self.simt.describe()
    }

    fn capability(&self) -> Capability {
        self.simt.capability()
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
        if !self.capturing {
            return Ok(());
        }
        let known = self.captured.iter().position(|other| other.is_like(launch));
        let number = known.unwrap_or(self.captured.len());
        if known.is_none() {
            self.captured.push(launch.clone());
        }
        self.order.lock().expect("no holder panics").push(number);
        Ok(())
    }

    fn begin_capture(&mut self) -> Result<(), DeviceError> {
        self.capturing = true;
        self.captured.clear();
        self.order.lock().expect("no holder panics").clear();
        Ok(())
    }

    fn end_capture(&mut self) -> Result<Graph, DeviceError> {
        self.capturing = false;
        Ok(Graph(0))
    }

    fn replay(&mut self, _: Graph) -> Result<(), DeviceError> {
        let launches = std::mem::take(&mut self.captured);
        launches
            .iter()
            .try_for_each(|launch| self.simt.launch(launch))
    }

    fn time(&mut self, graph: Graph) -> Result<Option<f64>, DeviceError> {
        self.simt.time(graph)
    }

    fn is_idle(&mut self) -> Result<bool, DeviceError> {
        self.simt.is_idle()
    }

    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.simt.upload(to, bytes)
    }

    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.simt.download(from, bytes)
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        self.simt.synchronize()
    }
}
