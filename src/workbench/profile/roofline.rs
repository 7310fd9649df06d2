//! What the counts of a launch would mean on a GPU: how many blocks a multiprocessor holds, and
//! what each unit of it alone would take.
//!
//! A prediction is the largest of these times (Williams, Waterman, Patterson, *Roofline*, CACM
//! 2009, with a roof for every unit; Volkov, *Understanding Latency Hiding on GPUs*, 2016, for
//! latency). What warps issue, and wait for by themselves, is known where machine code was read
//! ([`sass`](super::sass)). Caches that forget, and units that get in each other's way, make a real
//! launch slower.

use super::gpus::{REGISTERS, Specs};
use crate::backend::gpu::catalog::FILES;
use crate::simt::counts::{Counts, Issued, LaunchProfile};
use std::fmt;

/// Between the calls of two small kernels, as people measure it: no launch takes less.
pub const LAUNCH: f64 = 2e-6;

/// Schedulers of a multiprocessor; each has units of its own and issues an instruction of a warp in a
/// clock (white papers of all these GPUs).
const SCHEDULERS: f64 = 4.0;
/// Special functions of a multiprocessor in a clock. CUDA C++ Programming Guide, "Arithmetic
/// Instructions".
const SPECIAL: f64 = 16.0;
/// Bytes of a wavefront, of shared memory or of L1; there is one in a clock.
const WAVEFRONT: f64 = 128.0;
const SECTOR: f64 = 32.0;
/// Seconds until a warp has what it reads, from L2 and from memory, as people measure them on these
/// GPUs under some load.
const L2_TRIP: f64 = 0.25e-6;
const MEMORY_TRIP: f64 = 0.6e-6;

/// What limits the number of blocks on a multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Its number of threads.
    Threads,
    /// Its number of blocks.
    Blocks,
    /// Registers.
    Registers,
    /// Shared memory.
    Shared,
}

/// Blocks that a multiprocessor holds at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Blocks; 0 if not even one fits.
    pub blocks: u32,
    /// Their warps.
    pub warps: u32,
    /// Warps that there could be.
    pub most: u32,
    /// What there is no more of.
    pub limit: Resource,
}

/// Of blocks of so many threads, registers a thread (if they are known) and bytes of shared memory.
///
/// Each quarter of a multiprocessor has registers of its own, which are given to warps in units of
/// 256; shared memory is given in units of 128 bytes, 1 KiB a block being the system's
/// (`cuda_occupancy.h` of the CUDA toolkit, compute capability 8.0 and later).
pub fn occupancy(specs: &Specs, threads: u32, registers: Option<u32>, shared: u32) -> Occupancy {
    let warps = threads.div_ceil(32).max(1);
    let a_block = (u64::from(shared) + 1024).next_multiple_of(128);
    let by_shared = (u64::from(specs.capability.shared) / a_block) as u32;
    let by_registers = registers.map_or(u32::MAX, |registers| {
        let a_warp = (32 * u64::from(registers.max(1))).next_multiple_of(256);
        // A block is refused unless each quarter could take as many warps as the fullest.
        let all = a_warp * u64::from(warps.next_multiple_of(4));
        match all > u64::from(REGISTERS) {
            true => 0,
            false => (u64::from(REGISTERS / 4) / a_warp) as u32 * 4 / warps,
        }
    });
    let limits = [
        (specs.threads / 32 / warps, Resource::Threads),
        (specs.blocks, Resource::Blocks),
        (by_registers, Resource::Registers),
        (by_shared, Resource::Shared),
    ];
    let (blocks, limit) = limits
        .into_iter()
        .min_by_key(|(blocks, _)| *blocks)
        .expect("there are four");
    Occupancy {
        blocks,
        warps: blocks * warps,
        most: specs.threads / 32,
        limit,
    }
}

impl fmt::Display for Occupancy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let limit = match self.limit {
            Resource::Threads => "threads",
            Resource::Blocks => "blocks",
            Resource::Registers => "registers",
            Resource::Shared => "shared memory",
        };
        let s = if self.blocks == 1 { "" } else { "s" };
        let Occupancy {
            blocks,
            warps,
            most,
            ..
        } = self;
        write!(
            f,
            "{blocks} block{s} a multiprocessor, {warps} of {most} warps, limited by {limit}"
        )
    }
}

