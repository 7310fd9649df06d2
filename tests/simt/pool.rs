//! OS threads: those of the pool, those that launch, and the process's signals.

use crate::launch::{Schedule, launch, launches};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

/// Runs one of the ignored tests below in a process of its own.
fn child(test: &str, threads: &str) -> Output {
    Command::new(std::env::current_exe().expect("a test has a path"))
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("AUTOASSIST_SIMT_THREADS", threads)
        .output()
        .expect("the program can be started again")
}

#[test]
#[ignore = "started by results_do_not_depend_on_the_pool"]
fn child_prints_results() {
    let a: Vec<f32> = (0..256 * 256)
        .map(|i| (i * 37 % 101) as f32 / 17.0 - 3.0)
        .collect();
    let (mut c, mut out) = (vec![0.0_f32; a.len()], vec![0.0_f32; 2 * 64]);
    let mut gemm = launch("selftest_sgemm", 4, 256);
    gemm.grid[1] = 4;
    gemm.run([
        256_i32.into(),
        256_i32.into(),
        (&a).into(),
        (&a).into(),
        (&mut c).into(),
    ])
    .unwrap();
    launch("selftest_block_sum", 64, 1024)
        .on(Schedule::Random(3))
        .run([(&a).into(), (&mut out).into()])
        .unwrap();
    let digest = c.iter().chain(&out).fold(0_u64, |h, v| {
        (h ^ u64::from(v.to_bits())).wrapping_mul(0x0100_0000_01b3)
    });
    println!("\n=> {digest:x}");
    for schedule in [Schedule::Low, Schedule::High, Schedule::Random(5)] {
        let launch = launch("selftest_traps", 1000, 32).on(schedule);
        let error = launch.run([30_i32.into(), (&mut [0_u32][..]).into()]);
        println!("=> {}", error.unwrap_err());
    }
}

#[test]
fn results_do_not_depend_on_the_pool() {
    let results = |threads| {
        let output = child("pool::child_prints_results", threads);
        let text = String::from_utf8(output.stdout).expect("it prints ASCII");
        assert!(output.status.success(), "{text}");
        let lines = text.lines().filter(|line| line.starts_with("=> "));
        lines.map(str::to_string).collect::<Vec<_>>()
    };
    let one = results("1");
    assert_eq!(one.len(), 4);
    assert_eq!(one, results("2"));
    assert_eq!(one, results("9"));
}

#[test]
fn a_number_of_threads_that_is_none() {
    for wish in ["0", "two", "", "257"] {
        let output = child("pool::child_prints_results", wish);
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected = format!("AUTOASSIST_SIMT_THREADS={wish}: a number from 1 to 256");
        assert!(text.contains(&expected), "{text}");
    }
}

#[test]
#[ignore = "started by faults_outside_of_kernels_kill_as_ever"]
fn child_crashes() {
    let wild = launch("selftest_wild_pointer", 3, 64);
    wild.run([0x12_3450_u64.into()]).unwrap_err();
    println!("after the kernel");
    // SAFETY: nothing is ever mapped at the lowest page, so the store harms nothing; it ends the
    // process, which is what is tested.
    unsafe { std::ptr::without_provenance_mut::<i32>(64).write_volatile(1) }
    println!("never");
}

#[test]
fn faults_outside_of_kernels_kill_as_ever() {
    let output = child("pool::child_crashes", "2");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("after the kernel") && !text.contains("never"),
        "{text}"
    );
    const SIGSEGV: i32 = 11;
    assert_eq!(output.status.signal(), Some(SIGSEGV));
}

#[test]
fn launches_from_many_threads_take_turns() {
    std::thread::scope(|scope| {
        for t in 0..4_u32 {
            scope.spawn(move || {
                for round in 0..25_i32 {
                    let x = vec![(t + 1) as f32; 256];
                    let mut out = vec![0.0_f32; 4];
                    launch("selftest_block_sum", 2, 128)
                        .run([(&x).into(), (&mut out).into()])
                        .unwrap();
                    let sum = 128.0 * (t + 1) as f32;
                    assert_eq!(out, [sum, -2.0 * sum, sum, -2.0 * sum]);
                    let trap = launch("selftest_trap", 3, 64);
                    let error = trap.run([1_i32.into(), round.into()]).unwrap_err();
                    assert!(error.contains(&format!("thread ({round},0,0)")), "{error}");
                }
            });
        }
    });
}

#[test]
fn launches_are_counted() {
    let before = launches("selftest_nothing");
    for blocks in [1, 3] {
        launch("selftest_nothing", blocks, 96).run([]).unwrap();
    }
    launch("selftest_nothing", 0, 96).run([]).unwrap_err();
    assert_eq!(launches("selftest_nothing") - before, 2);
}
