//! The CPU as an [`Elements`].

use super::Cpu;
use super::dropout::Mask;
use super::simd::{Isa, Kernel, Simd};
use crate::backend::Tensor;
use crate::backend::elements::Elements;
use crate::backend::sequence::Dropout;
use rayon::prelude::*;

/// Elements of a task.
const PART: usize = 1 << 12;

impl Elements for Cpu {
    fn clear(&mut self, t: Tensor) {
        self.memory.write([t], |_, [t]| t.fill(0.0));
    }

    fn drop_out(&mut self, x: Tensor, dropout: Dropout, y: Tensor) {
        let mask = Mask::new(&self.inputs, dropout);
        self.memory.write([y], |memory, [to]| {
            if x != y {
                to.copy_from_slice(memory.get(x));
            }
            to.par_chunks_mut(PART).enumerate().for_each(|(i, to)| {
                let mut factors = vec![0.0; to.len()];
                mask.factors(i * PART, &mut factors);
                to.iter_mut().zip(factors).for_each(|(y, f)| *y *= f);
            });
        });
    }

    fn add_scaled(&mut self, a: Tensor, b: Option<Tensor>, scale: f32, y: Tensor) {
        let isa = self.isa;
        self.memory.write([y], |memory, [to]| {
            if a != y {
                to.copy_from_slice(memory.get(a));
            }
            add_scaled(isa, b.map(|b| memory.get(b)), scale, to);
        });
    }
}

/// `to = (to + x)·scale`.
fn add_scaled(isa: Isa, x: Option<&[f32]>, scale: f32, to: &mut [f32]) {
    assert!(x.is_none_or(|x| x.len() == to.len()));
    to.par_chunks_mut(PART).enumerate().for_each(|(i, to)| {
        let x = x.map(|x| &x[i * PART..][..to.len()]);
        isa.run(AddScaled { x, scale, to });
    });
}

struct AddScaled<'a> {
    x: Option<&'a [f32]>,
    scale: f32,
    to: &'a mut [f32],
}

impl Kernel for AddScaled<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        match self.x {
            None => {
                for to in self.to {
                    *to *= self.scale;
                }
            }
            Some(x) => {
                for (to, x) in self.to.iter_mut().zip(x) {
                    *to = (*to + x) * self.scale;
                }
            }
        }
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
                add_scaled(isa, Some(&b), 0.5, &mut sum);
                add_scaled(isa, None, 0.5, &mut alone);
                for (((sum, alone), a), b) in sum.iter().zip(&alone).zip(&a).zip(&b) {
                    assert_eq!((*sum, *alone), ((a + b) * 0.5, a * 0.5));
                }
            }
        }
    }
}
