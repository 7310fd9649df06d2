//! The tile unit's arithmetic with fused multiply-adds of AVX-512 or AVX2. In assembly, since it
//! wants the processor's mode in which denormal numbers are zero, and only there may it be set.

use std::arch::asm;
use std::arch::x86_64::*;

use half::bf16;

use super::{Operand, SIDE, Step, Sums};

/// An operand of one step as f32, its even and its odd columns (`A`) or rows (`B`) apart.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Wide {
    even: [[f32; SIDE]; SIDE],
    odd: [[f32; SIDE]; SIDE],
}

impl Wide {
    const ZERO: Wide = Wide {
        even: [[0.0; SIDE]; SIDE],
        odd: [[0.0; SIDE]; SIDE],
    };

    /// A bf16 is the upper half of an f32.
    ///
    /// # Safety
    /// There must be 16 rows of 64 bytes, `row` apart.
    #[target_feature(enable = "avx512f")]
    unsafe fn read_avx512(&mut self, from: *const bf16, row: usize) {
        let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
        for (i, (even, odd)) in self.even.iter_mut().zip(&mut self.odd).enumerate() {
            // SAFETY: the caller vouches for what is read; a row of `even` and of `odd` has 64 bytes.
            unsafe {
                let pairs = _mm512_loadu_si512(from.byte_add(i * row).cast());
                _mm512_storeu_si512(even.as_mut_ptr().cast(), _mm512_slli_epi32::<16>(pairs));
                _mm512_storeu_si512(odd.as_mut_ptr().cast(), _mm512_and_si512(pairs, upper));
            }
        }
    }

    /// The same.
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx2")]
    unsafe fn read_avx2(&mut self, from: *const bf16, row: usize) {
        let upper = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
        for (i, (even, odd)) in self.even.iter_mut().zip(&mut self.odd).enumerate() {
            for half in [0, SIDE / 2] {
                // SAFETY: as above, by halves of a row.
                unsafe {
                    let pairs = from.byte_add(i * row).add(2 * half);
                    let pairs = _mm256_loadu_si256(pairs.cast());
                    let (even, odd) = (even.as_mut_ptr().add(half), odd.as_mut_ptr().add(half));
                    _mm256_storeu_si256(even.cast(), _mm256_slli_epi32::<16>(pairs));
                    _mm256_storeu_si256(odd.cast(), _mm256_and_si256(pairs, upper));
                }
            }
        }
    }
}

/// The processor's mode: round to nearest, no exceptions, denormal numbers are zero.
const MODE: u32 = 0x9fc0;

/// A whole block, as of [`Tiles::begin`](super::Tiles::begin).
///
/// # Safety
/// That of [`Tiles::begin`](super::Tiles::begin).
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn block_avx512<const M: usize, const N: usize>(
    a: &Operand<M>,
    b: &Operand<N>,
    steps: &[Step],
    c: &mut [Sums],
    add: bool,
) {
    // SAFETY: the caller's.
    unsafe {
        let read = |wide: &mut Wide, from, row| wide.read_avx512(from, row);
        let product = |a: &Wide, b: &Wide, c: &mut Sums| product_avx512(a, b, c);
        block(a, b, steps, c, add, read, product);
    }
}

/// The same with half the vector.
///
/// # Safety
/// That of [`Tiles::begin`](super::Tiles::begin).
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn block_avx2<const M: usize, const N: usize>(
    a: &Operand<M>,
    b: &Operand<N>,
    steps: &[Step],
    c: &mut [Sums],
    add: bool,
) {
    // SAFETY: the caller's.
    unsafe {
        let read = |wide: &mut Wide, from, row| wide.read_avx2(from, row);
        let product = |a: &Wide, b: &Wide, c: &mut Sums| product_avx2(a, b, c);
        block(a, b, steps, c, add, read, product);
    }
}

/// # Safety
/// That of [`Tiles::begin`](super::Tiles::begin).
#[inline(always)] // Compiled for the instructions of the caller.
unsafe fn block<const M: usize, const N: usize>(
    a: &Operand<M>,
    b: &Operand<N>,
    steps: &[Step],
    c: &mut [Sums],
    add: bool,
    read: impl Fn(&mut Wide, *const bf16, usize),
    product: impl Fn(&Wide, &Wide, &mut Sums),
) {
    if !add {
        c.as_flattened_mut().fill(0.0);
    }
    let (mut wide_a, mut wide_b) = ([Wide::ZERO; M], [Wide::ZERO; N]);
    for step in steps {
        // SAFETY: the caller vouches for each step's tiles.
        let at = |start: *const bf16, step| unsafe { start.byte_add(step as usize) };
        for (wide, start) in wide_a.iter_mut().zip(a.start) {
            read(wide, at(start, step.a), a.row);
        }
        for (wide, start) in wide_b.iter_mut().zip(b.start) {
            read(wide, at(start, step.b), b.row);
        }
        for (a, c) in wide_a.iter().zip(c.chunks_exact_mut(N)) {
            for (b, c) in wide_b.iter().zip(c) {
                product(a, b, c);
            }
        }
    }
}