/// Registers of a thread, where nvcc's number for code that the GPU runs is known.
pub fn registers(specs: &Specs, launch: &LaunchProfile) -> Option<u32> {
    // A program of one's own may have a kernel of the same name.
    let file = FILES.iter().find(|file| file.path == launch.file);
    let mut resources = file.iter().flat_map(|file| file.resources);
    let known = resources.find(|r| r.kernel == launch.kernel && r.arch == specs.code);
    let read = launch.issued.as_ref().and_then(|issued| issued.registers);
    known.map(|r| r.registers).or(read)
}

/// Blocks of a launch that a multiprocessor holds at a time.
pub fn held(specs: &Specs, launch: &LaunchProfile) -> Occupancy {
    let shared = launch.static_shared + launch.dynamic_shared;
    let registers = registers(specs, launch);
    occupancy(specs, launch.threads, registers, shared)
}

/// How often the GPU is filled with the blocks of a launch.
pub fn waves(specs: &Specs, launch: &LaunchProfile) -> f64 {
    let at_once = specs.capability.multiprocessors * held(specs, launch).blocks.max(1);
    launch.blocks() as f64 / f64::from(at_once)
}

/// What may bound a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Memory, every sector moved once.
    Memory,
    /// L2: what is read, every sector once for each block; every request that writes.
    L2,
    /// What warps wait for by themselves, where too few run at a time for others to fill in: in a build
    /// with machine code all its instructions and what they depend on, or else round trips to L2 and
    /// memory.
    Latency,
    /// Wavefronts of L1 and shared memory, which are one.
    Shared,
    /// Tensor cores.
    Tensor,
    /// Multiply-adds.
    Fma,
    /// Special functions and divisions.
    Special,
    /// Instructions of warps, of which a scheduler issues one in a clock.
    Issue,
    /// Integers, logic, comparisons.
    Alu,
    /// f64.
    Double,
    /// Being launched.
    Launch,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Unit::Memory => "memory",
            Unit::L2 => "L2",
            Unit::Latency => "latency",
            Unit::Shared => "L1 and shared memory",
            Unit::Tensor => "tensor cores",
            Unit::Fma => "FMA units",
            Unit::Special => "special functions",
            Unit::Issue => "issue slots",
            Unit::Alu => "integers and logic",
            Unit::Double => "f64",
            Unit::Launch => "launch",
        })
    }
}

/// Seconds that each unit alone takes for a launch, the slowest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Those that have anything to do.
    pub limits: Vec<(Unit, f64)>,
}

impl Prediction {
    /// The slowest.
    pub fn bound(&self) -> Unit {
        self.limits[0].0
    }

    /// What it takes.
    pub fn seconds(&self) -> f64 {
        self.limits[0].1
    }
}

/// Seconds that one multiprocessor's units take for these counts: wavefronts, tensor cores,
/// multiply-adds, special functions.
fn on_chip(specs: &Specs, counts: &Counts) -> [(Unit, f64); 4] {
    let alone = f64::from(specs.capability.multiprocessors);
    let global = [
        counts.global_read,
        counts.global_write,
        counts.global_atomic,
    ];
    // A request takes a clock, and so does every further 128 bytes of it.
    let requests = global.map(|t| (t.units as f64 * SECTOR / WAVEFRONT).max(t.requests as f64));
    // What TMA brings is written to shared memory.
    let tma = counts.tma_bytes as f64 / WAVEFRONT;
    let wavefronts = counts.wavefronts() as f64 + tma + requests.iter().sum::<f64>();
    let tensor = counts.mma_flops as f64 / specs.mma_sync + counts.wgmma_flops as f64;
    let instructions = (counts.flops - counts.fusable) as f64;
    [
        (Unit::Shared, wavefronts / specs.clock()),
        (Unit::Tensor, tensor / (specs.tensor / alone)),
        (Unit::Fma, 2.0 * instructions / (specs.fp32 / alone)),
        (
            Unit::Special,
            counts.special as f64 / SPECIAL / specs.clock(),
        ),
    ]
}

