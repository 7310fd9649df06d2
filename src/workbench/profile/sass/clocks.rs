//! How many clocks a warp takes for machine code if it is alone, and units of a scheduler are taken.
//!
//! The compiler has written into each instruction how many clocks later the next may be issued, and
//! for results that take an unknown time which scoreboard waits for them. So only those times are
//! taken from elsewhere: [`Clocks`].

use super::{Code, Instruction};
use std::collections::VecDeque;

/// Clocks until results are there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clocks {
    /// From shared memory.
    pub shared: f64,
    /// From L1, L2 and memory.
    pub global: [f64; 3],
    /// Threads of a warp's instruction that a scheduler's units take in a clock: integers, logic and
    /// comparisons; f32; multiplications of integers; special functions and conversions; f64.
    pub lanes: [f64; 5],
}

/// Special functions, conversions, shuffles, constants and special registers, for which microbenchmarks
/// (Abdelkhalik et al., *Demystifying the Nvidia Ampere Architecture*, 2022) have 17 to 40.
const OTHER: f64 = 24.0;

/// Of an architecture that code is compiled for. Times are those of microbenchmarks (Luo et al.,
/// *Benchmarking and Dissecting the Nvidia Hopper GPU Architecture*, 2024), the RTX 4090's for what came
/// after it; lanes a quarter, the schedulers' share, of what the CUDA C++ Programming Guide has under
/// "Arithmetic Instructions". No digit of either has been checked on a GPU, and integers at full rate
/// on sm_120 are an assumption.
pub fn of_arch(arch: (u32, u32)) -> Clocks {
    match arch {
        (8, 0) => Clocks {
            shared: 29.0,
            global: [37.9, 261.5, 466.3],
            lanes: [16.0, 16.0, 16.0, 4.0, 8.0],
        },
        (9, 0) => Clocks {
            shared: 29.0,
            global: [40.7, 263.0, 478.8],
            lanes: [16.0, 32.0, 16.0, 4.0, 16.0],
        },
        (10, _) => Clocks {
            shared: 30.1,
            global: [43.4, 273.0, 541.5],
            lanes: [16.0, 32.0, 16.0, 4.0, 16.0],
        },
        (8, _) => Clocks {
            shared: 30.1,
            global: [43.4, 273.0, 541.5],
            lanes: [16.0, 32.0, 16.0, 4.0, 0.5],
        },
        _ => Clocks {
            shared: 30.1,
            global: [43.4, 273.0, 541.5],
            lanes: [32.0, 32.0, 16.0, 4.0, 0.5],
        },
    }
}

/// Units of a scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipe {
    /// Integers, logic, comparisons.
    Alu,
    /// f32, and multiplications of integers.
    Fma,
    /// Special functions and conversions.
    Special,
    /// f64.
    Double,
}

impl Clocks {
    /// The units that an instruction takes, if it takes any of them, and for how many clocks.
    pub fn pipe(&self, i: &Instruction) -> Option<(Pipe, f64)> {
        let [alu, fma, imad, special, double] = self.lanes.map(|lanes| 32.0 / lanes);
        let base = i.base();
        Some(match base {
            "IMAD" => (Pipe::Fma, imad),
            "FFMA" | "FADD" | "FMUL" | "HFMA2" | "HADD2" | "HMUL2" => (Pipe::Fma, fma),
            "MUFU" | "I2F" | "F2I" | "F2F" | "I2I" | "POPC" | "FLO" | "FRND" | "BREV" => {
                (Pipe::Special, special)
            }
            "DADD" | "DMUL" | "DFMA" | "DSETP" | "DMNMX" => (Pipe::Double, double),
            "IADD3" | "LOP3" | "LEA" | "SHF" | "ISETP" | "SEL" | "FSEL" | "FSETP" | "PRMT"
            | "IABS" | "IMNMX" | "VIMNMX" | "FMNMX" | "VIADD" | "PLOP3" | "F2FP" | "MOV"
            | "SGXT" | "BMSK" | "I2FP" | "P2R" | "R2P" | "LOP" | "VIADDMNMX" => (Pipe::Alu, alu),
            _ => return None,
        })
    }

