//! Against f64 on odd shapes, against finite differences, in place, and one thread against three.

use super::super::simd::Element;
use super::super::testing::{close, loaded, random, slopes, stored, threads_change_nothing, wide};
use super::*;
use crate::backend::StepInputs;
use crate::backend::sequence::Dropout;
use half::bf16;
use proptest::prelude::*;

struct Case {
    width: usize,
    mask: Option<Mask>,
    x: Vec<f32>,
    branch: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    dy: Vec<f32>,
    dh: Vec<f32>,
}

#[derive(PartialEq)]
struct Results {
    h: Vec<f32>,
    y: Vec<f32>,
    mean: Vec<f32>,
    rstd: Vec<f32>,
    dx: Vec<f32>,
    branch: Vec<f32>,
    dgamma: Vec<f32>,
    dbeta: Vec<f32>,
}

impl Results {
    fn all(&self) -> [&Vec<f32>; 8] {
        let Results {
            h,
            y,
            mean,
            rstd,
            dx,
            branch,
            dgamma,
            dbeta,
        } = self;
        [h, y, mean, rstd, dx, branch, dgamma, dbeta]
    }
}

impl Case {
    fn new(rows: usize, width: usize, p: Option<f32>, seed: u64) -> Case {
        let n = rows * width;
        let mask = p.map(|p| Mask::new(&StepInputs::default(), Dropout { p, site: 1 }));
        Case {
            width,
            mask,
            // A mean that is large beside the deviation.
            x: random(seed, n, 8.0, 1.0),
            branch: random(seed + 1, n, 0.0, 1.0),
            gamma: random(seed + 2, width, 0.5, 1.0),
            beta: random(seed + 3, width, 0.0, 0.5),
            dy: random(seed + 4, n, 0.1, 1.0),
            dh: random(seed + 5, n, 0.0, 1.0),
        }
    }

    fn factors(&self) -> Vec<f32> {
        let mut factors = vec![1.0; self.x.len()];
        if let Some(mask) = self.mask {
            mask.factors(0, &mut factors);
        }
        factors
    }

    fn run(&self, isa: Isa) -> Results {
        let mut results = self.forward_as::<f32>(isa);
        self.backward_as::<f32>(isa, &mut results);
        results
    }

    /// With activations of a kind.
    fn forward_as<E: Element>(&self, isa: Isa) -> Results
    where
        for<'a> Slice<'a>: From<&'a [E]>,
        for<'a> SliceMut<'a>: From<&'a mut [E]>,
    {
        let fresh = |n: usize| vec![f32::NAN; n];
        let (n, rows) = (self.x.len(), self.x.len() / self.width);
        let mut results = Results {
            h: fresh(n),
            y: fresh(n),
            mean: fresh(rows),
            rstd: fresh(rows),
            dx: fresh(n),
            branch: fresh(n),
            dgamma: fresh(self.width),
            dbeta: fresh(self.width),
        };
        let r = &mut results;
        let [x, branch] = [&self.x, &self.branch].map(|x| stored::<E>(x));
        let [mut h, mut y] = [&r.h, &r.y].map(|x| stored::<E>(x));
        let input = Input {
            x: Slice::from(&x[..]),
            branch: Some((Slice::from(&branch[..]), self.mask)),
            gamma: &self.gamma,
            beta: &self.beta,
        };
        let out = Output {
            h: Some(SliceMut::from(&mut h[..])),
            y: SliceMut::from(&mut y[..]),
            mean: &mut r.mean,
            rstd: &mut r.rstd,
        };
        forward(isa, input, out);
        [r.h, r.y] = [h, y].map(|x| loaded(&x));
        results
    }

    /// From what the forward pass left.
    fn backward_as<E: Element>(&self, isa: Isa, r: &mut Results)
    where
        for<'a> Slice<'a>: From<&'a [E]>,
        for<'a> SliceMut<'a>: From<&'a mut [E]>,
    {
        let [h, dy, dh] = [&r.h, &self.dy, &self.dh].map(|x| stored::<E>(x));
        let [mut dx, mut branch] = [&r.dx, &r.branch].map(|x| stored::<E>(x));
        let input = GradInput {
            h: Slice::from(&h[..]),
            gamma: &self.gamma,
            mean: &r.mean,
            rstd: &r.rstd,
            dy: Some(Slice::from(&dy[..])),
            dh: Add::From(Slice::from(&dh[..])),
            mask: self.mask,
        };
        let branch_to = SliceMut::from(&mut branch[..]);
        let out = GradOutput {
            dx: SliceMut::from(&mut dx[..]),
            branch: self.mask.is_some().then_some(branch_to),
            dgamma: &mut r.dgamma,
            dbeta: &mut r.dbeta,
        };
        backward(isa, input, out);
        [r.dx, r.branch] = [dx, branch].map(|x| loaded(&x));
    }
}

