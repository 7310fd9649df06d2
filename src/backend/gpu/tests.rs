//! The executor on a device with little memory or one that hangs, and on wrong launches.

use super::driver::{Arg, Capability, Driver, Graph, Launch, Mapped, carve};
use super::*;
use crate::assist::Drain;
use crate::backend::{Sgd, StepInputs, wait_for_records};
use crate::simt::{Landing, Schedule, Simt};
use std::any::Any;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// The SIMT executor with so many bytes of memory, and on request with kernels that never end.
struct Small {
    simt: Simt,
    free: u64,
    notes: Arc<Notes>,
}

/// What a test tells the driver, and hears of it.
#[derive(Default)]
struct Notes {
    /// Graphs are launched, and never end.
    hangs: AtomicBool,
    /// Something was launched, and nobody has heard that it is done.
    busy: AtomicBool,
    /// Memory was given back meanwhile.
    freed_too_early: AtomicBool,
    /// Captures that have begun, less those that were ended.
    captures: AtomicU32,
    given_up: Mutex<Option<String>>,
}

/// Memory that notes when it is given back.
struct Watched {
    _owner: Arc<dyn Any + Send + Sync>,
    notes: Arc<Notes>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let busy = self.notes.busy.load(Ordering::Relaxed);
        self.notes.freed_too_early.fetch_or(busy, Ordering::Relaxed);
    }
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
        let mapped = self.simt.alloc_mapped(bytes)?;
        let owner = Arc::new(Watched {
            _owner: mapped.owner.clone(),
            notes: self.notes.clone(),
        });
        Ok(Mapped { owner, ..mapped })
    }

    fn step_limit(&self) -> Option<Duration> {
        let hangs = self.notes.hangs.load(Ordering::Relaxed);
        hangs.then_some(Duration::from_millis(30))
    }

    fn give_up(&mut self, why: &DeviceError) {
        *self.notes.given_up.lock().unwrap() = Some(why.to_string());
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        self.simt.launch(launch)
    }

    fn begin_capture(&mut self) -> Result<(), DeviceError> {
        self.notes.captures.fetch_add(1, Ordering::Relaxed);
        self.simt.begin_capture()
    }

    fn end_capture(&mut self) -> Result<Graph, DeviceError> {
        self.notes.captures.fetch_sub(1, Ordering::Relaxed);
        self.simt.end_capture()
    }

    fn replay(&mut self, graph: Graph) -> Result<(), DeviceError> {
        self.notes.busy.store(true, Ordering::Relaxed);
        match self.notes.hangs.load(Ordering::Relaxed) {
            true => Ok(()),
            false => self.simt.replay(graph),
        }
    }

    fn time(&mut self, graph: Graph) -> Result<Option<f64>, DeviceError> {
        self.simt.time(graph)
    }

    fn is_idle(&mut self) -> Result<bool, DeviceError> {
        let busy = self.notes.busy.load(Ordering::Relaxed);
        if busy && self.notes.hangs.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let idle = self.simt.is_idle()?;
        self.notes.busy.store(!idle, Ordering::Relaxed);
        Ok(idle)
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
    noted(free, Arc::default())
}

