//! What training launches, on every GPU that differs, for networks and shapes of all kinds: within
//! the limits that the CUDA programming guide has for that GPU, with pointers into memory that is
//! there. Nothing is run, so that this takes seconds; `tests/gpu.rs` runs some of it.

use autoassist::backend::gpu::Gpu;
use autoassist::backend::gpu::catalog::FILES;
use autoassist::backend::gpu::driver::{Arg, Capability, Driver, Graph, Launch, Mapped};
use autoassist::backend::gpu::models::MODELS;
use autoassist::backend::sequence::Adam;
use autoassist::backend::{Augment, DeviceError, Executor, Pass, Sgd};
use autoassist::data::pairs::{EOS, PairShape, SentencePairs, Sentences};
use autoassist::data::{Dataset, Samples};
use autoassist::nn::{
    Architecture, InputShape, Network, Optimiser, ResNet, TrainSpec, TransformerConfig,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ptr::NonNull;
use std::sync::{Arc, LazyLock, Mutex};

/// What kernels have of shared memory by themselves, in bytes.
static OWN_SHARED: LazyLock<HashMap<&str, u32>> = LazyLock::new(|| {
    let all = FILES.iter().flat_map(|file| file.resources);
    all.map(|r| (r.kernel, r.shared)).collect()
});

/// What was launched, and what is wrong with it.
#[derive(Default)]
struct Log {
    launches: usize,
    kernels: BTreeSet<&'static str>,
    findings: BTreeSet<String>,
}

/// A device that does nothing, and looks at what it is told.
struct Strict {
    capability: Capability,
    log: Arc<Mutex<Log>>,
    capturing: bool,
    graphs: usize,
    /// Start of each block, with its end.
    blocks: BTreeMap<u64, u64>,
    /// Where device memory ends so far: far below all pinned memory, whose addresses are real.
    end: u64,
}

impl Strict {
    fn gpu(capability: Capability, log: &Arc<Mutex<Log>>) -> Gpu {
        Gpu::new(Box::new(Strict {
            capability,
            log: log.clone(),
            capturing: false,
            graphs: 0,
            blocks: BTreeMap::new(),
            end: 1 << 32,
        }))
    }

    fn find(&self, what: String) {
        let mut log = self.log.lock().expect("no holder panics");
        log.findings.insert(what);
    }

    /// For calls that a capture does not survive.
    fn outside_capture(&self, call: &str) {
        if self.capturing {
            self.find(format!("{call} in a capture"));
        }
    }

    fn holds(&self, address: u64) -> bool {
        let before = self.blocks.range(..=address).next_back();
        before.is_some_and(|(_, end)| address < *end)
    }

    fn check(&self, launch: &Launch) {
        let Launch {
            kernel,
            grid: [x, y, z],
            ..
        } = *launch;
        if [x, y, z].contains(&0) || x > i32::MAX as u32 || y.max(z) > 65_535 {
            self.find(format!("{kernel}: a grid of {x} x {y} x {z}"));
        }
        let own = OWN_SHARED.get(kernel).copied();
        let shared = own.map_or(u32::MAX, |own| own + launch.shared);
        if shared > self.capability.block_shared {
            self.find(format!(
                "{kernel}: {own:?} and {} bytes shared",
                launch.shared
            ));
        }
        #[cfg(simt)]
        {
            let (sizes, threads) = autoassist::simt::parameters(kernel).expect("a kernel");
            if launch.threads == 0 || launch.threads > threads.min(1024) {
                self.find(format!("{kernel}: {} threads", launch.threads));
            }
            let given: Vec<u32> = launch.args.iter().map(|arg| arg.size()).collect();
            if given != sizes {
                self.find(format!("{kernel}: arguments of {given:?} bytes"));
            }
        }
        if kernel.contains("hopper") && !self.capability.hopper {
            self.find(format!("{kernel}: a kernel for Hopper"));
        }
        for (i, arg) in launch.args.iter().enumerate() {
            let right = match arg {
                Arg::Ptr(address) => *address == 0 || self.holds(*address),
                Arg::Map(map) => {
                    let sizes = [map.rows, map.columns].map(|n| (1..=1 << 32).contains(&n));
                    self.holds(map.base)
                        && map.base.is_multiple_of(16)
                        && sizes == [true; 2]
                        && map.columns.is_multiple_of(8)
                        && (1..=256).contains(&map.box_rows)
                }
                _ => true,
            };
            if !right {
                self.find(format!("{kernel}: argument {i} is {arg:?}"));
            }
        }
    }
}

impl Driver for Strict {
    fn describe(&self) -> String {
        "strict".into()
    }

    fn capability(&self) -> Capability {
        self.capability
    }

    fn alloc(&mut self, bytes: usize) -> Result<u64, DeviceError> {
        self.outside_capture("alloc");
        // Far from the last one, so that nothing past its end is in the next.
        let start = (self.end + (1 << 21)).next_multiple_of(512);
        self.end = start + bytes.max(1) as u64;
        self.blocks.insert(start, self.end);
        Ok(start)
    }

    fn alloc_each(&mut self, sizes: &[usize]) -> Result<Vec<u64>, DeviceError> {
        sizes.iter().map(|bytes| self.alloc(*bytes)).collect()
    }

    fn alloc_mapped(&mut self, bytes: usize) -> Result<Mapped, DeviceError> {
        self.outside_capture("alloc_mapped");
        // Aligned, and kept for as long as someone has it.
        let memory: Arc<[u128]> = vec![0; bytes.div_ceil(16) + 4].into();
        let start = (memory.as_ptr() as usize).next_multiple_of(64);
        self.blocks.insert(start as u64, (start + bytes) as u64);
        Ok(Mapped {
            host: NonNull::new(start as *mut u8).expect("memory is not at 0"),
            device: start as u64,
            owner: Arc::new(memory),
        })
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        self.check(launch);
        let mut log = self.log.lock().expect("no holder panics");
        log.launches += 1;
        log.kernels.insert(launch.kernel);
        Ok(())
    }

    fn begin_capture(&mut self) -> Result<(), DeviceError> {
        self.outside_capture("begin_capture");
        self.capturing = true;
        Ok(())
    }

    fn end_capture(&mut self) -> Result<Graph, DeviceError> {
        if !std::mem::take(&mut self.capturing) {
            self.find("a capture ends that was not begun".into());
        }
        self.graphs += 1;
        Ok(Graph(self.graphs - 1))
    }

    fn replay(&mut self, _: Graph) -> Result<(), DeviceError> {
        self.outside_capture("replay");
        Ok(())
    }

    fn time(&mut self, _: Graph) -> Result<Option<f64>, DeviceError> {
        self.outside_capture("time");
        Ok(Some(1e-6))
    }

    fn is_idle(&mut self) -> Result<bool, DeviceError> {
        self.outside_capture("is_idle");
        Ok(true)
    }

    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.outside_capture("upload");
        let last = to + (bytes.len() as u64).saturating_sub(1);
        if !(self.holds(to) && self.holds(last)) {
            self.find("an upload outside of a block".into());
        }
        Ok(())
    }

    fn download(&mut self, _: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.outside_capture("download");
        bytes.fill(0);
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        self.outside_capture("synchronize");
        Ok(())
    }
}

