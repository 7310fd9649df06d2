//! Convolutions beside their formula in f64, and gradients beside its slopes.

use super::*;
use crate::backend::StepInputs;
use crate::backend::cpu::testing::{close, random, slopes, threads_change_nothing, wide};
use crate::backend::sequence::Dropout;

struct Case {
    shape: Shape,
    lengths: Option<Vec<i32>>,
    residual: bool,
    mask: Option<Mask>,
    /// x, w, b, residual, dy.
    inputs: [Vec<f32>; 5],
    before: Option<Vec<f32>>,
}

#[derive(PartialEq)]
struct Results {
    pre: Vec<f32>,
    y: Vec<f32>,
    dw: Vec<f32>,
    db: Vec<f32>,
    dx: Vec<f32>,
}

impl Case {
    fn new(shape: Shape) -> Case {
        let Shape {
            inputs,
            width,
            kernel,
            ..
        } = shape;
        let rows = shape.rows();
        let sizes = [
            rows * inputs,
            2 * width * kernel * inputs,
            2 * width,
            rows * width,
            rows * width,
        ];
        Case {
            shape,
            lengths: None,
            residual: false,
            mask: None,
            inputs: std::array::from_fn(|i| random(i as u64, sizes[i], 0.1, 1.0)),
            before: None,
        }
    }

    fn run(&self, isa: Isa, accumulate: bool) -> Results {
        let [x, w, bias, residual, dy] = &self.inputs;
        let conv = Conv {
            x,
            w,
            lengths: self.lengths.as_deref(),
            mask: self.mask,
            shape: self.shape,
        };
        let nan = |n: usize| vec![f32::NAN; n];
        let mut r = Results {
            pre: nan(2 * dy.len()),
            y: nan(dy.len()),
            dw: nan(w.len()),
            db: nan(bias.len()),
            dx: vec![if accumulate { 1.0 } else { f32::NAN }; x.len()],
        };
        let input = Input {
            bias,
            before: self.before.as_deref(),
            residual: self.residual.then_some(residual),
        };
        forward(isa, &conv, input, &mut r.pre, &mut r.y);
        let dpre = OutputGrad::new(isa, &self.shape, &r.pre, dy);
        let grads = Grads {
            dw: &mut r.dw,
            db: &mut r.db,
            dx: &mut r.dx,
            accumulate,
        };
        backward(isa, &conv, &dpre, grads);
        r
    }

    /// What the convolution gives, and the units without a residual.
    fn exact(&self, [x, w, b]: [&[f64]; 3]) -> [Vec<f64>; 2] {
        let Shape {
            length,
            inputs,
            width,
            kernel,
            ..
        } = self.shape;
        let left = self.shape.sides()[0];
        let mut factors = vec![1.0; x.len()];
        if let Some(mask) = self.mask {
            mask.factors(0, &mut factors);
        }
        let read = |b: usize, place: usize, c: usize| -> f64 {
            // Places are counted from the first zero on.
            let tokens = self.lengths.as_ref().map_or(length, |l| l[b] as usize);
            match place.checked_sub(left) {
                None => self.before.as_ref().map_or(0.0, |before| {
                    let at = (place * self.shape.sentences + b) * inputs + c;
                    f64::from(before[at])
                }),
                Some(l) if l < tokens => {
                    let at = (b * length + l) * inputs + c;
                    x[at] * f64::from(factors[at])
                }
                _ => 0.0,
            }
        };
        let sum = |row: usize, o: usize| {
            let mut sum = b[o];
            for k in 0..kernel {
                for c in 0..inputs {
                    let x = read(row / length, row % length + k, c);
                    sum += x * w[(o * kernel + k) * inputs + c];
                }
            }
            sum
        };
        let rows = self.shape.rows();
        let pre = (0..rows * 2 * width).map(|i| sum(i / (2 * width), i % (2 * width)));
        let pre: Vec<f64> = pre.collect();
        let unit = |i: usize| {
            let row = &pre[i / width * 2 * width..][..2 * width];
            row[i % width] / (1.0 + (-row[width + i % width]).exp())
        };
        let y = (0..rows * width).map(unit).collect();
        [pre, y]
    }

