//! Elements of either kind, and how they are converted.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::simd::{Buffer, Element, Isa, Kernel, LANES, Simd};

/// Elements that an op reads.
#[derive(Clone, Copy, Debug)]
pub enum Slice<'a> {
    /// As numbers are computed with.
    F32(&'a [f32]),
    /// As activations are stored under [`Precision::Bf16`](super::Precision::Bf16).
    Bf16(&'a [bf16]),
}

/// Elements that an op writes.
#[derive(Debug)]
pub enum SliceMut<'a> {
    /// As numbers are computed with.
    F32(&'a mut [f32]),
    /// As activations are stored under [`Precision::Bf16`](super::Precision::Bf16).
    Bf16(&'a mut [bf16]),
}

/// Elements that a tensor owns.
pub enum Store {
    /// As numbers are computed with.
    F32(Buffer<f32>),
    /// As activations are stored under [`Precision::Bf16`](super::Precision::Bf16).
    Bf16(Buffer<bf16>),
}

/// An element that a tensor may own.
pub trait Stored: Element {
    /// # Panics
    /// If they are of the other kind: a bug in the network.
    fn of(slice: Slice<'_>) -> &[Self];
    /// # Panics
    /// If they are of the other kind: a bug in the network.
    fn of_mut(slice: SliceMut<'_>) -> &mut [Self];
}

impl Stored for f32 {
    fn of(slice: Slice<'_>) -> &[f32] {
        slice.f32()
    }

    fn of_mut(slice: SliceMut<'_>) -> &mut [f32] {
        slice.f32()
    }
}

impl Stored for bf16 {
    fn of(slice: Slice<'_>) -> &[bf16] {
        slice.bf16()
    }

    fn of_mut(slice: SliceMut<'_>) -> &mut [bf16] {
        slice.bf16()
    }
}

/// What an op is told that knows the other kind only.
const OTHER_KIND: &str = "a tensor of the other kind: a bug in the network";

impl<'a> Slice<'a> {
    /// # Panics
    /// If they are bf16: a bug in the network.
    pub fn f32(self) -> &'a [f32] {
        match self {
            Slice::F32(x) => x,
            Slice::Bf16(_) => panic!("{OTHER_KIND}"),
        }
    }

    /// # Panics
    /// If they are f32: a bug in the network.
    pub fn bf16(self) -> &'a [bf16] {
        match self {
            Slice::Bf16(x) => x,
            Slice::F32(_) => panic!("{OTHER_KIND}"),
        }
    }

    /// How many.
    pub fn len(self) -> usize {
        match self {
            Slice::F32(x) => x.len(),
            Slice::Bf16(x) => x.len(),
        }
    }

    /// Those in a range, if all are there.
    pub(super) fn get(self, range: Range<usize>) -> Option<Slice<'a>> {
        match self {
            Slice::F32(x) => x.get(range).map(Slice::F32),
            Slice::Bf16(x) => x.get(range).map(Slice::Bf16),
        }
    }

    /// Those from element `start` on.
    pub fn after(self, start: usize) -> Slice<'a> {
        self.get(start..self.len()).expect("it begins within them")
    }

    /// As many as `room` has from `start` on, in `f32`: where they lie, or converted into `room`.
    #[inline(always)]
    pub fn floats<'b, S: Simd>(self, s: S, start: usize, room: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        match self {
            Slice::F32(x) => &x[start..][..room.len()],
            Slice::Bf16(x) => {
                Convert(&x[start..][..room.len()], room).run(s);
                room
            }
        }
    }

    /// Converts into as many `f32`, exactly.
    pub fn read(self, isa: Isa, to: &mut [f32]) {
        match self {
            Slice::F32(x) => to.copy_from_slice(x),
            Slice::Bf16(x) => convert(isa, x, to),
        }
    }
}

