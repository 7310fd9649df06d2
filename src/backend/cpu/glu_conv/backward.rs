//! The way back: the gradient of the convolution's outputs, with zeros around each sentence, is read
//! in windows as its input was.

use super::units::Backward;
use super::{Conv, ROWS, Shape};
use crate::backend::cpu::gemm::{Matrix, Out, gemm};
use crate::backend::cpu::linear_layer::column_sums;
use crate::backend::cpu::simd::Isa;
use rayon::prelude::*;

/// The gradient of a convolution's outputs, padded.
pub struct OutputGrad(Vec<f32>);

impl OutputGrad {
    /// From what the convolution gave, `pre` `[B, L, 2C]`, and `dy` `[B, L, C]`, the gradient of the
    /// units' output.
    pub fn new(isa: Isa, shape: &Shape, pre: &[f32], dy: &[f32]) -> OutputGrad {
        let width = shape.width;
        let sizes = [2, 1].map(|n| n * shape.rows() * width);
        assert_eq!([pre.len(), dy.len()], sizes);
        // A place was seen by those that are as far on the other side.
        let [_, after] = shape.sides();
        OutputGrad(shape.pad(after, 2 * width, |row, dpre| {
            isa.run(Backward {
                pre: &pre[row * 2 * width..][..2 * width],
                dy: &dy[row * width..][..width],
                dpre,
            });
        }))
    }
}

/// Where gradients go, as what they are of.
pub struct Grads<'a> {
    pub dw: &'a mut [f32],
    pub db: &'a mut [f32],
    pub dx: &'a mut [f32],
    /// Add to what is in `dx`.
    pub accumulate: bool,
}

/// Gradients of weights, bias and input.
pub fn backward(isa: Isa, conv: &Conv, dpre: &OutputGrad, grads: Grads) {
    conv.check();
    let shape = &conv.shape;
    let (inputs, outputs, kernel) = (shape.inputs, 2 * shape.width, shape.kernel);
    assert_eq!([grads.dw.len(), grads.db.len()], [conv.w.len(), outputs]);
    assert_eq!(grads.dx.len(), conv.x.len());
    let OutputGrad(dpre) = dpre;
    column_sums(isa, &dpre[..], false, grads.db);

    let seen = kernel * inputs;
    let padded = conv.padded();
    let [_, after] = shape.sides();
    let (x, dz) = (
        shape.windows(&padded, inputs),
        shape.windows(&dpre[after * outputs..], outputs),
    );
    let out = Out::new(grads.dw, seen);
    gemm(isa, [outputs, seen, shape.rows()], dz.t(), x, out, &());

    let w = flipped(conv.w, [outputs, kernel, inputs]);
    let (dz, w) = (shape.windows(dpre, outputs), Matrix::new(&w[..], inputs));
    let mut product = vec![0.0; conv.x.len()];
    let size = [shape.rows(), inputs, kernel * outputs];
    gemm(isa, size, dz, w, Out::new(&mut product[..], inputs), &());
    let rows = grads.dx.par_chunks_mut(inputs);
    let rows = rows.zip(product.par_chunks(inputs)).enumerate();
    rows.with_min_len(ROWS).for_each_init(
        || vec![0.0; inputs],
        |factors, (row, (dx, product))| {
            if !grads.accumulate {
                dx.fill(0.0);
            }
            if conv.is_token(row) {
                conv.factors(row, factors);
                for ((dx, d), factor) in dx.iter_mut().zip(product).zip(&*factors) {
                    *dx += factor * d;
                }
            }
        },
    );
}

/// `[out, K, in]` as `[K, out, in]`, the last place first.
fn flipped(w: &[f32], [outputs, kernel, inputs]: [usize; 3]) -> Vec<f32> {
    let mut to = Vec::with_capacity(w.len());
    for k in (0..kernel).rev() {
        for o in 0..outputs {
            to.extend_from_slice(&w[(o * kernel + k) * inputs..][..inputs]);
        }
    }
    to
}
