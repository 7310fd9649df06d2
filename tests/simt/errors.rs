//! Every mistake ends a launch with a message that says who and where, and launches work after it.

use crate::launch::{Launch, SCHEDULES, Schedule, launch};

const FILE: &str = "kernels/simt/selftest.cu";

/// Where `// MARK name` stands: `kernels/simt/selftest.cu:17`.
fn at(mark: &str) -> String {
    let source = include_str!("../../kernels/simt/selftest.cu");
    let end = format!("// MARK {mark}");
    let line = source.lines().position(|line| line.ends_with(&end));
    format!("{FILE}:{}", line.expect("the mark is there") + 1)
}

/// The error names the kernel, its file and all of `parts`; then a launch works.
fn check(launch: Launch, error: Result<(), String>, parts: &[&str]) {
    let text = error.expect_err("a mistake is found");
    let kernel = format!("kernel {} ({FILE})", launch.kernel);
    for part in parts.iter().chain([&kernel.as_str()]) {
        let schedule = launch.schedule;
        assert!(text.contains(part), "{schedule:?}: no {part:?} in {text:?}");
    }
    works();
}

fn works() {
    let mut out = vec![0_i32; 384];
    launch("selftest_halves", 3, 128)
        .run([(&mut out).into()])
        .unwrap();
}

#[test]
fn threads_at_different_barriers() {
    for schedule in SCHEDULES {
        let launch = launch("selftest_two_barriers", 1, 128).on(schedule);
        let (one, two) = (at("two_barriers 1"), at("two_barriers 2"));
        let parts = [
            "block (0,0,0): divergent barrier",
            &format!("threads 0-39: wait at __syncthreads, {one}"),
            &format!("threads 40-126: wait at __syncthreads, {two}"),
            "threads 127: have returned",
        ];
        check(launch, launch.run([40_i32.into()]), &parts);
    }
}

#[test]
fn a_barrier_that_some_never_reach() {
    for schedule in SCHEDULES {
        let launch = launch("selftest_barrier_and_shuffle", 1, 64).on(schedule);
        let (one, two) = (at("barrier_and_shuffle 1"), at("barrier_and_shuffle 2"));
        let parts = [
            "deadlock",
            &format!("threads 0-39: wait at __syncthreads, {one}"),
            &format!("warp 1, lanes 8-31: wait in __shfl_sync with mask 0xffffffff, {two}"),
        ];
        let mut out = vec![0_i32];
        check(launch, launch.run([(&mut out).into()]), &parts);
    }
}

#[test]
fn a_collective_that_some_never_reach() {
    for schedule in SCHEDULES {
        let launch = launch("selftest_missing_lanes", 1, 32).on(schedule);
        let (one, two) = (at("missing_lanes 1"), at("missing_lanes 2"));
        let parts = [
            "deadlock",
            &format!("warp 0, lanes 0-29: wait in __syncwarp with mask 0xffffffff, {one}"),
            &format!("threads 30-31: wait at __syncthreads, {two}"),
        ];
        check(launch, launch.run([]), &parts);
    }
}

#[test]
fn lanes_at_different_collectives() {
    for schedule in SCHEDULES {
        let launch = launch("selftest_two_shuffles", 1, 64).on(schedule);
        let (one, two) = (at("two_shuffles 1"), at("two_shuffles 2"));
        let parts = [
            "divergent collective",
            &format!("warp 0, lanes 0-7, 20: wait in __shfl_sync with mask 0xffffffff, {one}"),
            &format!("warp 0, lanes 8-19, 21-31: wait in __shfl_sync with mask 0xffffffff, {two}"),
            "warp 1, lanes 0-7, 20",
        ];
        let mut out = vec![0_i32];
        check(launch, launch.run([(&mut out).into()]), &parts);
    }
}

#[test]
fn lanes_with_different_masks() {
    for schedule in SCHEDULES {
        let launch = launch("selftest_two_masks", 1, 32).on(schedule);
        let site = at("two_masks");
        let parts = [
            "divergent collective",
            &format!("warp 0, lanes 0-3: wait in __syncwarp with mask 0x000000ff, {site}"),
            &format!("warp 0, lanes 4-31: wait in __syncwarp with mask 0xffffffff, {site}"),
        ];
        check(launch, launch.run([]), &parts);
    }
}

#[test]
fn a_lane_that_its_mask_does_not_name() {
    let launch = launch("selftest_not_in_mask", 1, 32);
    let site = format!("__syncwarp at {}", at("not_in_mask"));
    let parts = [
        "thread (16,0,0)",
        &site,
        "its own lane, 16, is not in the mask 0x0000ffff",
    ];
    check(launch, launch.run([]), &parts);
}

#[test]
fn shuffles_from_lanes_that_are_not_there() {
    let mut out = vec![0_i32];
    for schedule in SCHEDULES {
        let launch_ = launch("selftest_reads_returned_lane", 1, 64).on(schedule);
        let site = format!("__shfl_xor_sync at {}", at("reads_returned_lane"));
        let parts = [
            "thread (38,0,0)",
            &site,
            "lane 6: it reads lane 7",
            "returned",
        ];
        check(launch_, launch_.run([(&mut out).into()]), &parts);

        let launch_ = launch("selftest_reads_outside_mask", 1, 32).on(schedule);
        let site = format!("__shfl_sync at {}", at("reads_outside_mask"));
        let parts = [
            "thread (0,0,0)",
            &site,
            "lane 0: it reads lane 9, which is not in the mask",
        ];
        check(launch_, launch_.run([(&mut out).into()]), &parts);
    }
    let launch = launch("selftest_bad_width", 1, 32);
    let site = format!("__shfl_sync at {}", at("bad_width"));
    let parts = [site.as_str(), "width 12 is not a power of two"];
    check(launch, launch.run([(&mut out).into()]), &parts);
}

