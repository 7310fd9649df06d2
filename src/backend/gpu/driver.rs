//! The little that the executor needs of a machine that runs kernels. Two drivers have it: `simt`
//! (kernels on the CPU) and `cuda`.

use crate::backend::error::DeviceError;
use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A device address.
    Ptr(u64),
    /// `int`.
    I32(i32),
    /// `unsigned`.
    U32(u32),
    /// `float`.
    F32(f32),
    /// `uint64_t`.
    U64(u64),
    /// `const __grid_constant__ TensorMap`.
    Map(TensorMap),
}

/// A matrix of bf16, rows without gaps, of which the device copies boxes by itself
/// (`kernels/include/hopper.cuh`). Boxes are 64 columns wide, and swizzled by 128 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorMap {
    /// Device address of the first element, a multiple of 16.
    pub base: u64,
    /// Rows of the matrix.
    pub rows: u64,
    /// Columns of the matrix, a multiple of 8.
    pub columns: u64,
    /// Rows of a box, 256 at most.
    pub box_rows: u32,
}

/// What a launch is given the address of: an argument in the low bytes.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Value(pub [u64; 16]);

impl Arg {
    /// What stands for an optional tensor that is not there.
    pub const NULL: Arg = Arg::Ptr(0);

    /// Size in bytes, as the kernel's parameter list has it.
    pub fn size(self) -> u32 {
        match self {
            Arg::Ptr(_) | Arg::U64(_) => 8,
            Arg::I32(_) | Arg::U32(_) | Arg::F32(_) => 4,
            Arg::Map(_) => size_of::<Value>() as u32,
        }
    }

    /// Its value; `encode` makes of a map what the device wants.
    ///
    /// # Errors
    /// Those of `encode`.
    pub fn value(
        self,
        encode: impl FnOnce(TensorMap) -> Result<Value, DeviceError>,
    ) -> Result<Value, DeviceError> {
        let mut words = [0; 16];
        words[0] = match self {
            Arg::Ptr(v) | Arg::U64(v) => v,
            Arg::I32(v) => u64::from(v as u32),
            Arg::U32(v) => u64::from(v),
            Arg::F32(v) => u64::from(v.to_bits()),
            Arg::Map(map) => return encode(map),
        };
        Ok(Value(words))
    }
}

impl From<u64> for Arg {
    fn from(address: u64) -> Arg {
        Arg::Ptr(address)
    }
}

impl From<i32> for Arg {
    fn from(v: i32) -> Arg {
        Arg::I32(v)
    }
}

impl From<u32> for Arg {
    fn from(v: u32) -> Arg {
        Arg::U32(v)
    }
}

impl From<f32> for Arg {
    fn from(v: f32) -> Arg {
        Arg::F32(v)
    }
}

/// A launch of this name is no kernel's: floats at an address, so many, become their mean over all
/// [ranks](crate::world). Like a kernel's it is captured and replayed. It may take until the next
/// [`ALL_GATHER`], and run beside all that is launched before that, which must leave the floats alone.
pub const ALL_REDUCE: &str = "all_reduce";
/// The same for 64-bit words at an address, of which each rank has an equal part: all ranks get all
/// parts.
pub const ALL_GATHER: &str = "all_gather";

/// A kernel with everything it needs to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Its name in the source.
    pub kernel: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads in a block (x).
    pub threads: u32,
    /// Dynamic shared memory in bytes.
    pub shared: u32,
    /// In the order of the kernel's parameters.
    pub args: Vec<Arg>,
    /// Memory whose contents are undefined when the launch starts; noted once, where an op that
    /// wants it begins. For the checker.
    pub scratch: Option<Scratch>,
}

/// A block of memory for partial results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scratch {
    /// Where it starts: an allocation.
    pub address: u64,
    /// Bytes that the op uses.
    pub bytes: usize,
}

impl Launch {
    /// Whether it does the same work, wherever the data lie.
    pub fn is_like(&self, other: &Launch) -> bool {
        let erased = |launch: &Launch| Launch {
            args: launch
                .args
                .iter()
                .map(|a| match a {
                    Arg::Ptr(p) => Arg::Ptr(u64::from(*p != 0)),
                    Arg::Map(map) => Arg::Map(TensorMap { base: 0, ..*map }),
                    scalar => *scalar,
                })
                .collect(),
            scratch: None,
            ..launch.clone()
        };
        erased(self) == erased(other)
    }
}

/// A sequence of launches that a driver has captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graph(pub usize);

/// Pinned host memory that the device sees, too. Zeroed, aligned to 64 bytes.
pub struct Mapped {
    /// Where the host finds it.
    pub host: NonNull<u8>,
    /// Where the device finds it.
    pub device: u64,
    /// Frees it when the last clone is gone.
    pub owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the address of memory that lives as long as the owner, which may be sent.
unsafe impl Send for Mapped {}

/// What decides which steps of a ladder a device can take, and how large its launches are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Compute capability: `(9, 0)`.
    pub arch: (u32, u32),
    /// Whether it runs code for sm_90a, and the build has some: TMA and wgmma.
    pub hopper: bool,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Most shared memory that a block may have, in bytes.
    pub block_shared: u32,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared: u32,
}

/// A device with one stream: launches, replays and copies happen in the order of the calls. A
/// failure of a kernel is sticky: every later call may report it, and nothing after it is done.
pub trait Driver: Send {
    /// For people: `NVIDIA H100 80GB HBM3 (cuda:0, sm_90)`.
    fn describe(&self) -> String;
    /// What the device is capable of.
    fn capability(&self) -> Capability;
    /// How long what is launched may take before it is taken to hang; none where there is no telling,
    /// as on an executor that is slow by nature.
    fn step_limit(&self) -> Option<Duration> {
        None
    }
    /// Nobody waits any more for what was launched, for this reason: from now on nothing may that
    /// might wait for it, the end of the driver included.
    fn give_up(&mut self, _: &DeviceError) {}

