//! The kernels, run by the SIMT executor, against the `cpu` executor. Every op starts from the same
//! numbers on both, so that only its own error counts.

use super::*;
use crate::backend::cpu::Cpu;
use crate::backend::{Executor, Kind};
use crate::rng::Stream;
use crate::simt::{Landing, Schedule};
use half::bf16;
use proptest::prelude::*;

/// Half of the distance between neighbours in bf16, and a little.
const BF16: f32 = 1.01 / 256.0;
/// What an f32 sum may lose of the sum of what it adds up: half a last bit for each addition, of
/// which most cancel. Both executors lose it.
const SUM: f32 = 3e-6;

fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut random = Stream::new(seed, 0, 0);
    (0..len).map(|_| 2.0 * random.f32() - 0.8).collect()
}

fn rounded(values: Vec<f32>) -> Vec<f32> {
    let round = |v: f32| bf16::from_f32(v).to_f32();
    values.into_iter().map(round).collect()
}

struct Case {
    dims: [usize; 4],
    outputs: usize,
    x: Vec<f32>,
    w: Vec<f32>,
    b: Vec<f32>,
    dy: Vec<f32>,
}

/// Gradients: dx, dw, db.
type Grads = [Vec<f32>; 3];

impl Case {
    fn new(dims: [usize; 4], outputs: usize, seed: u64) -> Case {
        let len = dims.iter().product();
        Case {
            dims,
            outputs,
            x: rounded(random(len, seed)),
            w: random(outputs * dims[3], seed + 1),
            b: random(outputs, seed + 2),
            dy: rounded(random(dims[0] * outputs, seed + 3)),
        }
    }

    fn float(&self, exec: &mut dyn Executor, values: &[f32]) -> Tensor {
        let t = exec.alloc(Kind::Float, [1, 1, 1, values.len()]);
        exec.write(t, values).expect("writes");
        t
    }

    fn activation(&self, exec: &mut dyn Executor, dims: [usize; 4], values: &[f32]) -> Tensor {
        let t = exec.alloc(Kind::Activation, dims);
        exec.write(t, values).expect("writes");
        t
    }

    /// Pooled input and outputs for images `x` of shape `dims`.
    fn forward(&self, exec: &mut dyn Executor, dims: [usize; 4], x: &[f32]) -> [Vec<f32>; 2] {
        let [n, .., c] = dims;
        let nan = vec![f32::NAN; n * c.max(self.outputs)];
        let x = self.activation(exec, dims, x);
        let [w, b] = [&self.w, &self.b].map(|v| self.float(exec, v));
        let pooled = self.activation(exec, [1, 1, n, c], &nan[..n * c]);
        let y = self.activation(exec, [1, 1, n, self.outputs], &nan[..n * self.outputs]);
        exec.gap_linear(x, w, b, pooled, y);
        [pooled, y].map(|t| exec.read(t).expect("reads"))
    }

    fn backward(&self, exec: &mut dyn Executor, pooled: &[f32]) -> Grads {
        let [n, .., c] = self.dims;
        let pooled = self.activation(exec, [1, 1, n, c], pooled);
        let dy = self.activation(exec, [1, 1, n, self.outputs], &self.dy);
        let w = self.float(exec, &self.w);
        let [dw, db] = [self.w.len(), self.outputs].map(|n| self.float(exec, &vec![f32::NAN; n]));
        let dx = self.activation(exec, self.dims, &vec![f32::NAN; self.x.len()]);
        exec.gap_linear_backward(pooled, w, dy, dx, dw, db);
        [dx, dw, db].map(|t| exec.read(t).expect("reads"))
    }

    fn simt(&self, schedule: Schedule) -> ([Vec<f32>; 2], Grads) {
        let mut gpu = Gpu::simt_scheduled(schedule, Landing::Randomly);
        let outputs = self.forward(&mut gpu, self.dims, &self.x);
        let grads = self.backward(&mut gpu, &outputs[0]);
        (outputs, grads)
    }

