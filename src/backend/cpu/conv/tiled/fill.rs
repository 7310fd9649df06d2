//! From images in memory to scratch images: read through what comes before the convolution, rounded to
//! bf16, and laid out for the tile unit. Margins stay as they are: zero.

use std::ops::Range;

use half::bf16;

use super::super::tile::Load;
use super::layout::Layout;
use crate::backend::cpu::simd::{Isa, Kernel, LANES, Simd};
use crate::backend::cpu::tiles::DEPTH;

/// A pixel of one block: a row of an `A` tile.
pub(super) type Pixel = [bf16; DEPTH];

/// The same as 16 channels of two images: a row of a `B` tile, as 32-bit pairs.
pub(super) type Pairs = [f32; LANES];

/// How far ahead of what is read memory is asked for: it takes a while to come, and the hardware
/// does not look beyond a page.
pub(super) const AHEAD: usize = 2048;

/// The pixels of a row of an image, or some of them at even distances.
#[derive(Clone, Copy)]
struct Run {
    /// Element of the image where the first begins.
    from: usize,
    /// Elements from one to the next.
    step: usize,
    /// The scratch image's pixel that the first goes to, and how far apart they lie there.
    to: usize,
    apart: usize,
    count: usize,
}

impl Layout {
    /// What of image row goes to `row` of the scratch image, if any.
    fn image_row(&self, row: usize, height: usize) -> Option<usize> {
        let y = (row * self.sample) as isize - self.top;
        (0..height as isize).contains(&y).then_some(y as usize)
    }

    /// The columns of one phase that image number `g` has within it, `shift` columns further right.
    fn run(&self, [y, w]: [usize; 2], row: usize, phase: usize, g: usize, shift: usize) -> Run {
        // Column `col` of the phase is column `first + col·step` of the image.
        let step = (self.step * self.sample) as isize;
        let first = ((phase + shift) * self.sample) as isize - self.left;
        let up = |x: isize| match step {
            // The most frequent, and no division.
            1 => x.clamp(0, self.cols as isize),
            _ => (x + step - 1).div_euclid(step).clamp(0, self.cols as isize),
        };
        let (from, end) = (up(-first), up(w as isize - first));
        let x = first + from * step;
        Run {
            from: (y * w) * self.channels + (x.max(0) as usize) * self.channels,
            step: step as usize * self.channels,
            to: ((row * self.phases + phase) * self.cols + from as usize) * self.images + g,
            apart: self.images,
            count: (end - from).max(0) as usize,
        }
    }

    /// Zeros what [`fill`](Layout::fill) leaves as it is: margins, and channels that there are not.
    pub fn clear(&self, [h, w]: [usize; 2], to: &mut [Pixel]) {
        for (block, row, phase, half) in (0..self.blocks()).flat_map(|block| {
            (0..self.rows)
                .flat_map(move |row| (0..self.phases * 2).map(move |i| (block, row, i / 2, i % 2)))
        }) {
            let (vector, shift) = match self.paired {
                true => (0, half),
                false => (2 * block + half, 0),
            };
            let to = &mut to[block * self.block()..];
            let start = (row * self.phases + phase) * self.cols * self.images;
            let filled = match self.image_row(row, h) {
                Some(y) if vector * LANES < self.channels => {
                    let run = self.run([y, w], row, phase, 0, shift);
                    run.to..run.to + run.count * self.images
                }
                _ => start..start,
            };
            let all = start..start + self.cols * self.images;
            for pixel in (all.start..filled.start).chain(filled.end..all.end) {
                to[pixel].as_chunks_mut::<LANES>().0[half] = [bf16::ZERO; LANES];
            }
        }
        let end = self.blocks() * self.block();
        to[end..].fill([bf16::ZERO; DEPTH]);
    }

    /// The same for [`fill_pairs`](Layout::fill_pairs).
    pub fn clear_pairs(&self, [h, w]: [usize; 2], to: &mut [Pairs]) {
        let vectors = self.channels.div_ceil(LANES);
        for i in 0..vectors * self.rows * self.phases {
            let (vector, row, phase) = (
                i / self.phases / self.rows,
                i / self.phases % self.rows,
                i % self.phases,
            );
            let to = &mut to[vector * self.block()..];
            let start = (row * self.phases + phase) * self.cols * self.images;
            let filled = match self.image_row(row, h) {
                Some(y) => {
                    let run = self.run([y, w], row, phase, 0, 0);
                    run.to..run.to + run.count * self.images
                }
                None => start..start,
            };
            let end = start + self.cols * self.images;
            to[start..filled.start].fill([0.0; LANES]);
            to[filled.end..end].fill([0.0; LANES]);
        }
        to[vectors * self.block()..].fill([0.0; LANES]);
    }

    /// Fills rows of the scratch image for image number `g`, which is `[h, w, channels]`.
    pub fn fill<L: Load>(
        &self,
        isa: Isa,
        load: &L,
        [h, w]: [usize; 2],
        g: usize,
        rows: Range<usize>,
        to: &mut [Pixel],
    ) {
        for row in rows {
            let Some(y) = self.image_row(row, h) else {
                continue;
            };
            for block in 0..self.blocks() {
                let to = &mut to[block * self.block()..];
                if self.paired && self.step * self.sample == 1 {
                    self.fill_neighbours(isa, load, [y, w], row, g, to);
                    continue;
                }
                for phase in 0..self.phases {
                    for half in 0..2 {
                        let (vector, shift) = match self.paired {
                            true => (0, half),
                            false => (2 * block + half, 0),
                        };
                        if vector * LANES >= self.channels {
                            continue;
                        }
                        let run = self.run([y, w], row, phase, g, shift);
                        let lanes = LANES.min(self.channels - vector * LANES);
                        let to = &mut *to;
                        if lanes == LANES {
                            isa.run(Halves::<_, true> {
                                load,
                                vector,
                                lanes,
                                run,
                                half,
                                to,
                            });
                        } else {
                            isa.run(Halves::<_, false> {
                                load,
                                vector,
                                lanes,
                                run,
                                half,
                                to,
                            });
                        }
                    }
                }
            }
        }
    }

