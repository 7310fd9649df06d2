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

use rayon::prelude::*;

use super::dot::{self as dot, Dots};
use super::pack::{PackedA, PackedB};
use super::tile::{C, MOST_ROWS, Tile};
use crate::backend::cpu::conv::{CALL, TASK};
use crate::backend::cpu::simd::{Buffer, Isa, Kernel, Simd};

/// Most steps of `k` between two visits to an element of `C`: 14 rows of `A` in 14 KiB, which with
/// the two panels of `B` that come and go leave room in an L1 of 48 KiB.
pub(super) const KC: usize = 256;

/// Columns of `C` in a task at most: the block of `B` that its rows share is 1 MiB, half of the L2.
const NC: usize = 1024;

/// Rows of `C` in a task at most.
const MC: usize = 256;

/// Floats between rows that lie near each other: a KiB.
const NEAR: usize = 256;

/// Columns of a panel of `B`: two vectors.
pub(super) const PANEL: usize = 32;

/// Fewer multiply-adds than this are not worth another thread.
const SERIAL: usize = 1 << 17;

/// A matrix to read: row-major floats, or the transpose of such.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Row `i` begins at `i·ld`.
    pub(super) values: &'a [f32],
    pub(super) ld: usize,
    pub(super) transposed: bool,
}

impl<'a> Matrix<'a> {
    /// Rows of floats that begin `ld` apart.
    pub fn new(values: &'a [f32], ld: usize) -> Matrix<'a> {
        Matrix {
            values,
            ld,
            transposed: false,
        }
    }

    /// Its transpose.
    pub fn t(self) -> Matrix<'a> {
        Matrix {
            transposed: !self.transposed,
            ..self
        }
    }

    fn check(&self, name: &str, rows: usize, cols: usize) {
        let (rows, cols) = match self.transposed {
            true => (cols, rows),
            false => (rows, cols),
        };
        check(name, self.values, self.ld, rows, cols);
    }
}

fn check(name: &str, values: &[f32], ld: usize, rows: usize, cols: usize) {
    assert!(cols <= ld || rows <= 1, "{name}: {cols} columns, ld {ld}");
    let least = match (rows, cols) {
        (0, _) | (_, 0) => Some(0),
        _ => (rows - 1).checked_mul(ld).and_then(|x| x.checked_add(cols)),
    };
    let len = values.len();
    let enough = least.is_some_and(|least| len >= least);
    assert!(enough, "{name}: {rows}x{cols}, ld {ld}, in {len}");
}

/// Where a product goes.
#[derive(Debug)]
pub struct Out<'a> {
    /// Row-major.
    pub c: &'a mut [f32],
    /// Row `i` of `c` (and of `before`) begins at `i·ld`.
    pub ld: usize,
    /// Add to what is in `c`, else what is there does not matter.
    pub accumulate: bool,
    /// Gets what the epilogue was given.
    pub before: Option<&'a mut [f32]>,
}

