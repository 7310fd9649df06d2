//! Small whole kernels, and shared memory.

use crate::launch::{SCHEDULES, launch};

#[test]
fn block_reduction() {
    // Small whole numbers: sums are exact in any order.
    for (schedule, threads) in SCHEDULES.into_iter().zip([32, 96, 256, 1024]) {
        let x: Vec<f32> = (0..3 * threads)
            .map(|i| (i * 7 % 31) as f32 - 9.0)
            .collect();
        let mut out = vec![0.0_f32; 6];
        launch("selftest_block_sum", 3, threads)
            .on(schedule)
            .run([(&x).into(), (&mut out).into()])
            .unwrap();
        let sums = x.chunks(threads as usize).map(|c| c.iter().sum::<f32>());
        let expected: Vec<f32> = sums.flat_map(|s| [s, -2.0 * s]).collect();
        assert_eq!(out, expected, "{schedule:?}");
    }
}

#[test]
fn transposition() {
    let (rows, cols) = (70_i32, 45_i32);
    let x: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
    for schedule in SCHEDULES {
        let mut out = vec![0.0_f32; x.len()];
        let mut launch = launch("selftest_transpose", 2, 32).on(schedule);
        (launch.grid[1], launch.block[1]) = (3, 8);
        launch
            .run([(&x).into(), (&mut out).into(), rows.into(), cols.into()])
            .unwrap();
        for (i, v) in out.iter().enumerate() {
            let (c, r) = (i / rows as usize, i % rows as usize);
            assert_eq!(*v, x[r * cols as usize + c], "{schedule:?}");
        }
    }
}

#[test]
fn matrix_product() {
    let (m, n, k) = (128, 64, 48);
    let a: Vec<f32> = (0..m * k)
        .map(|i| (i * 37 % 101) as f32 / 17.0 - 3.0)
        .collect();
    let b: Vec<f32> = (0..k * n)
        .map(|i| (i * 53 % 97) as f32 / 13.0 - 3.5)
        .collect();
    let mut expected = vec![0.0_f32; m * n];
    for (i, v) in expected.iter_mut().enumerate() {
        for l in 0..k {
            *v += a[i / n * k + l] * b[l * n + i % n];
        }
    }
    for schedule in SCHEDULES {
        let mut c = vec![0.0_f32; m * n];
        let mut launch = launch("selftest_sgemm", 1, 256).on(schedule);
        launch.grid[1] = 2;
        let (n, k) = (n as i32, k as i32);
        launch
            .run([
                n.into(),
                k.into(),
                (&a).into(),
                (&b).into(),
                (&mut c).into(),
            ])
            .unwrap();
        assert_eq!(c, expected, "the same sums in the same order, {schedule:?}");
    }
}

#[test]
fn static_and_dynamic_shared_memory_together() {
    const BLOCKS: u32 = 9;
    const THREADS: u32 = 128;
    for schedule in SCHEDULES {
        let mut out = vec![0_u32; (BLOCKS * THREADS * 4) as usize];
        let mut launch = launch("selftest_shared", BLOCKS, THREADS).on(schedule);
        launch.shared = 4 * THREADS;
        launch.run([(&mut out).into()]).unwrap();
        for (i, words) in out.chunks(4).enumerate() {
            let (block, next) = (i as u32 / THREADS, (i as u32 % THREADS + 1) % THREADS);
            let base = 1000 * block;
            let expected = [(next + block) % 256, base + next, base + 2 * next, 0];
            assert_eq!(words, expected, "{schedule:?}");
        }
    }
}

#[test]
fn shared_memory_is_poisoned_before_each_block() {
    for schedule in SCHEDULES {
        for extra in [0, 4096, 64] {
            let mut out = vec![u32::MAX; 30];
            let mut launch = launch("selftest_poison", 30, 64).on(schedule);
            launch.shared = 1024 + extra;
            launch.run([(&mut out).into()]).unwrap();
            assert_eq!(out, vec![u32::MAX; 30], "{schedule:?}");
        }
    }
}

#[test]
fn the_most_shared_memory_that_there_is() {
    let mut out = vec![u32::MAX; 3];
    let mut launch = launch("selftest_poison", 3, 64);
    launch.shared = 226 << 10;
    launch.run([(&mut out).into()]).unwrap();
    assert_eq!(out, [u32::MAX; 3]);
}
