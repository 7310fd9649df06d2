//! The matrix product: `C = op(A)·op(B) (+ C)` with an epilogue.
//!
//! The scheme is BLIS's (Van Zee, van de Geijn, 2015), with the inner two loops exchanged. `B` is
//! packed once, in panels of 32 columns. A task owns a block of `C` and goes through `k` in blocks
//! of at most `KC`: it packs its rows of `A`, and for each panel of up to 14 of them goes through
//! the panels of `B`. So the panel of `A`, which every element of that panel of `B` meets, stays
//! in L1, and the block of `B` streams from L2: one vector load for 14 multiply-adds.
//!
//! An element is a sum over `k` in one order, whatever the tile or the thread that computes it.

use std::ops::Range;

use super::dot::{self, Dots};
use rayon::prelude::*;

use super::layout::{Depth, MOST_ROWS, PANEL, each, part};
use super::matrix::{Epilogue, Lying, Matrix, Out, Shared};
use super::pack::{PackedA, PackedB};
use super::tile::Tile;
use super::tiled;
use crate::backend::cpu::scratch::{CALL, TASK};
use crate::backend::cpu::simd::{Buffer, Isa, Kernel, Simd};
use crate::backend::cpu::slice::{Slice, SliceMut};

/// Columns of `C` in a task at most: the block of `B` that its rows share is 1 MiB, half of the L2.
const NC: usize = 1024;

/// Rows of `C` in a task at most.
const MC: usize = 256;

/// Floats between rows that lie near each other: a KiB.
const NEAR: usize = 256;

/// Fewer multiply-adds than this are not worth another thread.
const SERIAL: usize = 1 << 17;

/// `C[m, n] = A[m, k]·B[k, n] (+ C)`, then the epilogue. Equal inputs give equal bits for any
/// number of threads. May be called within rayon's tasks.
///
/// Where all is `f32`, so are the products. Where `A`, `B` or `C` is of bf16, the products are of bf16,
/// to which what is not is rounded, with sums in `f32`, the same on every instruction set; the epilogue
/// gets those, and what it leaves is rounded to what `C` is of.
///
/// # Panics
/// If a slice is too short for its shape, or a leading dimension for its columns.
pub fn gemm<E: Epilogue>(isa: Isa, size: [usize; 3], a: Matrix, b: Matrix, out: Out, epilogue: &E) {
    let [m, n, k] = size;
    a.check("A", m, k);
    b.check("B", k, n);
    out.check(m, n);
    if m == 0 || n == 0 {
        return;
    }
    let Out {
        c,
        ld,
        accumulate,
        bias,
        before,
    } = out;
    match (a.0.values, b.0.values, c) {
        (Slice::F32(x), Slice::F32(y), SliceMut::F32(c)) => {
            if let Some(bias) = bias {
                let rows = c.par_chunks_mut(ld).take(m).with_min_len(64);
                rows.for_each(|c| c[..n].copy_from_slice(bias));
            }
            let out = Shared {
                accumulate: accumulate || bias.is_some(),
                ..Shared::new(c, ld, before.map(SliceMut::f32))
            };
            floats(isa, size, a.0.of(x), b.0.of(y), &out, epilogue);
        }
        (_, _, SliceMut::F32(c)) => {
            let out = Shared {
                accumulate,
                bias,
                ..Shared::new(c, ld, before.map(SliceMut::f32))
            };
            tiled::product(isa, size, a, b, &out, epilogue);
        }
        (_, _, SliceMut::Bf16(c)) => {
            let out = Shared {
                accumulate,
                bias,
                ..Shared::new(c, ld, before.map(SliceMut::bf16))
            };
            tiled::product(isa, size, a, b, &out, epilogue);
        }
    }
}

fn floats<E: Epilogue>(
    isa: Isa,
    [m, n, k]: [usize; 3],
    a: Lying<&[f32]>,
    b: Lying<&[f32]>,
    out: &Shared,
    epilogue: &E,
) {
    let mut scratch = CALL.take();
    let mut product = || product(isa, [m, n, k], a, b, out, epilogue, &mut scratch.0);
    if m * n * k <= SERIAL {
        product();
    } else {
        // Into rayon's pool once, rather than for each phase: waking it costs as much as a small
        // product.
        rayon::scope(|_| product());
    }
    CALL.set(scratch);
}

fn product<E: Epilogue>(
    isa: Isa,
    [m, n, k]: [usize; 3],
    a: Lying<&[f32]>,
    b: Lying<&[f32]>,
    out: &Shared,
    epilogue: &E,
    packed: &mut Buffer,
) {
    let cuts = Cuts::new(m, n, k);
    let tasks = (0..cuts.count()).map(|i| cuts.get(i)).collect();
    if dot::fits(m, n, a, b) {
        each(tasks, false, |(rows, columns)| {
            isa.run(Dots {
                a,
                b,
                k,
                rows,
                columns,
                out,
                epilogue,
            });
        });
        return;
    }
    let depth = Depth::new(k);
    // A panel of B that few tiles meet is not worth packing, if its rows are vectors as they lie;
    // some more tiles are few where those rows are so near that they do not alias in the L1.
    let few = if b.ld <= NEAR { MC } else { 2 * MOST_ROWS };
    let direct = !b.transposed && b.is_even() && m <= few;
    let blocks = Blocks {
        a,
        b: PackedB::new(isa, b, &depth, n, direct, packed),
        depth,
        out,
        epilogue,
    };
    each(tasks, false, |(rows, columns)| {
        let mut scratch = TASK.take();
        isa.run(Block {
            all: &blocks,
            rows,
            columns,
            a: &mut scratch.0,
        });
        TASK.set(scratch);
    });
}

