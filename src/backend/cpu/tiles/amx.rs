//! Tiles of Intel's AMX, by inline assembly: the intrinsics are not stable (rust-lang/rust#126622).
//!
//! A block keeps its `M·N` sums in tile registers `tmm0..`, and what a step loads in the highest
//! ones. A step's tiles are 16 cycles each; loads of tiles from L1 are hidden behind them.

use std::arch::asm;

use super::{Operand, Step, Sums};

/// The operand of `ldtilecfg`: palette 1, eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config([u8; 64]);

static CONFIG: Config = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = 16;
        tile += 1;
    }
    Config(bytes)
};

/// Must be followed by [`release`] on the same thread.
pub(super) fn configure() {
    // SAFETY: only called for the instruction set that has tiles; the compiler uses no tiles.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(readonly, nostack)) }
}

/// Gives up the tiles, so that the system need not save them with the thread.
pub(super) fn release() {
    // SAFETY: as for `configure`.
    unsafe { asm!("tilerelease", options(nomem, nostack)) }
}

/// `tmm` from the step's tile number `i` of the table of pointers.
macro_rules! from {
    (a $i:literal, $tmm:literal) => {
        concat!(
            "mov {t}, [{p} + 8*",
            $i,
            "]\n",
            "add {t}, {oa}\n",
            "tileloadd tmm",
            $tmm,
            ", [{t} + {ra}*1]\n"
        )
    };
    (b $i:literal, $tmm:literal) => {
        concat!(
            "mov {t}, [{p} + 8*",
            $i,
            "]\n",
            "add {t}, {ob}\n",
            "tileloadd tmm",
            $tmm,
            ", [{t} + {rb}*1]\n"
        )
    };
}

/// `c += a·b`, by numbers of registers.
macro_rules! dp {
    ($c:literal, $a:literal, $b:literal) => {
        concat!("tdpbf16ps tmm", $c, ", tmm", $a, ", tmm", $b, "\n")
    };
}

/// Steps' products, into sums that are the tiles `c`.
macro_rules! products {
    ([$($c:literal)*], [$($step:expr),*], $table:expr, $a:expr, $b:expr, $steps:expr, $to:expr, $add:expr) => {{
        let steps: &[Step] = $steps;
        // SAFETY: `begin`'s caller vouches for the tiles of all steps; there are as many sums as `c`.
        unsafe {
            if $add {
                asm!(
                    $(concat!("tileloadd tmm", $c, ", [{to} + {row}*1 + 1024*", $c, "]"),)*
                    to = in(reg) $to, row = in(reg) 64_usize, options(nostack, readonly),
                );
            } else {
                asm!($(concat!("tilezero tmm", $c),)* options(nostack, nomem));
            }
            asm!(
                "test {n}, {n}",
                "jz 3f",
                "2:",
                "mov {oa:e}, [{s}]",
                "mov {ob:e}, [{s} + 4]",
                $($step,)*
                "add {s}, 8",
                "dec {n}",
                "jnz 2b",
                "3:",
                s = inout(reg) steps.as_ptr() => _,
                n = inout(reg) steps.len() => _,
                p = in(reg) $table.as_ptr(),
                ra = in(reg) $a.row,
                rb = in(reg) $b.row,
                oa = out(reg) _,
                ob = out(reg) _,
                t = out(reg) _,
                options(nostack, readonly),
            );
        }
    }};
}

/// The tiles `c` to memory.
macro_rules! store {
    ([$($c:literal)*], $to:expr) => {
        // SAFETY: there are as many sums as `c`.
        unsafe {
            asm!(
                $(concat!("tilestored [{to} + {row}*1 + 1024*", $c, "], tmm", $c),)*
                to = in(reg) $to, row = in(reg) 64_usize, options(nostack),
            );
        }
    };
}

/// See [`Tiles::begin`](super::Tiles::begin).
///
/// # Safety
/// That of [`Tiles::begin`](super::Tiles::begin); the thread's tiles must be configured.
#[inline(always)]
pub(super) unsafe fn begin<const M: usize, const N: usize>(
    a: &Operand<M>,
    b: &Operand<N>,
    steps: &[Step],
    c: &[Sums],
    add: bool,
) {
    const { assert!(M * N <= 6) };
    let mut table = [std::ptr::null(); 8];
    table[..M].copy_from_slice(&a.start);
    table[M..M + N].copy_from_slice(&b.start);
    let to = c.as_ptr();
    match (M, N) {
        (1, 1) => products!(
            [0],
            [from!(a 0, 4), from!(b 1, 6), dp!(0, 4, 6)],
            table,
            a,
            b,
            steps,
            to,
            add
        ),
        (1, 2) => products!(
            [0 1],
            [from!(a 0, 4), from!(b 1, 6), dp!(0, 4, 6), from!(b 2, 7), dp!(1, 4, 7)],
            table, a, b, steps, to, add
        ),
        (1, 3) => products!(
            [0 1 2],
            [
                from!(a 0, 3), from!(b 1, 4), dp!(0, 3, 4), from!(b 2, 5), dp!(1, 3, 5),
                from!(b 3, 6), dp!(2, 3, 6)
            ],
            table, a, b, steps, to, add
        ),
        (1, 4) => products!(
            [0 1 2 3],
            [
                from!(a 0, 4), from!(b 1, 5), dp!(0, 4, 5), from!(b 2, 6), dp!(1, 4, 6),
                from!(b 3, 7), dp!(2, 4, 7), from!(b 4, 5), dp!(3, 4, 5)
            ],
            table, a, b, steps, to, add
        ),
        (2, 1) => products!(
            [0 1],
            [from!(b 2, 6), from!(a 0, 4), dp!(0, 4, 6), from!(a 1, 5), dp!(1, 5, 6)],
            table, a, b, steps, to, add
        ),
        (2, 2) => products!(
            [0 1 2 3],
            [
                from!(a 0, 4), from!(b 2, 6), dp!(0, 4, 6), from!(b 3, 7), dp!(1, 4, 7),
                from!(a 1, 5), dp!(2, 5, 6), dp!(3, 5, 7)
            ],
            table, a, b, steps, to, add
        ),
        (2, 3) => products!(
            [0 1 2 3 4 5],
            [
                from!(b 2, 7), from!(a 0, 6), dp!(0, 6, 7), from!(a 1, 6), dp!(3, 6, 7),
                from!(b 3, 7), dp!(4, 6, 7), from!(a 0, 6), dp!(1, 6, 7), from!(b 4, 7),
                dp!(2, 6, 7), from!(a 1, 6), dp!(5, 6, 7)
            ],
            table, a, b, steps, to, add
        ),
        (4, 1) => products!(
            [0 1 2 3],
            [
                from!(b 4, 4), from!(a 0, 5), dp!(0, 5, 4), from!(a 1, 6), dp!(1, 6, 4),
                from!(a 2, 7), dp!(2, 7, 4), from!(a 3, 5), dp!(3, 5, 4)
            ],
            table, a, b, steps, to, add
        ),
        _ => panic!("no block of {M}x{N} tiles"),
    }
}

/// See [`Tiles::end`](super::Tiles::end).
#[inline(always)]
pub(super) fn end(c: &mut [Sums]) {
    let to = c.as_mut_ptr();
    match c.len() {
        1 => store!([0], to),
        2 => store!([0 1], to),
        3 => store!([0 1 2], to),
        4 => store!([0 1 2 3], to),
        6 => store!([0 1 2 3 4 5], to),
        n => unreachable!("no block has {n} tiles"),
    }
}
