//! Tensor cores and asynchronous copies.

use crate::launch::{Landing, SCHEDULES, launch};
use half::bf16;

const LANDINGS: [Landing; 3] = [Landing::Late, Landing::AtOnce, Landing::Randomly];
const TILE: usize = 256;

/// Small whole numbers, so that sums are exact in any order.
fn numbers(count: usize, seed: usize) -> Vec<bf16> {
    let number = |i: usize| ((i * 37 + seed * 11 + i / 7) % 17) as f32 - 8.0;
    (0..count).map(|i| bf16::from_f32(number(i))).collect()
}

/// Σ over tiles of a·b; `b` is `[n][k]` or `[k][n]`.
fn expected(a: &[bf16], b: &[bf16], k_innermost: bool) -> Vec<f32> {
    let mut d = vec![0.0; TILE];
    for (a, b) in a.chunks(TILE).zip(b.chunks(TILE)) {
        for (i, d) in d.iter_mut().enumerate() {
            let (row, column) = (i / 16, i % 16);
            for k in 0..16 {
                let at = if k_innermost {
                    column * 16 + k
                } else {
                    k * 16 + column
                };
                *d += a[row * 16 + k].to_f32() * b[at].to_f32();
            }
        }
    }
    d
}

fn pipeline(
    schedule: crate::launch::Schedule,
    landing: Landing,
    tiles: usize,
    k_innermost: bool,
    mistake: i32,
) -> (Vec<f32>, Vec<f32>) {
    let (mut a, mut b) = (numbers(tiles * TILE, 1), numbers(tiles * TILE, 2));
    let expected = expected(&a, &b, k_innermost);
    let mut out = vec![0.0_f32; 2 * TILE];
    let launch = launch("selftest_pipeline", 1, 64)
        .on(schedule)
        .landing(landing);
    launch
        .run([
            (&mut a).into(),
            (&mut b).into(),
            (tiles as i32).into(),
            i32::from(k_innermost).into(),
            mistake.into(),
            (&mut out).into(),
        ])
        .unwrap();
    (out, [expected.clone(), expected].concat())
}

#[test]
fn a_pipeline_of_copies_feeds_tensor_cores() {
    for schedule in SCHEDULES {
        for landing in LANDINGS {
            for (tiles, k_innermost) in [(1, true), (2, false), (7, true), (8, false)] {
                let (out, expected) = pipeline(schedule, landing, tiles, k_innermost, 0);
                assert_eq!(out, expected, "{schedule:?}, {landing:?}, {tiles} tiles");
            }
        }
    }
}

#[test]
fn a_wait_too_few_is_not_a_number() {
    for schedule in SCHEDULES {
        let (out, _) = pipeline(schedule, Landing::Late, 4, true, 1);
        assert!(out.iter().all(|v| v.is_nan()), "{schedule:?}");
    }
}

#[test]
fn a_buffer_filled_too_early_spoils_what_is_read() {
    for schedule in SCHEDULES {
        let (out, expected) = pipeline(schedule, Landing::Late, 4, true, 2);
        assert!(out != expected, "{schedule:?}");
    }
}

#[test]
fn tensor_cores_need_whole_warps() {
    let mut out = vec![0.0_f32; 32];
    let launch = launch("selftest_half_a_warp", 1, 32);
    let error = launch.run([(&mut out).into()]).unwrap_err();
    assert!(
        error.contains("mma at kernels/simt/selftest_tensor.cu"),
        "{error}"
    );
    assert!(
        error.contains("needs all lanes, and 0xffff0000 have returned"),
        "{error}"
    );
}

#[test]
fn rows_that_are_not_there_are_errors() {
    let cases = [
        (0, "is not in shared memory"),
        (1, "is not aligned to 16 bytes"),
        (2, "is not in shared memory"),
        (3, "is not aligned to 16 bytes"),
    ];
    for (what, part) in cases {
        let mut memory = vec![0_u64; 128];
        let launch = launch("selftest_bad_rows", 1, 32);
        let error = launch.run([(&mut memory).into(), what.into()]).unwrap_err();
        assert!(error.contains(part), "{what}: {error}");
    }
}
