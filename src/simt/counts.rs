//! What a profiled launch did: everything that the SIMT executor sees of it
//! (`kernels/simt/profile.h`), by line of the source. Exactly, if all of its blocks were run.

use super::checker::Site;
use std::collections::BTreeMap;
use std::ops::AddAssign;

/// One way of accessing memory: warps' requests, and what a GPU's memory system makes of them.
///
/// A request is one instruction of one warp. Of global memory it moves *sectors* of 32 bytes; of
/// shared memory it takes *wavefronts*: rounds of 32 banks of 4 bytes each, of which each bank
/// serves one word a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Warps' instructions.
    pub requests: u64,
    /// Bytes that their lanes asked for.
    pub bytes: u64,
    /// Sectors of global memory, or wavefronts of shared memory.
    pub units: u64,
    /// Units that the same bytes would have taken, had they lain side by side.
    pub ideal: u64,
}

/// What instructions did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads of global memory; also what `cp.async` reads.
    pub global_read: Traffic,
    /// Writes to global memory.
    pub global_write: Traffic,
    /// Atomic accesses to global memory.
    pub global_atomic: Traffic,
    /// Reads of shared memory; also `ldmatrix`.
    pub shared_read: Traffic,
    /// Writes to shared memory; also what `cp.async` writes.
    pub shared_write: Traffic,
    /// Atomic accesses to shared memory.
    pub shared_atomic: Traffic,
    /// Bytes that TMA copied from global memory.
    pub tma_bytes: u64,
    /// FLOPs of `mma.sync`, two a multiply-add.
    pub mma_flops: u64,
    /// FLOPs of `wgmma`, two a multiply-add.
    pub wgmma_flops: u64,
    /// f32 additions, subtractions and multiplications of threads; a fused multiply-add is two.
    pub flops: u64,
    /// Of them, pairs of a multiplication and an addition in the same basic block: what the device
    /// compiler can at most make fused multiply-adds of.
    pub fusable: u64,
    /// Divisions, roots, exponentials and the like of threads.
    pub special: u64,
    /// Block-wide barriers: how often a block passed one.
    pub barriers: u64,
    /// Shuffles, votes and warp barriers: how often a warp did one.
    pub warp_ops: u64,
    /// Instructions that warps issue, as machine code has them; 0 where that is not known.
    pub issued: u64,
}

/// What a warp does with one instruction, whatever compiler has made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// Reads global memory.
    GlobalRead,
    /// Writes to it.
    GlobalWrite,
    /// Accesses it atomically.
    GlobalAtomic,
    /// Reads shared memory.
    SharedRead,
    /// Writes to it, or has a copy written there.
    SharedWrite,
    /// Accesses it atomically.
    SharedAtomic,
    /// Multiplies matrices by `mma.sync`.
    Mma,
    /// Multiplies them by `wgmma`, with three other warps.
    Wgmma,
    /// Meets the block at a barrier.
    Barrier,
}

/// A line of the source with the lines that call it, where functions are inlined: places with
/// spaces between, the innermost first. `kernels/include/mma.cuh:31 kernels/gemm/5_swizzle.cu:80`
pub type Chain = String;

/// Headers whose lines say how memory is accessed; whoever looks for what is slow wants to know the
/// line that asked for it.
pub(super) const PRIMITIVES: [&str; 5] = [
    "kernels/include/bf16.cuh",
    "kernels/include/copy.cuh",
    "kernels/include/hopper.cuh",
    "kernels/include/mma.cuh",
    "kernels/include/vector.cuh",
];

/// `kernels/include/mma.cuh` of `kernels/include/mma.cuh:31`.
pub fn file_of(place: &str) -> &str {
    place.rsplit_once(':').map_or(place, |(file, _)| file)
}

/// A chain from the line on that asks for what is done: without those that say how, unless there are no
/// others. A processor that has no such instruction has none of them.
pub fn asking(chain: &Chain) -> &str {
    let mut rest = chain.as_str();
    while let Some((place, callers)) = rest.split_once(' ') {
        if !PRIMITIVES.contains(&file_of(place)) {
            break;
        }
        rest = callers;
    }
    rest
}

/// How often warps did something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Their instructions.
    pub times: u64,
    /// Bytes that a lane accessed by them all.
    pub bytes: u64,
}

/// How often warps did what, by place: what machine code for another processor is told apart by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// How often they began the basic block that a line is in, where it is in several that of which
    /// it is most.
    pub lines: BTreeMap<Chain, u64>,
    /// Their instructions.
    pub events: BTreeMap<(Event, Chain), Done>,
}