/// The lines of a product for each row, whose even and odd sums are in registers.
macro_rules! rows {
    ($xor:literal $reg:literal, [$($r:literal $even:literal $odd:literal),*], $start:expr, $line:ident, [$($operands:tt)*]) => {
        asm!(
            "stmxcsr [{old}]",
            "ldmxcsr [{mode}]",
            $(concat!($xor, " ", $reg, $even, ", ", $reg, $even, ", ", $reg, $even),
              concat!($xor, " ", $reg, $odd, ", ", $reg, $odd, ", ", $reg, $odd),)*
            "2:",
            $start,
            $($line!($r, $even, $odd),)*
            "add {a}, 4",
            "add {b}, 64",
            "dec {k}",
            "jnz 2b",
            $(concat!("vaddps ", $reg, $even, ", ", $reg, $even, ", ", $reg, $odd),
              concat!("vaddps ", $reg, $even, ", ", $reg, $even, ", [{c} + 64*", $r, "]"),
              concat!("vmovups [{c} + 64*", $r, "], ", $reg, $even),)*
            "ldmxcsr [{old}]",
            $($operands)*
            options(nostack),
        )
    };
}

/// `c += a·b`: eight rows at a time.
#[target_feature(enable = "avx512f")]
fn product_avx512(a: &Wide, b: &Wide, c: &mut Sums) {
    macro_rules! line {
        ($r:literal, $even:literal, $odd:literal) => {
            concat!(
                "vfmadd231ps zmm",
                $even,
                ", zmm16, dword ptr [{a} + 64*",
                $r,
                "]{{1to16}}\n",
                "vfmadd231ps zmm",
                $odd,
                ", zmm17, dword ptr [{a} + 1024 + 64*",
                $r,
                "]{{1to16}}"
            )
        };
    }
    let mut old = 0_u32;
    for row in [0, 8] {
        // SAFETY: reads `a` and `b`, of which `odd` follows `even`, and changes eight rows of `c`;
        // the processor's mode is put back.
        unsafe {
            rows!(
                "vpxord" "zmm", [0 0 8, 1 1 9, 2 2 10, 3 3 11, 4 4 12, 5 5 13, 6 6 14, 7 7 15],
                "vmovups zmm16, [{b}]\nvmovups zmm17, [{b} + 1024]", line,
                [
                    a = inout(reg) a.even[row].as_ptr() => _,
                    b = inout(reg) b.even[0].as_ptr() => _,
                    c = in(reg) c.as_mut_ptr().add(row * SIDE),
                    k = inout(reg) SIDE => _,
                    old = in(reg) &raw mut old,
                    mode = in(reg) &MODE,
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _,
                    out("zmm5") _, out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _,
                    out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _,
                    out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm17") _,
                ]
            );
        }
    }
}

/// `c += a·b`: four rows and eight columns at a time.
#[target_feature(enable = "avx2,fma")]
fn product_avx2(a: &Wide, b: &Wide, c: &mut Sums) {
    macro_rules! line {
        ($r:literal, $even:literal, $odd:literal) => {
            concat!(
                "vbroadcastss ymm10, [{a} + 64*",
                $r,
                "]\n",
                "vbroadcastss ymm11, [{a} + 1024 + 64*",
                $r,
                "]\n",
                "vfmadd231ps ymm",
                $even,
                ", ymm8, ymm10\n",
                "vfmadd231ps ymm",
                $odd,
                ", ymm9, ymm11"
            )
        };
    }
    let mut old = 0_u32;
    for part in 0..8 {
        let (row, column) = (part % 4 * 4, part / 4 * 8);
        // SAFETY: reads `a` and `b`, of which `odd` follows `even`, and changes four rows of `c`; the
        // processor's mode is put back.
        unsafe {
            rows!(
                "vxorps" "ymm", [0 0 4, 1 1 5, 2 2 6, 3 3 7],
                "vmovups ymm8, [{b}]\nvmovups ymm9, [{b} + 1024]", line,
                [
                    a = inout(reg) a.even[row].as_ptr() => _,
                    b = inout(reg) b.even[0].as_ptr().add(column) => _,
                    c = in(reg) c.as_mut_ptr().add(row * SIDE + column),
                    k = inout(reg) SIDE => _,
                    old = in(reg) &raw mut old,
                    mode = in(reg) &MODE,
                    out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _,
                    out("ymm5") _, out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _,
                    out("ymm10") _, out("ymm11") _,
                ]
            );
        }
    }
}
