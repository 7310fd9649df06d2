//! The CPU as an [`Elements`].

use super::Cpu;
use super::dropout::Mask;
use super::simd::{Isa, Kernel, Simd};
use super::slice::{Slice, SliceMut};
use crate::backend::Tensor;
use crate::backend::elements::Elements;
use crate::backend::sequence::Dropout;
use rayon::prelude::*;

/// Elements of a task.
const PART: usize = 1 << 12;

impl Elements for Cpu {
    fn clear(&mut self, t: Tensor) {
        self.memory.write_native([t], |_, [mut t]| t.clear());
    }

    fn drop_out(&mut self, x: Tensor, dropout: Dropout, y: Tensor) {
        let (isa, mask) = (self.isa, Mask::new(&self.inputs, dropout));
        self.memory.write_native([y], |memory, [mut to]| {
            if x != y {
                to.copy(0, memory.slice(x), 0..x.len());
            }
            let parts = to.pieces(PART).into_par_iter().enumerate();
            parts.for_each_init(rooms, |[factors, room], (i, to)| {
                let factors = &mut factors[..to.len()];
                mask.factors(i * PART, factors);
                isa.run(Multiply { factors, to, room });
            });
        });
    }

    fn add_scaled(&mut self, a: Tensor, b: Option<Tensor>, scale: f32, y: Tensor) {
        let isa = self.isa;
        self.memory.write_native([y], |memory, [mut to]| {
            if a != y {
                to.copy(0, memory.slice(a), 0..a.len());
            }
            add_scaled(isa, b.map(|b| memory.slice(b)), scale, to);
        });
    }
}

/// For parts in f32.
fn rooms<const N: usize>() -> [Vec<f32>; N] {
    std::array::from_fn(|_| vec![0.0; PART])
}

struct Multiply<'a> {
    factors: &'a [f32],
    to: SliceMut<'a>,
    room: &'a mut [f32],
}

impl Kernel for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let to = self.to.floats(s, self.room);
        for (y, factor) in to.values.iter_mut().zip(self.factors) {
            *y *= factor;
        }
        to.store(s);
    }
}

/// `to = (to + x)·scale`.
fn add_scaled(isa: Isa, x: Option<Slice>, scale: f32, to: SliceMut) {
    assert!(x.is_none_or(|x| x.len() == to.len()));
    let parts = to.pieces(PART).into_par_iter().enumerate();
    parts.for_each_init(rooms, |rooms, (i, to)| {
        let x = x.map(|x| x.after(i * PART));
        isa.run(AddScaled {
            x,
            scale,
            to,
            rooms,
        });
    });
}

struct AddScaled<'a> {
    /// As many as in `to`, or more.
    x: Option<Slice<'a>>,
    scale: f32,
    to: SliceMut<'a>,
    rooms: &'a mut [Vec<f32>; 2],
}

impl Kernel for AddScaled<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let count = self.to.len();
        let [room, x_room] = self.rooms;
        let to = self.to.floats(s, room);
        match self.x {
            None => {
                for to in &mut *to.values {
                    *to *= self.scale;
                }
            }
            Some(x) => {
                let x = x.floats(s, 0, &mut x_room[..count]);
                for (to, x) in to.values.iter_mut().zip(x) {
                    *to = (*to + x) * self.scale;
                }
            }
        }
        to.store(s);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::random;
    use super::*;

    #[test]
    fn sums_are_scaled_in_parts_of_any_size() {
        for n in [1, PART, 2 * PART + 3] {
            let (a, b) = (random(1, n, 0.0, 1.0), random(2, n, 0.0, 1.0));
            for isa in Isa::available() {
                let (mut sum, mut alone) = (a.clone(), a.clone());
                add_scaled(isa, Some(Slice::F32(&b)), 0.5, SliceMut::F32(&mut sum));
                add_scaled(isa, None, 0.5, SliceMut::F32(&mut alone));
                for (((sum, alone), a), b) in sum.iter().zip(&alone).zip(&a).zip(&b) {
                    assert_eq!((*sum, *alone), ((a + b) * 0.5, a * 0.5));
                }
            }
        }
    }
}
