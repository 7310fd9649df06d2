//! Copies on the SIMT executor, to the bit.

use super::*;
use crate::backend::Executor;
use crate::simt::{Landing, Schedule};
use proptest::prelude::*;

const LAST: u32 = STEPS.len() as u32;

/// A part of a tensor, from an element on.
fn part(t: Tensor, start: usize, len: usize) -> Tensor {
    t.view(start, [1, 1, 1, len])
}

/// Copies `len` elements from and to these places of longer tensors by a step, and checks all
/// elements of both.
fn check(step: u32, len: usize, [from, to]: [usize; 2], schedule: Schedule) {
    let mut gpu = Gpu::simt_scheduled(schedule, Landing::Late);
    gpu.limit(Ladder::Copy, step);
    // Numbers as well as what is none: bits count.
    let number = |i: usize| f32::from_bits((i as u32).wrapping_mul(0x9e37_79b9));
    let source: Vec<f32> = (0..from + len + 3).map(number).collect();
    let mut expected = vec![-1.0; to + len + 3];
    let a = gpu.alloc(Kind::Float, [1, 1, 1, source.len()]);
    let b = gpu.alloc(Kind::Float, [1, 1, 1, expected.len()]);
    gpu.write(a, &source).expect("writes");
    gpu.write(b, &expected).expect("writes");
    gpu.copy(part(a, from, len), part(b, to, len));
    expected[to..to + len].copy_from_slice(&source[from..from + len]);
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let what = format!("step {step}, {len} elements from {from} to {to}");
    assert_eq!(bits(&gpu.read(b).expect("runs")), bits(&expected), "{what}");
    assert_eq!(bits(&gpu.read(a).expect("runs")), bits(&source), "{what}");
}

#[test]
fn every_step_copies_all_elements_and_no_others() {
    for step in 1..=LAST {
        // Less than a vector and a run, tails of all lengths, one block and more.
        for len in [1, 3, 4, 7, 8, 9, 1021, 1022, 1023, 1024, 1025, 2047, 4099] {
            for schedule in [Schedule::Low, Schedule::High, Schedule::Random(len as u64)] {
                check(step, len, [0, 0], schedule);
            }
        }
    }
}

#[test]
fn a_copy_takes_the_highest_step_that_suits_it() {
    let mut gpu = Gpu::simt_scheduled(Schedule::Low, Landing::Late);
    let [a, b] = [(); 2].map(|()| gpu.alloc(Kind::Float, [1, 1, 1, 20]));
    gpu.read(a).expect("memory is claimed");
    assert_eq!(Ladder::Copy.last(), LAST);
    for limit in 1..=LAST {
        gpu.limit(Ladder::Copy, limit);
        assert_eq!(step(&gpu, a, b), limit);
        assert_eq!(step(&gpu, part(a, 4, 8), part(b, 8, 8)), limit);
        assert_eq!(step(&gpu, part(a, 4, 8), part(b, 9, 8)), limit.min(2));
        assert_eq!(step(&gpu, part(a, 3, 8), part(b, 8, 8)), limit.min(2));
    }
    gpu.limit(Ladder::Copy, 0);
    assert_eq!(step(&gpu, a, b), 1, "there is always a step");
}

#[test]
fn parts_of_one_tensor_may_touch_but_not_overlap() {
    let mut gpu = Gpu::simt_scheduled(Schedule::Low, Landing::Late);
    let t = gpu.alloc(Kind::Float, [1, 1, 1, 10]);
    let values: Vec<f32> = (0..10).map(|i| i as f32).collect();
    gpu.write(t, &values).expect("writes");
    gpu.copy(part(t, 5, 5), part(t, 0, 5));
    assert_eq!(
        gpu.read(t).expect("runs"),
        [5.0, 6.0, 7.0, 8.0, 9.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    );
}

#[test]
#[should_panic(expected = "they overlap")]
fn an_overlap_is_refused() {
    let mut gpu = Gpu::simt_scheduled(Schedule::Low, Landing::Late);
    let t = gpu.alloc(Kind::Float, [1, 1, 1, 10]);
    gpu.copy(part(t, 4, 5), part(t, 0, 5));
}

#[test]
#[should_panic(expected = "as many elements")]
fn lengths_that_differ_are_refused() {
    let mut gpu = Gpu::simt_scheduled(Schedule::Low, Landing::Late);
    let t = gpu.alloc(Kind::Float, [1, 1, 1, 10]);
    gpu.copy(part(t, 5, 5), part(t, 0, 4));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_part_of_any_length_is_copied(
        len in 1_usize..3000,
        from in 0_usize..9,
        to in 0_usize..9,
        step in 1..=LAST,
        seed in 0_u64..1000,
    ) {
        check(step, len, [from, to], Schedule::Random(seed));
    }
}