    /// A row whose pixels also have their right neighbours' channels, each of which is read once.
    fn fill_neighbours<L: Load>(
        &self,
        isa: Isa,
        load: &L,
        [y, w]: [usize; 2],
        row: usize,
        g: usize,
        to: &mut [Pixel],
    ) {
        let [own, left] = [0, 1].map(|shift| self.run([y, w], row, 0, g, shift));
        if self.channels == LANES {
            isa.run(Neighbours::<_, true> {
                load,
                lanes: LANES,
                own,
                left,
                to,
            });
        } else {
            isa.run(Neighbours::<_, false> {
                load,
                lanes: self.channels,
                own,
                left,
                to,
            });
        }
    }

    /// Fills rows of a scratch image whose pixels are 16 channels of two images. Of the second there may
    /// be none: it stays what it was.
    pub fn fill_pairs<L: Load>(
        &self,
        isa: Isa,
        [low, high]: [&L; 2],
        [h, w]: [usize; 2],
        g: usize,
        rows: Range<usize>,
        to: &mut [Pairs],
    ) {
        for row in rows {
            let Some(y) = self.image_row(row, h) else {
                continue;
            };
            for vector in 0..self.channels.div_ceil(LANES) {
                let to = &mut to[vector * self.block()..];
                let lanes = LANES.min(self.channels - vector * LANES);
                for phase in 0..self.phases {
                    let run = self.run([y, w], row, phase, g, 0);
                    let (images, to) = ([low, high], &mut *to);
                    if lanes == LANES {
                        isa.run(TwoImages::<_, true> {
                            images,
                            vector,
                            lanes,
                            run,
                            to,
                        });
                    } else {
                        isa.run(TwoImages::<_, false> {
                            images,
                            vector,
                            lanes,
                            run,
                            to,
                        });
                    }
                }
            }
        }
    }
}

/// One half of pixels of a row, in a function of its own: what it needs is in registers.
struct Halves<'a, L, const FULL: bool> {
    load: &'a L,
    /// Number of the 16 channels, of which there are so many.
    vector: usize,
    lanes: usize,
    run: Run,
    half: usize,
    to: &'a mut [Pixel],
}

impl<L: Load, const FULL: bool> Kernel for Halves<'_, L, FULL> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Halves {
            load,
            vector,
            lanes,
            run,
            half,
            to,
        } = self;
        let coefficients = load.block(s, vector);
        let mut at = run.from + vector * LANES;
        let mut pixel = run.to;
        for _ in 0..run.count {
            load.ahead(s, at + AHEAD);
            let v = load.at::<S, FULL>(s, &coefficients, at, lanes);
            s.store_bf16(&mut to[pixel].as_chunks_mut().0[half], v);
            at += run.step;
            pixel += run.apart;
        }
    }
}

/// Pixels of a row with their right neighbours: `own` is where they go themselves, `left` where they are
/// somebody's neighbours.
struct Neighbours<'a, L, const FULL: bool> {
    load: &'a L,
    lanes: usize,
    own: Run,
    left: Run,
    to: &'a mut [Pixel],
}

impl<L: Load, const FULL: bool> Kernel for Neighbours<'_, L, FULL> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Neighbours {
            load,
            lanes,
            own,
            left,
            to,
        } = self;
        let coefficients = load.block(s, 0);
        // The first is nobody's neighbour where there is no margin, and the last may be only that.
        let first = own.from.min(left.from);
        let end = (own.from + own.count * own.step).max(left.from + left.count * left.step);
        let before = (left.from - first) / own.step;
        let skipped = (own.from - first) / own.step;
        for i in 0..(end - first) / own.step {
            let at = first + i * own.step;
            load.ahead(s, at + AHEAD);
            let v = load.at::<S, FULL>(s, &coefficients, at, lanes);
            let (own_i, left_i) = (i.wrapping_sub(skipped), i.wrapping_sub(before));
            if own_i < own.count {
                let pixel = &mut to[own.to + own_i * own.apart];
                s.store_bf16(&mut pixel.as_chunks_mut().0[0], v);
            }
            if left_i < left.count {
                let pixel = &mut to[left.to + left_i * left.apart];
                s.store_bf16(&mut pixel.as_chunks_mut().0[1], v);
            }
        }
    }
}

/// Pixels of a row of two images.
struct TwoImages<'a, L, const FULL: bool> {
    images: [&'a L; 2],
    vector: usize,
    lanes: usize,
    run: Run,
    to: &'a mut [Pairs],
}

impl<L: Load, const FULL: bool> Kernel for TwoImages<'_, L, FULL> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let TwoImages {
            images: [low, high],
            vector,
            lanes,
            run,
            to,
        } = self;
        let coefficients = low.block(s, vector);
        let mut at = run.from + vector * LANES;
        let mut pixel = run.to;
        for _ in 0..run.count {
            low.ahead(s, at + AHEAD);
            high.ahead(s, at + AHEAD);
            let first = low.at::<S, FULL>(s, &coefficients, at, lanes);
            let second = high.at::<S, FULL>(s, &coefficients, at, lanes);
            s.store(&mut to[pixel], s.pair_bf16(first, second));
            at += run.step;
            pixel += run.apart;
        }
    }
}
