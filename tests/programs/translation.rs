//! The program `transformer` as a user meets it: what it prints, its exit codes, and what bad input
//! gets.

use crate::contract;
use crate::sentences::{other, pair, transformer, write_pairs};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn data() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    write_pairs(&dir, 96);
    (temp, dir)
}

/// Standard output's last line as JSON, of a run that succeeds.
fn json(mut command: Command) -> Value {
    let output = command.args(["--json", "--quiet"]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// The one line that explains why it was refused.
fn refused(output: Output) -> String {
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    let lines: Vec<&str> = text
        .lines()
        .filter(|l| l.starts_with("transformer: "))
        .collect();
    assert_eq!(lines.len(), 1, "{text}");
    lines[0].to_string()
}

fn translate(model: &Path, flags: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_transformer"))
        .args(["translate", "--model"])
        .arg(model)
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have refused before it reads.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[test]
fn a_comparison_says_everything_the_contract_names() {
    let (temp, data) = data();
    let out = temp.path().join("run");
    let mut command = transformer(&data);
    let arms = "full,uniform,random,paper,memory,infobatch";
    command
        .args(["--epochs", "3", "--compare", arms, "--out"])
        .arg(&out);
    let json = json(command);
    contract::assert_complete(&json, &["bleu", "valid_loss"]);
    assert!(json.get("test_accuracy").is_none());
    let arms = json["arms"].as_array().unwrap();
    assert_eq!(arms.len(), 6);
    let full_ops = arms[0]["full_ops"].as_u64().unwrap();
    for arm in arms {
        assert_eq!(arm["accuracy_vs_full"].is_null(), arm["arm"] == "full");
        assert_eq!(
            arm["accuracy_vs_uniform"].is_null(),
            arm["arm"] == "uniform"
        );
        assert_eq!(
            arm["full_ops"], full_ops,
            "padding of the data, not of a run"
        );
        // Training ends with the step that spends the budget; a step is some 2 % of it here.
        let spent = arm["boss_ops"].as_f64().unwrap() / full_ops as f64;
        let budget = if arm["arm"] == "full" { 1.0 } else { 0.65 };
        assert!((budget..budget + 0.04).contains(&spent), "{arm}");
        let folder = Path::new(arm["run_dir"].as_str().unwrap());
        for file in [
            "config.toml",
            "metrics.jsonl",
            "model.safetensors",
            "report.html",
            "tokenizer.json",
            "translations.txt",
        ] {
            assert!(folder.join(file).is_file(), "{file}");
        }
        let translations = std::fs::read_to_string(folder.join("translations.txt")).unwrap();
        assert_eq!(translations.lines().count(), 20);
    }
    let report = std::fs::read_to_string(out.join("report.html")).unwrap();
    for says in [
        "Validation loss",
        "Translations",
        "Hardest training sentences",
        "data-name=\"The network’s\"",
        "data-name=\"Last seen, of training\"",
        "BLEU",
    ] {
        assert!(report.contains(says), "{says}");
    }
}

#[test]
fn what_it_has_learnt_it_translates_and_evaluates_the_same() {
    let (temp, data) = data();
    let (out, weights) = (temp.path().join("run"), temp.path().join("w.safetensors"));
    let mut command = transformer(&data);
    command
        .args([
            "--epochs",
            "30",
            "--lr",
            "0.01",
            "--dropout",
            "0",
            "--label-smoothing",
            "0",
        ])
        .args(["--assist", "off", "--budget", "1"])
        .args([
            "--export".as_ref(),
            weights.as_os_str(),
            "--out".as_ref(),
            out.as_os_str(),
        ]);
    let trained = json(command);
    assert!(trained["bleu"].as_f64().unwrap() > 60.0, "{trained}");
    assert!(weights.is_file());

    // A file's tokenizer is the one beside it.
    let mut command = transformer(&data);
    command
        .args(["--eval-only", "--init"])
        .arg(out.join("model.safetensors"));
    let evaluated = json(command);
    for key in ["bleu", "valid_loss"] {
        assert_eq!(trained[key], evaluated[key], "{key}");
    }
    assert!(evaluated["train_loss"].is_null());

    let lines: Vec<[String; 2]> = [100, 103, 106].map(pair).into();
    let input: String = lines.iter().map(|l| l[0].clone() + "\n\n").collect();
    let output = translate(&out, &[], input.as_bytes());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let translated: Vec<&str> = text.lines().collect();
    assert_eq!(translated.len(), 6, "{text}");
    let saved = std::fs::read_to_string(out.join("translations.txt")).unwrap();
    let saved: Vec<&str> = saved.lines().collect();
    // Padding and neighbours do not matter; blank lines stay.
    assert_eq!(translated, [saved[0], "", saved[3], "", saved[6], ""]);
    assert!(translate(&out, &["--beam", "1"], b"").stdout.is_empty());

    // No line is an end: of one that is too long the beginning is translated, of one that is not
    // UTF-8 the rest; a mark and the line ends of Windows are nothing.
    let translated = |flags: &[&str], input: &[u8]| {
        let output = translate(&out, flags, input);
        let [text, notes] = [output.stdout, output.stderr].map(|b| String::from_utf8(b).unwrap());
        assert_eq!(output.status.code(), Some(0), "{notes}");
        let lines: Vec<String> = text.lines().map(String::from).collect();
        (lines, notes)
    };
    let long = format!("{}\n{}\n{}", lines[0][0], "eins ".repeat(1100), lines[1][0]);
    let (all, notes) = translated(&[], long.as_bytes());
    assert_eq!(
        (all.len(), &all[0][..], &all[2][..]),
        (3, saved[0], saved[3])
    );
    for says in ["line 2: 1101 tokens", "first 128", "--max-length"] {
        assert!(notes.contains(says), "{notes}");
    }
    assert_eq!(notes.lines().count(), 1);
    let (whole, notes) = translated(&["--max-length", "1024", "--beam", "1"], long.as_bytes());
    assert!(
        notes.contains("first 1024") && !notes.contains("--max-length"),
        "{notes}"
    );
    assert_eq!((&whole[0], &whole[2]), (&all[0], &all[2]));
    let (all, notes) = translated(&[], b"eins\n\xff\xfe\neins\n");
    assert!(all.len() == 3 && all[0] == all[2], "{all:?}");
    assert!(notes.contains("line 2: not UTF-8"), "{notes}");
    let marked = format!("\u{feff}{}\r\n\r\n", lines[0][0]);
    let (all, notes) = translated(&[], marked.as_bytes());
    assert_eq!(
        (all, notes),
        (vec![saved[0].to_string(), String::new()], String::new())
    );
    assert!(refused(translate(&out, &["--max-length", "2000"], b"")).contains("1024"));

    // Who sends a line gets its translation before the next; who leaves is no failure.
    let mut child = Command::new(env!("CARGO_BIN_EXE_transformer"))
        .args(["translate", "--model"])
        .arg(&out)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ask = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap());
    for (line, expected) in [(&lines[0][0], saved[0]), (&lines[2][0], saved[6])] {
        writeln!(ask, "{line}").unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim_end(), expected);
    }
    drop(answers);
    writeln!(ask, "{}", lines[0][0]).unwrap();
    drop(ask);
    let ended = child.wait_with_output().unwrap();
    let notes = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && notes.is_empty(), "{notes}");

    // A model that is damaged, or none.
    // Who has no room left is told so.
    #[cfg(target_os = "linux")]
    for (place, code) in [("/dev/full", 1), ("/dev/null", 0)] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_transformer"))
            .args(["translate", "--model"])
            .arg(&out)
            .stdin(Stdio::piped())
            .stdout(std::fs::OpenOptions::new().write(true).open(place).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"eins\n").unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert_eq!(
            text.contains("standard output: No space left"),
            code == 1,
            "{text}"
        );
    }
    let line = refused(translate(temp.path(), &[], b"eins\n"));
    assert!(line.contains("no trained model"), "{line}");
    assert!(refused(translate(&out, &["--beam", "0"], b"")).contains("--beam"));
    std::fs::write(out.join("tokenizer.json"), "{}").unwrap();
    let line = refused(translate(&out, &[], b"eins\n"));
    assert!(
        line.contains("tokenizer.json") && line.contains("not a tokenizer"),
        "{line}"
    );
}

