//! Modules: which code of a fatbin a GPU would load, and what its kernels take.

use super::codes::{
    Code, INVALID_IMAGE, INVALID_VALUE, LAUNCH_OUT_OF_RESOURCES, NO_BINARY_FOR_GPU, NOT_FOUND,
    UNSUPPORTED_PTX_VERSION,
};
use super::gpus::Gpu;
use autoassist::backend::gpu::catalog::{FILES, Resources, TOOLKIT};
use autoassist::simt;

/// Code for one architecture, as a fatbin has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Machine code, or else PTX.
    machine: bool,
    /// `(9, 0)`.
    arch: (u32, u32),
    /// Of `sm_90a` and its like: for no other architecture.
    only: bool,
}

/// A kernel as one GPU has it.
#[derive(Clone, Debug)]
pub struct Function {
    pub name: &'static str,
    /// Sizes of its parameters in bytes.
    pub parameters: &'static [u32],
    max_threads: u32,
    registers: u32,
    static_shared: u32,
    /// Dynamic shared memory that it has leave to use, in bytes.
    dynamic_shared: u32,
    /// Whether the code that was loaded does nothing but trap: what only Hopper can do.
    pub traps: bool,
}

/// The layout of a fatbin: a header of 16 bytes; then, for each architecture, a header that says
/// its own size at byte 4, the size of its code at 8, the architecture at 28, and flags at 40.
fn contents(image: *const u8) -> Result<Vec<Image>, Code> {
    const MAGIC: u32 = 0xba55_ed50;
    const MACHINE: u16 = 2;
    const ONLY: u32 = 1 << 20;
    let bytes = |at: usize, n: usize| {
        // SAFETY: within the fatbin, whose header, read first, says how long it is.
        unsafe { std::slice::from_raw_parts(image.add(at), n) }
    };
    let number = |at: usize, n: usize| {
        let mut word = [0; 8];
        word[..n].copy_from_slice(bytes(at, n));
        u64::from_le_bytes(word)
    };
    if image.is_null() || number(0, 4) != u64::from(MAGIC) {
        return Err(INVALID_IMAGE);
    }
    let mut at = number(6, 2) as usize;
    let end = at + number(8, 8) as usize;
    let mut found = Vec::new();
    while at < end {
        let arch = number(at + 28, 4) as u32;
        found.push(Image {
            machine: number(at, 2) as u16 == MACHINE,
            arch: (arch / 10, arch % 10),
            only: number(at + 40, 4) as u32 & ONLY != 0,
        });
        at += (number(at + 4, 4) + number(at + 8, 8)) as usize;
    }
    Ok(found)
}

/// What a GPU loads: machine code of its own major version that is no newer than itself, the
/// newest such; else PTX, which the driver compiles.
fn choose(all: &[Image], arch: (u32, u32), driver: (u32, u32)) -> Result<Image, Code> {
    let runs = |code: &&Image| match code.only {
        true => code.arch == arch,
        false if code.machine => code.arch.0 == arch.0 && code.arch <= arch,
        false => code.arch <= arch,
    };
    let usable = all.iter().filter(runs);
    let best = usable.max_by_key(|code| (code.machine, code.arch, code.only));
    let best = *best.ok_or(NO_BINARY_FOR_GPU)?;
    match !best.machine && TOOLKIT.is_some_and(|toolkit| toolkit > driver) {
        true => Err(UNSUPPORTED_PTX_VERSION),
        false => Ok(best),
    }
}

/// What a GPU loads of an image.
pub fn load(image: *const u8, arch: (u32, u32), driver: (u32, u32)) -> Result<Image, Code> {
    choose(&contents(image)?, arch, driver)
}

/// A kernel by its name, of code that was loaded.
pub fn function(name: &str, code: Image) -> Result<Function, Code> {
    let file = FILES.iter().find(|file| file.kernels.contains(&name));
    let file = file.ok_or(NOT_FOUND)?;
    let (parameters, max_threads) = simt::parameters(name).ok_or(NOT_FOUND)?;
    let suffix = if code.only { "a" } else { "" };
    let arch = format!("{}{}{suffix}", code.arch.0, code.arch.1);
    let of_kernel = || file.resources.iter().filter(|r| r.kernel == name);
    // PTX has no numbers of its own; those of another architecture are near.
    let exact = of_kernel().find(|r| r.arch == arch);
    let found: &'static Resources = exact.or(of_kernel().next()).ok_or(NOT_FOUND)?;
    Ok(Function {
        name: found.kernel,
        parameters,
        max_threads,
        registers: found.registers,
        static_shared: found.shared,
        dynamic_shared: Gpu::DEFAULT_SHARED.saturating_sub(found.shared),
        traps: name.contains("hopper") && !(code.only && code.arch == (9, 0)),
    })
}

impl Function {
    /// An attribute by its number in `cuda.h`.
    pub fn attribute(&self, which: u32) -> Option<u32> {
        match which {
            0 => Some(self.max_threads),
            1 => Some(self.static_shared),
            4 => Some(self.registers),
            8 => Some(self.dynamic_shared),
            _ => None,
        }
    }

    /// Gives it leave to use so much dynamic shared memory.
    pub fn allow(&mut self, bytes: u32, most: u32) -> Result<(), Code> {
        match self.static_shared.saturating_add(bytes) <= most {
            true => self.dynamic_shared = bytes,
            false => return Err(INVALID_VALUE),
        }
        Ok(())
    }

    /// Whether a GPU takes such a launch.
    pub fn check(&self, grid: [u32; 3], block: [u32; 3], shared: u32) -> Result<(), Code> {
        let sizes = grid.into_iter().zip(Gpu::GRID);
        let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
        let outside = sizes.into_iter().any(|(n, most)| n == 0 || n > most)
            || threads == 0
            || threads > u64::from(Gpu::THREADS)
            || shared > self.dynamic_shared
            || self.parameters.iter().sum::<u32>() > Gpu::PARAMETERS;
        if outside {
            return Err(INVALID_VALUE);
        }
        // A warp's registers are given out 256 at a time.
        let warps = threads.div_ceil(32);
        let registers = warps * (32 * u64::from(self.registers)).next_multiple_of(256);
        match threads > u64::from(self.max_threads) || registers > u64::from(Gpu::REGISTERS) {
            true => Err(LAUNCH_OUT_OF_RESOURCES),
            false => Ok(()),
        }
    }
}
