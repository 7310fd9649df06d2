//! Products of bf16 on tiles. What is not bf16 is rounded as it is packed; sums are f32.
//!
//! Blocks of 32×32 are summed in the tile unit. Of the two operands the one with fewer lines, the inner
//! one, is packed first and whole; a task owns some panels of the outer one, packs each when its turn
//! comes, so that it is in the nearest caches, and goes through the inner panels with it, which stream
//! from L2. Where `k` is long it goes in blocks, and the sums wait in scratch as they are: an element is a
//! sum over `k` in one order, whatever the cut, the thread or the instruction set.

mod pack;

use std::ops::Range;

use super::layout::{each, part};
use super::matrix::{Epilogue, Matrix, Shared};
use crate::backend::cpu::scratch::{CALL, TASK};
use crate::backend::cpu::simd::{Buffer, Element, Isa, Kernel, Simd};
use crate::backend::cpu::tiles::{DEPTH, Operand, SIDE, Step, Sums, Tiles};
use half::bf16;
use pack::{Lines, PANEL, Pack, Panel, panel_words};

/// Most steps of `k` in a block.
const STEPS: usize = 32;

/// Most inner panels of a task: in a block of `k` they are 1 MiB, half of the L2.
const INNER: usize = 16;

/// Most outer panels of a task.
const OUTER: usize = 16;

/// Inner panels that are packed by one thread at once.
const GROUP: usize = 4;

/// Fewer multiply-adds than this are not worth another thread.
const SERIAL: usize = 1 << 20;

/// Where the tiles of a step lie from the first one's: of two packed panels, and of an `A` that is not.
static PACKED: [Step; STEPS] = steps(panel_words(1) * size_of::<f32>());
static LYING: [Step; STEPS] = steps(DEPTH * size_of::<bf16>());

/// With tiles of `A` so many bytes apart.
const fn steps(a: usize) -> [Step; STEPS] {
    let mut steps = [Step { a: 0, b: 0 }; STEPS];
    let mut i = 0;
    while i < STEPS {
        steps[i] = Step {
            a: (i * a) as u32,
            b: (panel_words(i) * size_of::<f32>()) as u32,
        };
        i += 1;
    }
    steps
}

/// `C[m, n] = A[m, k]·B[k, n] (+ C)`, then the epilogue, of checked shapes.
pub fn product<E: Epilogue, T: Element>(
    isa: Isa,
    [m, n, k]: [usize; 3],
    a: Matrix,
    b: Matrix,
    out: &Shared<T>,
    epilogue: &E,
) {
    let a = Lines {
        values: a.0,
        count: m,
        by_pairs: false,
    };
    let b = Lines {
        values: b.0.t(),
        count: n,
        by_pairs: true,
    };
    // The one part that differs from product to product: all else is compiled once.
    products(isa, [m, n, k], a, b, &|rows, columns, sums| {
        isa.run(Put {
            out,
            epilogue,
            rows,
            columns,
            sums,
        });
    });
}

fn products(isa: Isa, [m, n, k]: [usize; 3], a: Lines, b: Lines, put: &PutBlock) {
    let small = m * n * k <= SERIAL;
    let mut scratch = CALL.take();
    let mut product = || {
        let depth = Depth::new(k);
        let (inner, outer) = if m < n { (a, b) } else { (b, a) };
        let whole = Whole {
            isa,
            inner: pack_all(isa, &inner, &depth, small, &mut scratch.0),
            lines: [inner, outer],
            depth,
            put,
        };
        each(tasks(&whole.lines, small), small, |[inner, outer]| {
            let mut scratch = TASK.take();
            whole.part(inner, outer, &mut scratch.0, &mut scratch.1);
            TASK.set(scratch);
        });
    };
    if small {
        product();
    } else {
        // Into rayon's pool once, rather than for each phase.
        rayon::scope(|_| product());
    }
    CALL.set(scratch);
}

/// What takes finished sums of a block to its rows and columns of `C`: each is given once.
type PutBlock<'a> = dyn Fn(Range<usize>, Range<usize>, &[f32]) + Sync + 'a;

