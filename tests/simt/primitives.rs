//! Built-in variables, barriers, warp collectives, atomics and intrinsics.

use crate::launch::{SCHEDULES, Schedule, launch};

const MASKS: [u32; 5] = [!0, 0x0000_ffff, 0xaaaa_aaaa, 0x8000_0001, 1 << 13];
/// Two warps.
const N: usize = 64;

fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..N).filter(move |i| mask >> (i % 32) & 1 == 1)
}

#[test]
fn every_thread_knows_its_place() {
    let (grid, block) = ([2_u32, 3, 2], [4_u32, 3, 5]);
    let shape = |n: [u32; 3]| {
        let all =
            (0..n[0] * n[1] * n[2]).map(move |i| [i % n[0], i / n[0] % n[1], i / n[0] / n[1]]);
        all.collect::<Vec<_>>()
    };
    let mut expected: Vec<u32> = Vec::new();
    for b in shape(grid) {
        for t in shape(block) {
            expected.extend([t, b, block, grid].concat());
        }
    }
    for schedule in SCHEDULES {
        let mut out = vec![0_u32; expected.len()];
        let mut launch = launch("selftest_position", 1, 1).on(schedule);
        (launch.grid, launch.block) = (grid, block);
        launch.run([(&mut out).into()]).unwrap();
        assert_eq!(out, expected, "{schedule:?}");
    }
}

#[test]
fn every_kind_of_argument_arrives() {
    let (mut out, p) = (vec![0_u64; 5], vec![-7_i32]);
    let (i, u, f, l) = (-1_i32, u32::MAX, 1.5_f32, u64::MAX - 1);
    let args = [
        (&mut out).into(),
        (&p).into(),
        i.into(),
        u.into(),
        f.into(),
        l.into(),
    ];
    launch("selftest_arguments", 1, 1).run(args).unwrap();
    let expected = [-7_i64 as u64, u64::MAX, u64::from(u), 0x3fc0_0000, l];
    assert_eq!(out, expected);
}

#[test]
fn schedules_order_the_threads() {
    const THREADS: u32 = 96;
    let order = |schedule| {
        let (mut counter, mut out) = (vec![0_u32], vec![0_u32; 2 * THREADS as usize]);
        let launch = launch("selftest_order", 1, THREADS).on(schedule);
        launch
            .run([(&mut counter).into(), (&mut out).into()])
            .unwrap();
        out
    };
    let low: Vec<u32> = (0..2 * THREADS).collect();
    assert_eq!(order(Schedule::Low), low);
    let high: Vec<u32> = (0..THREADS)
        .rev()
        .chain((THREADS..2 * THREADS).rev())
        .collect();
    assert_eq!(order(Schedule::High), high);

    let random = order(Schedule::Random(1));
    assert_eq!(random, order(Schedule::Random(1)));
    assert_ne!(random, order(Schedule::Random(2)));
    for half in random.chunks(THREADS as usize) {
        assert!(!half.is_sorted() && !half.iter().rev().is_sorted());
    }
    let mut sorted = random;
    sorted.sort_unstable();
    assert_eq!(
        sorted, low,
        "nobody passes the barrier before all are there"
    );
}

/// The lane that `lane` reads, by the PTX manual's rules for `shfl.sync`.
fn shuffle_source(mode: i32, lane: i32, operand: i32, width: i32) -> i32 {
    let clamp = if mode == 1 { 0 } else { 31 };
    let segment = 32 - width;
    let (b, max_lane) = (operand & 31, (lane & segment) | (clamp & !segment));
    let min_lane = lane & segment;
    let (j, inside) = match mode {
        0 => (min_lane | (b & !segment), true),
        1 => (lane - b, lane - b >= max_lane),
        2 => (lane + b, lane + b <= max_lane),
        _ => (lane ^ b, lane ^ b <= max_lane),
    };
    if inside { j } else { lane }
}

