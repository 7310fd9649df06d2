//! mbarriers, copies of boxes (TMA) and wgmma.

use crate::launch::{Arg, Landing, SCHEDULES, Schedule, launch};
use half::bf16;

const LANDINGS: [Landing; 3] = [Landing::Late, Landing::AtOnce, Landing::Randomly];
/// Elements of a box's row.
const COLUMNS: usize = 64;

/// Small whole numbers, so that sums are exact in any order.
fn numbers(count: usize, seed: usize) -> Vec<bf16> {
    let number = |i: usize| ((i * 37 + seed * 11 + i / 7) % 17) as f32 - 8.0;
    (0..count).map(|i| bf16::from_f32(number(i))).collect()
}

/// `TensorBox` of `kernels/simt/engines.h`: boxes of so many rows of a matrix.
fn map(matrix: &[bf16], columns: usize, box_rows: usize) -> Arg {
    let mut words = [0; 16];
    let rows = matrix.len() / columns;
    words[..4].copy_from_slice(&[
        matrix.as_ptr() as u64,
        rows as u64,
        2 * columns as u64,
        box_rows as u64,
    ]);
    Arg::from(words)
}

const M: usize = 64;
const N: usize = 128;

/// What `selftest_wgmma` gives, and what it should.
fn product(
    schedule: Schedule,
    landing: Landing,
    k: usize,
    mistake: i32,
) -> (Result<(), String>, Vec<f32>, Vec<f32>) {
    let (a, b) = (numbers(M * k, 1), numbers(N * k, 2));
    let expected = (0..M * N).map(|i| {
        let (x, y) = (&a[i / N * k..][..k], &b[i % N * k..][..k]);
        x.iter().zip(y).map(|(x, y)| x.to_f32() * y.to_f32()).sum()
    });
    let expected = expected.collect();
    let mut out = vec![0.0_f32; M * N];
    let mut launch = launch("selftest_wgmma", 1, 160)
        .on(schedule)
        .landing(landing);
    launch.shared = 2 * 2 * 128 * 128;
    let result = launch.run([
        map(&a, k, M),
        map(&b, k, N),
        (k.div_ceil(COLUMNS) as i32).into(),
        mistake.into(),
        (&mut out).into(),
    ]);
    (result, out, expected)
}

#[test]
fn a_ring_of_stages_feeds_wgmma() {
    for schedule in SCHEDULES {
        for landing in LANDINGS {
            // The last slice may have columns that the matrices do not.
            for k in [64, 128, 200, 448] {
                let (result, out, expected) = product(schedule, landing, k, 0);
                result.unwrap();
                assert_eq!(out, expected, "{schedule:?}, {landing:?}, {k} columns");
            }
        }
    }
}

#[test]
fn bytes_that_nobody_announced_are_not_waited_for() {
    for schedule in SCHEDULES {
        let (_, out, _) = product(schedule, Landing::Late, 256, 1);
        assert!(out.iter().any(|v| v.is_nan()), "{schedule:?}");
    }
}

#[test]
fn the_wrong_phase_is_not_waited_for() {
    for schedule in SCHEDULES {
        let (result, out, expected) = product(schedule, Landing::Late, 256, 2);
        assert!(result.is_err() || out != expected, "{schedule:?}");
    }
}

#[test]
fn sums_that_are_not_waited_for_are_not_numbers() {
    for schedule in SCHEDULES {
        let (result, out, _) = product(schedule, Landing::Late, 64, 3);
        result.unwrap();
        assert!(out.iter().all(|v| v.is_nan()), "{schedule:?}");
    }
}

#[test]
fn a_stage_freed_too_early_spoils_what_is_read() {
    for schedule in SCHEDULES {
        let (result, out, expected) = product(schedule, Landing::Late, 512, 4);
        assert!(result.is_err() || out != expected, "{schedule:?}");
    }
}

#[test]
fn bytes_that_never_come_are_a_deadlock_with_everybodys_place() {
    for schedule in SCHEDULES {
        let (result, ..) = product(schedule, Landing::Randomly, 256, 5);
        let error = result.unwrap_err();
        for part in [
            "deadlock: threads wait at mbarriers for phases that nobody completes",
            "threads 0-127: wait for parity 0 of mbarrier",
            "0 of 1 arrivals and 16 bytes are missing",
            "threads 128: wait for parity 0 of mbarrier",
            "4 of 4 arrivals and 0 bytes are missing",
            "threads 129-159: have returned",
            "kernels/simt/selftest_hopper.cu:",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}

#[test]
fn boxes_are_swizzled_and_zero_where_the_matrix_ends() {
    let (rows, columns) = (21_usize, 80_usize);
    let matrix = numbers(rows * columns, 3);
    for (row, column) in [(0, 0), (16, 0), (8, 64), (-3, -8), (21, 0), (5, 80)] {
        for landing in LANDINGS {
            let mut out = vec![bf16::NAN; 16 * COLUMNS];
            let mut launch = launch("selftest_tma", 1, 32).landing(landing);
            launch.shared = 16 * 128;
            launch
                .run([
                    map(&matrix, columns, 16),
                    column.into(),
                    row.into(),
                    16.into(),
                    (&mut out).into(),
                ])
                .unwrap();
            for (i, v) in out.iter().enumerate() {
                let (r, chunk, element) = (i / COLUMNS, i % COLUMNS / 8, i % 8);
                let (y, x) = (
                    r as i32 + row,
                    ((chunk ^ (r % 8)) * 8 + element) as i32 + column,
                );
                let there = (0..rows as i32).contains(&y) && (0..columns as i32).contains(&x);
                let expected = match there {
                    true => matrix[y as usize * columns + x as usize],
                    false => bf16::ZERO,
                };
                assert_eq!(*v, expected, "({row}, {column}), {landing:?}, element {i}");
            }
        }
    }
}

#[test]
fn mbarriers_hand_over_and_back() {
    for schedule in SCHEDULES {
        for threads in [2, 33, 96] {
            let mut out = vec![0_i32; 100];
            launch("selftest_mbarrier", 1, threads)
                .on(schedule)
                .run([100.into(), (&mut out).into()])
                .unwrap();
            let last = threads as i32 - 1;
            let expected: Vec<i32> = (0..100).map(|i| i * last + last * (last - 1) / 2).collect();
            assert_eq!(out, expected, "{schedule:?}, {threads} threads");
        }
    }
}

#[test]
fn what_must_not_be_done_is_an_error() {
    let cases = [
        (0, "is not initialised"),
        (1, "threads 0-1: wait for parity 0 of mbarrier"),
        (2, "or not aligned to 128"),
        (3, "was under way"),
        (4, "does not start at a multiple of 1024 bytes"),
        (5, "needs all lanes, and 0xffff0000 have returned"),
        (6, "more arrivals than the 1 that mbarrier"),
    ];
    let matrix = numbers(64 * COLUMNS, 1);
    for (what, part) in cases {
        let mut out = vec![0.0_f32; 64];
        let mut launch = launch("selftest_hopper_misuse", 1, 64);
        launch.shared = 2 * 128 * 128;
        let error = launch
            .run([map(&matrix, COLUMNS, 64), what.into(), (&mut out).into()])
            .unwrap_err();
        assert!(error.contains(part), "{what}: {error}");
        assert!(error.contains("kernels/simt/selftest_hopper.cu"), "{error}");
    }
}
