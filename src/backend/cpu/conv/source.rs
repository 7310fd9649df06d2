//! How passes over images read and sum them.

use super::tile::{Load, padded, read, vector};
use crate::backend::cpu::simd::{Buffer, Element, Kernel, LANES, Simd};

/// How a convolution reads its input: `scale·x + shift` per channel if there is an `affine`, then
/// ReLU if asked for.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a, E = f32> {
    /// `[n, h, w, ci]`.
    pub x: &'a [E],
    /// `scale` and `shift`, `[ci]` each.
    pub affine: Option<(&'a [f32], &'a [f32])>,
    /// ReLU after the transform.
    pub relu: bool,
}

/// The coefficients of a [`Source`], in whole vectors.
pub(super) struct Coefficients {
    scale: Buffer,
    shift: Buffer,
    floor: f32,
    /// Whether they change nothing.
    pub plain: bool,
}

impl Coefficients {
    pub fn new<E>(source: &Source<E>, channels: usize) -> Coefficients {
        if let Some((scale, shift)) = source.affine {
            assert_eq!((scale.len(), shift.len()), (channels, channels));
        }
        let (scale, shift) = match source.affine {
            Some((scale, shift)) => (
                padded(channels, |c| scale[c]),
                padded(channels, |c| shift[c]),
            ),
            None => (padded(channels, |_| 1.0), padded(channels, |_| 0.0)),
        };
        let floor = if source.relu { 0.0 } else { f32::NEG_INFINITY };
        Coefficients {
            scale,
            shift,
            floor,
            plain: source.affine.is_none() && !source.relu,
        }
    }
}

/// One image of a [`Source`].
pub(super) struct SourceImage<'a, E = f32> {
    pub x: &'a [E],
    pub coefficients: &'a Coefficients,
}

impl<E: Element> Load for SourceImage<'_, E> {
    type Block<S: Simd> = [S::V; 3];

    #[inline(always)]
    fn block<S: Simd>(&self, s: S, b: usize) -> [S::V; 3] {
        let c = self.coefficients;
        [
            vector(s, &c.scale, b),
            vector(s, &c.shift, b),
            s.splat(c.floor),
        ]
    }

    #[inline(always)]
    fn at<S: Simd, const FULL: bool>(
        &self,
        s: S,
        [scale, shift, floor]: &[S::V; 3],
        at: usize,
        lanes: usize,
    ) -> S::V {
        let x = read::<S, _, FULL>(s, self.x, at, lanes);
        s.at_least(*floor, s.fma(x, *scale, *shift))
    }

    #[inline(always)]
    fn ahead<S: Simd>(&self, s: S, at: usize) {
        s.prefetch(self.x.as_ptr().wrapping_add(at).cast());
    }
}

/// Adds each channel's `Σ x` and `Σ x²`, taken in f64, to `sum` and `squares` (`[c]`). `x` is
/// `[…, c]`.
pub struct PowerSums<'a, E = f32> {
    /// `[…, c]`.
    pub x: &'a [E],
    /// `[c]`.
    pub sum: &'a mut [f64],
    /// `[c]`.
    pub squares: &'a mut [f64],
}

impl<E: Element> Kernel for PowerSums<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let channels = self.sum.len();
        assert_eq!((self.squares.len(), self.x.len() % channels), (channels, 0));
        for first in (0..channels).step_by(LANES) {
            let lanes = LANES.min(channels - first);
            let (mut sum, mut squares) = (s.wide_zero(), s.wide_zero());
            let mut at = first;
            while at < self.x.len() {
                let x = if lanes == LANES {
                    read::<S, _, true>(s, self.x, at, lanes)
                } else {
                    read::<S, _, false>(s, self.x, at, lanes)
                };
                sum = s.wide_add(sum, x);
                squares = s.wide_fma(x, x, squares);
                at += channels;
            }
            add_lanes(&mut self.sum[first..][..lanes], s.wide_lanes(sum));
            add_lanes(&mut self.squares[first..][..lanes], s.wide_lanes(squares));
        }
    }
}

/// `to[i] += lanes[i]` for as many as `to` has.
#[inline(always)]
pub(crate) fn add_lanes(to: &mut [f64], lanes: [f64; LANES]) {
    for (to, lane) in to.iter_mut().zip(lanes) {
        *to += lane;
    }
}
