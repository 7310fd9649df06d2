//! Programs with `--device cuda` and `auto` behind a stand-in for the driver (`tests/standin/`): they
//! train as on `simt`, leave nothing behind, and say what is wrong with a GPU or its driver.

use crate::images;
use crate::sentences;
use crate::standin;
use crate::standin::StandIn;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

fn folder() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    images::write_folder(&dir.path().join("images"), &["blue", "green"], 16);
    sentences::write_pairs(&dir.path().join("pairs"), 24);
    dir
}

/// A few steps of a small network.
fn resnet(dir: &Path, mut command: Command, device: &str, out: &str) -> Command {
    command.args([
        "--data", "folder", "--batch", "8", "--epochs", "1", "--device", device,
    ]);
    command.arg("--data-dir").arg(dir.join("images"));
    command
        .arg("--deterministic")
        .arg("--out")
        .arg(dir.join(out));
    command.env("RAYON_NUM_THREADS", "1");
    command
}

const RESNET: &str = env!("CARGO_BIN_EXE_resnet");

fn run(mut command: Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().expect("it starts");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

/// Whether there is something to test; says so where not.
pub fn there() -> bool {
    let absent = standin::absent();
    absent.iter().for_each(|why| println!("skipped: {why}"));
    absent.is_none()
}

#[test]
fn training_gives_the_bits_of_simt_and_leaves_nothing_behind() {
    if !there() {
        return;
    }
    let dir = folder();
    let weights = |out: &str| fs::read(dir.path().join(out).join("model.safetensors"));
    for gpu in ["4090", "h100"] {
        let standin = StandIn::new();
        let cuda = format!("cuda-{gpu}");
        let (code, text) = run(resnet(
            dir.path(),
            standin.command(RESNET, gpu),
            "cuda",
            &cuda,
        ));
        assert_eq!(code, Some(0), "{gpu}: {text}");
        println!("{}", standin.totals().unwrap_or_else(|log| panic!("{log}")));
        let mut simt = Command::new(RESNET);
        simt.env("AUTOASSIST_SIMT_GPU", gpu);
        let summary = fs::read(dir.path().join(&cuda).join("summary.json")).expect("a summary");
        let summary: serde_json::Value = serde_json::from_slice(&summary).expect("JSON");
        assert_eq!(summary["host_syncs"], 0, "{summary}");
        let out = format!("simt-{gpu}");
        let (code, text) = run(resnet(dir.path(), simt, "simt", &out));
        assert_eq!(code, Some(0), "{gpu}: {text}");
        assert_eq!(weights(&cuda).unwrap(), weights(&out).unwrap(), "{gpu}");
    }
}

#[test]
fn a_translator_trains_and_leaves_nothing_behind() {
    if !there() {
        return;
    }
    let dir = folder();
    for stepwise in ["0", "1"] {
        let standin = StandIn::new();
        let mut command = standin.command(env!("CARGO_BIN_EXE_transformer"), "a100");
        sentences::arguments(&mut command, &dir.path().join("pairs"));
        command.args(["--epochs", "1", "--device", "cuda", "--out"]);
        command.arg(dir.path().join(format!("run-{stepwise}")));
        command.env("AUTOASSIST_CUDA_STEPWISE", stepwise);
        let (code, text) = run(command);
        assert_eq!(code, Some(0), "{text}");
        println!("{}", standin.totals().unwrap_or_else(|log| panic!("{log}")));
    }
}

/// What is wrong, and what is said of it.
struct Trouble {
    name: &'static str,
    gpu: &'static str,
    /// Of the stand-in.
    set: (&'static str, &'static str),
    says: &'static str,
}

const fn trouble(
    name: &'static str,
    gpu: &'static str,
    set: (&'static str, &'static str),
    says: &'static str,
) -> Trouble {
    let (set, says) = (set, says);
    Trouble {
        name,
        gpu,
        set,
        says,
    }
}

/// Before anything was done.
#[rustfmt::skip]
const TROUBLES: [Trouble; 12] = [
    trouble("an old driver", "h100", ("STANDIN_DRIVER", "12.8"), "the driver supports CUDA 12.8"),
    trouble("an old GPU", "t4", ("STANDIN_DRIVER", "13.0"), "stand-in for t4 is sm_75, the kernels need sm_80 or newer"),
    trouble("a toolkit's stub", "h100", ("STANDIN_FAIL", "cuInit:34"), "CUDA_ERROR_STUB_LIBRARY"),
    trouble("no fabric manager", "h100", ("STANDIN_FAIL", "cuInit:802"), "nvidia-fabricmanager"),
    trouble("two versions", "h100", ("STANDIN_FAIL", "cuInit:803"), "of different versions"),
    trouble("a compat package", "4090", ("STANDIN_FAIL", "cuInit:804"), "cuda-compat"),
    trouble("anything", "h100", ("STANDIN_FAIL", "cuInit:999"), "CUDA_ERROR_UNKNOWN"),
    trouble("a full GPU", "h100", ("STANDIN_FAIL", "cuDevicePrimaryCtxRetain:2"), "stand-in for h100 takes no more programs (CUDA_ERROR_OUT_OF_MEMORY"),
    trouble("somebody else's GPU", "h100", ("STANDIN_FAIL", "cuDevicePrimaryCtxRetain:46"), "CUDA_ERROR_DEVICE_UNAVAILABLE"),
    trouble("no room for kernels", "h100", ("STANDIN_FAIL", "cuModuleLoadDataEx:2"), "no memory for kernels/"),
    trouble("kernels that do not load", "h100", ("STANDIN_FAIL", "cuModuleLoadDataEx:218"), "its log: ptxas stand-in; as it was asked to fail"),
    trouble("no stream", "h100", ("STANDIN_FAIL", "cuStreamCreate:2"), "no memory for a stream"),
];

#[test]
fn auto_takes_the_cpu_and_says_why_where_cuda_is_an_error() {
    if !there() {
        return;
    }
    let dir = folder();
    for (
        i,
        Trouble {
            name,
            gpu,
            set,
            says,
        },
    ) in TROUBLES.iter().enumerate()
    {
        let standin = StandIn::new();
        let on = |device: &str, out: &str| {
            let mut command = standin.command(RESNET, gpu);
            command.env(set.0, set.1);
            run(resnet(dir.path(), command, device, out))
        };
        let (code, text) = on("auto", &format!("run-{i}"));
        let mut said = text.lines().filter(|line| line.contains(says));
        let line = said.next().unwrap_or_else(|| panic!("{name}: {text}"));
        assert_eq!(code, Some(0), "{name}: {text}");
        assert!(
            line.contains("--device auto takes the CPU: "),
            "{name}: {line}"
        );
        assert_eq!(said.next(), None, "{name}");
        let (code, text) = on("cuda", "none");
        let last = text.lines().last().unwrap_or_default();
        println!("| {name} | {line} | {last} | {code:?} |");
        assert_eq!(code, Some(2), "{name}: {text}");
        assert!(
            last.starts_with("resnet: ") && last.contains(says),
            "{name}: {text}"
        );
    }
    assert!(!dir.path().join("none").exists());
}

#[test]
fn auto_is_silent_where_there_is_no_gpu() {
    if !there() {
        return;
    }
    let dir = folder();
    let standin = StandIn::new();
    let none = || {
        let mut command = standin.command(RESNET, "h100");
        command.env("STANDIN_DEVICES", "0");
        command
    };
    let (code, text) = run(resnet(dir.path(), none(), "auto", "run"));
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("--device auto"), "{text}");
    let (code, text) = run(resnet(dir.path(), none(), "cuda", "none"));
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("the NVIDIA driver sees no device"), "{text}");
}

