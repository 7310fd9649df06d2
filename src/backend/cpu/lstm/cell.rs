//! One step of a cell: what becomes of the four gates, and back.

use crate::backend::cpu::math::sigmoid;
use crate::backend::cpu::simd::{Kernel, Simd};

/// The hyperbolic tangent, to 1e-7 of 1.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

/// `[H]` of each gate.
#[inline(always)]
fn quarters<T>(z: &mut [T]) -> [&mut [T]; 4] {
    let (left, right) = z.split_at_mut(z.len() / 2);
    let (i, f) = left.split_at_mut(left.len() / 2);
    let (g, o) = right.split_at_mut(right.len() / 2);
    [i, f, g, o]
}

/// A sentence's step forward.
pub struct Forward<'a> {
    /// `[4H]`: z without its biases becomes σ and tanh of it.
    pub gates: &'a mut [f32],
    /// `[4H]`.
    pub bias: &'a [f32],
    /// `[H]`: c before the step; zeros without it.
    pub before: Option<&'a [f32]>,
    /// `[H]`: c after it.
    pub c: &'a mut [f32],
    /// `[H]`: h after it.
    pub h: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (z, b) in self.gates.iter_mut().zip(self.bias) {
            *z += b;
        }
        let [i, f, g, o] = quarters(self.gates);
        for x in i.iter_mut().chain(&mut *f) {
            *x = sigmoid(*x);
        }
        for x in &mut *g {
            *x = tanh(*x);
        }
        for x in &mut *o {
            *x = sigmoid(*x);
        }
        for ((c, i), g) in self.c.iter_mut().zip(&*i).zip(&*g) {
            *c = i * g;
        }
        if let Some(before) = self.before {
            for ((c, f), before) in self.c.iter_mut().zip(&*f).zip(before) {
                *c += f * before;
            }
        }
        for ((h, c), o) in self.h.iter_mut().zip(&*self.c).zip(&*o) {
            *h = o * tanh(*c);
        }
    }
}

/// A sentence's step back.
pub struct Backward<'a> {
    /// `[4H]`: what the step forward has made of z becomes the gradient of z.
    pub gates: &'a mut [f32],
    /// `[H]`: c before the step. Without it c is zero, and nobody asks for its gradient.
    pub before: Option<&'a [f32]>,
    /// `[H]`: c after it.
    pub c: &'a [f32],
    /// `[H]`: gradient of h after it.
    pub dh: &'a [f32],
    /// `[H]`: gradient of c after the step, but for what comes by h; becomes that of c before it.
    pub dc: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let [i, f, g, o] = quarters(self.gates);
        let inputs = self.c.iter().zip(self.dh);
        for (((c, dh), o), dc) in inputs.zip(&mut *o).zip(&mut *self.dc) {
            let t = tanh(*c);
            *dc += dh * *o * (1.0 - t * t);
            *o = dh * t * *o * (1.0 - *o);
        }
        for ((i, g), dc) in i.iter_mut().zip(g).zip(&*self.dc) {
            (*i, *g) = (dc * *g * *i * (1.0 - *i), dc * *i * (1.0 - *g * *g));
        }
        // Last, since it takes c's gradient a step back.
        match self.before {
            Some(before) => {
                for ((f, before), dc) in f.iter_mut().zip(before).zip(self.dc) {
                    (*f, *dc) = (*dc * before * *f * (1.0 - *f), *dc * *f);
                }
            }
            None => f.fill(0.0),
        }
    }
}
