//! Packing for products on tiles: numbers become bf16, in the order in which tiles are loaded.
//!
//! Both operands are lines to sum along: rows of `A`, columns of `B`. A panel is 32 lines, two tiles;
//! it lies by steps of 32 of `k`, `[steps][2 tiles][16][16]` words of two bf16. Where lines or `k` end,
//! zeros stand in.

use std::ops::Range;

use half::bf16;

use crate::backend::cpu::gemm::matrix::Lying;
use crate::backend::cpu::simd::{Element, Kernel, LANES, Simd};
use crate::backend::cpu::slice::Slice;
use crate::backend::cpu::tiles::{DEPTH, SIDE, TILE};

/// Lines of a panel.
pub const PANEL: usize = 2 * SIDE;

/// Panels that are packed together where neighbours are neighbouring lines.
const TOGETHER: usize = 4;

/// Words of a tile.
pub const WORDS: usize = TILE / 2;

/// Words of a panel in so many steps.
pub const fn panel_words(steps: usize) -> usize {
    steps * 2 * WORDS
}

/// An operand as lines to sum along.
#[derive(Clone, Copy)]
pub struct Lines<'a> {
    /// `[lines, k]`.
    pub values: Lying<Slice<'a>>,
    /// How many.
    pub count: usize,
    /// They become `B` tiles, which lie by pairs, not `A` tiles.
    pub by_pairs: bool,
}

impl Lines<'_> {
    /// Panels of all lines.
    pub fn panels(&self) -> usize {
        self.count.div_ceil(PANEL)
    }

    /// The lines of panel `p`.
    pub fn panel(&self, p: usize) -> Range<usize> {
        p * PANEL..self.count.min((p + 1) * PANEL)
    }

    /// Panel `p` of some steps as it lies, if tiles can be loaded from there: whole rows of bf16 for
    /// `A`.
    pub fn lying(&self, p: usize, depth: Range<usize>) -> Option<Panel> {
        let lines = self.panel(p);
        let whole = lines.len() == PANEL && depth.len().is_multiple_of(DEPTH);
        match self.values.values {
            Slice::Bf16(x) if whole && !self.by_pairs && self.values.is_rows() => {
                let row = |line| x[self.values.start(line)..][depth.clone()].as_ptr();
                Some(Panel {
                    start: [row(lines.start), row(lines.start + SIDE)],
                    row: self.values.ld * size_of::<bf16>(),
                    is_packed: false,
                })
            }
            _ => None,
        }
    }

    /// Panels that are packed together: where neighbours are neighbouring lines, whole cache lines are
    /// read, and some in a row.
    pub fn together(&self) -> usize {
        match self.values.transposed {
            true => TOGETHER,
            false => 1,
        }
    }
}

/// Where a panel's tiles are.
#[derive(Clone, Copy)]
pub struct Panel {
    /// The first step's two.
    pub start: [*const bf16; 2],
    /// Bytes from a row of a tile to the next.
    pub row: usize,
    /// Steps are two tiles apart, not 32 numbers of the same rows.
    pub is_packed: bool,
}

impl Panel {
    /// What [`Pack`] has made.
    pub fn packed(words: &[f32]) -> Panel {
        Panel {
            start: [0, WORDS].map(|at| words.as_ptr().wrapping_add(at).cast()),
            row: SIDE * size_of::<f32>(),
            is_packed: true,
        }
    }
}

/// Packs some panels in some steps of `k`, but for those that can be read as they lie.
pub struct Pack<'a, 'b> {
    pub from: &'b Lines<'a>,
    pub panels: Range<usize>,
    pub depth: Range<usize>,
    /// `[panels][steps][2 tiles]`.
    pub to: &'b mut [f32],
}

impl Kernel for Pack<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let values = self.from.values;
        match values.values {
            Slice::F32(x) => self.all(s, values.of(x)),
            Slice::Bf16(x) => self.all(s, values.of(x)),
        }
    }
}

