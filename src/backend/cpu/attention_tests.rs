//! Against f64 on odd shapes and masks, against finite differences, one thread against three, and
//! with all heads in one tensor.

use super::super::simd::Element;
use super::super::testing::{close, loaded, random, slopes, stored, threads_change_nothing, wide};
use super::*;
use half::bf16;
use proptest::prelude::*;

struct Case {
    heads: usize,
    depth: usize,
    lengths: [usize; 2],
    key_len: Vec<i32>,
    causal: bool,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
}

/// `out`, `lse`, `dq`, `dk`, `dv`.
type Results = [Vec<f32>; 5];

impl Case {
    fn new(key_len: &[i32], lengths: [usize; 2], heads: usize, depth: usize, causal: bool) -> Case {
        let [queries, keys] = lengths.map(|l| key_len.len() * l * heads * depth);
        Case {
            heads,
            depth,
            lengths,
            key_len: key_len.to_vec(),
            causal,
            q: random(1, queries, 0.2, 2.0),
            k: random(2, keys, 0.0, 2.0),
            v: random(3, keys, 0.3, 1.0),
            dout: random(4, queries, 0.1, 1.0),
        }
    }

    fn attention(&self) -> Attention<'_> {
        let width = self.heads * self.depth;
        let heads = |values| Heads {
            values: Slice::F32(values),
            width,
            first: 0,
        };
        Attention {
            heads: self.heads,
            depth: self.depth,
            lengths: self.lengths,
            q: heads(&self.q),
            k: heads(&self.k),
            v: heads(&self.v),
            key_len: &self.key_len,
            causal: self.causal,
        }
    }

    fn run(&self, isa: Isa) -> Results {
        self.run_as::<f32>(isa)
    }

    /// With activations of a kind.
    fn run_as<E: Element>(&self, isa: Isa) -> Results
    where
        for<'a> Slice<'a>: From<&'a [E]>,
        for<'a> SliceMut<'a>: From<&'a mut [E]>,
    {
        let width = self.heads * self.depth;
        let [q, k, v, dout] = [&self.q, &self.k, &self.v, &self.dout].map(|x| stored::<E>(x));
        let [q_heads, k_heads, v_heads] = [&q, &k, &v].map(|values| Heads {
            values: Slice::from(&values[..]),
            width,
            first: 0,
        });
        let attention = Attention {
            q: q_heads,
            k: k_heads,
            v: v_heads,
            ..self.attention()
        };
        let fresh = |n: usize| stored::<E>(&vec![f32::NAN; n]);
        let mut out = fresh(q.len());
        let mut lse = vec![f32::NAN; self.key_len.len() * self.heads * self.lengths[0]];
        forward(isa, &attention, SliceMut::from(&mut out[..]), &mut lse);
        let mut grads = [&q, &k, &v].map(|x| fresh(x.len()));
        let input = GradInput {
            out: Slice::from(&out[..]),
            lse: &lse,
            dout: Slice::from(&dout[..]),
        };
        let places = [0, 1, 2].map(|tensor| Place {
            tensor,
            width,
            first: 0,
        });
        let tensors = grads.iter_mut().map(|x| SliceMut::from(&mut x[..]));
        backward(isa, &attention, input, places, tensors.collect());
        let [dq, dk, dv] = grads.map(|x| loaded(&x));
        [loaded(&out), lse, dq, dk, dv]
    }

    /// `out` and `lse` from scratch.
    fn exact(&self, q: &[f64], k: &[f64], v: &[f64]) -> [Vec<f64>; 2] {
        let (heads, depth, [queries, keys]) = (self.heads, self.depth, self.lengths);
        let (mut out, mut lse) = (vec![0.0; q.len()], vec![]);
        for b in 0..self.key_len.len() {
            for h in 0..heads {
                for i in 0..queries {
                    let mut seen = self.key_len[b] as usize;
                    if self.causal {
                        seen = seen.min(i + 1);
                    }
                    let q_at = ((b * queries + i) * heads + h) * depth;
                    let k_at = |j: usize| ((b * keys + j) * heads + h) * depth;
                    let score = |j: usize| {
                        let dot = (0..depth).map(|c| q[q_at + c] * k[k_at(j) + c]);
                        dot.sum::<f64>() / (depth as f64).sqrt()
                    };
                    let scores: Vec<f64> = (0..seen).map(score).collect();
                    let max = scores.iter().copied().fold(f64::MIN, f64::max);
                    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                    lse.push(max + sum.ln());
                    for (j, score) in scores.iter().enumerate() {
                        for c in 0..depth {
                            out[q_at + c] += (score - max).exp() / sum * v[k_at(j) + c];
                        }
                    }
                }
            }
        }
        [out, lse]
    }

    /// `dq`, `dk`, `dv` by finite differences.
    fn gradients(&self) -> [Vec<f64>; 3] {
        let (q, k, v) = (wide(&self.q), wide(&self.k), wide(&self.v));
        let objective = |q: &[f64], k: &[f64], v: &[f64]| -> f64 {
            let [out, _] = self.exact(q, k, v);
            out.iter()
                .zip(&self.dout)
                .map(|(o, d)| o * f64::from(*d))
                .sum()
        };
        [
            slopes(&q, |q| objective(q, &k, &v)),
            slopes(&k, |k| objective(&q, k, &v)),
            slopes(&v, |v| objective(&q, &k, v)),
        ]
    }
}