/// All modes, masks, widths: equal to the rules, or refused where they leave the mask.
fn check_shuffle<T: Copy + PartialEq + std::fmt::Debug>(
    kernel: &'static str,
    operands: &[i32],
    schedule: Schedule,
    values: &[T],
) {
    for mask in MASKS {
        for mode in 0..4 {
            for width in [1, 2, 4, 8, 16, 32] {
                for &operand in operands {
                    let source = |i: usize| {
                        let lane = shuffle_source(mode, i as i32 % 32, operand, width) as usize;
                        (i / 32 * 32 + lane, mask >> lane & 1 == 1)
                    };
                    let untouched = values[0];
                    let mut expected = vec![untouched; N];
                    for i in lanes(mask) {
                        expected[i] = values[source(i).0];
                    }
                    let mut out = vec![untouched; N];
                    let args = [
                        mask.into(),
                        mode.into(),
                        operand.into(),
                        width.into(),
                        values.into(),
                        (&mut out).into(),
                    ];
                    let result = launch(kernel, 1, N as u32).on(schedule).run(args);
                    let what = format!("{kernel} {mask:x} {mode} {width} {operand} {schedule:?}");
                    if lanes(mask).all(|i| source(i).1) {
                        result.expect(&what);
                        assert_eq!(out, expected, "{what}");
                    } else {
                        let text = result.expect_err(&what);
                        assert!(text.contains("not in the mask"), "{what}: {text}");
                    }
                }
            }
        }
    }
}

#[test]
fn shuffles_of_each_type() {
    let ints: Vec<i32> = (0..N as i32).map(|i| 1000 - 37 * i).collect();
    let floats: Vec<f32> = ints.iter().map(|&i| i as f32 / 7.0).collect();
    let longs: Vec<u64> = ints.iter().map(|&i| (i as u64) << 20 | 5).collect();
    for schedule in SCHEDULES {
        check_shuffle(
            "selftest_shuffle_i32",
            &[0, 1, 2, 3, 7, 15, 16, 31, 33, -1],
            schedule,
            &ints,
        );
        check_shuffle("selftest_shuffle_f32", &[0, 1, 5], schedule, &floats);
        check_shuffle("selftest_shuffle_u64", &[0, 1, 6], schedule, &longs);
    }
}

#[test]
fn votes() {
    let patterns: [fn(usize) -> bool; 4] = [|_| false, |_| true, |i| i % 3 == 0, |i| i == 45];
    for (schedule, mask, pattern) in cases(&patterns) {
        let predicate: Vec<i32> = (0..N).map(|i| 2 * i32::from(pattern(i))).collect();
        let mut out = vec![77_u32; 3 * N];
        let args = [mask.into(), (&predicate).into(), (&mut out).into()];
        launch("selftest_vote", 1, N as u32)
            .on(schedule)
            .run(args)
            .unwrap();
        let mut expected = vec![77_u32; 3 * N];
        for i in lanes(mask) {
            let warp = i / 32 * 32;
            let ballot: u32 = (0..32)
                .filter(|l| mask >> l & 1 == 1 && pattern(warp + l))
                .map(|l| 1 << l)
                .sum();
            let vote = [ballot, u32::from(ballot != 0), u32::from(ballot == mask)];
            expected[3 * i..3 * i + 3].copy_from_slice(&vote);
        }
        assert_eq!(out, expected, "{schedule:?} {mask:x}");
    }
}

fn cases<T: Copy>(what: &[T]) -> impl Iterator<Item = (Schedule, u32, T)> {
    let masks = SCHEDULES
        .iter()
        .flat_map(|&s| MASKS.iter().map(move |&m| (s, m)));
    masks.flat_map(|(s, m)| what.iter().map(move |&x| (s, m, x)))
}