#[test]
fn a_library_that_is_no_driver_is_no_panic() {
    if !there() {
        return;
    }
    let dir = folder();
    // Any library that this process has.
    let maps = fs::read_to_string("/proc/self/maps").expect("Linux");
    let mut words = maps.split_whitespace();
    let other = words.find(|word| word.contains("/libc.so")).expect("libc");
    std::os::unix::fs::symlink(other, dir.path().join("libcuda.so")).expect("a link");
    for (device, expected) in [("auto", 0), ("cuda", 2)] {
        let mut command = Command::new(RESNET);
        command.env("LD_LIBRARY_PATH", dir.path());
        let (code, text) = run(resnet(dir.path(), command, device, device));
        assert_eq!(code, Some(expected), "{text}");
        assert!(
            text.contains("is not that of an NVIDIA driver (it has no cuInit)"),
            "{text}"
        );
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn what_goes_wrong_in_training_is_named() {
    if !there() {
        return;
    }
    let dir = folder();
    /// What is set, the exit code, and what is said.
    type Case = (
        &'static str,
        &'static [(&'static str, &'static str)],
        i32,
        &'static [&'static str],
    );
    #[rustfmt::skip]
    let cases: [Case; 7] = [
        ("fault", &[("STANDIN_FAULT", "sgd:700")], 1,
            &["CUDA_ERROR_ILLEGAL_ADDRESS", "AUTOASSIST_CUDA_STEPWISE=1 names the kernel"]),
        ("fault-stepwise", &[("STANDIN_FAULT", "sgd:716"), ("AUTOASSIST_CUDA_STEPWISE", "1")], 1,
            &["CUDA_ERROR_MISALIGNED_ADDRESS", "in sgd ["]),
        ("hang", &[("STANDIN_HANG", "gather"), ("AUTOASSIST_STEP_LIMIT", "1")], 1,
            &["training step 0 on stand-in for h100", "begin_step, gather, ", "has not ended within 1 s"]),
        ("hang-stepwise", &[("STANDIN_HANG", "sgd"), ("AUTOASSIST_STEP_LIMIT", "1"),
            ("AUTOASSIST_CUDA_STEPWISE", "1")], 1, &["sgd [", "has not ended within 1 s"]),
        ("launch", &[("STANDIN_FAIL", "cuLaunchKernel:701")], 2,
            &["cuLaunchKernel failed: begin_step [", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"]),
        ("memory", &[("STANDIN_MEMORY", "1")], 2, &["out of device memory", "MiB are free"]),
        ("limit", &[("AUTOASSIST_STEP_LIMIT", "soon")], 2, &["AUTOASSIST_STEP_LIMIT=soon"]),
    ];
    for (name, set, expected, says) in cases {
        let standin = StandIn::new();
        let mut command = standin.command(RESNET, "h100");
        command.envs(set.iter().copied());
        let (code, text) = run(resnet(dir.path(), command, "cuda", name));
        println!(
            "| {name} | {} | {code:?} |",
            text.lines().last().unwrap_or_default()
        );
        assert_eq!(code, Some(expected), "{name}: {text}");
        assert!(!text.contains("panicked"), "{name}: {text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(
            says.iter().all(|part| last.contains(part)),
            "{name}: {text}"
        );
        let found = standin.log();
        assert!(!found.contains("finding: "), "{name}: {found}");
    }
}

#[test]
fn a_gpu_without_machine_code_is_told_that_kernels_are_compiled_now() {
    if !there() {
        return;
    }
    let dir = folder();
    let standin = StandIn::new();
    // Any later one: no build has code for it.
    let mut command = standin.command(RESNET, "future");
    command.env("STANDIN_DRIVER", "99.0");
    let (code, text) = run(resnet(dir.path(), command, "cuda", "run"));
    assert_eq!(code, Some(0), "{text}");
    let said = text
        .lines()
        .filter(|line| line.contains("compiling the kernels for sm_"));
    assert_eq!(said.count(), 1, "{text}");
}

#[test]
fn a_gpu_that_simt_does_not_know_is_named_with_those_it_does() {
    let dir = folder();
    let mut command = Command::new(RESNET);
    command.env("AUTOASSIST_SIMT_GPU", "riva128");
    let (code, text) = run(resnet(dir.path(), command, "simt", "run"));
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("AUTOASSIST_SIMT_GPU=riva128: choose a100, "),
        "{text}"
    );
}