fn check(case: &Case) {
    let [out, lse] = case.exact(&wide(&case.q), &wide(&case.k), &wide(&case.v));
    let [dq, dk, dv] = case.gradients();
    for isa in Isa::available() {
        let results = case.run(isa);
        let wants = [&out, &lse, &dq, &dk, &dv];
        let names = ["out", "lse", "dq", "dk", "dv"];
        for ((name, got), want) in names.iter().zip(&results).zip(wants) {
            close(name, got, want, 1e-5);
        }
        // Exactly, not nearly.
        let row = case.heads * case.depth;
        for (i, d) in results[3].iter().zip(&results[4]).enumerate() {
            let (b, j) = (i / (case.lengths[1] * row), i / row % case.lengths[1]);
            assert!(j < case.key_len[b] as usize || d == (&0.0, &0.0));
        }
    }
}

#[test]
fn agrees_with_f64_on_odd_shapes() {
    check(&Case::new(&[1], [1, 1], 1, 1, false));
    check(&Case::new(&[5, 2, 3], [4, 5], 2, 3, false));
    check(&Case::new(&[6, 4], [6, 6], 1, 17, true));
    // More keys than queries and the other way round, with a causal mask.
    check(&Case::new(&[7, 1], [3, 7], 1, 5, true));
    check(&Case::new(&[2], [9, 3], 3, 4, true));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 16,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(0),
        ..Default::default()
    })]

    #[test]
    fn agrees_with_f64_on_any_shape(
        queries in 1..9_usize, keys in 1..9_usize, heads in 1..3_usize, depth in 1..9_usize,
        shorter in 0..8_i32, causal: bool,
    ) {
        let key_len = [keys as i32, (keys as i32 - shorter).max(1)];
        check(&Case::new(&key_len, [queries, keys], heads, depth, causal));
    }
}

#[test]
fn several_blocks_of_queries_are_as_good_as_one() {
    for causal in [false, true] {
        let case = Case::new(&[150, 71], [150, 150], 2, 20, causal);
        let [out, lse] = case.exact(&wide(&case.q), &wide(&case.k), &wide(&case.v));
        for isa in Isa::available() {
            let results = case.run(isa);
            close("out", &results[0], &out, 3e-6);
            close("lse", &results[1], &lse, 1e-6);
            // Σ_i dq·q = Σ_j dk·k: both are the slope in a factor of all scores.
            let total = |a: &[f32], b: &[f32]| {
                let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
                let all: Vec<f64> = products.collect();
                (
                    all.iter().sum::<f64>(),
                    all.iter().map(|p| p.abs()).sum::<f64>(),
                )
            };
            let ((q, size), (k, _)) = (total(&results[2], &case.q), total(&results[3], &case.k));
            assert!((q - k).abs() < 1e-6 * size, "{q} {k} {size}");
            // The rows of the probabilities sum to 1, so Σ dv = Σ dout.
            let ones = vec![1.0; case.v.len()];
            let ((v, size), (d, _)) = (total(&results[4], &ones), total(&case.dout, &ones));
            assert!((v - d).abs() < 1e-6 * size, "{v} {d}");
        }
    }
}