    fn check(&self) {
        let ([pooled, y], [dx, dw, db]) = self.simt(Schedule::Low);
        let mut cpu = Cpu::new().expect("opens");
        let [n, height, width, c] = self.dims;
        let (most_w, most_dy) = (most(&self.w), most(&self.dy));
        let [want, _] = self.forward(&mut cpu, self.dims, &self.x);
        near("pooled", &pooled, &want, BF16, most(&self.x));
        // The layer reads its input rounded.
        let [_, want] = self.forward(&mut cpu, [n, 1, 1, c], &pooled);
        near("y", &y, &want, BF16, most(&pooled) * most_w * c as f32);
        let [want_dx, want_dw, want_db] = self.backward(&mut cpu, &pooled);
        let added = most_dy * most_w * self.outputs as f32 / (height * width) as f32;
        near("dx", &dx, &want_dx, BF16, added);
        near("dw", &dw, &want_dw, 0.0, most_dy * most(&pooled) * n as f32);
        near("db", &db, &want_db, 0.0, most_dy * n as f32);
    }
}

fn most(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// Equal up to a rounding of each value, and to what sums of so much lose.
fn near(name: &str, got: &[f32], want: &[f32], rounding: f32, added: f32) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        // Not `>`, which would let a NaN pass.
        let fits = (got - want).abs() <= rounding * want.abs() + SUM * added;
        assert!(fits, "{name}[{i}] is {got}, not {want}");
    }
}

#[test]
fn it_is_the_cpu_s_on_all_kinds_of_shapes() {
    let shapes = [
        ([1, 1, 1, 1], 1),
        ([3, 5, 7, 19], 4),
        ([2, 1, 1, 33], 101),
        // Parts of the batch are added up apart.
        ([300, 2, 3, 64], 10),
        // More pixels than a block takes at a time.
        ([2, 70, 30, 8], 3),
        ([5, 7, 7, 2048], 40),
        ([40, 1, 2, 24], 1000),
    ];
    for (dims, outputs) in shapes {
        Case::new(dims, outputs, 1).check();
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
    fn it_is_the_cpu_s(
        n in 1_usize..200,
        height in 1_usize..5,
        width in 1_usize..5,
        channels in prop_oneof![1_usize..40, (1_usize..20).prop_map(|c| 8 * c)],
        outputs in 1_usize..50,
        seed in 0_u64..1000,
    ) {
        Case::new([n, height, width, channels], outputs, seed).check();
    }
}

#[test]
fn equal_inputs_give_equal_bits_in_whatever_order_threads_run() {
    let bits = |(forward, backward): ([Vec<f32>; 2], Grads)| -> Vec<u32> {
        let all = forward.into_iter().chain(backward).flatten();
        all.map(f32::to_bits).collect()
    };
    for channels in [21, 40] {
        let case = Case::new([150, 4, 3, channels], 11, 2);
        let first = bits(case.simt(Schedule::Low));
        for schedule in [Schedule::Low, Schedule::High, Schedule::Random(7)] {
            assert!(bits(case.simt(schedule)) == first, "{schedule:?}");
        }
    }
}

#[test]
fn a_nan_goes_where_it_belongs() {
    let (n, c, outputs) = (70, 40, 9);
    let all = |v: &[f32], nan: &dyn Fn(usize) -> bool| {
        let mut entries = v.iter().enumerate();
        entries.all(|(i, v)| v.is_nan() == nan(i))
    };
    let mut case = Case::new([n, 2, 2, c], outputs, 3);
    case.x[(66 * 4 + 1) * c + 33] = f32::NAN;
    let ([pooled, y], [dx, dw, db]) = case.simt(Schedule::Low);
    assert!(all(&pooled, &|i| i == 66 * c + 33));
    assert!(all(&y, &|i| i / outputs == 66));
    assert!(all(&dw, &|i| i % c == 33));
    assert!(all(&dx, &|_| false) && all(&db, &|_| false));

    let mut case = Case::new([n, 2, 2, c], outputs, 3);
    case.dy[65 * outputs + 7] = f32::NAN;
    let (_, [dx, dw, db]) = case.simt(Schedule::Low);
    assert!(all(&dx, &|i| i / (4 * c) == 65));
    assert!(all(&dw, &|i| i / c == 7) && all(&db, &|i| i == 7));
}