#[test]
fn in_bf16_it_is_the_same_but_rounded() {
    for (rows, width, p) in [(3, 5, None), (40, 33, Some(0.3)), (70, 256, Some(0.1))] {
        let mut case = Case::new(rows, width, p, 9);
        for x in [&mut case.x, &mut case.branch, &mut case.dy, &mut case.dh] {
            *x = loaded(&stored::<bf16>(x));
        }
        let round = |x: &[f32]| loaded(&stored::<bf16>(x));
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        for isa in Isa::available() {
            let mut got = case.forward_as::<bf16>(isa);
            let mut want = case.forward_as::<f32>(isa);
            assert!(got.h == round(&want.h) && got.y == round(&want.y), "{isa}");
            assert!(got.mean == want.mean && got.rstd == want.rstd, "{isa}");
            want.h.clone_from(&got.h);
            case.backward_as::<bf16>(isa, &mut got);
            case.backward_as::<f32>(isa, &mut want);
            assert_eq!(got.dx, round(&want.dx), "{isa}");
            assert_eq!(bits(&got.branch), bits(&round(&want.branch)), "{isa}");
            assert!(got.dgamma == want.dgamma && got.dbeta == want.dbeta);
        }
    }
}

/// `γ·(h − mean)/√(var + ε) + β` and the statistics of each row, from scratch.
fn norm(h: &[f64], gamma: &[f64], beta: &[f64]) -> [Vec<f64>; 3] {
    let mut out = [vec![], vec![], vec![]];
    for row in h.chunks(gamma.len()) {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        let var = row.iter().map(|h| (h - mean).powi(2)).sum::<f64>() / row.len() as f64;
        let rstd = 1.0 / (var + 1e-5).sqrt();
        let ys = row.iter().zip(gamma).zip(beta);
        out[0].extend(ys.map(|((h, gamma), beta)| gamma * (h - mean) * rstd + beta));
        out[1].push(mean);
        out[2].push(rstd);
    }
    out
}

fn check(case: &Case, isa: Isa) {
    let r = case.run(isa);
    let (factors, gamma, beta) = (wide(&case.factors()), wide(&case.gamma), wide(&case.beta));
    let sum = wide(&case.x)
        .into_iter()
        .zip(wide(&case.branch))
        .zip(&factors);
    let h: Vec<f64> = sum.map(|((x, b), f)| x + f * b).collect();
    close("h", &r.h, &h, 2e-7);
    let h = wide(&r.h);
    let [y, mean, rstd] = norm(&h, &gamma, &beta);
    // A row of one element has no deviation, and 1/√ε amplifies the rounding of its mean.
    let limit = 1e-5 * rstd.iter().fold(1.0_f64, |m, r| m.max(*r));
    close("y", &r.y, &y, limit);
    close("mean", &r.mean, &mean, 2e-7);
    close("rstd", &r.rstd, &rstd, 4e-6);
    let (dy, dh) = (wide(&case.dy), wide(&case.dh));
    let (mut dx, mut dgamma, mut dbeta) = (vec![], vec![0.0; case.width], vec![0.0; case.width]);
    for (row, h) in h.chunks(case.width).enumerate() {
        let dy = &dy[row * case.width..][..case.width];
        let hat: Vec<f64> = h.iter().map(|h| (h - mean[row]) * rstd[row]).collect();
        let g: Vec<f64> = dy.iter().zip(&gamma).map(|(d, gamma)| d * gamma).collect();
        let average = |x: f64| x / case.width as f64;
        let offset = average(g.iter().sum());
        let slope = average(g.iter().zip(&hat).map(|(g, h)| g * h).sum());
        for c in 0..case.width {
            let dh = dh[row * case.width + c];
            dx.push(rstd[row] * (g[c] - offset - hat[c] * slope) + dh);
            dgamma[c] += dy[c] * hat[c];
            dbeta[c] += dy[c];
        }
    }
    close("dx", &r.dx, &dx, limit);
    // Terms may cancel: the error is one of their number.
    let rows = mean.len() as f64;
    close("dgamma", &r.dgamma, &dgamma, limit * rows.sqrt());
    close("dbeta", &r.dbeta, &dbeta, 2e-7 * rows);
    if case.mask.is_some() {
        let branch = r.dx.iter().zip(case.factors()).map(|(dx, f)| dx * f);
        assert!(r.branch == branch.collect::<Vec<f32>>(), "{isa}");
    }
}

