//! Products of bf16 tiles, the same bits on every machine: `C += A·B` with `A` of 16×32, `B` of 32×16
//! and `C` of 16×16 in f32.
//!
//! What is computed is what Intel's AMX does, in its order: the products of even and of odd columns
//! of `A` are summed apart by fused multiply-adds in f32, the two sums are added, then added to `C`; denormal
//! numbers are zero, read or written. `amx` has the instructions, `vector` does the same on AVX-512
//! or AVX2 and `portable` anywhere.
//!
//! Layouts: a row of an `A` tile is 32 numbers, 64 bytes. A `B` tile lies by pairs, which is how the
//! products are taken: row `p` holds `B[2p][n], B[2p + 1][n]` for `n` of `0..16`. A `C` tile is row-major.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vector;

use half::bf16;

use super::simd::{Isa, Level};

/// Rows of an `A` tile, columns of a `B` tile, rows and columns of a `C` tile.
pub const SIDE: usize = 16;

/// Columns of an `A` tile and rows of a `B` tile: what a step sums over.
pub const DEPTH: usize = 32;

/// Numbers of an `A` or a `B` tile.
pub const TILE: usize = SIDE * DEPTH;

/// A tile of `C`, row-major.
pub type Sums = [f32; SIDE * SIDE];

/// Where a step's tiles lie, in bytes from the block's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Step {
    /// From each of the `A` tiles.
    pub a: u32,
    /// From each of the `B` tiles.
    pub b: u32,
}

/// Tiles that begin in memory at `start`, with rows `row` bytes apart.
#[derive(Clone, Copy, Debug)]
pub struct Operand<const N: usize> {
    /// The first step's tiles.
    pub start: [*const bf16; N],
    /// Bytes from a row of 64 to the next.
    pub row: usize,
}

/// This thread's tile unit, configured for as long as the value lives. One at a time.
pub struct Tiles {
    unit: Unit,
    /// Of one thread: the configuration is.
    _here: std::marker::PhantomData<*const ()>,
}

#[derive(Clone, Copy)]
enum Unit {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
}

impl Tiles {
    /// Configures the unit of an instruction set.
    pub fn new(isa: Isa) -> Tiles {
        let unit = match isa.level() {
            Level::Portable { .. } => Unit::Portable,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Unit::Avx2,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Unit::Avx512,
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Level::Amx => {
                amx::configure();
                Unit::Amx
            }
        };
        Tiles {
            unit,
            _here: std::marker::PhantomData,
        }
    }

    /// `c[i][j] = Σ_s A_i(s)·B_j(s)`, added to what is in `c` if `add`.
    ///
    /// The blocks that there are: 1×1, 1×2, 1×3, 1×4, 2×1, 2×2, 2×3 and 4×1.
    ///
    /// # Safety
    /// Each step's tiles must be readable: 16 rows of 64 bytes.
    #[inline]
    pub unsafe fn block<const M: usize, const N: usize>(
        &self,
        a: &Operand<M>,
        b: &Operand<N>,
        steps: &[Step],
        c: &mut [[Sums; N]; M],
        add: bool,
    ) {
        let c = c.as_flattened_mut();
        // SAFETY: the caller's.
        unsafe { self.begin(a, b, steps, c, add) };
        self.end(c);
    }

    /// The first half of a [`block`](Tiles::block), whose sums, `M·N` of them, come to `c` with
    /// [`end`](Tiles::end): what is done between the two is done while products are still under way.
    ///
    /// # Safety
    /// That of [`block`](Tiles::block).
    ///
    /// # Panics
    /// If there is not a sum for each pair of tiles.
    #[inline(never)] // There would be one in each kernel, for each instruction set.
    pub unsafe fn begin<const M: usize, const N: usize>(
        &self,
        a: &Operand<M>,
        b: &Operand<N>,
        steps: &[Step],
        c: &mut [Sums],
        add: bool,
    ) {
        assert_eq!(c.len(), M * N);
        // SAFETY: the caller's; `new` was given an instruction set that the CPU has.
        unsafe {
            match self.unit {
                Unit::Portable => portable::block(a, b, steps, c, add),
                #[cfg(target_arch = "x86_64")]
                Unit::Avx2 => vector::block_avx2(a, b, steps, c, add),
                #[cfg(target_arch = "x86_64")]
                Unit::Avx512 => vector::block_avx512(a, b, steps, c, add),
                #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
                Unit::Amx => amx::begin(a, b, steps, c, add),
            }
        }
    }

    /// The second half: the sums of the block that was begun last, to the same `c`.
    #[inline(never)]
    pub fn end(&self, c: &mut [Sums]) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if matches!(self.unit, Unit::Amx) {
            amx::end(c);
        }
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        let _ = c;
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if matches!(self.unit, Unit::Amx) {
            amx::release();
        }
    }
}
