//! Activations of linear layers, and their derivatives.

use super::math::{erf, exp, sigmoid};
use crate::backend::sequence::Act;
use std::f32::consts::FRAC_1_SQRT_2;

/// `act(x)` in place.
#[inline(always)]
pub fn apply(act: Act, x: &mut [f32]) {
    match act {
        Act::None => (),
        Act::Relu => {
            for x in x {
                *x = if *x < 0.0 { 0.0 } else { *x }; // A NaN stays.
            }
        }
        Act::GeluErf => {
            for x in x {
                *x = 0.5 * *x * (1.0 + erf(*x * FRAC_1_SQRT_2));
            }
        }
        Act::GeluTanh => {
            for x in x {
                *x *= sigmoid(steep(*x));
            }
        }
    }
}

/// `g·act′(x)` in place of `g`.
#[inline(always)]
pub fn through(act: Act, x: &[f32], g: &mut [f32]) {
    match act {
        Act::None => (),
        Act::Relu => {
            for (g, x) in g.iter_mut().zip(x) {
                *g = if *x <= 0.0 { 0.0 } else { *g };
            }
        }
        Act::GeluErf => {
            const DENSITY: f32 = 0.398_942_3; // 1/√(2π)
            for (g, x) in g.iter_mut().zip(x) {
                let normal = DENSITY * exp(-0.5 * x * x);
                *g *= 0.5 + 0.5 * erf(*x * FRAC_1_SQRT_2) + x * normal;
            }
        }
        Act::GeluTanh => {
            for (g, x) in g.iter_mut().zip(x) {
                // It is constant from 10 on, where its terms still are within range.
                let x = if *x < -10.0 { -10.0 } else { *x };
                let x = if x > 10.0 { 10.0 } else { x };
                let s = sigmoid(steep(x));
                let slope = STEEP * (1.0 + 3.0 * CUBIC * x * x);
                *g *= s + x * s * (1.0 - s) * slope;
            }
        }
    }
}

/// `2·√(2/π)`.
const STEEP: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

/// Twice the argument of the tangent: `(1 + tanh(u))/2` is the sigmoid of `2u`.
#[inline(always)]
fn steep(x: f32) -> f32 {
    STEEP * (x + CUBIC * x * x * x)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{close, slopes, wide};
    use super::*;

    const ALL: [Act; 4] = [Act::None, Act::Relu, Act::GeluErf, Act::GeluTanh];

    /// `Φ(x)` by Simpson's rule.
    fn normal(x: f64) -> f64 {
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let (n, h) = (2000, x / 2000.0);
        let term = |i: usize| match i {
            0 => density(0.0),
            _ if i == n => density(x),
            _ => density(i as f64 * h) * if i.is_multiple_of(2) { 2.0 } else { 4.0 },
        };
        0.5 + (0..=n).map(term).sum::<f64>() * h / 3.0
    }

    fn exact(act: Act, x: f64) -> f64 {
        let root = (2.0 / std::f64::consts::PI).sqrt();
        match act {
            Act::None => x,
            Act::Relu => x.max(0.0),
            Act::GeluErf => x * normal(x),
            Act::GeluTanh => 0.5 * x * (1.0 + (root * (x + 0.044715 * x.powi(3))).tanh()),
        }
    }

    #[test]
    fn values_and_slopes_agree_with_f64() {
        let x: Vec<f32> = (-600..600).map(|i| i as f32 * 0.0131 + 0.0001).collect();
        for act in ALL {
            let exact = |x: &f64| exact(act, *x);
            let mut y = x.clone();
            apply(act, &mut y);
            let want: Vec<f64> = wide(&x).iter().map(exact).collect();
            close("value", &y, &want, 3e-7);
            let mut g = vec![2.0; x.len()];
            through(act, &x, &mut g);
            let want: Vec<f64> = wide(&x)
                .iter()
                .map(|x| slopes(&[*x], |x| 2.0 * exact(&x[0]))[0])
                .collect();
            close("slope", &g, &want, 2e-6);
        }
    }

    #[test]
    fn the_far_ends_are_exact_and_a_nan_stays() {
        for act in ALL {
            let mut y = [1e30, -1e30, f32::NAN, 0.0];
            apply(act, &mut y);
            let low = if act == Act::None { -1e30 } else { 0.0 };
            assert!(
                y[2].is_nan() && [y[0], y[1], y[3]] == [1e30, low, 0.0],
                "{act:?} {y:?}"
            );
            let mut g = [2.0; 3];
            through(act, &[1e30, -1e30, f32::NAN], &mut g);
            let low = if act == Act::None { 2.0 } else { 0.0 };
            assert!(g[0] == 2.0 && (g[1] - low).abs() < 1e-30, "{act:?} {g:?}");
            assert!(g[2].is_nan() || matches!(act, Act::None | Act::Relu));
        }
        let mut g = [3.0];
        through(Act::Relu, &[0.0], &mut g);
        assert_eq!(g, [0.0]);
    }
}
