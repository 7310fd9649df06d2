//! A run that is killed or interrupted and resumed ends as if nothing had happened.

#[path = "common/images.rs"]
mod images;
#[path = "common/sentences.rs"]
mod sentences;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn resnet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_resnet"));
    command
        .env("RAYON_NUM_THREADS", "2")
        .env_remove("AUTOASSIST_ISA");
    command
}

/// 128 images in batches of 16 at a budget of 0.65, a line on standard error after each 8 steps; 12
/// sweeps are 63 steps.
fn fresh(data: &Path, out: &Path, epochs: &str) -> Command {
    let mut command = resnet();
    command
        .args(["--data", "folder", "--batch", "16", "--deterministic"])
        .args([
            "--epochs",
            epochs,
            "--checkpoint-every",
            "3",
            "--rescale",
            "0.5",
            "--data-dir",
        ])
        .args([data.as_os_str(), "--out".as_ref(), out.as_os_str()]);
    command
}

/// Everything that a run leaves behind but times.
fn weights(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("model.safetensors")).unwrap()
}

fn finish(mut command: Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Starts a run and sends it `signal` as soon as it reports the step; returns its exit code.
fn strike(command: Command, step: u64, signal: i32) -> Option<i32> {
    strike_at(command, &format!(" step {step}, "), signal)
}

/// The same, as soon as it says something.
fn strike_at(mut command: Command, report: &str, signal: i32) -> Option<i32> {
    let mut child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(
        lines.any(|line| line.contains(report)),
        "it never said {report:?}"
    );
    // SAFETY: `kill` only sends a signal; the child has not been waited for, so its number is its
    // own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
    lines.for_each(drop);
    child.wait().unwrap().code()
}

fn resume(out: &Path) -> Command {
    let mut command = resnet();
    command.args(["--quiet".as_ref(), "--resume".as_ref(), out.as_os_str()]);
    command
}

#[test]
fn killed_and_resumed_equals_uninterrupted_bit_for_bit() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    images::write_folder(&data, &["blue", "green"], 64);
    let whole = temp.path().join("whole");
    finish(fresh(&data, &whole, "12"));
    for step in [16, 32, 48] {
        let out = temp.path().join(format!("killed-{step}"));
        assert_eq!(
            strike(fresh(&data, &out, "12"), step, libc::SIGKILL),
            None,
            "killed"
        );
        finish(resume(&out));
        assert!(weights(&out) == weights(&whole), "killed at {step}");
        assert!(out.join("report.html").exists());
    }
    // The number of threads does not matter either, nor where the run is resumed.
    let out = temp.path().join("threads");
    strike(fresh(&data, &out, "12"), 24, libc::SIGKILL);
    let mut command = resume(&out);
    command.env("RAYON_NUM_THREADS", "3");
    finish(command);
    assert!(weights(&out) == weights(&whole), "other number of threads");
}

#[test]
fn the_rivals_resume_bit_for_bit_too() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    images::write_folder(&data, &["blue", "green"], 64);
    for assist in ["paper", "infobatch"] {
        let run = |name: &str| {
            let out = temp.path().join(format!("{assist}-{name}"));
            let mut command = fresh(&data, &out, "12");
            command.args(["--assist", assist]);
            (out, command)
        };
        let (whole, command) = run("whole");
        finish(command);
        let (out, command) = run("killed");
        assert_eq!(strike(command, 32, libc::SIGKILL), None, "killed");
        finish(resume(&out));
        assert!(weights(&out) == weights(&whole), "{assist}");
    }
}

#[test]
fn sentences_resume_bit_for_bit_in_the_middle_of_a_pool() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    sentences::write_pairs(&data, 96);
    for assist in ["memory", "paper"] {
        // Pools of 32 sentences, about eight steps each: few checkpoints fall between two.
        let fresh = |name: &str| {
            let out = temp.path().join(format!("{assist}-{name}"));
            let mut command = sentences::transformer(&data);
            command
                .args([
                    "--deterministic",
                    "--epochs",
                    "10",
                    "--checkpoint-every",
                    "3",
                ])
                .args(["--rescale", "0.5", "--assist", assist, "--out"])
                .arg(&out);
            (out, command)
        };
        let (whole, command) = fresh("whole");
        finish(command);
        for share in [10, 40] {
            let (out, command) = fresh(&format!("killed-{share}"));
            let report = format!(", {share} % of full training's operations");
            assert_eq!(strike_at(command, &report, libc::SIGKILL), None, "killed");
            assert!(!out.join("model.safetensors").exists());
            let mut command = Command::new(env!("CARGO_BIN_EXE_transformer"));
            command.env("RAYON_NUM_THREADS", "3");
            command.args(["--quiet".as_ref(), "--resume".as_ref(), out.as_os_str()]);
            finish(command);
            assert!(
                weights(&out) == weights(&whole),
                "{assist} killed at {share} %"
            );
            let translations = |dir: &Path| std::fs::read(dir.join("translations.txt")).unwrap();
            assert!(translations(&out) == translations(&whole));
        }
    }
}

#[test]
fn ctrl_c_checkpoints_and_says_how_to_go_on() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    images::write_folder(&data, &["blue", "green"], 64);
    // Long enough that it cannot be over before the signal arrives.
    let long = |out: &Path| fresh(&data, out, "60");
    let (whole, out) = (temp.path().join("whole"), temp.path().join("stopped"));
    finish(long(&whole));
    assert_eq!(strike(long(&out), 8, libc::SIGINT), Some(130));
    assert!(!out.join("model.safetensors").exists());
    finish(resume(&out));
    assert!(weights(&out) == weights(&whole));

    // The metrics read as if the run had never stopped: each step once, in order.
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines = text
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    let evals: Vec<_> = lines
        .filter(|l| l["kind"] == "eval")
        .map(|l| l["step"].clone())
        .collect();
    let expected = (8..312).step_by(8).chain([312]);
    assert_eq!(evals, expected.collect::<Vec<u64>>());
}

#[test]
fn other_images_and_other_networks_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    images::write_folder(&data, &["blue", "green"], 64);
    let out = temp.path().join("run");
    strike(fresh(&data, &out, "12"), 8, libc::SIGKILL);
    let refused = || {
        let output = resume(&out).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(
            text.contains("checkpoint.safetensors does not fit"),
            "{text}"
        );
        text
    };
    let path = out.join("config.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("depth = 8", "depth = 14")).unwrap();
    assert!(refused().contains("another network"));
    std::fs::write(&path, config).unwrap();
    std::fs::remove_file(data.join("train/blue/003.png")).unwrap();
    assert!(refused().contains("the images are not those"));
}