/// Seconds that warps wait for what they read: each has one round trip on its way at a time (Little's
/// law: bytes on their way are bytes a second times the seconds that each takes), as many warps as
/// fit at once. Of what blocks read, memory is asked once, and then L2.
fn round_trips(specs: &Specs, launch: &LaunchProfile) -> f64 {
    let at_once = specs.capability.multiprocessors * held(specs, launch).warps.max(1);
    let warps = launch.warps().min(u64::from(at_once)) as f64;
    let footprint = &launch.footprint;
    let from_memory = footprint.read as f64 / footprint.read_by_blocks.max(1) as f64;
    let trip = L2_TRIP + (MEMORY_TRIP - L2_TRIP) * from_memory;
    launch.waits as f64 * trip / warps
}

/// Seconds that one multiprocessor's schedulers take for what warps issue, and units of which that says
/// more than counts of the source.
fn schedulers(specs: &Specs, issued: &Issued) -> [(Unit, f64); 5] {
    let seconds = |clocks: f64| clocks / SCHEDULERS / specs.clock();
    let [alu, fma, special, double] = issued.pipes.map(seconds);
    [
        (Unit::Issue, seconds(issued.slots)),
        (Unit::Alu, alu),
        (Unit::Fma, fma),
        (Unit::Special, special),
        (Unit::Double, double),
    ]
}

/// Seconds that warps take by themselves, as many at a time as fit.
fn alone(specs: &Specs, launch: &LaunchProfile, issued: &Issued) -> f64 {
    let warps = launch.warps() as f64;
    let at_once = f64::from(specs.capability.multiprocessors * held(specs, launch).warps.max(1));
    issued.alone / warps.min(at_once) / specs.clock()
}

/// What a launch would take.
pub fn predict(specs: &Specs, launch: &LaunchProfile) -> Prediction {
    let footprint = &launch.footprint;
    let memory = (footprint.read + footprint.written) as f64 / specs.memory;
    // L1 keeps what a block reads but for TMA, and passes on at once what is written; there are wires
    // of their own in either direction.
    let written = launch.counts.global_write.units as f64 * SECTOR;
    let read = footprint.read_by_blocks.max(launch.counts.tma_bytes) as f64;
    let l2 = specs.l2_rate.map(|rate| read.max(written) / rate);
    // The multiprocessor that has most blocks decides, if all blocks do the same.
    let blocks = launch.blocks();
    let turns = blocks.div_ceil(u64::from(specs.capability.multiprocessors)) as f64 / blocks as f64;
    let mut limits = vec![
        (Unit::Launch, LAUNCH),
        (Unit::Memory, memory),
        (Unit::L2, l2.unwrap_or(0.0)),
    ];
    let mut on_chip = on_chip(specs, &launch.counts).to_vec();
    match &launch.issued {
        None => limits.push((Unit::Latency, round_trips(specs, launch))),
        Some(issued) => {
            limits.push((Unit::Latency, alone(specs, launch, issued)));
            // What the source asks for is known in part; machine code has all of it.
            on_chip.retain(|(unit, _)| !matches!(unit, Unit::Fma | Unit::Special));
            on_chip.extend(schedulers(specs, issued));
        }
    }
    limits.extend(
        on_chip
            .into_iter()
            .map(|(unit, seconds)| (unit, seconds * turns)),
    );
    limits.retain(|(_, seconds)| *seconds > 0.0);
    limits.sort_by(|a, b| b.1.total_cmp(&a.1));
    Prediction { limits }
}

/// The share that each line has in what bounds the launch (being launched apart), in the order of
/// the lines; they add up to 1, or are all 0.
pub fn shares(specs: &Specs, launch: &LaunchProfile) -> Vec<f64> {
    let prediction = predict(specs, launch);
    let mut units = prediction.limits.iter().map(|(unit, _)| *unit);
    let bound = units.find(|unit| *unit != Unit::Launch);
    let cost = |counts: &Counts| match bound {
        None => 0.0,
        Some(Unit::Issue | Unit::Alu | Unit::Double) => counts.issued as f64,
        Some(Unit::Latency | Unit::Fma | Unit::Special) if launch.issued.is_some() => {
            counts.issued as f64
        }
        Some(Unit::Memory | Unit::L2 | Unit::Latency | Unit::Launch) => {
            counts.sectors() as f64 * SECTOR + counts.tma_bytes as f64
        }
        Some(bound) => {
            let units = on_chip(specs, counts).into_iter();
            let own = units.filter(|(unit, _)| *unit == bound);
            own.map(|(_, seconds)| seconds).sum()
        }
    };
    let costs: Vec<f64> = launch.lines.iter().map(|line| cost(&line.counts)).collect();
    let total: f64 = costs.iter().sum();
    let share = |cost: &f64| if total > 0.0 { cost / total } else { 0.0 };
    costs.iter().map(share).collect()
}

