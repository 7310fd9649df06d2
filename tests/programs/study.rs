//! A study is the same whoever ran what of it, and however often it was killed.

use crate::images;
use crate::runs::{finish, resnet, signal, started, strike_at};
use std::path::{Path, PathBuf};
use std::process::Command;

const STUDY: &str = r#"
title = "Colours"
arms = ["full", "uniform", "random", "infobatch", "memory"]
seeds = [5, 6]
[settings]
data = "folder"
epochs = 4
batch = 16
budget = 0.6
checkpoint-every = 2
[tune]
valid-share = 0.25
seeds = [0]
[tune.full]
lr = [0.02, 0.05]
[tune.uniform]
lr = [0.05, 1000]
"#;
/// Four to choose settings by, and five arms of two seeds.
const RUNS: usize = 14;

struct Place {
    temp: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let temp = tempfile::tempdir().unwrap();
        images::write_folder(&temp.path().join("data"), &["blue", "green"], 48);
        std::fs::write(temp.path().join("study.toml"), STUDY).unwrap();
        Place { temp }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn study(&self, out: &Path) -> Command {
        let mut command = resnet();
        command
            .arg("study")
            .arg(self.temp.path().join("study.toml"))
            .arg("--data-dir")
            .arg(self.temp.path().join("data"))
            .arg("--out")
            .arg(out);
        command
    }
}

/// All that a study leaves for people to keep.
fn kept(out: &Path) -> [String; 4] {
    let names = [
        "results.jsonl",
        "study.md",
        "study-differences.svg",
        "study-operations.svg",
    ];
    names.map(|name| std::fs::read_to_string(out.join(name)).unwrap())
}

#[test]
fn killed_three_times_or_shared_by_two_it_gives_the_same_files() {
    let place = Place::new();
    let whole = place.out("whole");
    let mut command = place.study(&whole);
    let output = command.args(["--json", "--threads", "1"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let [results, page, ..] = kept(&whole);
    assert_eq!(results.lines().count(), RUNS);
    // A learning rate of 1000 is an answer, not the end.
    assert!(results.contains("\"failed\":"), "{text}");
    assert!(
        page.starts_with("# Colours\n") && page.contains("| memory | 2 |"),
        "{page}"
    );
    assert!(
        page.contains("Tuning of uniform") && page.contains("| 0.05 | "),
        "{page}"
    );
    let stdout = String::from_utf8(output.stdout).unwrap();
    let json: serde_json::Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    let claims = json[0]["claims"].as_array().unwrap();
    assert_eq!(claims.len(), 4);
    assert!(
        claims
            .iter()
            .all(|claim| claim["mean"].is_f64() && claim["seeds"] == 2)
    );
    assert!(page.contains(json[0]["verdict"].as_str().unwrap()));
    // What was tuned has not seen the test images, and what was tested has.
    for line in results.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let tuned = !line["settings"]["valid-share"].is_null();
        if line["failed"].is_null() {
            assert_eq!(line["valid_accuracy"].is_f64(), tuned);
            assert_eq!(line["test_accuracy"].is_f64(), !tuned);
            assert!(
                line["answers"]["right"].is_string() && line["v"].is_f64(),
                "{line}"
            );
        }
    }

    // As it begins a run, in the middle of one, and when it has trained but not entered it.
    let killed = place.out("killed");
    for report in ["2/4: ", "7/14: ", " step "] {
        assert_eq!(strike_at(place.study(&killed), report, libc::SIGKILL), None);
    }
    finish(place.study(&killed));
    assert!(kept(&killed) == kept(&whole), "killed");

    // Whoever is asked politely says how to go on.
    let shared = place.out("shared");
    let (mut asked, lines) = started(place.study(&shared), "1/4: ");
    signal(&asked, libc::SIGTERM);
    let last = lines.last().unwrap();
    assert_eq!(asked.wait().unwrap().code(), Some(130), "{last}");
    assert!(last.contains("the same command goes on"), "{last}");
    // Two at once, of which one is killed: nothing is done twice, nothing left out.
    let (mut first, _lines) = started(place.study(&shared), "2/4: ");
    let second = place.study(&shared).spawn().unwrap();
    signal(&first, libc::SIGKILL);
    first.wait().unwrap();
    let third = place.study(&shared).spawn().unwrap();
    for child in [second, third] {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    assert!(kept(&shared) == kept(&whole), "shared");
    let times = std::fs::read_to_string(shared.join("times.jsonl")).unwrap();
    assert_eq!(times.lines().count(), RUNS, "each once");

    // A line that was cut short is made again.
    let torn = kept(&whole)[0].trim_end().to_string();
    std::fs::write(whole.join("results.jsonl"), &torn[..torn.len() - 9]).unwrap();
    finish(place.study(&whole));
    assert!(kept(&killed) == kept(&whole), "torn");
}

#[test]
fn what_cannot_be_studied_is_refused_in_one_line() {
    let place = Place::new();
    let file = place.out("study.toml");
    let refused = |text: &str, flags: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let mut command = place.study(&place.out("out"));
        let output = command.args(flags).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!place.out("out").join("results.jsonl").exists());
        text
    };
    let line = refused(&STUDY.replace("epochs = 4", "epochs = \"4"), &[]);
    assert!(line.contains("study.toml: line 7"), "{line}");
    let line = refused(&STUDY.replace("epochs = 4", "epochs = -4"), &[]);
    assert!(line.contains("--epochs -4"), "{line}");
    assert!(refused(STUDY, &["--seeds", "0"]).contains("--seeds"));
    assert!(refused(STUDY, &["--threads", "0"]).contains("--threads 0"));
    assert!(refused(STUDY, &["--report", "/nowhere/at/all.md"]).contains("/nowhere/at"));
    let mut missing = resnet();
    let output = missing.args(["study", "/no/such.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