    /// Clocks until the result is there of an instruction that releases a scoreboard, if `global` is what
    /// reads of global memory take.
    fn latency(&self, i: &Instruction, global: f64) -> f64 {
        match i.base() {
            "LDG" | "LD" | "ATOMG" | "ATOM" | "LDGSTS" => global,
            "LDL" => self.global[0],
            "LDS" | "LDSM" | "ATOMS" => self.shared,
            _ => OTHER,
        }
    }
}

/// When what a warp has begun will be done, in clocks from now.
#[derive(Clone, Debug, Default)]
struct Pending {
    scoreboards: [f64; 6],
    /// Groups of asynchronous copies, the oldest first, and the one that has not been closed.
    copies: VecDeque<f64>,
    open: Option<f64>,
    /// Groups of products of a warp group, and the last of them.
    products: VecDeque<f64>,
    product: f64,
}

/// Clocks of each block for a warp that is alone, where reads of global memory take so many. What the
/// block before has begun, the one that most executions come from, may have to be waited for.
pub fn alone(code: &Code, executions: &[f64], clocks: &Clocks, global: f64) -> Vec<f64> {
    let count = code.blocks.len();
    let mut before = vec![None; count];
    for (at, block) in code.blocks.iter().enumerate() {
        for &next in &block.next {
            let is_more = |other: usize| executions[at] > executions[other];
            if before[next].is_none_or(is_more) {
                before[next] = Some(at);
            }
        }
    }
    let mut after: Vec<Pending> = vec![Pending::default(); count];
    let mut taken = vec![0.0; count];
    // Once around each loop, so that its first block knows what its last has begun.
    for _ in 0..2 {
        for (at, block) in code.blocks.iter().enumerate() {
            let mut pending = before[at].map_or(Pending::default(), |b| after[b].clone());
            let instructions = &code.instructions[block.instructions.clone()];
            taken[at] = pending.run(instructions, clocks, global);
            after[at] = pending;
        }
    }
    taken
}

impl Pending {
    fn run(&mut self, instructions: &[Instruction], clocks: &Clocks, global: f64) -> f64 {
        let mut now: f64 = 0.0;
        for i in instructions {
            for (bit, done) in self.scoreboards.iter().enumerate() {
                if i.waits >> bit & 1 == 1 {
                    now = now.max(*done);
                }
            }
            let left = || i.operands.rsplit(", ").next().and_then(number).unwrap_or(0);
            match i.base() {
                "LDGSTS" => self.open = Some(now + global),
                "LDGDEPBAR" => self.copies.extend(self.open.take()),
                "DEPBAR" => now = waited(&mut self.copies, left(), now),
                "HGMMA" => {
                    self.product = self.product.max(now) + product(i);
                    if i.operands.contains("gsb0") {
                        self.products.push_back(self.product);
                    }
                }
                "WARPGROUP" if i.opcode.contains("DEPBAR") => {
                    now = waited(&mut self.products, left(), now);
                }
                _ => {}
            }
            if let Some(scoreboard) = i.writes {
                let done = now + clocks.latency(i, global);
                self.scoreboards[scoreboard] = self.scoreboards[scoreboard].max(done);
            }
            if let Some(scoreboard) = i.reads {
                let done = now + OTHER / 2.0;
                self.scoreboards[scoreboard] = self.scoreboards[scoreboard].max(done);
            }
            now += f64::from(i.stall);
        }
        let rest = self.scoreboards.iter_mut().chain(&mut self.copies);
        rest.chain(&mut self.products)
            .chain(&mut self.open)
            .for_each(|done| *done -= now);
        self.product -= now;
        self.scoreboards
            .iter_mut()
            .for_each(|done| *done = done.max(0.0));
        now
    }
}

/// Waits until no more than so many are under way.
fn waited(groups: &mut VecDeque<f64>, left: usize, now: f64) -> f64 {
    let mut now = now;
    while groups.len() > left {
        now = groups.pop_front().map_or(now, |done| done.max(now));
    }
    now
}

/// Clocks of a product of a warp group, `HGMMA.64x256x16`, on all four tensor cores, of which each does 512
/// multiply-adds in a clock.
fn product(i: &Instruction) -> f64 {
    let sizes = i.opcode.split('.').find(|part| part.contains('x'));
    let sizes = sizes
        .unwrap_or_default()
        .split('x')
        .filter_map(|n| n.parse::<f64>().ok());
    sizes.product::<f64>() / 2048.0
}

/// `0x1`.
fn number(text: &str) -> Option<usize> {
    usize::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}
