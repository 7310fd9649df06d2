//! The matrix product against a naive one in f64.

use half::bf16;
use proptest::prelude::*;

use super::{Epilogue, Matrix, Out, gemm};
use crate::backend::cpu::simd::{Isa, Simd};
use crate::backend::cpu::slice::SliceMut;
use crate::backend::cpu::testing::{loaded, stored};
use crate::rng::Stream;

/// `relu(c + bias[column]) + row`.
struct BiasRelu<'a>(&'a [f32]);

impl Epilogue for BiasRelu<'_> {
    #[inline(always)]
    fn finish<S: Simd>(&self, _: S, row: usize, column: usize, c: &mut [f32]) {
        for (c, bias) in c.iter_mut().zip(&self.0[column..]) {
            *c = (*c + bias).max(0.0) + row as f32;
        }
    }
}

/// A product and all that it may do besides.
#[derive(Clone, Copy, Debug)]
struct Case {
    dims: [usize; 3],
    transposed: [bool; 2],
    /// By how much leading dimensions exceed the rows.
    gaps: [usize; 3],
    accumulate: bool,
    finish: bool,
    /// Which of `A`, `B` and `C` are of bf16.
    halves: [bool; 3],
}

/// What lies between the rows of `C`.
const GAP: f32 = -77.0;

fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut random = Stream::new(seed, 0, 0);
    (0..len).map(|_| random.f32() - 0.4).collect()
}

/// Element `(i, j)` of an operand as it lies in memory.
fn at(values: &[f32], ld: usize, transposed: bool, i: usize, j: usize) -> f64 {
    let (i, j) = if transposed { (j, i) } else { (i, j) };
    f64::from(values[i * ld + j])
}

impl Case {
    fn plain(m: usize, n: usize, k: usize, transposed: [bool; 2]) -> Case {
        Case {
            dims: [m, n, k],
            transposed,
            gaps: [0; 3],
            accumulate: false,
            finish: false,
            halves: [false; 3],
        }
    }

    fn is_rounded(&self) -> bool {
        self.halves != [false; 3]
    }

    /// Leading dimensions.
    fn lds(&self) -> [usize; 3] {
        let [m, n, k] = self.dims;
        let [ta, tb] = self.transposed;
        let columns = [if ta { m } else { k }, if tb { k } else { n }, n];
        std::array::from_fn(|i| columns[i] + self.gaps[i])
    }

    /// `A`, `B`, `C` before, bias. The last rows end at their last column.
    fn inputs(&self) -> [Vec<f32>; 4] {
        let [m, n, k] = self.dims;
        let [ta, tb] = self.transposed;
        let lds = self.lds();
        let rows = [if ta { k } else { m }, if tb { n } else { k }, m];
        let [a, b, mut c] = std::array::from_fn(|i| {
            random(i as u64, (rows[i] * lds[i]).saturating_sub(self.gaps[i]))
        });
        for row in c.chunks_mut(lds[2]) {
            let columns = n.min(row.len());
            row[columns..].fill(GAP);
        }
        let mut all = [a, b, c, random(3, n)];
        for (values, half) in all.iter_mut().zip(self.halves) {
            // What is rounded only where it is packed is so already.
            if half || self.is_rounded() {
                *values = loaded(&stored::<bf16>(values));
            }
        }
        all
    }

    /// `C` and, if the case has an epilogue, what it was given.
    fn run(&self, isa: Isa, [a, b, c, bias]: &[Vec<f32>; 4]) -> (Vec<f32>, Vec<f32>) {
        let [lda, ldb, ld] = self.lds();
        let halved = [stored::<bf16>(a), stored(b)];
        let matrix = |i: usize, values, ld| match self.halves[i] {
            true => Matrix::new(&halved[i][..], ld),
            false => Matrix::new(values, ld),
        };
        let (mut a, mut b) = (matrix(0, &a[..], lda), matrix(1, &b[..], ldb));
        if self.transposed[0] {
            a = a.t();
        }
        if self.transposed[1] {
            b = b.t();
        }
        let mut c = c.clone();
        if !self.accumulate {
            // What is there before must not matter.
            for row in c.chunks_mut(ld) {
                row[..self.dims[1]].fill(f32::NAN);
            }
        }
        let mut before = vec![GAP; if self.finish { c.len() } else { 0 }];
        let run = |out: Out| match self.finish {
            true => gemm(isa, self.dims, a, b, out, &BiasRelu(bias)),
            false => gemm(isa, self.dims, a, b, out, &()),
        };
        if self.halves[2] {
            let [mut half, mut half_before] = [&c, &before].map(|x| stored::<bf16>(x));
            run(Out {
                accumulate: self.accumulate,
                before: self.finish.then_some(SliceMut::Bf16(&mut half_before)),
                ..Out::new(&mut half[..], ld)
            });
            return (loaded(&half), loaded(&half_before));
        }
        run(Out {
            accumulate: self.accumulate,
            before: self.finish.then_some(SliceMut::F32(&mut before)),
            ..Out::new(&mut c[..], ld)
        });
        (c, before)
    }

