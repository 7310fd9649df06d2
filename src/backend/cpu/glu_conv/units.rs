//! The gated linear units of a row, forward and back: `a·σ(g)` of what the convolution gave, a in its
//! first half and g in the second.

use crate::backend::cpu::math::sigmoid;
use crate::backend::cpu::simd::{Kernel, Simd};

/// `y = (a·σ(g) + residual)·scale`.
pub struct Forward<'a> {
    /// `[2C]`.
    pub pre: &'a [f32],
    /// `[C]`.
    pub residual: Option<&'a [f32]>,
    pub scale: f32,
    /// `[C]`.
    pub y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (a, g) = self.pre.split_at(self.y.len());
        for ((y, a), g) in self.y.iter_mut().zip(a).zip(g) {
            *y = self.scale * (a * sigmoid(*g));
        }
        if let Some(residual) = self.residual {
            for (y, r) in self.y.iter_mut().zip(residual) {
                *y += self.scale * r;
            }
        }
    }
}

/// The gradient of `pre`.
pub struct Backward<'a> {
    /// `[2C]`.
    pub pre: &'a [f32],
    /// `[C]`: of `a·σ(g)`.
    pub dy: &'a [f32],
    /// `[2C]`.
    pub dpre: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (a, g) = self.pre.split_at(self.dy.len());
        let (da, dg) = self.dpre.split_at_mut(self.dy.len());
        let gates = dg.iter_mut().zip(g);
        for (((da, (dg, g)), a), dy) in da.iter_mut().zip(gates).zip(a).zip(self.dy) {
            let open = sigmoid(*g);
            *da = dy * open;
            *dg = dy * a * open * (1.0 - open);
        }
    }
}
