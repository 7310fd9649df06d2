//! Attention on the SIMT executor: every step against f64 and the `cpu` executor.

use super::*;
use crate::backend::cpu::Cpu;
use crate::backend::gpu::Ladder;
use crate::backend::gpu::models::RTX_4090;
use crate::backend::sequence::Mask;
use crate::backend::{Executor, Pass};
use crate::rng::Stream;
use crate::simt::{Landing, Schedule};
use half::bf16;
use proptest::prelude::*;

const NAMES: [&str; 5] = ["out", "lse", "dq", "dk", "dv"];

/// `out`, `lse`, `dq`, `dk`, `dv`.
type Results<T> = [Vec<T>; 5];

#[derive(Clone)]
struct Case {
    heads: usize,
    depth: usize,
    lengths: [usize; 2],
    key_len: Vec<i32>,
    causal: bool,
    /// Columns before the heads in the tensors that hold them, and after them.
    around: [usize; 2],
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
}

fn numbers(seed: u64, len: usize, mean: f32, spread: f32) -> Vec<f32> {
    let mut random = Stream::new(seed, 0, 0);
    let number = |_| bf16::from_f32(mean + spread * (2.0 * random.f32() - 1.0)).to_f32();
    (0..len).map(number).collect()
}

fn round(x: f64) -> f64 {
    bf16::from_f64(x).to_f64()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, row: &[f64]) {
    for (to, x) in to.iter_mut().zip(row) {
        *to += factor * x;
    }
}

impl Case {
    fn new(key_len: &[i32], lengths: [usize; 2], heads: usize, depth: usize) -> Case {
        let [queries, keys] = lengths.map(|l| key_len.len() * l * heads * depth);
        Case {
            heads,
            depth,
            lengths,
            key_len: key_len.to_vec(),
            causal: false,
            around: [0, 0],
            q: numbers(1, queries, 0.2, 1.5),
            k: numbers(2, keys, 0.0, 1.5),
            v: numbers(3, keys, 0.3, 1.0),
            dout: numbers(4, queries, 0.1, 1.0),
        }
    }

    fn causal(self) -> Case {
        Case {
            causal: true,
            ..self
        }
    }

    fn around(self, before: usize, after: usize) -> Case {
        Case {
            around: [before, after],
            ..self
        }
    }

    /// The keys that a query sees.
    fn seen(&self, sentence: usize, query: usize) -> usize {
        let keys = self.key_len[sentence] as usize;
        if self.causal {
            keys.min(query + 1)
        } else {
            keys
        }
    }