#[test]
fn reductions() {
    for (schedule, mask, factor) in cases(&[1, -1_000_003, i32::MAX]) {
        let values: Vec<i32> = (0..N as i32)
            .map(|i| (i - 20).wrapping_mul(factor))
            .collect();
        let mut out = vec![77_i32; 6 * N];
        let args = [mask.into(), (&values).into(), (&mut out).into()];
        launch("selftest_reduce", 1, N as u32)
            .on(schedule)
            .run(args)
            .unwrap();
        let mut expected = vec![77_i32; 6 * N];
        for i in lanes(mask) {
            let warp: Vec<i32> = lanes(mask)
                .filter(|j| j / 32 == i / 32)
                .map(|j| values[j])
                .collect();
            let sum = warp.iter().fold(0_i32, |a, &b| a.wrapping_add(b));
            let unsigned = warp.iter().map(|&v| v as u32);
            let all = [
                sum,
                *warp.iter().min().unwrap(),
                *warp.iter().max().unwrap(),
                sum,
                unsigned.clone().min().unwrap() as i32,
                unsigned.max().unwrap() as i32,
            ];
            expected[6 * i..6 * i + 6].copy_from_slice(&all);
        }
        assert_eq!(out, expected, "{schedule:?} {mask:x} {factor}");
    }
}

#[test]
fn barriers_vote_among_those_who_have_not_returned() {
    let patterns: [fn(usize) -> bool; 4] = [|_| false, |_| true, |i| i % 5 == 0, |i| i == 99];
    for (schedule, _, pattern) in cases(&patterns) {
        for alive in [1_usize, 50, 100, 128] {
            // Those who return would spoil `and`.
            let yes = |i: usize| i < alive && pattern(i);
            let predicate: Vec<i32> = (0..128).map(|i| -i32::from(yes(i))).collect();
            let mut out = vec![77_i32; 3 * 128];
            let args = [
                (alive as i32).into(),
                (&predicate).into(),
                (&mut out).into(),
            ];
            launch("selftest_barrier_votes", 2, 128)
                .on(schedule)
                .run(args)
                .unwrap();
            let count = (0..alive).filter(|&i| pattern(i)).count();
            let votes = [
                i32::from(count > 0),
                i32::from(count == alive),
                count as i32,
            ];
            for i in 0..128 {
                let expected = if i < alive { votes } else { [77; 3] };
                assert_eq!(out[3 * i..3 * i + 3], expected, "{schedule:?} {alive} {i}");
            }
        }
    }
}

#[test]
fn parts_of_a_warp_meet_on_their_own() {
    // The same lane by lane, in plain steps.
    let mut v: Vec<i32> = (0..32).collect();
    for i in 0..5 {
        let old = v.clone();
        (0..16).for_each(|l| v[l] += old[l ^ (1 << (i % 4))]);
    }
    for _ in 0..3 {
        let old = v.clone();
        (16..32).for_each(|l| v[l] += old[(l + 1).min(31)]);
    }
    let warp: Vec<i32> = (0..32).map(|l| v[l] + v[31 - l]).collect();
    for schedule in SCHEDULES {
        let mut out = vec![0_i32; 3 * 128];
        launch("selftest_halves", 3, 128)
            .on(schedule)
            .run([(&mut out).into()])
            .unwrap();
        assert_eq!(out, warp.repeat(12), "{schedule:?}");
    }
}

#[test]
fn nobody_waits_for_lanes_that_have_returned() {
    // Lane l last voted in round l - 1, when lanes l and above were left.
    let warp: Vec<u32> = (0..32_u32)
        .map(|l| if l == 0 { 0 } else { !0 << l })
        .collect();
    for schedule in SCHEDULES {
        let mut out = vec![0_u32; 96];
        launch("selftest_leaving", 1, 96)
            .on(schedule)
            .run([(&mut out).into()])
            .unwrap();
        assert_eq!(out, warp.repeat(3), "{schedule:?}");
    }
}