/// `12.3 us`.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (bound, seconds) = self.limits[0];
        write!(f, "bound by {bound}: {}", time(seconds))?;
        for (i, (unit, seconds)) in self.limits[1..].iter().enumerate() {
            let separator = if i == 0 { "; " } else { ", " };
            write!(f, "{separator}{unit} {}", time(*seconds))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::gpus::{GPUS, find};
    use super::*;
    use crate::simt::counts::Traffic;

    /// All rows are what `cudaOccMaxActiveBlocksPerMultiprocessor` of CUDA 13.0's
    /// `cuda_occupancy.h` answers.
    #[test]
    fn occupancy_is_the_calculators() {
        use Resource::{Blocks, Registers, Shared, Threads};
        for (key, threads, registers, shared, blocks, limit) in [
            // 128 · 32 = 4096 registers a warp: 4 warps of each quarter's 16384, 16 warps, of 8 each.
            ("a100", 256, 128, 16384, 2, Registers),
            // 226 · 32 = 7232, in units of 256: 7424; 2 warps a quarter; 8 warps, of 4 each.
            // Shared memory: 65 KiB each of 164, so 2 as well.
            ("a100", 128, 226, 65536, 2, Registers),
            // 8 warps of 64: 8 blocks; 1024 registers a warp leave room for 64, too.
            ("a100", 256, 32, 0, 8, Threads),
            // One register more is 1280 a warp: 12 a quarter, 48 warps.
            ("a100", 256, 33, 0, 6, Registers),
            ("a100", 32, 16, 0, 32, Blocks),
            // 9 · 256 = 2304 registers a warp: 7 a quarter; 28 warps, of 3 each.
            ("a100", 96, 72, 0, 9, Registers),
            ("a100", 256, 255, 0, 1, Registers),
            // (40000 + 1024), in units of 128, is 41088: 4 of 167936.
            ("a100", 128, 64, 40000, 4, Shared),
            // 163 KiB is the most that a block can have; a byte more does not fit.
            ("a100", 256, 32, 163 << 10, 1, Shared),
            ("a100", 256, 32, (163 << 10) + 1, 0, Shared),
            // 9 warps are taken for 12, as if each quarter had three: 12 · 8192 > 65536.
            ("a100", 288, 256, 0, 0, Registers),
            ("h100", 384, 168, 193 << 10, 1, Registers),
            ("h100", 256, 137, 16384, 1, Registers),
            ("4090", 1024, 32, 0, 1, Threads),
            ("4090", 32, 32, 0, 24, Blocks),
            ("4090", 128, 226, 65536, 1, Shared),
            // 5 · 256 registers a warp: 48 warps, exactly what threads allow.
            ("5090", 96, 40, 0, 16, Threads),
        ] {
            let found = occupancy(find(key).unwrap(), threads, Some(registers), shared);
            let row = (key, threads, registers, shared);
            assert_eq!((found.blocks, found.limit), (blocks, limit), "{row:?}");
            assert_eq!(found.warps, blocks * threads.div_ceil(32), "{row:?}");
        }
    }

    #[test]
    fn unknown_registers_are_no_limit_and_nothing_overflows() {
        let blocks = |registers, shared| {
            let a100 = find("a100").unwrap();
            occupancy(a100, 256, registers, shared).blocks
        };
        assert_eq!(blocks(None, 0), 8);
        assert_eq!(blocks(None, u32::MAX), 0);
        assert_eq!(blocks(Some(u32::MAX), 0), 0);
    }

    fn launch(blocks: u32) -> LaunchProfile {
        let n = 1 << 30;
        let mut launch = LaunchProfile {
            kernel: "k",
            file: "kernels/k/1_k.cu",
            grid: [blocks, 1, 1],
            threads: 256,
            dynamic_shared: 0,
            static_shared: 0,
            run: u64::from(blocks),
            waits: 0,
            counts: Counts::default(),
            footprint: Default::default(),
            lines: Vec::new(),
            trace: Default::default(),
            issued: None,
        };
        launch.footprint.read = n;
        launch.footprint.read_by_blocks = n + n / 2;
        launch.counts.global_read = Traffic {
            requests: n / 128,
            bytes: n,
            units: n / 32,
            ideal: n / 32,
        };
        launch.counts.flops = n / 4;
        launch.counts.fusable = n / 8;
        launch
    }

    #[test]
    fn memory_takes_bytes_by_bandwidth_wherever_nothing_is_slower() {
        for specs in &GPUS {
            let prediction = predict(specs, &launch(1 << 20));
            let floor = (1_u64 << 30) as f64 / specs.memory;
            assert!(prediction.seconds() >= floor, "{}", specs.name);
            assert_eq!(prediction.bound(), Unit::Memory, "{prediction}");
        }
        // n / 4 FLOPs, all of them pairs: n / 8 instructions of two.
        let h100 = find("h100").unwrap();
        let prediction = predict(h100, &launch(132));
        let fma = prediction.limits.iter().find(|l| l.0 == Unit::Fma).unwrap();
        let want = (1_u64 << 28) as f64 / 66.9e12;
        assert!((fma.1 / want - 1.0).abs() < 1e-12, "{prediction}");
    }

    #[test]
    fn a_single_block_has_a_single_multiprocessor() {
        let h100 = find("h100").unwrap();
        let at = |blocks| predict(h100, &launch(blocks));
        // All wavefronts through one: 8 M of them at 1.98 GHz.
        assert_eq!(at(1).bound(), Unit::Shared);
        let ratio = at(1).seconds() / ((1_u64 << 23) as f64 / h100.clock());
        assert!((ratio - 1.0).abs() < 1e-12, "{ratio}");
        // 133 blocks take two turns where 132 take one.
        let shared = |blocks| {
            let prediction = at(blocks);
            let limit = prediction.limits.iter().find(|l| l.0 == Unit::Shared);
            limit.unwrap().1
        };
        assert!((shared(133) / shared(132) - 2.0 * 132.0 / 133.0).abs() < 1e-12);
    }

    #[test]
    fn too_few_bytes_on_their_way_are_slower_than_memory() {
        let h100 = find("h100").unwrap();
        let mut launch = launch(1 << 20);
        launch.footprint.read_by_blocks = launch.footprint.read;
        // 8 warps a block read once each, 128 bytes; all is read from memory.
        launch.waits = 8 << 20;
        let latency = |launch: &LaunchProfile| {
            let prediction = predict(h100, launch);
            let limit = prediction.limits.iter().find(|l| l.0 == Unit::Latency);
            limit.unwrap().1
        };
        // 132 multiprocessors hold 64 warps each.
        let want = (8 << 20) as f64 * 0.6e-6 / (132.0 * 64.0);
        assert!((latency(&launch) / want - 1.0).abs() < 1e-12);
        assert_eq!(predict(h100, &launch).bound(), Unit::Latency);
        // Shared memory for two blocks: 16 warps.
        launch.static_shared = 100 << 10;
        assert!((latency(&launch) / want - 4.0).abs() < 1e-12);
        // What every second block has read before comes from L2.
        launch.footprint.read_by_blocks *= 2;
        let want = want * 4.0 * (0.6 + 0.25) / 2.0 / 0.6;
        assert!((latency(&launch) / want - 1.0).abs() < 1e-12);
    }

    #[test]
    fn stores_are_l2s_sector_by_sector() {
        let h100 = find("h100").unwrap();
        let mut launch = launch(1 << 20);
        launch.counts.global_write.units = 1 << 28;
        let prediction = predict(h100, &launch);
        assert_eq!(prediction.bound(), Unit::L2);
        let want = (32_u64 << 28) as f64 / 8e12;
        assert!((prediction.seconds() / want - 1.0).abs() < 1e-12);
    }

    #[test]
    fn an_empty_launch_takes_its_launch() {
        let mut nothing = launch(1);
        nothing.counts = Counts::default();
        nothing.footprint = Default::default();
        let prediction = predict(find("4090").unwrap(), &nothing);
        assert_eq!(prediction.to_string(), "bound by launch: 2.0 µs");
    }
}