    /// From scratch, with `r` of every result that a computation op by op would store.
    fn results(&self, r: fn(f64) -> f64) -> Results<f64> {
        let (heads, depth, [queries, keys]) = (self.heads, self.depth, self.lengths);
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| f64::from(*x)).collect() };
        let [q, k, v, dout] = [&self.q, &self.k, &self.v, &self.dout].map(|x| wide(x));
        let [mut out, mut dq] = [q.len(); 2].map(|n| vec![0.0; n]);
        let [mut dk, mut dv] = [k.len(); 2].map(|n| vec![0.0; n]);
        let mut lse = vec![];
        let scale = 1.0 / (depth as f64).sqrt();
        for b in 0..self.key_len.len() {
            for h in 0..heads {
                for i in 0..queries {
                    let seen = self.seen(b, i);
                    let at = ((b * queries + i) * heads + h) * depth;
                    let query = at..at + depth;
                    let key = |j: usize| {
                        let at = ((b * keys + j) * heads + h) * depth;
                        at..at + depth
                    };
                    let score = |j| r(scale * dot(&q[query.clone()], &k[key(j)]));
                    let scores: Vec<f64> = (0..seen).map(score).collect();
                    let max = scores.iter().copied().fold(f64::MIN, f64::max);
                    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                    lse.push(max + sum.ln());
                    let p: Vec<f64> = scores.iter().map(|s| r((s - max).exp() / sum)).collect();
                    let grad = dout[query.clone()].to_vec();
                    let dp: Vec<f64> = (0..seen).map(|j| r(dot(&grad, &v[key(j)]))).collect();
                    let delta = dot(&p, &dp);
                    for j in 0..seen {
                        let ds = r(p[j] * (dp[j] - delta)) * scale;
                        add(&mut out[query.clone()], p[j], &v[key(j)]);
                        add(&mut dq[query.clone()], ds, &k[key(j)]);
                        add(&mut dk[key(j)], ds, &q[query.clone()]);
                        add(&mut dv[key(j)], p[j], &grad);
                    }
                }
            }
        }
        let rounded = |x: Vec<f64>| x.into_iter().map(r).collect();
        let [out, dq, dk, dv] = [out, dq, dk, dv].map(rounded);
        [out, lse, dq, dk, dv]
    }

    /// Heads in the columns of a tensor that is filled up with 7.
    fn place(&self, exec: &mut dyn Executor, length: usize, values: &[f32]) -> Heads {
        let (row, [before, after]) = (self.heads * self.depth, self.around);
        let mut all = vec![];
        for row in values.chunks(row) {
            all.extend([vec![7.0; before], row.to_vec(), vec![7.0; after]].concat());
        }
        let width = before + row + after;
        let t = exec.alloc(Kind::Activation, [1, self.key_len.len(), length, width]);
        exec.write(t, &all).expect("writes");
        Heads { t, first: before }
    }

    /// What [`place`](Case::place) has put there, and that nothing around it has changed.
    fn take(&self, exec: &mut dyn Executor, heads: Heads) -> Vec<f32> {
        let [before, after] = self.around;
        let all = exec.read(heads.t).expect("reads");
        let mut values = vec![];
        for row in all.chunks(heads.t.dims[3]) {
            let inner = before..row.len() - after;
            values.extend_from_slice(&row[inner.clone()]);
            assert!(row[..before].iter().all(|x| *x == 7.0));
            assert!(row[inner.end..].iter().all(|x| *x == 7.0));
        }
        values
    }

    fn run(&self, exec: &mut dyn Executor) -> Results<f32> {
        let (attention, grad) = self.tensors(exec);
        let ops = exec.sequence().expect("has these ops");
        ops.attention(attention);
        ops.attention_backward(attention, grad);
        let [dq, dk, dv] = [grad.dq, grad.dk, grad.dv].map(|heads| self.take(exec, heads));
        let [out, lse] = [attention.out, attention.lse].map(|t| exec.read(t).expect("reads"));
        [out, lse, dq, dk, dv]
    }

    fn tensors(&self, exec: &mut dyn Executor) -> (Attention, AttentionGrad) {
        let (batch, [queries, keys]) = (self.key_len.len(), self.lengths);
        let key_len = exec.alloc(Kind::Label, [1, 1, 1, batch]);
        exec.write_labels(key_len, &self.key_len).expect("writes");
        let row = self.heads * self.depth;
        let dims = [1, batch, queries, row];
        let out = exec.alloc(Kind::Activation, dims);
        let dout = exec.alloc(Kind::Activation, dims);
        let lse = exec.alloc(Kind::Float, [1, batch, self.heads, queries]);
        // What is not computed stays wrong.
        exec.write(out, &vec![f32::NAN; out.len()]).expect("writes");
        exec.write(lse, &vec![f32::NAN; lse.len()]).expect("writes");
        exec.write(dout, &self.dout).expect("writes");
        let attention = Attention {
            heads: self.heads,
            q: self.place(exec, queries, &self.q),
            k: self.place(exec, keys, &self.k),
            v: self.place(exec, keys, &self.v),
            mask: Mask {
                key_len,
                causal: self.causal,
            },
            out,
            lse,
        };
        let mut nan =
            |length| self.place(&mut *exec, length, &vec![f32::NAN; batch * length * row]);
        let grad = AttentionGrad {
            dout,
            dq: nan(queries),
            dk: nan(keys),
            dv: nan(keys),
        };
        (attention, grad)
    }

    fn simt(&self, step: u32, schedule: Schedule, landing: Landing) -> Results<f32> {
        let mut gpu = Gpu::simt_scheduled(schedule, landing);
        gpu.limit(Ladder::Attention, step);
        self.run(&mut gpu)
    }

    /// Errors of all steps are at most twice those of the computation op by op in bf16, and a
    /// little; those of `lse`, which is f32, are as small as f32 sums allow.
    fn check(&self) {
        let (exact, naive) = (self.results(|x| x), self.results(round));
        let cpu = self.run(&mut Cpu::new().expect("opens"));
        for step in 1..=Ladder::Attention.last() {
            let results = self.simt(step, Schedule::Random(1), Landing::Randomly);
            for i in 0..NAMES.len() {
                let what = format!(
                    "{} of step {step}, {:?} x {}, {:?}",
                    NAMES[i], self.lengths, self.depth, self.key_len
                );
                let worst = |got: &dyn Fn(usize) -> f64, want: &dyn Fn(usize) -> f64| {
                    let errors = (0..exact[i].len()).map(|at| (got(at) - want(at)).abs());
                    // Not `max`, which would let a NaN pass.
                    errors.fold(0.0, |worst: f64, e| if e <= worst { worst } else { e })
                };
                let most = match NAMES[i] {
                    "lse" => 1e-5,
                    _ => 2.0 * worst(&|at| naive[i][at], &|at| exact[i][at]) + 1e-3,
                };
                assert_eq!(results[i].len(), exact[i].len(), "{what}");
                let got = |at: usize| f64::from(results[i][at]);
                let error = worst(&got, &|at| exact[i][at]);
                assert!(error <= most, "{what}: {error}, not {most}");
                let error = worst(&got, &|at| f64::from(cpu[i][at]));
                assert!(error <= most + 1e-5, "{what} on cpu: {error}, not {most}");
            }
            self.check_padding(&results);
        }
    }

    /// Exactly zero, not nearly.
    fn check_padding(&self, [_, _, _, dk, dv]: &Results<f32>) {
        let row = self.heads * self.depth;
        for (i, d) in dk.iter().zip(dv).enumerate() {
            let (b, j) = (i / (self.lengths[1] * row), i / row % self.lengths[1]);
            assert!(j < self.key_len[b] as usize || d == (&0.0, &0.0), "{i}");
        }
    }
}