#[test]
fn a_block_need_not_fill_its_last_warp() {
    // Lanes that never were do not vote.
    for schedule in SCHEDULES {
        let (mut out, predicate) = (vec![0_u32; 3 * 40], vec![1_i32; 40]);
        let args = [(!0_u32).into(), (&predicate).into(), (&mut out).into()];
        launch("selftest_vote", 1, 40)
            .on(schedule)
            .run(args)
            .unwrap();
        assert_eq!(out[..3], [!0, 1, 1]);
        assert_eq!(out[3 * 39..], [0xff, 1, 1]);
    }
}

#[test]
fn atomics_over_many_blocks() {
    const BLOCKS: u32 = 40;
    const THREADS: u32 = 96;
    let n = u64::from(BLOCKS * THREADS);
    let sum = n * (n - 1) / 2;
    for schedule in SCHEDULES {
        let (mut ints, mut unsigneds) = (vec![0_i32; 3], vec![0_u32; 8]);
        (unsigneds[1], unsigneds[3]) = (u32::MAX, u32::MAX);
        let (mut longs, mut floats, mut cas) = (vec![0_u64; 2], vec![0.0_f32], vec![0_u32]);
        let mut shared_sums = vec![0_i32; BLOCKS as usize];
        let args = [
            (&mut ints).into(),
            (&mut unsigneds).into(),
            (&mut longs).into(),
            (&mut floats).into(),
            (&mut cas).into(),
            (&mut shared_sums).into(),
        ];
        launch("selftest_atomics", BLOCKS, THREADS)
            .on(schedule)
            .run(args)
            .unwrap();
        let last = n as i32 - 1;
        assert_eq!(ints, [sum as i32, -last, last]);
        let n32 = n as u32;
        let expected = [n32, 0, n32 - 1, 0xffff_0000, u32::MAX, n32 % 10, 1, 1];
        assert_eq!(unsigneds, expected);
        assert_eq!(longs, [sum << 20, (n - 1) << 40]);
        assert_eq!(floats, [n as f32]);
        assert_eq!(cas, [n32]);
        let one = (0..THREADS as i32).sum::<i32>();
        assert_eq!(shared_sums, vec![one; BLOCKS as usize]);
    }
}

#[test]
fn intrinsics() {
    let (x, y, f) = (0x00f0_1234_u32, 0x8765_4321_0fed_cba9_u64, 1.7_f32);
    let (mut out, mut longs, mut floats) = (vec![0_u32; 12], vec![0_u64; 2], vec![0_f32; 8]);
    let args = [
        x.into(),
        y.into(),
        f.into(),
        (&mut out).into(),
        (&mut longs).into(),
        (&mut floats).into(),
    ];
    launch("selftest_intrinsics", 1, 1).run(args).unwrap();
    let expected = [
        x.count_ones(),
        y.count_ones(),
        x.trailing_zeros() + 1,
        x.leading_zeros(),
        x.reverse_bits(),
        ((u64::from(x) * 0x9e37_79b9) >> 32) as u32,
        f.to_bits(),
        (-f).to_bits(),
        7,
        x % 5,
        x,
        32,
    ];
    assert_eq!(out, expected);
    let unsigned = (u128::from(y) * 0x9e37_79b9_7f4a_7c15) >> 64;
    let signed = (-i128::from(y >> 1) * 0x1e37_79b9_7f4a_7c15) >> 64;
    assert_eq!(longs, [unsigned as u64, signed as u64]);
    let functions = f.ln_1p() + f.exp() + f.exp2() + f.ln() + f.log2() + f.tanh() + f.sqrt();
    let expected = [
        1.0,
        2.0,
        1.0 / f.sqrt(),
        f.mul_add(f, 1.0),
        functions,
        2.0 + f + f + 1.0 + 2.0,
        f + 2.0,
        -1.0 + 8.0,
    ];
    for (i, (a, b)) in floats.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= 1e-5 * b.abs(), "{i}: {a} {b}");
    }
    assert_eq!(floats[3], expected[3], "fmaf rounds once");
}