/// The blocks of `k`: whole steps, as even as can be.
struct Depth {
    k: usize,
    blocks: usize,
}

impl Depth {
    fn new(k: usize) -> Depth {
        // Without steps there still is one visit, for what is not a sum.
        let blocks = k.div_ceil(DEPTH).div_ceil(STEPS).max(1);
        Depth { k, blocks }
    }

    /// The steps of block `i`.
    fn steps(&self, i: usize) -> Range<usize> {
        part(self.k.div_ceil(DEPTH), self.blocks, i)
    }

    /// What they sum over.
    fn block(&self, i: usize) -> Range<usize> {
        let steps = self.steps(i);
        steps.start * DEPTH..self.k.min(steps.end * DEPTH)
    }
}

/// All panels: `[blocks of k][panels][steps][2 tiles]`.
fn pack_all<'a>(
    isa: Isa,
    lines: &Lines,
    depth: &Depth,
    small: bool,
    buffer: &'a mut Buffer,
) -> &'a [f32] {
    let panels = lines.panels();
    let values = buffer.resize(panels * panel_words(depth.k.div_ceil(DEPTH)));
    let (mut tasks, mut rest) = (Vec::new(), &mut *values);
    for i in 0..depth.blocks {
        let steps = depth.steps(i).len();
        for first in (0..panels).step_by(GROUP) {
            let panels = first..panels.min(first + GROUP);
            let len = panels.len() * panel_words(steps);
            tasks.push(Pack {
                from: lines,
                panels,
                depth: depth.block(i),
                to: rest
                    .split_off_mut(..len)
                    .expect("as many as all panels have"),
            });
        }
    }
    each(tasks, small, |task| isa.run(task));
    values
}

/// Inner and outer panels of each task, which changes no bit of the product. Tasks share inner panels
/// rather than outer ones, since each packs its own outer ones.
fn tasks(lines: &[Lines; 2], small: bool) -> Vec<[Range<usize>; 2]> {
    let [inner, outer] = [0, 1].map(|i| lines[i].panels());
    let inner_parts = inner.div_ceil(INNER);
    let wanted = match small {
        true => 1,
        false => (4 * rayon::current_num_threads()).div_ceil(inner_parts),
    };
    let outer_parts = outer.div_ceil(OUTER).max(wanted.min(outer));
    let mut all = Vec::with_capacity(inner_parts * outer_parts);
    for i in 0..inner_parts {
        for o in 0..outer_parts {
            all.push([part(inner, inner_parts, i), part(outer, outer_parts, o)]);
        }
    }
    all
}

/// All that tasks share.
struct Whole<'a> {
    isa: Isa,
    /// The inner lines, packed.
    inner: &'a [f32],
    /// Inner and outer ones.
    lines: [Lines<'a>; 2],
    depth: Depth,
    put: &'a PutBlock<'a>,
}

/// Sums of a block of 32×32 elements, by tiles; where lines end it has fewer tiles.
const BLOCK: usize = PANEL * PANEL;