fn bits(results: &Results<f32>) -> Vec<u32> {
    results.iter().flatten().map(|x| x.to_bits()).collect()
}

#[test]
fn every_step_is_right_on_short_sentences() {
    Case::new(&[1], [1, 1], 1, 16).check();
    Case::new(&[7, 3], [7, 7], 3, 32).causal().check();
    Case::new(&[33, 16, 17], [16, 33], 2, 64)
        .around(8, 16)
        .check();
    Case::new(&[64, 1], [64, 64], 2, 16).check();
    Case::new(&[64], [64, 64], 1, 64).causal().check();
    Case::new(&[100, 128], [1, 128], 2, 32).check();
    Case::new(&[7], [128, 7], 1, 128).around(0, 8).check();
    Case::new(&[128, 90], [128, 128], 1, 64).causal().check();
    Case::new(&[90], [100, 90], 1, 24).check();
}

#[test]
fn every_step_is_right_on_long_sentences() {
    Case::new(&[130, 70], [130, 130], 2, 64).causal().check();
    Case::new(&[130, 1], [33, 130], 1, 16).around(8, 0).check();
    Case::new(&[16], [300, 16], 1, 32).check();
    Case::new(&[200, 129], [1, 200], 2, 128).check();
    Case::new(&[130], [200, 140], 1, 120).causal().check();
}