impl<'a> SliceMut<'a> {
    /// # Panics
    /// If they are bf16: a bug in the network.
    pub fn f32(self) -> &'a mut [f32] {
        match self {
            SliceMut::F32(x) => x,
            SliceMut::Bf16(_) => panic!("{OTHER_KIND}"),
        }
    }

    /// # Panics
    /// If they are f32: a bug in the network.
    pub fn bf16(self) -> &'a mut [bf16] {
        match self {
            SliceMut::Bf16(x) => x,
            SliceMut::F32(_) => panic!("{OTHER_KIND}"),
        }
    }

    /// To be read.
    pub fn shared(&self) -> Slice<'_> {
        match self {
            SliceMut::F32(x) => Slice::F32(x),
            SliceMut::Bf16(x) => Slice::Bf16(x),
        }
    }

    /// The first `at`, and the others.
    pub(super) fn split_at(self, at: usize) -> [SliceMut<'a>; 2] {
        match self {
            SliceMut::F32(x) => <[_; 2]>::from(x.split_at_mut(at)).map(SliceMut::F32),
            SliceMut::Bf16(x) => <[_; 2]>::from(x.split_at_mut(at)).map(SliceMut::Bf16),
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.shared().len()
    }

    /// Those in a range.
    pub fn part(&mut self, range: Range<usize>) -> SliceMut<'_> {
        match self {
            SliceMut::F32(x) => SliceMut::F32(&mut x[range]),
            SliceMut::Bf16(x) => SliceMut::Bf16(&mut x[range]),
        }
    }

    /// Pieces of a size, of which the last may be smaller.
    pub fn pieces(self, size: usize) -> Vec<SliceMut<'a>> {
        match self {
            SliceMut::F32(x) => x.chunks_mut(size).map(SliceMut::F32).collect(),
            SliceMut::Bf16(x) => x.chunks_mut(size).map(SliceMut::Bf16).collect(),
        }
    }

    /// All, to be changed in `f32`: where they lie, or in `room`, which has at least as many.
    #[inline(always)]
    pub fn floats<'b, S: Simd>(self, s: S, room: &'b mut [f32]) -> Floats<'b>
    where
        'a: 'b,
    {
        match self {
            SliceMut::F32(x) => Floats {
                values: x,
                rounded: None,
            },
            SliceMut::Bf16(x) => {
                let room = &mut room[..x.len()];
                Convert(x, room).run(s);
                Floats {
                    values: room,
                    rounded: Some(x),
                }
            }
        }
    }

    /// Zeros.
    pub fn clear(&mut self) {
        match self {
            SliceMut::F32(x) => x.fill(0.0),
            SliceMut::Bf16(x) => x.fill(bf16::ZERO),
        }
    }

    /// Elements of the same kind, to place `at`.
    ///
    /// # Panics
    /// If they are of the other kind: a bug in the network.
    pub fn copy(&mut self, at: usize, from: Slice, range: Range<usize>) {
        match (self, from) {
            (SliceMut::F32(to), Slice::F32(x)) => {
                to[at..][..range.len()].copy_from_slice(&x[range])
            }
            (SliceMut::Bf16(to), Slice::Bf16(x)) => {
                to[at..][..range.len()].copy_from_slice(&x[range])
            }
            _ => panic!("{OTHER_KIND}"),
        }
    }

    /// Of as many `f32`, each rounded if it must be, within a kernel.
    #[inline(always)]
    pub fn put<S: Simd>(self, s: S, from: &[f32]) {
        match self {
            SliceMut::F32(x) => x.copy_from_slice(from),
            SliceMut::Bf16(x) => Convert(from, x).run(s),
        }
    }

    /// Of as many `f32`, each rounded if it must be.
    pub fn write(&mut self, isa: Isa, from: &[f32]) {
        match self {
            SliceMut::F32(x) => x.copy_from_slice(from),
            SliceMut::Bf16(x) => convert(isa, from, x),
        }
    }
}

impl<'a> From<SliceMut<'a>> for Slice<'a> {
    fn from(written: SliceMut<'a>) -> Slice<'a> {
        match written {
            SliceMut::F32(x) => Slice::F32(x),
            SliceMut::Bf16(x) => Slice::Bf16(x),
        }
    }
}