fn noted(free: u64, notes: Arc<Notes>) -> Gpu {
    let simt = Simt::new(Schedule::Low, Landing::Late);
    Gpu::new(Box::new(Small { simt, free, notes }))
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

/// A device on which nothing that is launched ends, after its first training step was launched.
fn hanging() -> (Gpu, Arc<Notes>, Drain) {
    let notes = Arc::new(Notes::default());
    notes.hangs.store(true, Ordering::Relaxed);
    let mut gpu = noted(1 << 20, notes.clone());
    let mut drain = Drain::new(gpu.create_ring(4, 2).unwrap(), 0);
    let params = gpu.alloc(Kind::Float, [1, 1, 1, 8]);
    gpu.write(params, &[1.0; 8]).unwrap();
    drain.launching(0, 2);
    step(&mut gpu, params, 2).unwrap();
    (gpu, notes, drain)
}

/// A training step of one op.
fn step(gpu: &mut Gpu, params: Tensor, rows: u32) -> Result<(), DeviceError> {
    let config = Sgd {
        momentum: 0.9,
        nesterov: false,
        weight_decay: 0.0,
    };
    let inputs = StepInputs {
        ids: (0..rows).collect(),
        ..StepInputs::default()
    };
    let half = |part: usize| params.view(4 * part, [1, 1, 1, 2]);
    let last = params.view(6, [1, 1, 1, 2]);
    gpu.step(Pass::Train, inputs, &|exec| {
        exec.sgd(half(0), half(1), last, config, None)
    })
}

/// All that waits for the device says what hangs, and nothing waits a second time.
#[test]
fn a_step_that_hangs_is_named_and_not_waited_for_again() {
    let (mut gpu, notes, mut drain) = hanging();
    let error = wait_for_records(&mut gpu, &mut drain).unwrap_err();
    assert!(matches!(error, DeviceError::Hung { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with("training step 0 on simt (2 launches: begin_step, sgd"),
        "{text}"
    );
    assert!(text.contains("AUTOASSIST_CUDA_STEPWISE=1"), "{text}");
    assert_eq!(notes.given_up.lock().unwrap().as_ref(), Some(&text));
    let params = gpu.alloc(Kind::Float, [1, 1, 1, 8]);
    assert_eq!(gpu.read(params).unwrap_err().to_string(), text);
    assert_eq!(step(&mut gpu, params, 2).unwrap_err().to_string(), text);
}

#[test]
fn a_read_behind_a_step_that_hangs_has_an_end() {
    let (mut gpu, notes, _) = hanging();
    let params = gpu.alloc(Kind::Float, [1, 1, 1, 4]);
    let error = gpu.block(|driver| driver.synchronize()).unwrap_err();
    assert!(
        error.to_string().starts_with("training step 0 on simt"),
        "{error}"
    );
    assert!(notes.given_up.lock().unwrap().is_some());
    assert!(gpu.read(params).is_err());
}

#[test]
fn who_wants_to_stop_does_not_wait_for_a_step_that_hangs() {
    let (mut gpu, notes, _) = hanging();
    // The limit is not what ends it.
    gpu.patience = Patience::new(Some(Duration::from_secs(600)));
    let stop = Arc::new(AtomicBool::new(false));
    gpu.obey(stop.clone());
    let waited = Duration::from_secs(11);
    gpu.overdue(0, waited).unwrap();
    stop.store(true, Ordering::Relaxed);
    let error = gpu.overdue(0, waited).unwrap_err();
    assert!(matches!(error, DeviceError::Interrupted { .. }), "{error}");
    assert!(error.to_string().contains("training step 0"), "{error}");
    assert!(notes.given_up.lock().unwrap().is_some());
}

#[test]
fn a_capture_is_ended_where_an_op_fails_in_it() {
    let notes = Arc::new(Notes::default());
    let mut gpu = noted(1 << 20, notes.clone());
    let error = gpu.record(|gpu| gpu.launch("no_such", [1; 3], 32, 0, &[]));
    assert!(error.unwrap_err().to_string().contains("no_such"));
    assert_eq!(notes.captures.load(Ordering::Relaxed), 0);
    // None is begun on a device that has failed.
    assert!(gpu.record(|_| panic!("no ops on it")).is_err());
}

#[test]
fn slots_of_a_step_under_way_are_not_given_back() {
    let notes = Arc::new(Notes::default());
    let mut gpu = noted(1 << 20, notes.clone());
    let params = gpu.alloc(Kind::Float, [1, 1, 1, 8]);
    gpu.write(params, &[1.0; 8]).unwrap();
    step(&mut gpu, params, 1).unwrap();
    assert!(notes.busy.load(Ordering::Relaxed), "nobody has asked");
    // More rows than its slots have room for.
    step(&mut gpu, params, 100).unwrap();
    assert!(notes.busy.load(Ordering::Relaxed));
    gpu.create_ring(4, 200).unwrap();
    assert!(!notes.freed_too_early.load(Ordering::Relaxed));
}