    fn check(&self, isa: Isa) {
        let inputs = self.inputs();
        let (c, before) = self.run(isa, &inputs);
        let [a, b, old, bias] = &inputs;
        let ([m, n, k], [lda, ldb, ld]) = (self.dims, self.lds());
        let [ta, tb] = self.transposed;
        for i in 0..m {
            for (j, bias) in bias.iter().enumerate() {
                let products = (0..k).map(|x| at(a, lda, ta, i, x) * at(b, ldb, tb, x, j));
                let (mut sum, mut scale) = (0.0, 1e-30);
                for product in products {
                    sum += product;
                    scale += product.abs();
                }
                let at = i * ld + j;
                if self.accumulate {
                    sum += f64::from(old[at]);
                    scale += f64::from(old[at]).abs();
                }
                // Sums of a block of k in sequence, then of blocks.
                let bound = scale * f64::from(f32::EPSILON) * (k.min(256) + k / 256 + 2) as f64;
                let close = |got: f32, want: f64, more: f64| {
                    let error = (f64::from(got) - want).abs();
                    // Half of the last place, at most.
                    let rounding = if self.halves[2] {
                        want.abs() / 256.0
                    } else {
                        0.0
                    };
                    let more = more + rounding;
                    assert!(
                        error <= bound + more,
                        "{isa} {self:?} ({i}, {j}): {got} not {want}"
                    );
                };
                if self.finish {
                    close(before[at], sum, 0.0);
                    let want = (sum + f64::from(*bias)).max(0.0) + i as f64;
                    close(c[at], want, 1e-6 * (1.0 + want));
                } else {
                    close(c[at], sum, 0.0);
                }
            }
        }
        for c in [&c, &before] {
            for row in c.chunks(ld) {
                let gap = &row[n.min(row.len())..];
                assert!(gap.iter().all(|c| *c == GAP), "{isa} {self:?}: beyond C");
            }
        }
    }
}

const LAYOUTS: [[bool; 2]; 4] = [[false, false], [false, true], [true, false], [true, true]];

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        rng_seed: prop::test_runner::RngSeed::Fixed(6),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn agrees_with_f64(
        dims in [1_usize..70, 1..70, 1..70],
        transposed in any::<[bool; 2]>(),
        gaps in [0_usize..9, 0..9, 0..9],
        accumulate in any::<bool>(),
        finish in any::<bool>(),
        halves in any::<[bool; 3]>(),
    ) {
        let case = Case { dims, transposed, gaps, accumulate, finish, halves };
        for isa in Isa::available() {
            case.check(isa);
        }
    }
}

#[test]
fn agrees_with_f64_over_several_blocks() {
    // Several blocks of k, of columns and of rows; one row or column; nothing to sum.
    let dims = [
        [70, 33, 600],
        [17, 2100, 40],
        [300, 48, 257],
        [1, 300, 300],
        [300, 1, 300],
        [5, 530, 513],
        [7, 9, 0],
    ];
    for (dims, transposed) in dims.iter().flat_map(|d| LAYOUTS.map(|t| (*d, t))) {
        for (isa, accumulate) in Isa::available().into_iter().zip([true, false, true]) {
            for halves in [[false; 3], [true, false, accumulate]] {
                let gaps = [3, 0, 5];
                Case {
                    dims,
                    transposed,
                    gaps,
                    accumulate,
                    finish: true,
                    halves,
                }
                .check(isa);
            }
        }
    }
}

/// A case on some threads.
fn on(threads: usize, isa: Isa, case: &Case, inputs: &[Vec<f32>; 4]) -> (Vec<f32>, Vec<f32>) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build().unwrap().install(|| case.run(isa, inputs))
}

#[test]
fn any_number_of_threads_gives_equal_bits() {
    let shapes = [[140, 200, 300], [4, 900, 300], [900, 3, 300], [2, 2, 2]];
    for (dims, transposed) in shapes.iter().flat_map(|d| LAYOUTS.map(|t| (*d, t))) {
        let [m, n, k] = dims;
        let case = Case {
            accumulate: true,
            finish: true,
            ..Case::plain(m, n, k, transposed)
        };
        let inputs = case.inputs();
        for isa in Isa::available() {
            let one = on(1, isa, &case, &inputs);
            let same = [2, 3].iter().all(|n| one == on(*n, isa, &case, &inputs));
            assert!(same, "{isa} {case:?}");
        }
    }
}

#[test]
fn products_of_bf16_have_equal_bits_on_any_threads_and_instruction_set() {
    let shapes = [[140, 70, 100], [4, 900, 40], [600, 3, 1100], [2, 2, 2]];
    for (dims, transposed) in shapes.iter().flat_map(|d| LAYOUTS.map(|t| (*d, t))) {
        let [m, n, k] = dims;
        let plain = Case::plain(m, n, k, transposed);
        let case = Case {
            accumulate: true,
            finish: true,
            halves: [transposed[0], true, transposed[1]],
            ..plain
        };
        // Not yet rounded, so that packing has something to do.
        let inputs = plain.inputs();
        let want = on(1, Isa::PORTABLE, &case, &inputs);
        for (isa, threads) in Isa::available().into_iter().flat_map(|i| [(i, 1), (i, 3)]) {
            assert!(want == on(threads, isa, &case, &inputs), "{isa} {case:?}");
        }
    }
}