#[test]
fn an_lstm_learns_translates_and_is_told_from_a_transformer() {
    learns_translates_and_is_told_from_a_transformer("lstm");
}

#[test]
fn a_convs2s_learns_translates_and_is_told_from_a_transformer() {
    learns_translates_and_is_told_from_a_transformer("convs2s");
}

fn learns_translates_and_is_told_from_a_transformer(arch: &str) {
    let (temp, data) = data();
    let out = temp.path().join("run");
    let mut command = other(arch, &data);
    command
        .args(["--epochs", "120", "--lr", "0.01", "--dropout", "0"])
        .args(["--label-smoothing", "0", "--assist", "off", "--budget", "1"])
        .arg("--out")
        .arg(&out);
    let trained = json(command);
    assert!(trained["bleu"].as_f64().unwrap() > 60.0, "{trained}");
    let model = out.join("model.safetensors");
    let mut command = other(arch, &data);
    command.args(["--eval-only", "--init"]).arg(&model);
    let evaluated = json(command);
    for key in ["bleu", "valid_loss"] {
        assert_eq!(trained[key], evaluated[key], "{key}");
    }
    let input = pair(100)[0].clone() + "\n";
    let narrow = ["--device", "cpu", "--precision", "bf16"];
    let output = translate(&out, &narrow, input.as_bytes());
    assert!(output.status.success(), "{output:?}");
    let output = translate(&out, &["--device", "cpu"], input.as_bytes());
    let saved = std::fs::read_to_string(out.join("translations.txt")).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().next(), saved.lines().next());

    // Its weights are of no Transformer, it has no heads, and no kernels.
    let mut command = transformer(&data);
    command.args(["--eval-only", "--init"]).arg(&model);
    let why = refused(command.output().unwrap());
    assert!(
        why.contains(&format!("arch {arch}, not transformer")),
        "{why}"
    );
    let mut heads = other(arch, &data);
    heads.args(["--heads", "2"]);
    assert!(refused(heads.output().unwrap()).contains("--heads"));
    let on_simt = translate(&out, &["--device", "simt"], b"eins\n");
    let why = refused(on_simt);
    assert!(why.contains("cpu only") || why.contains("NVCC"), "{why}");
}