#[test]
fn traps() {
    for schedule in SCHEDULES {
        let mut launch = launch("selftest_trap", 1, 1).on(schedule);
        (launch.grid, launch.block) = ([4, 2, 1], [8, 4, 2]);
        let site = format!("__trap() at {}", at("trap"));
        let parts = ["block (2,1,0), thread (5,3,1)", &site];
        check(launch, launch.run([6_i32.into(), 61_i32.into()]), &parts);
        launch.run([8_i32.into(), 0_i32.into()]).unwrap();
    }
}

#[test]
fn blocks_after_an_error_are_not_started() {
    let launch = launch("selftest_traps", 1 << 20, 32);
    let mut ran = vec![0_u32];
    let error = launch.run([10_i32.into(), (&mut ran).into()]);
    // The first of those that failed, however many threads the pool has.
    check(launch, error, &["block (10,0,0), thread (0,0,0): __trap()"]);
    assert!(ran[0] < 1 << 20, "{} threads ran", ran[0]);
}

#[test]
fn wild_pointers() {
    for schedule in SCHEDULES {
        let launch = launch("selftest_wild_pointer", 3, 64).on(schedule);
        let site = format!("after __syncthreads at {}", at("wild_pointer"));
        let parts = [
            "block (1,0,0), thread (33,0,0)",
            "access to address 0x123450",
            &site,
        ];
        check(launch, launch.run([0x12_3450_u64.into()]), &parts);
    }
    let launch = launch("selftest_wild_pointer", 2, 64);
    let parts = ["block (1,0,0), thread (33,0,0)", "not even canonical"];
    check(
        launch,
        launch.run([0x1234_5678_9abc_def0_u64.into()]),
        &parts,
    );
}

#[test]
fn integer_division_by_zero() {
    let launch = launch("selftest_divides", 1, 32);
    let mut out = vec![0_i32; 32];
    let error = launch.run([9_i32.into(), (&mut out).into()]);
    check(
        launch,
        error,
        &["thread (9,0,0)", "integer division by zero"],
    );
    assert_eq!(out[8], 100);
}

#[test]
fn too_many_local_variables() {
    let launch = launch("selftest_stack_overflow", 1, 32);
    let mut out = vec![0_u8];
    let error = launch.run([1_i32.into(), (&mut out).into()]);
    check(
        launch,
        error,
        &["thread (0,0,0)", "stack overflow", "64 KiB"],
    );
}

#[test]
fn accesses_past_dynamic_shared_memory() {
    let mut launch = launch("selftest_dynamic_overrun", 1, 32);
    launch.shared = 160;
    launch.run([39_i32.into()]).unwrap();
    check(launch, launch.run([40_i32.into()]), &["SIGSEGV"]);
}

#[test]
fn too_much_shared_memory() {
    let mut out = vec![0_i32];
    let launch_ = launch("selftest_static_too_large", 1, 32);
    let parts = [
        "SHARED large at",
        "49216 bytes of static shared memory",
        "49152",
    ];
    check(launch_, launch_.run([(&mut out).into()]), &parts);

    let mut launch = launch("selftest_shared_sum_too_large", 1, 32);
    launch.shared = (227 << 10) - 1024;
    launch.run([(&mut out).into()]).unwrap();
    launch.shared += 1;
    let parts = [
        "SHARED some at",
        "1024 bytes of static and 231425 of dynamic",
        "232448",
    ];
    check(launch, launch.run([(&mut out).into()]), &parts);
}

#[test]
fn impossible_launches() {
    let good = launch("selftest_trap", 1, 32);
    let shaped = |grid, block| Launch {
        grid,
        block,
        ..good
    };
    let cases = [
        (shaped([0, 1, 1], [32, 1, 1]), "grid (0,1,1)"),
        (shaped([1, 65536, 1], [32, 1, 1]), "grid (1,65536,1)"),
        (shaped([1, 1, 1], [32, 0, 1]), "block (32,0,1)"),
        (shaped([1, 1, 1], [2, 2, 65]), "block (2,2,65)"),
        (
            shaped([1, 1, 1], [16, 17, 1]),
            "272 threads, the kernel's limit is 256",
        ),
        (shaped([1, 1, 1], [u32::MAX, u32::MAX, 1]), "are possible"),
        (
            Launch {
                shared: (227 << 10) + 1,
                ..good
            },
            "232449 bytes of dynamic shared memory",
        ),
        (good.on(Schedule::Unknown), "schedule 3"),
    ];
    for (launch, part) in cases {
        let error = launch.run([0_i32.into(), 0_i32.into()]);
        check(launch, error, &["cannot be launched", part]);
    }
    let large = launch("selftest_barriers", 1, 1024);
    large.run([1_i32.into()]).unwrap();
    let launch = Launch {
        block: [1025, 1, 1],
        ..large
    };
    check(launch, launch.run([1_i32.into()]), &["block (1025,1,1)"]);
}

#[test]
fn missing_arguments() {
    let launch = launch("selftest_trap", 1, 32);
    let mut block = 0_i32;
    let mut args = [(&raw mut block).cast(), std::ptr::null_mut()];
    check(
        launch,
        launch.run_raw(&mut args, 1000),
        &["argument 1 is null"],
    );
    let cut = launch.run_raw(&mut args, 20).expect_err("as before");
    assert_eq!(cut, "kernel selftest_tra");
}