impl Whole<'_> {
    /// A task: some inner and outer panels, with scratch for packed outer panels, and for sums
    /// between blocks of `k`.
    fn part(
        &self,
        inner: Range<usize>,
        outer: Range<usize>,
        panels: &mut Buffer,
        sums: &mut Buffer,
    ) {
        let tiles = Tiles::new(self.isa);
        let ([inner_lines, outer_lines], depth) = (&self.lines, &self.depth);
        let (together, last) = (outer_lines.together(), depth.blocks - 1);
        // Of two blocks, or of all, which wait for the next steps.
        let count = match last {
            0 => 2,
            _ => inner.len() * outer.len(),
        };
        let sums = sums.resize(count * BLOCK);
        // A block's way to `C` comes after the next one's products, which are done meanwhile.
        let mut done = None;
        for i in 0..=last {
            let steps = depth.steps(i);
            let words = panel_words(steps.len());
            let packed = &self.inner[inner_lines.panels() * panel_words(steps.start)..];
            for o in outer.clone() {
                let group = (o - outer.start) % together;
                if group == 0 {
                    let some = o..outer.end.min(o + together);
                    let to = panels.resize(some.len() * words);
                    let depth = depth.block(i);
                    self.isa.run(Pack {
                        from: outer_lines,
                        panels: some,
                        depth,
                        to,
                    });
                }
                let lying = outer_lines.lying(o, depth.block(i));
                let packed_panel = Panel::packed(&panels[group * words..][..words]);
                let outer_panel = lying.unwrap_or(packed_panel);
                for p in inner.clone() {
                    let lying = inner_lines.lying(p, depth.block(i));
                    let packed_panel = Panel::packed(&packed[p * words..][..words]);
                    let inner_panel = lying.unwrap_or(packed_panel);
                    let block = ((o - outer.start) * inner.len() + p - inner.start) % count;
                    let at = block * BLOCK..(block + 1) * BLOCK;
                    let (inner, outer) = (inner_lines.panel(p), outer_lines.panel(o));
                    let (rows, columns, a, b) = match inner_lines.by_pairs {
                        false => (inner, outer, inner_panel, outer_panel),
                        true => (outer, inner, outer_panel, inner_panel),
                    };
                    let to = &mut sums[at.clone()];
                    match [rows.len() > SIDE, columns.len() > SIDE] {
                        [true, true] => multiply::<2, 2>(&tiles, steps.len(), a, b, to, i > 0),
                        [true, false] => multiply::<2, 1>(&tiles, steps.len(), a, b, to, i > 0),
                        [false, true] => multiply::<1, 2>(&tiles, steps.len(), a, b, to, i > 0),
                        [false, false] => multiply::<1, 1>(&tiles, steps.len(), a, b, to, i > 0),
                    }
                    if i == last
                        && let Some((rows, columns, at)) = done.replace((rows, columns, at))
                    {
                        (self.put)(rows, columns, &sums[at]);
                    }
                }
            }
        }
        if let Some((rows, columns, at)) = done {
            (self.put)(rows, columns, &sums[at]);
        }
    }
}

/// The first `M`×`N` tiles of sums: `a·b` of panels in so many steps, added to what is in them if `add`.
fn multiply<const M: usize, const N: usize>(
    tiles: &Tiles,
    steps: usize,
    a: Panel,
    b: Panel,
    sums: &mut [f32],
    add: bool,
) {
    fn operand<const N: usize>(panel: Panel) -> Operand<N> {
        Operand {
            start: *panel.start.first_chunk().expect("one tile or two"),
            row: panel.row,
        }
    }
    let steps = match a.is_packed {
        true => &PACKED[..steps],
        false => &LYING[..steps],
    };
    let sums: &mut [Sums] = sums.as_chunks_mut().0;
    let sums = sums.as_chunks_mut().0.first_chunk_mut();
    let sums = sums.expect("there are four tiles");
    // SAFETY: both panels have two tiles of each step, `b` packed, as all are whose tiles lie by pairs.
    unsafe { tiles.block::<M, N>(&operand(a), &operand(b), steps, sums, add) };
}

/// Finished sums of a block on their way to `C`: rows and columns within it that nobody else has.
struct Put<'a, 'b, E, T> {
    out: &'a Shared<'b, T>,
    epilogue: &'a E,
    rows: Range<usize>,
    columns: Range<usize>,
    sums: &'a [f32],
}

impl<E: Epilogue, T: Element> Kernel for Put<'_, '_, E, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Put {
            out,
            epilogue,
            rows,
            columns,
            sums,
        } = self;
        let lines = sums.as_chunks::<SIDE>().0;
        let across = columns.len().div_ceil(SIDE);
        for (i, row) in rows.enumerate() {
            let at = i / SIDE * across * SIDE + i % SIDE;
            // SAFETY: `products` gives each block of `C` once.
            unsafe {
                if columns.len() == PANEL {
                    let sums = [&lines[at], &lines[at + SIDE]];
                    out.put(s, epilogue, row, columns.start, sums);
                } else {
                    let mut sums = [lines[at], lines[at + (across - 1) * SIDE]];
                    let sums = &mut sums.as_flattened_mut()[..columns.len()];
                    out.put_some(s, epilogue, row, columns.start, sums);
                }
            }
        }
    }
}