#[test]
fn infinities_and_nan_go_where_they_belong() {
    let dims = [[40, 70, 90], [3, 70, 90], [40, 3, 90]];
    for ([m, n, k], transposed) in dims.iter().flat_map(|d| LAYOUTS.map(|t| (*d, t))) {
        let plain = Case::plain(m, n, k, transposed);
        let [lda, ldb, _] = plain.lds();
        let index =
            |ld: usize, t: bool, i: usize, j: usize| if t { j * ld + i } else { i * ld + j };
        let kinds = [[false; 3], [true, false, false], [true; 3]];
        let all = Isa::available()
            .into_iter()
            .flat_map(|i| kinds.map(|k| (i, k)));
        for (isa, halves) in all {
            let case = Case { halves, ..plain };
            let mut inputs = case.inputs();
            inputs[0][index(lda, transposed[0], m - 1, k - 1)] = f32::NAN;
            inputs[0][index(lda, transposed[0], 1, 5)] = f32::INFINITY;
            inputs[1][index(ldb, transposed[1], 7, n - 1)] = f32::NEG_INFINITY;
            inputs[1][index(ldb, transposed[1], 5, 0)] = 0.0;
            let (c, _) = case.run(isa, &inputs);
            let (mut nan, mut infinite) = (0, 0);
            for (i, row) in c.chunks(n).enumerate() {
                for (j, c) in row.iter().enumerate() {
                    // 0·∞, and possibly ∞ − ∞.
                    let must = i == m - 1 || i == 1 && j == 0;
                    let may = must || i == 1 && j == n - 1;
                    let touched = may || i == 1 || j == n - 1;
                    assert!(c.is_nan() || !must, "{isa} {case:?} ({i}, {j}): {c}");
                    assert!(!c.is_nan() || may, "{isa} {case:?} ({i}, {j}): {c}");
                    assert!(c.is_finite() != touched, "{isa} {case:?} ({i}, {j}): {c}");
                    nan += usize::from(c.is_nan());
                    infinite += usize::from(c.is_infinite());
                }
            }
            assert!(nan > n && infinite > 2, "{isa} {case:?}");
        }
    }
}

#[test]
fn windows_are_the_matrix_that_they_show() {
    // Of 3 steps, on 5 sequences of 12 steps of 3 floats.
    let (rows, width, apart) = (10, 9, 36);
    let values = random(7, 5 * apart);
    let window = |i: usize| &values[i / rows * apart + i % rows * 3..][..width];
    let copied: Vec<f32> = (0..5 * rows).flat_map(window).copied().collect();
    let sliding = Matrix::windows(&values[..], 3, rows, apart);
    let plain = Matrix::new(&copied[..], width);
    let other = random(8, 50 * 50);
    let (by, long) = (Matrix::new(&other[..], 40), Matrix::new(&other[..], 50));
    let other = stored::<bf16>(&other);
    let half = [40, 50].map(|ld| Matrix::new(&other[..], ld));
    for isa in Isa::available() {
        let product = |[m, n, k]: [usize; 3], a: Matrix, b: Matrix| {
            let mut c = vec![f32::NAN; m * n];
            gemm(isa, [m, n, k], a, b, Out::new(&mut c[..], n), &());
            c
        };
        let all = |w: Matrix, [by, long]: [Matrix; 2]| {
            [
                product([50, 40, 9], w, by),
                product([9, 50, 50], w.t(), long),
                product([50, 9, 50], long, w),
                product([40, 50, 9], by.t(), w.t()),
            ]
        };
        for others in [[by, long], half] {
            for (got, want) in all(sliding, others).iter().zip(all(plain, others)) {
                for (got, want) in got.iter().zip(want) {
                    assert!((got - want).abs() < 1e-5, "{isa}: {got} instead of {want}");
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "A: 20 windows of 9 in 71")]
fn windows_beyond_the_slice_are_refused() {
    let values = [0.0; 71];
    let mut c = [0.0; 40];
    let a = Matrix::windows(&values[..], 3, 10, 36);
    let b = Matrix::new(&values[..], 2);
    gemm(
        Isa::PORTABLE,
        [20, 2, 9],
        a,
        b,
        Out::new(&mut c[..], 2),
        &(),
    );
}

#[test]
#[should_panic(expected = "B: 5x6, ld 6, in 29")]
fn a_short_slice_is_refused() {
    let values = [0.0; 30];
    let mut c = [0.0; 24];
    let (a, b) = (Matrix::new(&values[..], 5), Matrix::new(&values[..29], 6));
    gemm(Isa::PORTABLE, [4, 6, 5], a, b, Out::new(&mut c[..], 6), &());
}