/// What the warps of a launch issue on an architecture, as its machine code has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Issued {
    /// Warps' instructions, of which a scheduler issues one in a clock.
    pub slots: f64,
    /// Clocks that each kind of unit of a scheduler's is taken, of all warps together.
    pub pipes: [f64; 4],
    /// Clocks that each warp would take by itself, summed over all.
    pub alone: f64,
    /// Of the slots those of instructions for tensor cores.
    pub tensor: f64,
    /// Registers of a thread.
    pub registers: Option<u32>,
}

/// Global memory that a launch touched, in bytes of whole sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Read, each sector once for each block: what comes from L2 if L1 holds all that a block
    /// reads.
    pub read_by_blocks: u64,
    /// Written, each sector once for each block.
    pub written_by_blocks: u64,
    /// Read, each sector once: what comes from memory if L2 holds everything.
    pub read: u64,
    /// Written, each sector once.
    pub written: u64,
}

/// What one line of the source did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where: the innermost line that says what the kernel does, rather than how a load is written.
    pub site: Site,
    /// What.
    pub counts: Counts,
}

/// What one instruction of a warp accessed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Shared memory, or else global.
    pub shared: bool,
    /// A write; or else a read, or an atomic access.
    pub write: bool,
    /// Number of its block.
    pub block: u32,
    /// Number of its warp in the block.
    pub warp: u32,
    /// Barriers that the block had passed.
    pub turn: u32,
    /// Bytes of each lane.
    pub size: u64,
    /// Lanes that took part, each with the address that it accessed: of shared memory from its
    /// start.
    pub lanes: Vec<(usize, u64)>,
}

/// A launch and what it did.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchProfile {
    /// The kernel's name.
    pub kernel: &'static str,
    /// Its file: `kernels/gemm/1_naive.cu`.
    pub file: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block in bytes.
    pub dynamic_shared: u32,
    /// Static shared memory of a block in bytes.
    pub static_shared: u32,
    /// Blocks that were run. What the others would have done is estimated by them.
    pub run: u64,
    /// How often warps waited for global memory that their block had not read before, all of them
    /// together: round trips, of which a warp has one under way at a time.
    pub waits: u64,
    /// Sums over all lines.
    pub counts: Counts,
    /// Global memory touched.
    pub footprint: Footprint,
    /// By line, in the order of files and lines.
    pub lines: Vec<Line>,
    /// By place of the code.
    pub trace: Trace,
    /// What that is in machine code, where it was read.
    pub issued: Option<Issued>,
}

impl LaunchProfile {
    /// Blocks of the launch.
    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|n| u64::from(*n)).product()
    }

    /// Whether not all of them were run, so that counts are estimates.
    pub fn is_sampled(&self) -> bool {
        self.run < self.blocks()
    }

    /// Warps of all blocks.
    pub fn warps(&self) -> u64 {
        self.blocks() * u64::from(self.threads.div_ceil(32))
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.units += other.units;
        self.ideal += other.ideal;
    }
}

impl Done {
    /// Bytes of a lane by an instruction, on the average.
    pub fn width(&self) -> f64 {
        self.bytes as f64 / self.times.max(1) as f64
    }
}

impl AddAssign for Done {
    fn add_assign(&mut self, other: Done) {
        self.times += other.times;
        self.bytes += other.bytes;
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.global_read += other.global_read;
        self.global_write += other.global_write;
        self.global_atomic += other.global_atomic;
        self.shared_read += other.shared_read;
        self.shared_write += other.shared_write;
        self.shared_atomic += other.shared_atomic;
        self.tma_bytes += other.tma_bytes;
        self.mma_flops += other.mma_flops;
        self.wgmma_flops += other.wgmma_flops;
        self.flops += other.flops;
        self.fusable += other.fusable;
        self.special += other.special;
        self.barriers += other.barriers;
        self.warp_ops += other.warp_ops;
        self.issued += other.issued;
    }
}

impl AddAssign for Footprint {
    fn add_assign(&mut self, other: Footprint) {
        self.read_by_blocks += other.read_by_blocks;
        self.written_by_blocks += other.written_by_blocks;
        self.read += other.read;
        self.written += other.written;
    }
}

impl Counts {
    /// Units of global memory's requests.
    pub fn sectors(&self) -> u64 {
        self.global_read.units + self.global_write.units + self.global_atomic.units
    }

    /// Wavefronts of shared memory.
    pub fn wavefronts(&self) -> u64 {
        self.shared_read.units + self.shared_write.units + self.shared_atomic.units
    }

    /// Wavefronts that conflicts between banks cost.
    pub fn conflicts(&self) -> u64 {
        let ideal = self.shared_read.ideal + self.shared_write.ideal + self.shared_atomic.ideal;
        self.wavefronts() - ideal
    }
}