    /// Zeroed device memory that lives as long as the driver, aligned to 256 bytes. May block.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    fn alloc(&mut self, bytes: usize) -> Result<u64, DeviceError>;
    /// Zeroed memory for several blocks at once, each aligned to 256 bytes: all of it or none. May
    /// block.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    fn alloc_each(&mut self, sizes: &[usize]) -> Result<Vec<u64>, DeviceError>;
    /// Memory for both sides. Not write-combined: the host reads it. May block.
    ///
    /// # Errors
    /// The driver's.
    fn alloc_mapped(&mut self, bytes: usize) -> Result<Mapped, DeviceError>;

    /// Puts a kernel into the stream, or into the graph that is being captured.
    ///
    /// # Errors
    /// An unusable launch, or a known fault.
    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError>;
    /// From here on launches are not run but remembered.
    ///
    /// # Errors
    /// The driver's.
    fn begin_capture(&mut self) -> Result<(), DeviceError>;
    /// The launches since [`begin_capture`](Driver::begin_capture).
    ///
    /// # Errors
    /// The driver's.
    fn end_capture(&mut self) -> Result<Graph, DeviceError>;
    /// Puts all launches of a graph into the stream.
    ///
    /// # Errors
    /// A known fault.
    fn replay(&mut self, graph: Graph) -> Result<(), DeviceError>;
    /// Seconds that the device takes for the launches of a graph, by its own clock; none where it
    /// has no clock. Waits for them.
    ///
    /// # Errors
    /// A kernel's fault.
    fn time(&mut self, graph: Graph) -> Result<Option<f64>, DeviceError>;
    /// Whether everything is done. Never blocks.
    ///
    /// # Errors
    /// A kernel's fault.
    fn is_idle(&mut self) -> Result<bool, DeviceError>;

    /// Copies to the device and waits for it.
    ///
    /// # Errors
    /// A kernel's fault.
    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), DeviceError>;
    /// Copies from the device and waits for it.
    ///
    /// # Errors
    /// A kernel's fault.
    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;
    /// Waits until everything is done.
    ///
    /// # Errors
    /// A kernel's fault.
    fn synchronize(&mut self) -> Result<(), DeviceError>;
}

/// Alignment of every block; any vector load and any TMA descriptor is content with it.
pub(crate) const ALIGN: usize = 256;

/// Blocks of these sizes in one allocation: [`Driver::alloc_each`] for most drivers.
pub(crate) fn carve(driver: &mut dyn Driver, sizes: &[usize]) -> Result<Vec<u64>, DeviceError> {
    let ends = sizes.iter().scan(0, |end, size| {
        *end += size.next_multiple_of(ALIGN) as u64;
        Some(*end)
    });
    let starts: Vec<u64> = std::iter::once(0).chain(ends).collect();
    let (total, starts) = starts.split_last().expect("there is the first");
    let address = driver.alloc(*total as usize)?;
    Ok(starts.iter().map(|start| address + start).collect())
}

/// A driver whose blocking calls go through one place that counts them.
pub struct Counted {
    driver: Box<dyn Driver>,
    syncs: u64,
    queries: u64,
}

impl Counted {
    /// Nothing counted yet.
    pub fn new(driver: Box<dyn Driver>) -> Counted {
        Counted {
            driver,
            syncs: 0,
            queries: 0,
        }
    }

    /// For calls that block: the only way to the whole driver.
    pub fn blocking(&mut self) -> &mut dyn Driver {
        self.syncs += 1;
        &mut *self.driver
    }

    /// How often [`blocking`](Counted::blocking) was asked for.
    pub fn syncs(&self) -> u64 {
        self.syncs
    }

    /// How often [`is_idle`](Counted::is_idle) was asked.
    pub fn queries(&self) -> u64 {
        self.queries
    }

    /// See [`Driver::describe`].
    pub fn describe(&self) -> String {
        self.driver.describe()
    }

    /// See [`Driver::capability`].
    pub fn capability(&self) -> Capability {
        self.driver.capability()
    }

    /// See [`Driver::step_limit`].
    pub fn step_limit(&self) -> Option<Duration> {
        self.driver.step_limit()
    }

    /// See [`Driver::give_up`].
    pub fn give_up(&mut self, why: &DeviceError) {
        self.driver.give_up(why);
    }

    /// See [`Driver::launch`].
    ///
    /// # Errors
    /// Those of the driver.
    pub fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        self.driver.launch(launch)
    }

    /// See [`Driver::begin_capture`].
    ///
    /// # Errors
    /// Those of the driver.
    pub fn begin_capture(&mut self) -> Result<(), DeviceError> {
        self.driver.begin_capture()
    }

    /// See [`Driver::end_capture`].
    ///
    /// # Errors
    /// Those of the driver.
    pub fn end_capture(&mut self) -> Result<Graph, DeviceError> {
        self.driver.end_capture()
    }

    /// See [`Driver::replay`].
    ///
    /// # Errors
    /// Those of the driver.
    pub fn replay(&mut self, graph: Graph) -> Result<(), DeviceError> {
        self.driver.replay(graph)
    }

    /// See [`Driver::is_idle`].
    ///
    /// # Errors
    /// Those of the driver.
    pub fn is_idle(&mut self) -> Result<bool, DeviceError> {
        self.queries += 1;
        self.driver.is_idle()
    }
}