#[test]
fn rows_that_vectors_cannot_read_are_read_otherwise() {
    Case::new(&[5, 2], [7, 5], 3, 5).check();
    Case::new(&[9], [9, 9], 1, 40).causal().around(1, 7).check();
    Case::new(&[9], [9, 9], 2, 16).around(8, 1).check();
    Case::new(&[20], [3, 20], 1, 136).check();
    Case::new(&[140], [3, 140], 1, 33).check();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(0),
        ..Default::default()
    })]

    #[test]
    fn every_step_is_right_on_any_shape(
        queries in 1..150_usize, keys in 1..150_usize, heads in 1..3_usize,
        depth in prop_oneof![1..40_usize, (1..9_usize).prop_map(|d| 8 * d)],
        shorter in 0..150_i32, causal: bool,
    ) {
        let key_len = [(keys as i32 - shorter).max(1), keys as i32];
        let case = Case::new(&key_len, [queries, keys], heads, depth);
        if causal { case.causal().check() } else { case.check() }
    }
}

#[test]
fn a_shape_takes_the_step_that_suits_it() {
    let kernels_on = |mut gpu: Gpu, case: &Case, step| {
        gpu.limit(Ladder::Attention, step);
        let (attention, grad) = case.tensors(&mut gpu);
        let launches = gpu.plan(Pass::Train, &|exec| {
            let ops = exec.sequence().expect("has these ops");
            ops.attention(attention);
            ops.attention_backward(attention, grad);
        });
        let names = launches.iter().map(|launch| launch.kernel);
        names.collect::<Vec<_>>()
    };
    let usual = || Gpu::simt_scheduled(Schedule::Low, Landing::Late);
    let kernels = |case: &Case, step| kernels_on(usual(), case, step);
    let naive = [
        "attention_naive",
        "attention_backward_naive_q",
        "attention_backward_naive_kv",
    ];
    let short = Case::new(&[65], [128, 65], 2, 40);
    let long = Case::new(&[3], [129, 3], 2, 16);
    let on_chip = ["attention_on_chip_128_64", "attention_backward_on_chip_64"];
    let tiled = [
        "attention_online_32",
        "attention_backward_tiled_q_32",
        "attention_backward_tiled_kv_32",
    ];
    for step in [2, 3] {
        assert_eq!(kernels(&short, step), on_chip, "{step}");
    }
    assert_eq!(kernels(&long, 3), tiled);
    // Wide heads, of which little shared memory takes tiles, too.
    let wide = Case::new(&[140], [150, 140], 1, 128);
    let little = || Gpu::simt_posing(Schedule::Low, Landing::Late, RTX_4090);
    let names = tiled.map(|name| name.replace("32", "128"));
    assert_eq!(kernels_on(little(), &wide, 3), names);
    assert_eq!(wide.run(&mut little()), wide.run(&mut usual()));
    wide.check();
    assert_eq!(kernels(&long, 2), naive);
    // There is always a step.
    for case in [
        short.clone().around(4, 4),
        short.clone().around(8, 1),
        Case::new(&[3], [129, 3], 2, 12),
        Case::new(&[3], [3, 3], 1, 136),
    ] {
        assert_eq!(kernels(&case, 3), naive);
    }
    assert_eq!(kernels(&short, 1), naive);
}

#[test]
fn equal_inputs_give_equal_bits_in_whatever_order_threads_run() {
    let cases = [
        Case::new(&[40, 21], [33, 40], 2, 32),
        Case::new(&[130], [70, 130], 1, 24).causal(),
    ];
    for case in cases {
        for step in 1..=Ladder::Attention.last() {
            let first = bits(&case.simt(step, Schedule::Low, Landing::Late));
            for schedule in [Schedule::Low, Schedule::High, Schedule::Random(7)] {
                for landing in [Landing::Late, Landing::AtOnce, Landing::Randomly] {
                    let again = bits(&case.simt(step, schedule, landing));
                    assert!(again == first, "step {step}, {schedule:?}, {landing:?}");
                }
            }
        }
    }
}

