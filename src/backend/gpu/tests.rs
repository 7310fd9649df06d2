//! The executor on a device with little memory, and on wrong launches.

use super::driver::{Arg, Capability, Driver, Graph, Launch, Mapped, carve};
use super::*;
use crate::backend::StepInputs;
use crate::simt::{Landing, Schedule, Simt};

/// The SIMT executor with so many bytes of memory.
struct Small {
    simt: Simt,
    free: u64,
}

impl Driver for Small {
    fn describe(&self) -> String {
        self.simt.describe()
    }

    fn capability(&self) -> Capability {
        self.simt.capability()
    }

    fn alloc(&mut self, bytes: usize) -> Result<u64, DeviceError> {
        let asked = bytes as u64;
        if asked > self.free {
            return Err(DeviceError::OutOfMemory {
                asked,
                free: self.free,
                per_batch: 0,
                fits: None,
            });
        }
        self.free -= asked;
        self.simt.alloc(bytes)
    }

    fn alloc_each(&mut self, sizes: &[usize]) -> Result<Vec<u64>, DeviceError> {
        carve(self, sizes)
    }

    fn alloc_mapped(&mut self, bytes: usize) -> Result<Mapped, DeviceError> {
        self.simt.alloc_mapped(bytes)
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        self.simt.launch(launch)
    }

    fn begin_capture(&mut self) -> Result<(), DeviceError> {
        self.simt.begin_capture()
    }

    fn end_capture(&mut self) -> Result<Graph, DeviceError> {
        self.simt.end_capture()
    }

    fn replay(&mut self, graph: Graph) -> Result<(), DeviceError> {
        self.simt.replay(graph)
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

fn small(free: u64) -> Gpu {
    let simt = Simt::new(Schedule::Low, Landing::Late);
    Gpu::new(Box::new(Small { simt, free }))
}

/// One tensor that grows with the batch beside one that does not, 1 MiB each at a batch of 64.
fn network(gpu: &mut Gpu) -> [Tensor; 2] {
    [
        gpu.alloc(Kind::Activation, [64, 1, 1, 1 << 13]),
        gpu.alloc(Kind::Float, [1, 1, 1, 1 << 18]),
    ]
}

#[test]
fn a_batch_that_does_not_fit_is_told_which_would() {
    let mut gpu = small(3 << 19);
    let [x, w] = network(&mut gpu);
    let error = gpu.write(w, &vec![0.0; w.len()]).unwrap_err().at_batch(64);
    let DeviceError::OutOfMemory {
        fits: Some(fits), ..
    } = error
    else {
        panic!("{error}")
    };
    // Half of the activations, less what steps need.
    assert!((28..=32).contains(&fits), "{error}");
    // Nothing was claimed, and a smaller network still may be.
    assert!(gpu.read(x).is_err());
    let mut gpu = small(3 << 20);
    let [x, _] = network(&mut gpu);
    assert_eq!(gpu.read(x).unwrap(), vec![0.0; x.len()]);
}

#[test]
fn launches_that_no_kernel_can_take_are_faults() {
    let mut simt = Simt::new(Schedule::Low, Landing::Late);
    let launch = Launch {
        kernel: "sgd",
        grid: [1, 1, 1],
        threads: 32,
        shared: 0,
        args: vec![Arg::I32(1)],
        scratch: None,
    };
    let text = simt.launch(&launch).unwrap_err().to_string();
    assert!(text.contains("sgd: arguments of [4] bytes"), "{text}");
    let unknown = Launch {
        kernel: "no_such",
        ..launch
    };
    let text = simt.launch(&unknown).unwrap_err().to_string();
    assert!(text.contains("no_such: no kernel has that name"), "{text}");
}

#[test]
fn a_known_fault_stops_everything_and_is_repeated() {
    let mut gpu = small(1 << 20);
    let x = gpu.alloc(Kind::Float, [1, 1, 1, 4]);
    gpu.write(x, &[1.0; 4]).unwrap();
    gpu.launch("no_such", [1; 3], 32, 0, &[]);
    let before = gpu.host_syncs();
    for error in [
        gpu.read(x).unwrap_err(),
        gpu.write(x, &[0.0; 4]).unwrap_err(),
        gpu.check().unwrap_err(),
        gpu.step(Pass::Train, StepInputs::default(), &|_| ())
            .unwrap_err(),
    ] {
        assert!(error.to_string().contains("no_such"), "{error}");
    }
    assert_eq!(gpu.host_syncs(), before, "nobody waited for it");
}