#[test]
fn a_small_network_overfits_one_batch() {
    let (temp, data) = data();
    let mut command = transformer(&data);
    command
        .args(["--overfit-one-batch", "--lr", "0.01", "--out"])
        .arg(temp.path().join("run"));
    assert!(json(command)["train_loss"].as_f64().unwrap() < 0.05);
}

#[test]
fn bad_text_is_named_with_its_remedy() {
    let run = |spoil: &dyn Fn(&Path), flags: &[&str]| {
        let (temp, data) = data();
        spoil(&data);
        let mut command = transformer(&data);
        command
            .args(flags)
            .args(["--epochs", "1", "--out"])
            .arg(temp.path().join("run"));
        command.output().unwrap()
    };
    let write = |name: &'static str, text: &'static [u8]| {
        move |dir: &Path| std::fs::write(dir.join(name), text).unwrap()
    };
    let says = |spoil: &dyn Fn(&Path), flags: &[&str], parts: &[&str]| {
        let line = refused(run(spoil, flags));
        for part in parts {
            assert!(line.contains(part), "{part}: {line}");
        }
    };
    let nothing = |_: &Path| ();
    says(
        &write("train.en", b"one\ntwo\n"),
        &[],
        &["96 lines", "2: line n", "train.en"],
    );
    says(
        &write("valid.de", b"eins\n\xff\n"),
        &[],
        &["valid.de", "line 2", "UTF-8"],
    );
    says(
        &|dir| std::fs::remove_file(dir.join("test.en")).unwrap(),
        &[],
        &["test.en", "cannot read"],
    );
    says(
        &write("train.de", &[b'\n'; 96]),
        &[],
        &["no pair of sentences"],
    );
    let long = |name: &'static str, lines: usize| {
        move |dir: &Path| {
            let text = ("eins ".repeat(200) + "\n").repeat(lines);
            std::fs::write(dir.join(name), text).unwrap();
        }
    };
    says(
        &long("train.de", 96),
        &[],
        &["every one of 96 pairs", "128 tokens"],
    );
    says(&nothing, &["--vocab", "10"], &["--vocab", "characters"]);
    says(
        &nothing,
        &["--max-tokens", "16", "--vocab", "24"],
        &["--max-tokens"],
    );
    says(
        &nothing,
        &["--batch", "97"],
        &["--batch", "96 training sentences"],
    );
    says(&nothing, &["--d-model", "15"], &["--d-model 15"]);
    let usage = run(&nothing, &["--arch", "convs2s"]);
    let text = String::from_utf8_lossy(&usage.stderr).into_owned();
    assert!(
        usage.status.code() == Some(2) && text.contains("transformer"),
        "{text}"
    );
}

