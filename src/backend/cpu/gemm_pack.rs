//! Packing for the matrix product: copies of blocks of `A` and `B` in the order in which the tiles
//! read them, at distances known at compile time that do not alias in the L1.

use std::ops::Range;

use super::gemm::{Depth, KC, Matrix, PANEL, each, part};
use super::gemm_tile::{PanelA, PanelB, most_rows};
use super::simd::{Buffer, Isa, Kernel, LANES, Simd};

/// Floats between rows of a panel of `A` that lies by rows: an odd number of cache lines.
pub(super) const A_ROW: usize = KC + LANES;

/// Floats between steps of `k` of a panel of `A` that lies by steps.
pub(super) const A_STEP: usize = LANES;

/// Rows of `A` in a block of `k`, in panels as high as tiles. Where a row lies contiguous it
/// stays so, and likewise a column: packing only copies.
pub(super) struct PackedA<'a> {
    values: &'a [f32],
    rows: Range<usize>,
    panels: usize,
    /// Floats from a panel to the next.
    panel: usize,
    by_rows: bool,
    depth: usize,
}

impl<'a> PackedA<'a> {
    #[inline(always)]
    pub fn new<S: Simd>(
        s: S,
        a: Matrix,
        rows: Range<usize>,
        depth: Range<usize>,
        buffer: &'a mut Buffer,
    ) -> PackedA<'a> {
        let panels = rows.len().div_ceil(most_rows::<S>());
        let panel = match a.transposed {
            false => most_rows::<S>() * A_ROW,
            true => depth.len() * A_STEP,
        };
        let values = buffer.resize(panels * panel);
        if a.transposed {
            for (i, k) in depth.clone().enumerate() {
                let from = &a.values[k * a.ld + rows.start..][..rows.len()];
                for p in 0..panels {
                    let to = values[p * panel + i * A_STEP..].first_chunk_mut();
                    let part = &from[part(rows.len(), panels, p)];
                    s.store(to.expect("a whole step"), s.load_first(part));
                }
            }
        } else {
            for p in 0..panels {
                let to = values[p * panel..].chunks_mut(A_ROW);
                for (row, to) in part(rows.len(), panels, p).zip(to) {
                    let from = &a.values[(rows.start + row) * a.ld..][depth.clone()];
                    to[..from.len()].copy_from_slice(from);
                }
            }
        }
        PackedA {
            values,
            rows,
            panels,
            panel,
            by_rows: !a.transposed,
            depth: depth.len(),
        }
    }

    /// Rows of `C` and their panel.
    #[inline(always)]
    pub fn iter(&self) -> impl Iterator<Item = (Range<usize>, PanelA)> {
        (0..self.panels).map(|p| {
            let rows = part(self.rows.len(), self.panels, p);
            let panel = PanelA {
                values: self.values[p * self.panel..].as_ptr(),
                by_rows: self.by_rows,
                depth: self.depth,
            };
            let start = self.rows.start;
            (start + rows.start..start + rows.end, panel)
        })
    }
}

/// `B` in panels of 32 columns, the last of 16 or 32 with zeros where `B` ends:
/// `[blocks of k][panels][steps][columns]`.
pub(super) struct PackedB<'a> {
    values: &'a [f32],
    /// Columns held, rounded up to vectors.
    width: usize,
    /// Columns before it are read where they lie.
    first: usize,
    lying: Matrix<'a>,
}

/// Columns that a task packs: of rows that lie in memory a KiB at once.
const GROUP: usize = 8 * PANEL;

/// Fewer floats than this are not worth another thread.
const SERIAL: usize = 1 << 15;

impl<'a> PackedB<'a> {
    /// Packs all, or if `direct` only the last columns, those that do not fill a panel.
    pub fn new(
        isa: Isa,
        b: Matrix<'a>,
        depth: &Depth,
        n: usize,
        direct: bool,
        buffer: &'a mut Buffer,
    ) -> PackedB<'a> {
        let first = match direct {
            true => n / PANEL * PANEL,
            false => 0,
        };
        let width = (n - first).next_multiple_of(LANES);
        let k = depth.block(depth.blocks - 1).end;
        let values = buffer.resize(k * width);
        let mut tasks = Vec::new();
        let mut rest = &mut *values;
        for i in 0..depth.blocks {
            let depth = depth.block(i);
            for column in (first..n).step_by(GROUP) {
                let columns = column..n.min(column + GROUP);
                let len = columns.len().next_multiple_of(LANES) * depth.len();
                let to = rest.split_off_mut(..len).expect("the sum is `k·width`");
                let depth = depth.clone();
                tasks.push(PackB {
                    b,
                    depth,
                    columns,
                    to,
                });
            }
        }
        each(tasks, k * width <= SERIAL, |task| isa.run(task));
        PackedB {
            values,
            width,
            first,
            lying: b,
        }
    }

    /// The panel from `column` on in block `depth` of `k`.
    #[inline(always)]
    pub fn panel(&self, depth: Range<usize>, column: usize) -> PanelB {
        if column < self.first {
            let at = depth.start * self.lying.ld + column;
            return PanelB {
                values: self.lying.values[at..].as_ptr(),
                step: self.lying.ld,
            };
        }
        let column = column - self.first;
        PanelB {
            values: self.values[depth.start * self.width + column * depth.len()..].as_ptr(),
            step: PANEL.min(self.width - column),
        }
    }
}

/// Packs some columns of a block of `k`.
struct PackB<'a> {
    b: Matrix<'a>,
    depth: Range<usize>,
    columns: Range<usize>,
    to: &'a mut [f32],
}

impl Kernel for PackB<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let steps = self.depth.len();
        let panels = self.to.chunks_mut(PANEL * steps.max(1));
        for (column, to) in self.columns.clone().step_by(PANEL).zip(panels) {
            let columns = column..self.columns.end.min(column + PANEL);
            let step = columns.len().next_multiple_of(LANES);
            if self.b.transposed {
                for half in columns.clone().step_by(LANES) {
                    let some = half..columns.end.min(half + LANES);
                    let to = &mut to[half - column..];
                    transpose(s, self.b, self.depth.clone(), some, to, step);
                }
            } else {
                for (k, to) in self.depth.clone().zip(to.chunks_exact_mut(step)) {
                    let from = &self.b.values[k * self.b.ld..][columns.clone()];
                    let vectors = to.as_chunks_mut::<LANES>().0.iter_mut();
                    for (to, from) in vectors.zip(from.chunks(LANES)) {
                        s.store(to, s.load_first(from));
                    }
                }
            }
        }
    }
}

/// At most 16 columns of a block of `k`, steps `step` apart, of a `B` whose columns are contiguous.
#[inline(always)]
fn transpose<S: Simd>(
    s: S,
    b: Matrix,
    depth: Range<usize>,
    columns: Range<usize>,
    to: &mut [f32],
    step: usize,
) {
    for (i, k) in depth.clone().step_by(LANES).enumerate() {
        let steps = LANES.min(depth.end - k);
        let mut square = [s.splat(0.0); LANES];
        for (row, column) in square.iter_mut().zip(columns.clone()) {
            *row = s.load_first(&b.values[column * b.ld + k..][..steps]);
        }
        let square = s.transpose(square);
        let to = to[i * LANES * step..].chunks_mut(step);
        for (to, row) in to.zip(&square[..steps]) {
            s.store(to.first_chunk_mut().expect("whole vectors"), *row);
        }
    }
}