#[test]
fn large_scores_are_safe() {
    for (lengths, size) in [([20, 20], 1e3), ([140, 140], 1e3), ([20, 20], 1e17)] {
        let mut case = Case::new(&[lengths[1] as i32], lengths, 1, 16);
        for x in case.q.iter_mut().chain(&mut case.k) {
            *x = bf16::from_f32(*x * size).to_f32();
        }
        for step in 1..=Ladder::Attention.last() {
            let results = case.simt(step, Schedule::Low, Landing::Late);
            assert!(results.iter().flatten().all(|x| x.is_finite()), "{step}");
            // Each query sees the one key that fits best, or some that fit equally well.
            let exact = case.results(|x| x);
            for (got, want) in results[0].iter().zip(&exact[0]) {
                assert!(
                    (f64::from(*got) - want).abs() < 0.02,
                    "{step}: {got} {want}"
                );
            }
        }
    }
}

#[test]
fn a_nan_is_seen_by_those_who_see_its_key_and_no_others() {
    for length in [20, 140] {
        let padding = length as i32 - 2;
        let mut case = Case::new(&[length as i32, padding], [length, length], 2, 16);
        let row = 32;
        // Padding of the second sentence, in both heads.
        let at = (2 * length - 1) * row;
        case.k[at..].fill(f32::NAN);
        case.v[at..].fill(f32::NAN);
        for step in 1..=Ladder::Attention.last() {
            let results = case.simt(step, Schedule::Low, Landing::Late);
            assert!(results.iter().flatten().all(|x| x.is_finite()), "{step}");
            case.check_padding(&results);
        }
        // In a query that sees no padding: the gradients of padding are 0 all the same.
        let mut grad = case.clone();
        grad.dout[length * row] = f32::NAN;
        for step in 1..=Ladder::Attention.last() {
            grad.check_padding(&grad.simt(step, Schedule::Low, Landing::Late));
        }
        // In the first sentence's second head.
        for which in 0..4 {
            let mut case = case.clone();
            let t = [&mut case.q, &mut case.k, &mut case.v, &mut case.dout];
            t.into_iter().nth(which).expect("is there")[row + 16] = f32::NAN;
            for step in 1..=Ladder::Attention.last() {
                let [out, lse, dq, dk, dv] = case.simt(step, Schedule::Low, Landing::Late);
                let what = format!("{which} {step} {length}");
                for (name, t) in [("out", &out), ("dq", &dq), ("dk", &dk), ("dv", &dv)] {
                    let nans = t.iter().enumerate().filter(|(_, x)| x.is_nan());
                    let mut count = 0;
                    for (i, _) in nans {
                        assert!(i / row < length && i % row >= 16, "{what}: {name}[{i}]");
                        count += 1;
                    }
                    let none = which == 3 && name == "out" || which == 2 && name == "dv";
                    assert_eq!(count > 0, !none, "{what}: {name}");
                }
                let seen = lse.iter().filter(|x| x.is_nan()).count();
                assert_eq!(seen, [1, length, 0, 0][which], "{what}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "trap")]
fn a_sentence_without_keys_is_refused() {
    Case::new(&[0], [3, 3], 1, 16).simt(1, Schedule::Low, Landing::Late);
}

#[test]
#[should_panic(expected = "columns of")]
fn heads_that_do_not_fit_are_refused() {
    let case = Case::new(&[3], [3, 3], 2, 16);
    let mut gpu = Gpu::simt_scheduled(Schedule::Low, Landing::Late);
    let t = gpu.alloc(Kind::Activation, [1, 1, 3, 32]);
    let key_len = gpu.alloc(Kind::Label, [1, 1, 1, 1]);
    let lse = gpu.alloc(Kind::Float, [1, 1, 2, 3]);
    let heads = Heads { t, first: 0 };
    gpu.sequence().expect("has these ops").attention(Attention {
        heads: case.heads,
        q: heads,
        k: Heads { t, first: 1 },
        v: heads,
        mask: Mask {
            key_len,
            causal: false,
        },
        out: t,
        lse,
    });
}