#[test]
fn agrees_with_f64_on_odd_shapes() {
    for (rows, width) in [
        (1, 1),
        (3, 2),
        (1, 17),
        (70, 31),
        (33, 256),
        (17, 1100),
        (5, 16_500),
    ] {
        for isa in Isa::available() {
            check(&Case::new(rows, width, None, 11), isa);
            check(&Case::new(rows, width, Some(0.3), 12), isa);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(0),
        ..Default::default()
    })]

    #[test]
    fn agrees_with_f64_on_any_shape(rows in 1..200_usize, width in 2..90_usize, seed in 0..1000_u64) {
        for isa in Isa::available() {
            check(&Case::new(rows, width, (seed % 2 == 0).then_some(0.1), seed), isa);
        }
    }
}

#[test]
fn gradients_are_slopes_of_the_forward_pass() {
    let case = Case::new(4, 7, Some(0.4), 5);
    let (gamma, beta) = (wide(&case.gamma), wide(&case.beta));
    let (dy, dh, factors) = (wide(&case.dy), wide(&case.dh), wide(&case.factors()));
    let objective = |x: &[f64], branch: &[f64]| -> f64 {
        let h = x
            .iter()
            .zip(branch)
            .zip(&factors)
            .map(|((x, b), f)| x + f * b);
        let h: Vec<f64> = h.collect();
        let [y, ..] = norm(&h, &gamma, &beta);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        dot(&y, &dy) + dot(&h, &dh)
    };
    let (x, branch) = (wide(&case.x), wide(&case.branch));
    let dx = slopes(&x, |x| objective(x, &branch));
    let dbranch = slopes(&branch, |branch| objective(&x, branch));
    for isa in Isa::available() {
        let r = case.run(isa);
        close("dx", &r.dx, &dx, 1e-5);
        close("branch", &r.branch, &dbranch, 1e-5);
    }
}

#[test]
fn gradients_in_place_are_the_same() {
    let case = Case::new(40, 19, None, 9);
    for isa in Isa::available() {
        let r = case.run(isa);
        let again = |dy, dh, start: &[f32]| {
            let (mut dx, mut dgamma, mut dbeta) = (start.to_vec(), vec![0.0; 19], vec![0.0; 19]);
            let input = GradInput {
                h: Slice::F32(&r.h),
                gamma: &case.gamma,
                mean: &r.mean,
                rstd: &r.rstd,
                dy,
                dh,
                mask: None,
            };
            let out = GradOutput {
                dx: SliceMut::F32(&mut dx),
                branch: None,
                dgamma: &mut dgamma,
                dbeta: &mut dbeta,
            };
            backward(isa, input, out);
            assert!([&dx, &dgamma, &dbeta] == [&r.dx, &r.dgamma, &r.dbeta]);
        };
        again(None, Add::From(Slice::F32(&case.dh)), &case.dy);
        again(Some(Slice::F32(&case.dy)), Add::InPlace, &case.dh);
    }
}

#[test]
fn without_a_branch_the_input_is_normed() {
    let case = Case::new(30, 20, None, 2);
    for isa in Isa::available() {
        let whole = case.run(isa);
        let [mut y, mut mean, mut rstd] = [600, 30, 30].map(|n| vec![f32::NAN; n]);
        let input = Input {
            x: Slice::F32(&whole.h),
            branch: None,
            gamma: &case.gamma,
            beta: &case.beta,
        };
        let out = Output {
            h: None,
            y: SliceMut::F32(&mut y),
            mean: &mut mean,
            rstd: &mut rstd,
        };
        forward(isa, input, out);
        assert!(
            [&y, &mean, &rstd] == [&whole.y, &whole.mean, &whole.rstd],
            "{isa}"
        );
    }
}

#[test]
fn one_thread_and_three_give_equal_bits() {
    let case = Case::new(700, 50, Some(0.2), 7);
    threads_change_nothing(
        |isa| case.run(isa),
        |results| {
            results
                .all()
                .into_iter()
                .flatten()
                .map(|x| x.to_bits())
                .collect()
        },
    );
}

#[test]
fn a_nan_is_seen_in_its_row_and_in_every_sum() {
    // A dropped branch hides it no more than a kept one.
    for p in [0.01, 0.99] {
        let mut case = Case::new(3, 20, Some(p), 1);
        case.branch[25] = f32::NAN;
        for isa in Isa::available() {
            let r = case.run(isa);
            for (i, (y, dx)) in r.y.iter().zip(&r.dx).enumerate() {
                assert_eq!([y.is_nan(), dx.is_nan()], [i / 20 == 1; 2], "{isa} {i}");
            }
            assert!(r.dgamma.iter().all(|d| d.is_nan()), "{isa}");
        }
    }
}