impl<'a> From<&'a [f32]> for Slice<'a> {
    fn from(x: &'a [f32]) -> Slice<'a> {
        Slice::F32(x)
    }
}

impl<'a> From<&'a [bf16]> for Slice<'a> {
    fn from(x: &'a [bf16]) -> Slice<'a> {
        Slice::Bf16(x)
    }
}

impl<'a> From<&'a mut [f32]> for SliceMut<'a> {
    fn from(x: &'a mut [f32]) -> SliceMut<'a> {
        SliceMut::F32(x)
    }
}

impl<'a> From<&'a mut [bf16]> for SliceMut<'a> {
    fn from(x: &'a mut [bf16]) -> SliceMut<'a> {
        SliceMut::Bf16(x)
    }
}

impl Default for SliceMut<'_> {
    fn default() -> Self {
        SliceMut::F32(&mut [])
    }
}

impl Store {
    /// All, to be read.
    pub fn all(&self) -> Slice<'_> {
        match self {
            Store::F32(x) => Slice::F32(x),
            Store::Bf16(x) => Slice::Bf16(x),
        }
    }

    /// All, to be written.
    pub fn all_mut(&mut self) -> SliceMut<'_> {
        match self {
            Store::F32(x) => SliceMut::F32(x),
            Store::Bf16(x) => SliceMut::Bf16(x),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Store::F32(Buffer::default())
    }
}

/// Elements of a [`SliceMut`] in `f32`, until they are [stored](Floats::store).
pub struct Floats<'a> {
    pub values: &'a mut [f32],
    /// Where they lie, if that is elsewhere.
    rounded: Option<&'a mut [bf16]>,
}

impl Floats<'_> {
    /// Rounds them back, if they must be.
    #[inline(always)]
    pub fn store<S: Simd>(self, s: S) {
        if let Some(to) = self.rounded {
            Convert(self.values, to).run(s);
        }
    }
}

/// Elements that a thread converts at a time.
const PIECE: usize = 1 << 14;

fn convert<A: Element, B: Element>(isa: Isa, from: &[A], to: &mut [B]) {
    assert_eq!(from.len(), to.len(), "as many as there are");
    let pieces = from.par_chunks(PIECE).zip(to.par_chunks_mut(PIECE));
    pieces.for_each(|(from, to)| isa.run(Convert(from, to)));
}

/// Equally many, from one to the other.
struct Convert<'a, A, B>(&'a [A], &'a mut [B]);

impl<A: Element, B: Element> Kernel for Convert<'_, A, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (from, from_rest) = self.0.as_chunks::<LANES>();
        let (to, to_rest) = self.1.as_chunks_mut::<LANES>();
        for (from, to) in from.iter().zip(to) {
            B::store(s, to, A::load(s, from));
        }
        B::store_first(s, to_rest, A::load_first(s, from_rest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::testing::random;

    #[test]
    fn long_and_short_slices_are_rounded_alike_on_every_instruction_set() {
        for len in [0, 1, 15, 16, 33, PIECE, 2 * PIECE + 17] {
            let x = random(len as u64, len, 0.0, 3.0);
            let want: Vec<bf16> = x.iter().map(|x| <bf16 as Element>::from_f32(*x)).collect();
            for isa in Isa::available() {
                let mut rounded = vec![bf16::ONE; len];
                SliceMut::Bf16(&mut rounded).write(isa, &x);
                assert_eq!(rounded, want, "{isa}, {len}");
                let mut wide = vec![1.0; len];
                Slice::Bf16(&rounded).read(isa, &mut wide);
                assert!(wide.iter().zip(&want).all(|(x, want)| *x == want.to_f32()));
            }
        }
    }

    #[test]
    #[should_panic(expected = "of the other kind")]
    fn bf16_is_not_taken_for_f32() {
        Slice::Bf16(&[bf16::ONE]).f32();
    }
}
