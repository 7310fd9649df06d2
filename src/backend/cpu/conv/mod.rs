//! Convolutions: forward, and the backward pass that takes both gradients image by image.
//!
//! `shape` and `source` say what is computed and how images are read; `tile` is the block of
//! outputs that stays in registers; forward, and the two gradients under `backward`, arrange images
//! in scratch memory so that it can run. `tiled` is the same for images in bf16, on the tile unit.

mod backward;
mod dgrad;
mod forward;
mod shape;
mod source;
#[cfg(test)]
mod tests;
mod tile;
mod tiled;
mod wgrad;

pub use backward::{GradSource, InputGradOut, NormBackward, Sums};
pub use dgrad::Add;
pub use shape::ConvShape;
pub(super) use source::add_lanes;
pub use source::{PowerSums, Source};
pub(super) use tile::{read, write};

use super::simd::{Element, Isa};

/// What a convolution's images may be stored as.
pub trait Convolved: Element {
    /// `y[n,i,j,o] = Σ_{a,b,c} load(x)[n, i·s+a−p, j·s+b−p, c]·w[o,a,b,c]`, zero padding after the
    /// load. `moments`, mean and biased variance `[co]` each, are set from `y` over N, H, W.
    ///
    /// # Panics
    /// If a slice's length is not the shape's.
    fn forward(
        isa: Isa,
        shape: &ConvShape,
        source: Source<Self>,
        w: &[f32],
        y: &mut [Self],
        moments: Option<(&mut [f32], &mut [f32])>,
    );

    /// Sets `dw` (`[co, k, k, ci]`), and `dx` if it is wanted, from `load(x)` and the output gradient.
    ///
    /// # Panics
    /// If a slice's length is not the shape's.
    fn backward(
        isa: Isa,
        shape: &ConvShape,
        source: Source<Self>,
        w: &[f32],
        dy: GradSource<Self>,
        dw: &mut [f32],
        dx: Option<InputGradOut<Self>>,
    );
}

macro_rules! convolved {
    ($element:ty, $forward:path, $backward:path) => {
        impl Convolved for $element {
            fn forward(
                isa: Isa,
                shape: &ConvShape,
                source: Source<Self>,
                w: &[f32],
                y: &mut [Self],
                moments: Option<(&mut [f32], &mut [f32])>,
            ) {
                $forward(isa, shape, source, w, y, moments);
            }

            fn backward(
                isa: Isa,
                shape: &ConvShape,
                source: Source<Self>,
                w: &[f32],
                dy: GradSource<Self>,
                dw: &mut [f32],
                dx: Option<InputGradOut<Self>>,
            ) {
                $backward(isa, shape, source, w, dy, dw, dx);
            }
        }
    };
}
convolved!(f32, forward::forward, backward::backward);
convolved!(half::bf16, tiled::forward, tiled::backward);
