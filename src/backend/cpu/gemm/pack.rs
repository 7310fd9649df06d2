//! Packing for the matrix product: copies of blocks of `A` and `B` in the order in which the tiles
//! read them, at distances known at compile time that do not alias in the L1.

use std::ops::Range;

use super::layout::{A_ROW, A_STEP, Depth, PANEL, each, part};
use super::matrix::Lying;
use super::tile::{Ahead, PanelA, PanelB, SPARSE, most_rows};
use crate::backend::cpu::simd::{Buffer, Isa, Kernel, LANES, Simd};

/// Floats of a panel of `A` that lies by steps, whose last step is written as a whole vector.
fn step_panel(depth: &Range<usize>) -> usize {
    (depth.len() * A_STEP).next_multiple_of(LANES) + LANES
}

/// Rows of `A` in a block of `k`, in panels as high as tiles. Where a row lies contiguous it
/// stays so, and likewise a column: packing only copies.
pub(super) struct PackedA<'a> {
    a: Lying<&'a [f32]>,
    rows: Range<usize>,
    depth: Range<usize>,
    /// Rows and steps of what will be packed next, probably.
    next: [usize; 2],
    panels: usize,
    /// All panels of a transposed `A`, since they share cache lines; else one after the other.
    values: &'a mut [f32],
}

impl<'a> PackedA<'a> {
    #[inline(always)]
    pub fn new<S: Simd>(
        s: S,
        a: Lying<&'a [f32]>,
        rows: Range<usize>,
        depth: Range<usize>,
        k: usize,
        buffer: &'a mut Buffer,
    ) -> PackedA<'a> {
        let panels = rows.len().div_ceil(most_rows::<S>());
        let values = buffer.resize(match a.transposed {
            false => most_rows::<S>() * A_ROW,
            true => panels * step_panel(&depth),
        });
        if a.transposed {
            // A few steps at a time, so that their lines stay in L1 from panel to panel.
            for k in depth.clone().step_by(LANES) {
                let steps = k..depth.end.min(k + LANES);
                for p in 0..panels {
                    let columns = part(rows.len(), panels, p);
                    let mut to = p * step_panel(&depth) + (k - depth.start) * A_STEP;
                    for k in steps.clone() {
                        let from = &a.values[a.start(k) + rows.start + columns.start..];
                        // What is too much is overwritten by the next step.
                        let whole = values[to..].first_chunk_mut().expect("panels end in space");
                        s.store(whole, s.load_first(&from[..columns.len()]));
                        to += A_STEP;
                    }
                }
            }
        }
        let next = match depth.end < k {
            true => [rows.start, depth.end],
            false => [rows.end, 0],
        };
        PackedA {
            a,
            rows,
            depth,
            next,
            panels,
            values,
        }
    }

    /// How many.
    pub fn panels(&self) -> usize {
        self.panels
    }

    /// Panel `p` and its rows; the one before it is gone.
    #[inline(always)]
    pub fn panel(&mut self, p: usize) -> (Range<usize>, PanelA) {
        let rows = part(self.rows.len(), self.panels, p);
        let rows = self.rows.start + rows.start..self.rows.start + rows.end;
        let values = if self.a.transposed {
            &self.values[p * step_panel(&self.depth)..]
        } else {
            for (row, to) in rows.clone().zip(self.values.chunks_mut(A_ROW)) {
                let from = &self.a.values[self.a.start(row)..][self.depth.clone()];
                to[..from.len()].copy_from_slice(from);
            }
            &*self.values
        };
        let panel = PanelA {
            values: values.as_ptr(),
            by_rows: !self.a.transposed,
            depth: self.depth.len(),
        };
        (rows, panel)
    }

    /// What tile `tile` of `tiles` in panel `p` should bring nearer: the last tiles of a panel the
    /// next panel, or of a transposed `A` those of all panels the next block.
    #[inline(always)]
    pub fn ahead(&self, p: usize, tile: usize, tiles: usize) -> Ahead {
        let ld = self.a.ld;
        let [row, k] = self.next;
        let (start, far, columns, tile, tiles) = if self.a.transposed {
            let tile = p * tiles + tile;
            let all = self.panels * tiles;
            (
                self.a.start(k) + row,
                LANES * ld,
                self.rows.len(),
                tile,
                all,
            )
        } else if p + 1 < self.panels {
            let row = self.rows.start + part(self.rows.len(), self.panels, p + 1).start;
            (self.a.start(row) + self.depth.start, LANES, 1, tile, tiles)
        } else {
            (self.a.start(row) + k, LANES, 1, tile, tiles)
        };
        // Lines of 16 columns, each of which takes `SPARSE` tiles.
        let needed = columns.div_ceil(LANES) * SPARSE;
        let i = (tile + needed.min(tiles)).checked_sub(tiles);
        let Some(i) = i.filter(|i| *i < needed) else {
            return Ahead::NOTHING;
        };
        let start = start + i / SPARSE * LANES;
        Ahead {
            start: self.a.values.as_ptr().wrapping_add(start),
            near: ld,
            far,
            first: i % SPARSE * self.depth.len().div_ceil(SPARSE),
        }
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
    lying: Lying<&'a [f32]>,
}