/// A `B` of `f32` that many products share, packed once.
pub struct Packed {
    values: Buffer,
    /// `k`, `n`.
    size: [usize; 2],
}

impl Packed {
    /// Of `B[k, n]`.
    ///
    /// # Panics
    /// As [`gemm`].
    pub fn new(isa: Isa, b: Matrix, [k, n]: [usize; 2]) -> Packed {
        b.check("B", k, n);
        let mut values = Buffer::default();
        let b = b.0.of(b.0.values.f32());
        PackedB::new(isa, b, &Depth::new(k), n, false, &mut values);
        Packed {
            values,
            size: [k, n],
        }
    }

    /// `C[m, n] = A[m, k]·B[k, n] (+ C)`, on this thread alone: for short products that depend on
    /// each other. An element is the same sum, whatever the rows beside it.
    ///
    /// # Panics
    /// As [`gemm`].
    pub fn product(&self, isa: Isa, m: usize, a: Matrix, out: Out) {
        let [k, n] = self.size;
        a.check("A", m, k);
        out.check(m, n);
        let shared = Shared {
            accumulate: out.accumulate,
            ..Shared::new(out.c.f32(), out.ld, out.before.map(SliceMut::f32))
        };
        let blocks = Blocks {
            a: a.0.of(a.0.values.f32()),
            b: PackedB::of(&self.values, n),
            depth: Depth::new(k),
            out: &shared,
            epilogue: &(),
        };
        let mut scratch = TASK.take();
        isa.run(Block {
            all: &blocks,
            rows: 0..m,
            columns: 0..n,
            a: &mut scratch.0,
        });
        TASK.set(scratch);
    }
}

/// How `C` is cut into tasks, which changes no bit of it.
struct Cuts {
    m: usize,
    n: usize,
    rows: usize,
    columns: usize,
}

impl Cuts {
    fn new(m: usize, n: usize, k: usize) -> Cuts {
        let whole = m * n * k <= SERIAL;
        let (mut height, mut width) = match whole {
            true => (m, n),
            false => (m.min(MC), n.min(NC)),
        };
        let count = |height, width| m.div_ceil(height) * n.div_ceil(width);
        // Enough tasks to keep all threads busy to the end, but tall ones, several tiles high, and
        // wide ones: each packs its rows of A for its own columns. Lower and narrower only where
        // threads would have next to none.
        let threads = rayon::current_num_threads();
        while !whole && count(height, width) < 8 * threads {
            let few = count(height, width) < 2 * threads;
            match () {
                () if height >= 8 * MOST_ROWS => height = height.div_ceil(2),
                () if width >= 32 * PANEL => width = width.div_ceil(2),
                () if few && height >= 2 * MOST_ROWS => height = height.div_ceil(2),
                () if few && width >= 2 * PANEL => width = width.div_ceil(2),
                () => break,
            }
        }
        Cuts {
            m,
            n,
            rows: m.div_ceil(height),
            columns: n.div_ceil(width),
        }
    }

    fn count(&self) -> usize {
        self.rows * self.columns
    }

    /// Rows and columns of task `i`; neighbours share columns, and so what is in a core's L2.
    fn get(&self, i: usize) -> (Range<usize>, Range<usize>) {
        let panels = part(self.n.div_ceil(PANEL), self.columns, i / self.rows);
        let columns = panels.start * PANEL..self.n.min(panels.end * PANEL);
        (part(self.m, self.rows, i % self.rows), columns)
    }
}

/// All that tasks share.
struct Blocks<'a, E> {
    a: Lying<&'a [f32]>,
    b: PackedB<'a>,
    depth: Depth,
    out: &'a Shared<'a>,
    epilogue: &'a E,
}

/// A task: some rows and columns of `C`.
struct Block<'a, E> {
    all: &'a Blocks<'a, E>,
    rows: Range<usize>,
    columns: Range<usize>,
    /// Scratch for packed rows of `A`.
    a: &'a mut Buffer,
}

impl<E: Epilogue> Kernel for Block<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Block {
            all,
            rows,
            columns,
            a,
        } = self;
        let (c, last) = (all.out.c, all.depth.blocks - 1);
        for i in 0..=last {
            let depth = all.depth.block(i);
            let mut packed = PackedA::new(s, all.a, rows.clone(), depth.clone(), all.depth.k, a);
            let tiles = columns.len().div_ceil(PANEL);
            for p in 0..packed.panels() {
                let (rows, a) = packed.panel(p);
                for (t, column) in columns.clone().step_by(PANEL).enumerate() {
                    let width = PANEL.min(columns.end - column);
                    let tile = Tile {
                        rows: rows.len(),
                        width,
                        a,
                        b: all.b.panel(depth.clone(), column),
                        c: c.at(rows.start, column),
                        add: i > 0 || all.out.accumulate,
                        ahead: packed.ahead(p, t, tiles),
                    };
                    // SAFETY: the panels hold `depth` steps of these rows and columns, which are
                    // this task's and within `C`.
                    unsafe {
                        tile.run(s);
                        if i == last {
                            for row in rows.clone() {
                                all.out.finish(s, all.epilogue, row, column, width);
                            }
                        }
                    }
                }
            }
        }
    }
}