    fn check(&self) {
        let inputs = self.inputs.each_ref().map(|x| wide(x));
        let [x, w, b, residual, dy] = &inputs;
        let all = [&x[..], w, b];
        let [pre, y] = self.exact(all);
        let token = |i: usize| {
            let row = i / self.shape.width;
            let l = row % self.shape.length;
            let lengths = self.lengths.as_ref();
            lengths.is_none_or(|all| l < all[row / self.shape.length] as usize)
        };
        let summed = |(i, y): (usize, &f64)| match self.residual {
            true => (y + if token(i) { residual[i] } else { 0.0 }) * f64::from(HALF),
            false => *y,
        };
        let out: Vec<f64> = y.iter().enumerate().map(summed).collect();
        let objective = |which: usize, v: &[f64]| -> f64 {
            let mut all = all;
            all[which] = v;
            let [_, y] = self.exact(all);
            y.iter().zip(dy).map(|(y, d)| y * d).sum()
        };
        let [dx, dw, db] = [0, 1, 2].map(|i| slopes(all[i], |v| objective(i, v)));
        for isa in Isa::available() {
            let r = self.run(isa, false);
            close("pre", &r.pre, &pre, 2e-6);
            close("y", &r.y, &out, 2e-6);
            close("dw", &r.dw, &dw, 5e-6);
            close("db", &r.db, &db, 5e-6);
            close("dx", &r.dx, &dx, 5e-6);
            let on_top: Vec<f64> = dx.iter().map(|d| d + 1.0).collect();
            close("dx + 1", &self.run(isa, true).dx, &on_top, 5e-6);
        }
    }
}

fn shape([sentences, length, inputs, width, kernel]: [usize; 5], causal: bool) -> Shape {
    Shape {
        sentences,
        length,
        inputs,
        width,
        kernel,
        causal,
    }
}

fn mask() -> Mask {
    let dropout = Dropout { p: 0.3, site: 4 };
    Mask::new(&StepInputs::default(), dropout)
}

#[test]
fn agrees_with_f64_and_gradients_are_slopes() {
    for (sizes, causal) in [
        ([1, 1, 1, 1, 1], true),
        ([2, 4, 3, 2, 3], false),
        ([2, 4, 3, 2, 4], true),
        ([3, 2, 2, 5, 5], false),
    ] {
        Case::new(shape(sizes, causal)).check();
    }
}

#[test]
fn padding_dropout_residuals_and_the_past_are_part_of_it() {
    let plain = || Case::new(shape([3, 4, 2, 3, 3], false));
    Case {
        lengths: Some(vec![4, 1, 3]),
        residual: true,
        ..plain()
    }
    .check();
    Case {
        lengths: Some(vec![2, 4, 4]),
        mask: Some(mask()),
        ..plain()
    }
    .check();
    let causal = Case::new(shape([2, 3, 2, 3, 4], true));
    // The past has no gradient of its own; that of the weights is another matter.
    let past = Case {
        before: Some(random(9, 3 * 2 * 2, 0.0, 1.0)),
        ..causal
    };
    let all = past.inputs.each_ref().map(|x| wide(x));
    let [pre, y] = past.exact([&all[0], &all[1], &all[2]]);
    for isa in Isa::available() {
        let r = past.run(isa, false);
        close("pre", &r.pre, &pre, 2e-6);
        close("y", &r.y, &y, 2e-6);
    }
}

#[test]
fn one_thread_and_three_give_equal_bits() {
    let case = Case {
        lengths: Some((0..20).map(|b| 1 + b % 12).collect()),
        mask: Some(mask()),
        residual: true,
        ..Case::new(shape([20, 12, 40, 36, 3], false))
    };
    threads_change_nothing(
        |isa| case.run(isa, false),
        |r| {
            let all = [&r.pre, &r.y, &r.dw, &r.db, &r.dx].into_iter().flatten();
            all.map(|x| x.to_bits()).collect()
        },
    );
}

#[test]
fn a_nan_is_seen_by_all_that_see_it_and_padding_by_none() {
    let mut case = Case::new(shape([2, 6, 3, 2, 3], false));
    case.lengths = Some(vec![6, 3]);
    // A token, and something past a sentence's end.
    case.inputs[0][2 * 3] = f32::NAN;
    case.inputs[0][(6 + 4) * 3] = f32::NAN;
    for isa in Isa::available() {
        let r = case.run(isa, false);
        for (row, y) in r.y.chunks(2).enumerate() {
            let sees = (1..=3).contains(&row);
            assert!(
                y.iter().all(|y| y.is_nan() == sees),
                "{isa}, row {row}: {y:?}"
            );
        }
    }
}
