//! Products of a scratch image with weights, in blocks of four tiles of sums, and where they go.
//!
//! While the tile unit is busy with a block, the vector unit finishes the one before.

use std::ops::Range;

use half::bf16;

use super::fill::Pixel;
use crate::backend::cpu::simd::{Isa, LANES, Simd};
use crate::backend::cpu::tiles::{Operand, SIDE, Step, Sums, TILE, Tiles};

/// Outputs that share steps and weights: number `(row, i)` meets the pixels from `start + row·apart + i` on.
pub(super) struct Grid<'a> {
    /// The scratch image.
    pub pixels: &'a [Pixel],
    /// See above, all in pixels.
    pub start: usize,
    /// See above.
    pub apart: usize,
    /// Tiles of 16 outputs in a row.
    pub tiles: usize,
    pub steps: &'a [Step],
    /// `[⌈channels/16⌉][steps][B tile]`.
    pub weights: &'a [bf16],
    /// Of the output.
    pub channels: usize,
}

/// What becomes of sums.
pub(super) trait Finish {
    /// Those of tile `tile` of a row, and of channels `16·block..`: `[16 outputs][16 channels]`.
    fn finish(&mut self, isa: Isa, row: usize, tile: usize, block: usize, sums: &Sums);
}

/// Adds 16 lanes to sums in f64.
#[inline(always)]
pub(super) fn add_wide<S: Simd>(s: S, to: &mut [f64; LANES], v: S::V) {
    let mut lanes = [0.0; LANES];
    s.store(&mut lanes, v);
    for (to, lane) in to.iter_mut().zip(lanes) {
        *to += f64::from(lane);
    }
}

/// `M` tiles of outputs from number `first` of the rows' tiles on, and `N` blocks of channels from
/// `block` on.
#[derive(Clone, Copy)]
struct Block {
    first: usize,
    tiles: usize,
    block: usize,
    blocks: usize,
}

impl Grid<'_> {
    /// Computes rows of outputs.
    ///
    /// # Safety
    /// All that the rows, tiles and steps reach must lie in `pixels` and `weights`.
    pub unsafe fn run(&self, isa: Isa, unit: &Tiles, rows: Range<usize>, to: &mut impl Finish) {
        let blocks = self.channels.div_ceil(SIDE);
        let all = rows.len() * self.tiles;
        let mut sums = [[[0.0; SIDE * SIDE]; 4]; 2];
        let [mut now, mut before] = sums.each_mut();
        let mut done: Option<Block> = None;
        let mut first = 0;
        while first < all {
            let mut block = 0;
            let tiles = match (all - first, blocks) {
                (4.., 1) => 4,
                (2.., _) => 2,
                _ => 1,
            };
            while block < blocks {
                let count = if blocks - block >= 2 { 2 } else { 1 };
                let this = Block {
                    first,
                    tiles,
                    block,
                    blocks: count,
                };
                let c = &mut now[..tiles * count];
                // SAFETY: the caller's.
                unsafe {
                    match (tiles, count) {
                        (1, 1) => self.begin::<1, 1>(unit, &rows, this, c),
                        (1, 2) => self.begin::<1, 2>(unit, &rows, this, c),
                        (2, 1) => self.begin::<2, 1>(unit, &rows, this, c),
                        (2, 2) => self.begin::<2, 2>(unit, &rows, this, c),
                        _ => self.begin::<4, 1>(unit, &rows, this, c),
                    }
                }
                if let Some(done) = done {
                    self.finish(isa, &rows, done, before, to);
                }
                unit.end(c);
                done = Some(this);
                std::mem::swap(&mut now, &mut before);
                block += count;
            }
            first += tiles;
        }
        if let Some(done) = done {
            self.finish(isa, &rows, done, before, to);
        }
    }

    /// # Safety
    /// That of [`run`](Grid::run).
    unsafe fn begin<const M: usize, const N: usize>(
        &self,
        unit: &Tiles,
        rows: &Range<usize>,
        block: Block,
        c: &mut [Sums],
    ) {
        let weights = self.steps.len() * TILE;
        let mut a = Operand {
            start: [std::ptr::null(); M],
            row: size_of::<Pixel>(),
        };
        for (i, start) in a.start.iter_mut().enumerate() {
            let (row, tile) = self.place(rows, block.first + i);
            let pixel = self.start + row * self.apart + tile * SIDE;
            *start = self.pixels.as_ptr().wrapping_add(pixel).cast();
        }
        let mut b = Operand {
            start: [std::ptr::null(); N],
            row: size_of::<Pixel>(),
        };
        for (i, start) in b.start.iter_mut().enumerate() {
            *start = self
                .weights
                .as_ptr()
                .wrapping_add((block.block + i) * weights);
        }
        // SAFETY: the caller's.
        unsafe { unit.begin(&a, &b, self.steps, c, false) };
    }

    fn finish(
        &self,
        isa: Isa,
        rows: &Range<usize>,
        block: Block,
        sums: &[Sums; 4],
        to: &mut impl Finish,
    ) {
        for i in 0..block.tiles {
            let (row, tile) = self.place(rows, block.first + i);
            for j in 0..block.blocks {
                to.finish(isa, row, tile, block.block + j, &sums[i * block.blocks + j]);
            }
        }
    }

    /// Row and tile of number `i` of the rows' tiles.
    #[inline(always)]
    fn place(&self, rows: &Range<usize>, i: usize) -> (usize, usize) {
        (rows.start + i / self.tiles, i % self.tiles)
    }
}

/// Where the 16 outputs of a tile lie in memory, for each tile of a row.
pub(super) struct Places {
    /// Those that there are: number in the tile, and element from the row's start. By tiles.
    outputs: Vec<(u32, u32)>,
    /// Where the tiles' begin in `outputs`.
    starts: Vec<usize>,
}

impl Places {
    /// Rows of `cols` columns `col` elements apart, in `images` of the images that lie side by side
    /// `side`, `image` elements apart.
    pub fn new(cols: usize, col: usize, images: usize, side: usize, image: usize) -> Places {
        let (mut outputs, mut starts) = (Vec::new(), vec![0]);
        for tile in 0..(cols * side).div_ceil(SIDE) {
            for i in 0..SIDE {
                let (c, g) = ((tile * SIDE + i) / side, (tile * SIDE + i) % side);
                if c < cols && g < images {
                    outputs.push((i as u32, (c * col + g * image) as u32));
                }
            }
            starts.push(outputs.len());
        }
        Places { outputs, starts }
    }

    /// Tiles of a row.
    pub fn tiles(&self) -> usize {
        self.starts.len() - 1
    }

    /// Those of a tile.
    #[inline(always)]
    pub fn of(&self, tile: usize) -> &[(u32, u32)] {
        &self.outputs[self.starts[tile]..self.starts[tile + 1]]
    }
}