#[test]
fn in_bf16_it_is_nearly_the_same_and_equal_on_all_instruction_sets() {
    let cases = [
        Case::new(&[5, 2, 3], [4, 5], 2, 3, false),
        Case::new(&[40, 33], [40, 40], 2, 32, true),
        Case::new(&[150, 71], [150, 150], 1, 20, false),
    ];
    for mut case in cases {
        for x in [&mut case.q, &mut case.k, &mut case.v, &mut case.dout] {
            *x = loaded(&stored::<bf16>(x));
        }
        let want = case.run(Isa::PORTABLE);
        let portable = case.run_as::<bf16>(Isa::PORTABLE);
        for (got, want) in portable.iter().zip(&want) {
            close("bf16", got, &wide(want), 1.0 / 64.0);
        }
        for isa in Isa::available() {
            assert!(case.run_as::<bf16>(isa) == portable, "{isa}");
        }
    }
}

#[test]
fn large_scores_are_safe() {
    let mut case = Case::new(&[5], [5, 5], 1, 4, false);
    for q in &mut case.q {
        *q *= 1e18;
    }
    for k in &mut case.k {
        *k *= 1e18;
    }
    for isa in Isa::available() {
        let results = case.run(isa);
        assert!(results.iter().flatten().all(|x| x.is_finite()), "{isa}");
        // Each query sees the one key that fits best.
        for out in results[0].chunks(4) {
            assert!(case.v.chunks(4).any(|v| v == out), "{isa}");
        }
    }
}

#[test]
fn a_nan_is_seen_by_those_who_see_its_key_and_no_others() {
    let mut case = Case::new(&[3, 2], [3, 3], 1, 4, false);
    case.k[3 * 4 + 2 * 4] = f32::NAN; // Padding.
    case.v[3 * 4 + 2 * 4] = f32::NAN;
    for isa in Isa::available() {
        assert!(
            case.run(isa).iter().flatten().all(|x| x.is_finite()),
            "{isa}"
        );
    }
    case.k[4] = f32::NAN;
    for isa in Isa::available() {
        let results = case.run(isa);
        for t in &results {
            for (i, x) in t.iter().enumerate() {
                let first = i < t.len() / 2;
                // The gradient of the values is a sum over the queries.
                assert_eq!(x.is_nan(), first, "{isa} {i}");
            }
        }
    }
}

#[test]
fn heads_may_lie_side_by_side_in_one_tensor() {
    let case = Case::new(&[5, 7], [7, 7], 2, 6, true);
    let (row, width, rows) = (12, 3 * 12 + 2, 14);
    let mut together = vec![f32::NAN; rows * width];
    for (i, wide) in together.chunks_mut(width).enumerate() {
        for (part, from) in [&case.v, &case.q, &case.k].into_iter().enumerate() {
            wide[1 + part * row..][..row].copy_from_slice(&from[i * row..][..row]);
        }
    }
    let places = [1, 2, 0].map(|part| Place {
        tensor: 0,
        width,
        first: 1 + part * row,
    });
    let heads = |place: Place| Heads {
        values: Slice::F32(&together),
        width,
        first: place.first,
    };
    let attention = Attention {
        q: heads(places[0]),
        k: heads(places[1]),
        v: heads(places[2]),
        ..case.attention()
    };
    for isa in Isa::available() {
        let [out, lse, dq, dk, dv] = case.run(isa);
        let [mut again, mut lse_again] = [&out, &lse].map(|t| vec![f32::NAN; t.len()]);
        forward(isa, &attention, SliceMut::F32(&mut again), &mut lse_again);
        assert!(again == out && lse_again == lse, "{isa}");
        let input = GradInput {
            out: Slice::F32(&out),
            lse: &lse,
            dout: Slice::F32(&case.dout),
        };
        let mut grads = vec![7.0; rows * width];
        backward(
            isa,
            &attention,
            input,
            places,
            vec![SliceMut::F32(&mut grads)],
        );
        for (i, wide) in grads.chunks(width).enumerate() {
            for (place, want) in places.iter().zip([&dq, &dk, &dv]) {
                assert!(
                    wide[place.first..][..row] == want[i * row..][..row],
                    "{isa}"
                );
            }
            assert_eq!([wide[0], wide[width - 1]], [7.0; 2], "{isa}");
        }
    }
}

#[test]
#[should_panic(expected = "a sentence of 0 keys among 3")]
fn a_sentence_without_keys_panics() {
    Case::new(&[0], [3, 3], 1, 4, false).run(Isa::PORTABLE);
}

#[test]
fn one_thread_and_three_give_equal_bits() {
    let case = Case::new(&[90, 3, 50, 90, 17], [90, 90], 2, 24, true);
    threads_change_nothing(
        |isa| case.run(isa),
        |results| results.iter().flatten().map(|x| x.to_bits()).collect(),
    );
}