impl<'a> Out<'a> {
    /// Overwrites rows that begin `ld` apart.
    pub fn new(c: &'a mut [f32], ld: usize) -> Out<'a> {
        Out {
            c,
            ld,
            accumulate: false,
            before: None,
        }
    }
}

/// What becomes of a product before it leaves the cache.
pub trait Epilogue: Sync {
    /// Changes `c`, at most 32 neighbours of a row from `column` on; called once for each element,
    /// after the sum over `k` and what was in `C` are in it. Mark it `#[inline(always)]`, which
    /// makes it vector code.
    fn finish<S: Simd>(&self, s: S, row: usize, column: usize, c: &mut [f32]);
}

/// Nothing.
impl Epilogue for () {
    #[inline(always)]
    fn finish<S: Simd>(&self, _: S, _: usize, _: usize, _: &mut [f32]) {}
}

/// `C[m, n] = A[m, k]·B[k, n] (+ C)`, then the epilogue. Equal inputs give equal bits for any
/// number of threads. May be called within rayon's tasks.
///
/// # Panics
/// If a slice is too short for its shape, or a leading dimension for its columns.
pub fn gemm<E: Epilogue>(
    isa: Isa,
    [m, n, k]: [usize; 3],
    a: Matrix,
    b: Matrix,
    out: Out,
    epilogue: &E,
) {
    a.check("A", m, k);
    b.check("B", k, n);
    check("C", out.c, out.ld, m, n);
    if let Some(before) = &out.before {
        check("C before the epilogue", before, out.ld, m, n);
    }
    if m == 0 || n == 0 {
        return;
    }
    let mut scratch = CALL.take();
    let product = || product(isa, [m, n, k], a, b, out, epilogue, &mut scratch.0);
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
    a: Matrix,
    b: Matrix,
    mut out: Out,
    epilogue: &E,
    packed: &mut Buffer,
) {
    let out = Shared {
        c: C {
            values: out.c.as_mut_ptr(),
            ld: out.ld,
        },
        before: out.before.as_mut().map(|before| before.as_mut_ptr()),
        accumulate: out.accumulate,
    };
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
                out: &out,
                epilogue,
            });
        });
        return;
    }
    let depth = Depth::new(k);
    // A panel of B that few tiles meet is not worth packing, if its rows are vectors as they lie;
    // some more tiles are few where those rows are so near that they do not alias in the L1.
    let few = if b.ld <= NEAR { MC } else { 2 * MOST_ROWS };
    let direct = !b.transposed && m <= few;
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

/// Calls `f` with each task, on this thread if there is one only or they are small.
pub(super) fn each<T: Send>(tasks: Vec<T>, small: bool, f: impl Fn(T) + Send + Sync) {
    if small || tasks.len() == 1 {
        tasks.into_iter().for_each(f);
    } else {
        tasks.into_par_iter().with_max_len(1).for_each(f);
    }
}

/// The blocks of `k`.
pub(super) struct Depth {
    k: usize,
    pub blocks: usize,
}

impl Depth {
    fn new(k: usize) -> Depth {
        // Without steps there still is one visit, for what is not a sum.
        let blocks = k.div_ceil(KC).max(1);
        Depth { k, blocks }
    }

    /// Block `i`.
    pub fn block(&self, i: usize) -> Range<usize> {
        part(self.k, self.blocks, i)
    }
}

/// Part `i` of `count` even ones of `0..len`.
pub(super) fn part(len: usize, count: usize, i: usize) -> Range<usize> {
    len * i / count..len * (i + 1) / count
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
    a: Matrix<'a>,
    b: PackedB<'a>,
    depth: Depth,
    out: Shared,
    epilogue: &'a E,
}

/// [`Out`] for many writers.
pub(super) struct Shared {
    c: C,
    before: Option<*mut f32>,
    pub accumulate: bool,
}

// SAFETY: `gemm` holds the slices' exclusive borrows while tasks run, and tasks touch disjoint
// elements: `Cuts` covers rows × columns without overlap.
unsafe impl Sync for Shared {}

impl Shared {
    /// Neighbours in a row of `C`.
    #[inline(always)]
    pub fn piece(&self, row: usize, column: usize, width: usize) -> *mut [f32] {
        std::ptr::slice_from_raw_parts_mut(self.c.at(row, column).values, width)
    }

    /// All that is left to do with finished sums.
    ///
    /// # Safety
    /// The piece of `C` must be within it and not accessed by others.
    #[inline(always)]
    pub unsafe fn finish<S: Simd, E: Epilogue>(
        &self,
        s: S,
        epilogue: &E,
        row: usize,
        column: usize,
        width: usize,
    ) {
        // SAFETY: the caller's; `before` is as large as `C` and cut the same way.
        unsafe {
            let piece = &mut *self.piece(row, column, width);
            if let Some(before) = self.before {
                let to = before.add(row * self.c.ld + column);
                std::ptr::copy_nonoverlapping(piece.as_ptr(), to, width);
            }
            epilogue.finish(s, row, column, piece);
        }
    }
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
