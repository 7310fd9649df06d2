//! A run that is killed or interrupted and resumed ends as if nothing had happened.

use crate::images;
use crate::runs::{finish, fresh, resnet, resume, strike, strike_past, weights};
use crate::sentences;
use std::path::Path;
use std::process::Command;

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
fn bf16_resumes_bit_for_bit_and_in_no_other_precision() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    images::write_folder(&data, &["blue", "green"], 64);
    let run = |name: &str| {
        let out = temp.path().join(name);
        let mut command = fresh(&data, &out, "6");
        command.args(["--device", "cpu", "--precision", "bf16"]);
        (out, command)
    };
    let (whole, command) = run("whole");
    finish(command);
    let metrics = std::fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    let first = metrics.lines().next().unwrap();
    assert!(first.contains("\"device\":\"cpu (bf16, "), "{first}");
    assert!(first.contains("\"precision\":\"bf16\""), "{first}");

    let (out, command) = run("killed");
    assert_eq!(strike(command, 16, libc::SIGKILL), None, "killed");
    let refused = |mut command: Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let mut other = resume(&out);
    other.args(["--precision", "f32"]);
    assert!(refused(other).contains("--precision would change"));
    let path = out.join("config.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let edited = config.replace("precision = \"bf16\"", "precision = \"f32\"");
    std::fs::write(&path, edited).unwrap();
    let why = refused(resume(&out));
    assert!(why.contains("its activations were bf16"), "{why}");
    // Where settings name none, the run keeps its own.
    std::fs::write(&path, config.replace("precision = \"bf16\"\n", "")).unwrap();
    let mut command = resume(&out);
    command.env("RAYON_NUM_THREADS", "3");
    finish(command);
    assert!(weights(&out) == weights(&whole));

    // What it was trained in is not what it must be used in.
    for precision in ["bf16", "f32"] {
        let mut command = resnet();
        command.args(["--data", "folder", "--eval-only", "--json", "--batch", "16"]);
        command.args(["--device", "cpu", "--precision", precision]);
        command.arg("--data-dir").arg(&data).arg("--init").arg(&out);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
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
fn as_much_as_v_allows_is_skipped_the_same_before_and_after_a_kill() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    images::write_folder(&data, &["blue", "green"], 64);
    let run = |name: &str| {
        let out = temp.path().join(name);
        let mut command = fresh(&data, &out, "12");
        command.args(["--budget", "auto", "--json"]);
        (out, command)
    };
    let (whole, mut command) = run("whole");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\nV 0."), "{text}");
    let json: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let of = |key: &str| json[key].as_f64().unwrap();
    // Two colours are soon learnt: few images teach what is left, and most are skipped.
    assert!(
        of("v") < 0.9 && (0.05..0.9).contains(&of("ops_saved")),
        "{text}"
    );
    let sweeps = of("candidates_seen") / 128.0;
    assert!((12.0..12.5).contains(&sweeps), "{sweeps} sweeps");
    let config = std::fs::read_to_string(whole.join("config.toml")).unwrap();
    assert!(config.contains("budget = \"auto\""), "{config}");
    let metrics = std::fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    let last = metrics
        .lines()
        .rfind(|line| line.contains("\"train\""))
        .unwrap();
    assert!(
        last.contains("\"v\":0.") && last.contains("\"noise\":1."),
        "{last}"
    );
    let said = String::from_utf8(output.stderr).unwrap();
    let step = |line: &str| line.split_once(" step ")?.1.split_once(',')?.0.parse().ok();
    let steps: Vec<u64> = said.lines().filter_map(step).collect();
    assert!(steps.len() > 3, "{said}");
    for step in [steps[1], steps[steps.len() - 2]] {
        let (out, command) = run(&format!("killed-{step}"));
        assert_eq!(strike(command, step, libc::SIGKILL), None, "killed");
        finish(resume(&out));
        assert!(weights(&out) == weights(&whole), "killed at {step}");
    }
}