/// Height, width, channels, classes, and batches.
type Bed = ([usize; 4], &'static [usize]);

const IMAGES: [Bed; 5] = [
    ([32, 32, 3, 10], &[1, 128, 1024]),
    ([28, 28, 1, 10], &[1, 512]),
    ([64, 64, 3, 200], &[256]),
    ([37, 53, 3, 7], &[31]),
    ([224, 224, 3, 1000], &[64]),
];

fn noise([height, width, channels, classes]: [usize; 4]) -> Dataset {
    let samples = || Samples {
        pixels: vec![7; classes.max(8) * height * width * channels],
        labels: (0..classes.max(8)).map(|i| (i % classes) as u32).collect(),
    };
    let names = (0..classes).map(|class| class.to_string()).collect();
    let dims = [height, width, channels];
    Dataset::new("noise", names, dims, samples(), samples(), true).expect("good data")
}

#[test]
fn resnets_keep_to_the_limits_of_every_gpu() {
    let sgd = Sgd {
        momentum: 0.9,
        nesterov: true,
        weight_decay: 5e-4,
    };
    let augment = Augment {
        crop: 4,
        flip: true,
    };
    on_every_gpu(&|capability, log| {
        for (dims, batches) in IMAGES {
            let data = noise(dims);
            let [height, width, channels, classes] = dims;
            for (depth, &batch) in Architecture::DEPTHS
                .into_iter()
                .flat_map(|depth| batches.iter().map(move |batch| (depth, batch)))
            {
                let mut gpu = Strict::gpu(capability, log);
                let arch = Architecture::of_depth(depth).expect("a known depth");
                let input = InputShape {
                    batch,
                    height,
                    width,
                    channels,
                };
                let net = ResNet::new(&mut gpu, &arch, input, classes);
                let train = gpu.attach_images(data.train.clone());
                let test = gpu.attach_images(data.test.clone());
                gpu.create_ring(4, batch).expect("memory for a ring");
                let step = |e: &mut dyn Executor| net.train_step(e, train, augment, 0.1, sgd);
                gpu.prepare(Pass::Train, [0; 3], &step).expect("a step");
                let step = |e: &mut dyn Executor| net.eval_step(e, test);
                gpu.prepare(Pass::Eval, [0; 3], &step).expect("a step");
            }
        }
    });
}

/// The last ones have rows that fill a block's shared memory almost, or a little more than that,
/// on one of the GPUs.
const VOCABULARIES: [usize; 8] = [
    4000, 10_000, 37_000, 50_257, 50_656, 50_688, 83_440, 116_200,
];
const SHAPES: [[usize; 3]; 7] = [
    [8, 8, 8],
    [64, 32, 32],
    [128, 24, 24],
    [31, 64, 64],
    [31, 128, 128],
    [512, 8, 8],
    [1, 128, 128],
];

#[test]
fn transformers_keep_to_the_limits_of_every_gpu() {
    let spec = TrainSpec {
        smoothing: 0.1,
        clip: 1.0,
        optimiser: Optimiser::Adam(Adam {
            betas: [0.9, 0.98],
            eps: 1e-9,
            weight_decay: 0.0,
            decoupled: true,
        }),
    };
    let sentences = || {
        let mut all = Sentences::default();
        (0..8).for_each(|_| all.push(&[5, 6, EOS]));
        all
    };
    let pairs = Arc::new(SentencePairs::new(sentences(), sentences()));
    on_every_gpu(&|capability, log| {
        for preset in ["tiny", "iwslt", "base"] {
            for vocabulary in VOCABULARIES {
                for [count, source, target] in SHAPES {
                    let mut gpu = Strict::gpu(capability, log);
                    let exec: &mut dyn Executor = &mut gpu;
                    let ops = exec.sequence().expect("GPUs have them");
                    let config = TransformerConfig::preset(preset, vocabulary);
                    let shape = PairShape {
                        sentences: count,
                        source,
                        target,
                    };
                    let config = config.expect("a preset");
                    let net = Network::new(ops, config, shape).expect("a network");
                    let data = ops.attach_pairs(pairs.clone());
                    exec.create_ring(4, count).expect("memory for a ring");
                    let bound = net.bind(shape);
                    let key = [count, source, target].map(|n| n as u32);
                    let train = |e: &mut dyn Executor| {
                        bound.train_step(e.sequence().expect("as above"), data, spec);
                    };
                    exec.prepare(Pass::Train, key, &train).expect("a step");
                    let eval = |e: &mut dyn Executor| {
                        bound.eval_step(e.sequence().expect("as above"), data);
                    };
                    exec.prepare(Pass::Eval, key, &eval).expect("a step");
                }
            }
        }
    });
}

/// Tries something as each of the GPUs, and shows what came of it.
fn on_every_gpu(launch: &(dyn Fn(Capability, &Arc<Mutex<Log>>) + Sync)) {
    for (name, capability) in MODELS {
        let log = Arc::new(Mutex::new(Log::default()));
        launch(capability, &log);
        let log = log.lock().expect("no holder panics");
        println!(
            "{name}: {} launches of {} kernels",
            log.launches,
            log.kernels.len()
        );
        assert!(log.launches > 1000, "{name}");
        assert!(log.findings.is_empty(), "{name}: {:#?}", log.findings);
    }
}