/// Columns that a task packs: of rows that lie in memory a KiB at once.
const GROUP: usize = 8 * PANEL;

/// Fewer floats than this are not worth another thread.
const SERIAL: usize = 1 << 15;

impl<'a> PackedB<'a> {
    /// Packs all, or if `direct` only the last columns, those that do not fill a panel.
    pub fn new(
        isa: Isa,
        b: Lying<&'a [f32]>,
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

    /// What [`PackedB::new`] has packed whole: `n` columns.
    pub fn of(values: &'a [f32], n: usize) -> PackedB<'a> {
        PackedB {
            values,
            width: n.next_multiple_of(LANES),
            first: 0,
            lying: Lying::new(&[], 0),
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
    b: Lying<&'a [f32]>,
    depth: Range<usize>,
    columns: Range<usize>,
    to: &'a mut [f32],
}

impl Kernel for PackB<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let steps = self.depth.len();
        let ends = self.columns.end;
        // A few steps at a time: whole pieces of rows, as the hardware expects them.
        for from in (0..steps).step_by(LANES) {
            let some = from..steps.min(from + LANES);
            for column in self.columns.clone().step_by(PANEL) {
                let columns = column..ends.min(column + PANEL);
                let step = columns.len().next_multiple_of(LANES);
                let to = &mut self.to[(column - self.columns.start) * steps + from * step..];
                let depth = self.depth.start + some.start..self.depth.start + some.end;
                if self.b.transposed {
                    transpose(s, self.b, depth, columns, to, step);
                    continue;
                }
                for (k, to) in depth.zip(to.chunks_exact_mut(step)) {
                    let from = &self.b.values[self.b.start(k)..][columns.clone()];
                    let vectors = to.as_chunks_mut::<LANES>().0.iter_mut();
                    for (to, from) in vectors.zip(from.chunks(LANES)) {
                        s.store(to, s.load_first(from));
                    }
                }
            }
        }
    }
}

/// At most 16 steps of a panel from a `B` whose columns are contiguous.
#[inline(always)]
fn transpose<S: Simd>(
    s: S,
    b: Lying<&[f32]>,
    depth: Range<usize>,
    columns: Range<usize>,
    to: &mut [f32],
    step: usize,
) {
    for half in (0..step).step_by(LANES) {
        let mut square = [s.splat(0.0); LANES];
        for (row, column) in square.iter_mut().zip(columns.clone().skip(half)) {
            *row = s.load_first(&b.values[b.start(column)..][depth.clone()]);
        }
        let square = s.transpose(square);
        for (to, row) in to[half..].chunks_mut(step).zip(&square[..depth.len()]) {
            s.store(to.first_chunk_mut().expect("whole vectors"), *row);
        }
    }
}