#[test]
fn sentences_resume_bit_for_bit_in_the_middle_of_a_pool() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    sentences::write_pairs(&data, 96);
    let narrow = ["--device", "cpu", "--precision", "bf16"];
    for (arch, assist, flags) in [
        ("transformer", "memory", &[][..]),
        ("transformer", "paper", &[]),
        ("transformer", "random", &narrow),
        ("lstm", "memory", &[]),
        ("convs2s", "memory", &[]),
    ] {
        // Pools of 32 sentences, about eight steps each: few checkpoints fall between two.
        let fresh = |name: &str| {
            let out = temp.path().join(format!("{arch}-{assist}-{name}"));
            let mut command = match arch {
                "transformer" => sentences::transformer(&data),
                _ => sentences::other(arch, &data),
            };
            command
                .args([
                    "--deterministic",
                    "--epochs",
                    "10",
                    "--checkpoint-every",
                    "3",
                ])
                .args(["--rescale", "0.5", "--assist", assist])
                .args(flags)
                .arg("--out")
                .arg(&out);
            (out, command)
        };
        let (whole, command) = fresh("whole");
        finish(command);
        for share in [10, 50] {
            let (out, command) = fresh(&format!("killed-{share}"));
            assert_eq!(strike_past(command, share, libc::SIGKILL), None, "killed");
            assert!(!out.join("model.safetensors").exists());
            let mut command = Command::new(env!("CARGO_BIN_EXE_transformer"));
            command.env("RAYON_NUM_THREADS", "3");
            command.args(["--quiet".as_ref(), "--resume".as_ref(), out.as_os_str()]);
            finish(command);
            assert!(
                weights(&out) == weights(&whole),
                "{arch}, {assist} killed at {share} %"
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

    // The metrics read as if the run had never stopped, times apart.
    let lines = |out: &Path| -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|l| serde_json::from_str(l).unwrap());
        lines.collect()
    };
    let (mut stopped, mut never) = (lines(&out), lines(&whole));
    let evals = stopped.iter().filter(|l| l["kind"] == "eval");
    let evals: Vec<u64> = evals.map(|l| l["step"].as_u64().unwrap()).collect();
    let expected = (8..312).step_by(8).chain([312]);
    assert_eq!(evals, expected.collect::<Vec<u64>>());
    for line in stopped.iter_mut().chain(&mut never) {
        let line = line.as_object_mut().unwrap();
        line.retain(|key, _| !["seconds", "instances_per_second", "started"].contains(&&key[..]));
    }
    assert_eq!(stopped[1..], never[1..]);
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

#[test]
fn a_run_goes_on_with_other_flags_where_that_can_be_right() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    images::write_folder(&data, &["blue", "green"], 64);
    let out = temp.path().join("run");
    assert_eq!(
        strike(fresh(&data, &out, "60"), 8, libc::SIGTERM),
        Some(130)
    );
    let with = |flags: &[&str]| {
        let mut command = resume(&out);
        command.args(flags);
        command
    };
    let refused = |flags: &[&str]| {
        let output = with(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&["--batch", "32"]).contains("--batch would change"));
    assert!(refused(&["--depth", "14"]).contains("--depth would change"));
    assert!(refused(&["--epochs", "3"]).contains("can only be made longer"));
    // Data that have moved are still the same data; other ones are not.
    let elsewhere = temp.path().join("elsewhere");
    std::fs::rename(&data, &elsewhere).unwrap();
    let moved = elsewhere.to_str().unwrap();
    let before = std::fs::read(out.join("config.toml")).unwrap();
    let flags = ["--data-dir", moved, "--lr", "0.01", "--epochs", "60.5"];
    assert!(refused(&["--data-dir", out.to_str().unwrap()]).contains("run"));
    assert!(std::fs::read(out.join("config.toml")).unwrap() == before);
    finish(with(&flags));
    let config = std::fs::read_to_string(out.join("config.toml")).unwrap();
    for line in [
        "lr = 0.01",
        "epochs = 60.5",
        &format!("data-dir = {moved:?}"),
    ] {
        assert!(config.lines().any(|l| l == line), "{line}: {config}");
    }
    // 60.5 sweeps over 128 images at 0.65, in batches of 16.
    let summary = std::fs::read_to_string(out.join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["steps"], 315);
    assert!(refused(&["--lr", "0.1"]).contains("--init"));
    finish(with(&["--threads", "1"]));
}