#[test]
fn what_is_empty_or_too_long_is_counted_and_no_line_is_lost() {
    let (temp, data) = data();
    let change = |name: &str, line: usize, text: &str| {
        let path = data.join(name);
        let old = std::fs::read_to_string(&path).unwrap();
        let lines = old.lines().enumerate();
        let lines = lines.map(|(i, l)| if i == line { text } else { l }.to_string() + "\n");
        std::fs::write(path, lines.collect::<String>()).unwrap();
    };
    let long = "eins ".repeat(40);
    change("train.de", 0, "");
    change("train.en", 5, " \t");
    change("train.en", 7, &long);
    change("valid.de", 3, &long);
    change("valid.en", 4, "");
    change("test.de", 2, "");
    change("test.en", 3, "");
    change("test.de", 19, " ");
    change("test.de", 6, &long);
    // Its reference may be as long as it likes.
    change("test.en", 7, &long);
    let out = temp.path().join("run");
    let mut command = transformer(&data);
    command.args(["--epochs", "1", "--max-length", "32", "--out"]);
    let output = command.arg(&out).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    for says in [
        "train.de: 93 pairs to train on (3 left out: 2 with an empty side, 1 of more than 32 tokens)",
        "19 pairs to validate on (1 with an empty side left out, 1 cut to 32 tokens)",
        "20 pairs to test on (3 with an empty side, 1 cut to 32 tokens)",
        "3 pairs are longer than --max-length 32; up to 1024",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    let translations = std::fs::read_to_string(out.join("translations.txt")).unwrap();
    let lines: Vec<&str> = translations.split('\n').collect();
    assert_eq!((lines.len(), lines[20]), (21, ""), "{translations}");
    let empty: Vec<usize> = (0..20).filter(|i| lines[*i].is_empty()).collect();
    assert!(empty.contains(&2) && empty.contains(&19), "{translations}");
    // The score is that of the two files, line by line.
    let references = std::fs::read_to_string(data.join("test.en")).unwrap();
    let references: Vec<&str> = references.lines().collect();
    let expected = autoassist::data::text::bleu::bleu(&lines[..20], &references).score;
    let summary = std::fs::read_to_string(out.join("summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert!((summary["bleu"].as_f64().unwrap() - expected).abs() < 1e-9);

    // There is memory for long sentences where there are any, and they are trained on.
    change("train.de", 9, &"eins ".repeat(1000));
    let mut command = transformer(&data);
    command.args([
        "--epochs",
        "1",
        "--max-length",
        "1024",
        "--batch",
        "4",
        "--out",
    ]);
    let output = command.arg(temp.path().join("long")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("94 pairs to train on") && text.contains("0 cut"),
        "{text}"
    );
    let mut command = transformer(&data);
    command.args(["--max-length", "4"]);
    assert!(refused(command.output().unwrap()).contains("--max-length 4"));
}

#[test]
fn weights_of_another_vocabulary_are_refused() {
    let (temp, data) = data();
    let run = |name: &str, vocab: &str| {
        let out = temp.path().join(name);
        let mut command = transformer(&data);
        command
            .args(["--vocab", vocab, "--epochs", "1", "--out"])
            .arg(&out);
        json(command);
        out
    };
    let (a, b) = (run("a", "60"), run("b", "40"));
    std::fs::copy(b.join("tokenizer.json"), a.join("tokenizer.json")).unwrap();
    let line = refused(translate(&a, &[], b"eins\n"));
    assert!(line.contains("tokens, but the network"), "{line}");
    let mut command = transformer(&data);
    command
        .args(["--eval-only", "--init"])
        .arg(a.join("model.safetensors"));
    let line = refused(command.output().unwrap());
    assert!(line.contains("tokens, but the network"), "{line}");
}