impl Pack<'_, '_> {
    #[inline(always)]
    fn all<S: Simd, N: Number>(self, s: S, from: Lying<&[N]>) {
        let together = self.from.together();
        let steps = self.depth.len().div_ceil(DEPTH);
        for first in self.panels.clone().step_by(together) {
            for step in 0..steps {
                let start = self.depth.start + step * DEPTH;
                let depth = start..self.depth.end.min(start + DEPTH);
                for p in first..self.panels.end.min(first + together) {
                    if self.from.lying(p, self.depth.clone()).is_some() {
                        continue;
                    }
                    let lines = self.from.panel(p);
                    let at = panel_words(steps) * (p - self.panels.start) + panel_words(step);
                    let (low, high) = self.to[at..][..2 * WORDS].split_at_mut(WORDS);
                    let middle = lines.end.min(lines.start + SIDE);
                    tile(
                        s,
                        from,
                        self.from.by_pairs,
                        lines.start..middle,
                        depth.clone(),
                        low,
                    );
                    if middle < lines.end {
                        tile(
                            s,
                            from,
                            self.from.by_pairs,
                            middle..lines.end,
                            depth.clone(),
                            high,
                        );
                    }
                }
            }
        }
    }
}

/// One tile, of up to 16 lines.
#[inline(always)]
fn tile<S: Simd, N: Number>(
    s: S,
    from: Lying<&[N]>,
    by_pairs: bool,
    lines: Range<usize>,
    depth: Range<usize>,
    to: &mut [f32],
) {
    // Sizes that the compiler knows are a case of their own: most tiles are whole.
    let mut words = match (lines.len(), depth.len()) {
        (SIDE, DEPTH) => words(s, from, [lines.start, depth.start], [SIDE, DEPTH]),
        (count, steps) => words(s, from, [lines.start, depth.start], [count, steps]),
    };
    if from.transposed != by_pairs {
        words = s.transpose(words);
    }
    for (to, words) in to.as_chunks_mut::<LANES>().0.iter_mut().zip(words) {
        s.store(to, words);
    }
}

/// A tile as it is read, from a line and a step on: the words of a line each, or of two neighbours in
/// `k` each.
#[inline(always)]
fn words<S: Simd, N: Number>(
    s: S,
    from: Lying<&[N]>,
    [line, k]: [usize; 2],
    [lines, depth]: [usize; 2],
) -> [S::V; SIDE] {
    let mut words = [s.splat(0.0); SIDE];
    if from.transposed {
        for (i, words) in words.iter_mut().enumerate().take(depth.div_ceil(2)) {
            let even = &from.values[from.start(k + 2 * i) + line..][..lines];
            let odd = match 2 * i + 1 < depth {
                true => &from.values[from.start(k + 2 * i + 1) + line..][..lines],
                false => &[],
            };
            *words = N::zipped(s, even, odd);
        }
    } else {
        for (i, words) in words.iter_mut().enumerate().take(lines) {
            *words = N::joined(s, &from.values[from.start(line + i) + k..][..depth]);
        }
    }
    words
}

/// What is packed, two a word; what is missing is 0.
trait Number: Element {
    /// Up to 16 of `even` in the low halves, of `odd` in the high ones.
    fn zipped<S: Simd>(s: S, even: &[Self], odd: &[Self]) -> S::V;
    /// Up to 32 in a row.
    fn joined<S: Simd>(s: S, row: &[Self]) -> S::V;
}

impl Number for f32 {
    #[inline(always)]
    fn zipped<S: Simd>(s: S, even: &[f32], odd: &[f32]) -> S::V {
        s.pair_bf16(s.load_first(even), s.load_first(odd))
    }

    #[inline(always)]
    fn joined<S: Simd>(s: S, row: &[f32]) -> S::V {
        let mut pairs = [[bf16::ZERO; LANES]; 2];
        for (to, from) in pairs.iter_mut().zip(row.chunks(LANES)) {
            s.store_bf16(to, s.load_first(from));
        }
        s.load(&bytemuck::cast(pairs))
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn zipped<S: Simd>(s: S, even: &[bf16], odd: &[bf16]) -> S::V {
        s.interleave_bf16(&filled_up(even), &filled_up(odd))
    }

    #[inline(always)]
    fn joined<S: Simd>(s: S, row: &[bf16]) -> S::V {
        s.load(&bytemuck::cast(filled_up::<DEPTH>(row)))
    }
}

/// With zeros.
#[inline(always)]
fn filled_up<const N: usize>(x: &[bf16]) -> [bf16; N] {
    match x.first_chunk() {
        Some(whole) => *whole,
        None => {
            let mut all = [bf16::ZERO; N];
            all[..x.len()].copy_from_slice(x);
            all
        }
    }
}
