//! Programs of one's own: what CUDA's headers have for kernels, in the small programs of `tests/cuda/`.
//! Each prints what is wrong, and nothing else but its last line.

use assert_cmd::Command;
use std::path::Path;
use std::process::Output;

/// `kernels run|check tests/cuda/NAME.cu`, which compiles into a folder that all of them share.
fn kernels(action: &str, name: &str) -> Output {
    let mut command = Command::cargo_bin("kernels").expect("the program is built");
    let source = Path::new("tests/cuda").join(name).with_extension("cu");
    command.arg(action).arg(source);
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command.output().expect("it runs")
}

/// Of a program that is right: runs it, and checks it, too.
fn is_right(name: &str) {
    let output = kernels("run", name);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "right\n");
    let output = kernels("check", name);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("right\n"), "{text}");
    assert!(text.contains(": 0 findings"), "{text}");
}

#[test]
fn groups_of_threads_know_their_ranks_and_work_together() {
    is_right("groups");
}

#[test]
fn numbers_of_sixteen_bits_are_rounded_once() {
    is_right("narrow");
}

#[test]
fn intrinsics_compute_what_their_names_say() {
    is_right("intrinsics");
}

#[test]
fn atomics_and_shuffles_of_all_types() {
    is_right("between_threads");
}

#[test]
fn fragments_are_multiplied() {
    is_right("fragments");
}

#[test]
fn copies_come_when_they_are_waited_for() {
    is_right("copies");
}

#[test]
fn random_numbers_are_those_of_their_generators() {
    is_right("random");
}

#[test]
fn blas_is_computed_on_the_host() {
    is_right("blas");
}

/// `check` finds what is missing, at its line.
#[test]
fn groups_that_do_not_meet_race() {
    let output = kernels("check", "unmet");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("turned: race"), "{text}");
    assert!(text.contains("turned: uninitialised"), "{text}");
    assert!(text.contains("tests/cuda/unmet.cu:13"), "{text}");
    // Of the kernel whose tiles wait there is none.
    assert!(text.contains(": 2 findings"), "{text}");
}

#[test]
fn an_assertion_in_a_kernel_ends_the_launch_alone() {
    let output = kernels("run", "assertion");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    let wanted = "kernel positive (tests/cuda/assertion.cu), block (1,0,0), thread (5,0,0): \
                  tests/cuda/assertion.cu:8: Assertion `p[i] > 0 && \"a message, with \
                  a comma\"` failed.";
    assert!(said.contains(wanted), "{said}");
    // The host's code goes on.
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, "the launch failed\n");
}
