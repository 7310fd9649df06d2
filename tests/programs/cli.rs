//! The program as a user meets it: what it prints, its exit codes, and what bad input gets.

use crate::contract;
use crate::images::write_folder;
use assert_cmd::Command;
use autoassist::backend::cpu::simd::Isa;
use std::path::Path;

fn resnet() -> Command {
    let mut command = Command::cargo_bin("resnet").expect("the program is built");
    // Small enough for any machine, and the same everywhere.
    command
        .env("RAYON_NUM_THREADS", "2")
        .env_remove("AUTOASSIST_ISA");
    command
}

/// Standard output's last line as JSON.
fn json(output: &std::process::Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text
        .lines()
        .last()
        .unwrap_or_else(|| panic!("no output: {output:?}"));
    serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {last}"))
}

/// Runs with bad arguments and returns the one line that explains.
fn refused(args: &[&str]) -> String {
    let output = resnet().args(args).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

fn one_line(args: &[&str]) -> String {
    let text = refused(args);
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("resnet: ")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    lines[0].to_string()
}

/// Number of TensorBoard's files in a run's folder.
fn event_files(folder: &Path) -> usize {
    let files = std::fs::read_dir(folder).unwrap();
    let names = files.map(|f| f.unwrap().file_name().into_string().unwrap());
    names
        .filter(|n| n.starts_with("events.out.tfevents."))
        .count()
}

const TINY: [&str; 8] = [
    "--data", "folder", "--epochs", "3", "--batch", "16", "--lr", "0.05",
];

#[test]
fn a_comparison_on_a_folder_of_images_says_everything_the_contract_names() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    write_folder(&data, &["blue", "green", "red"], 40);
    let out = temp.path().join("run");
    let output = resnet()
        .args(TINY)
        .args(["--compare", "all", "--seeds", "3,4", "--json", "--quiet"])
        .args([
            "--data-dir".as_ref(),
            data.as_os_str(),
            "--out".as_ref(),
            out.as_os_str(),
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.stderr.is_empty(), "quiet is quiet");
    let json = json(&output);
    contract::assert_complete(&json, &["test_accuracy"]);
    let arms = json["arms"].as_array().unwrap();
    assert_eq!(arms.len(), 12);
    for arm in arms {
        let full = arm["arm"] == "full";
        assert_eq!(arm["accuracy_vs_full"].is_null(), full);
        assert_eq!(
            arm["accuracy_vs_uniform"].is_null(),
            arm["arm"] == "uniform"
        );
        // 120 images, 3 sweeps, batches of 16: 23 steps at the whole budget, 15 at 0.65.
        assert_eq!(arm["steps"], if full { 23 } else { 15 }, "{arm}");
        let expected = arm["boss_ops"].as_f64().unwrap() + arm["assist_ops"].as_f64().unwrap();
        let saved = 1.0 - expected / arm["full_ops"].as_f64().unwrap();
        assert!((arm["ops_saved"].as_f64().unwrap() - saved).abs() < 1e-12);
        let scores = arm["arm"] == "memory" || arm["arm"] == "paper";
        assert!(arm.as_object().unwrap().contains_key("assist_auc"));
        assert_eq!(arm["assist_auc"].is_f64(), scores, "{arm}");
        assert_eq!(arm["assist_calibration"].is_array(), scores, "{arm}");
        let folder = Path::new(arm["run_dir"].as_str().unwrap());
        for file in [
            "config.toml",
            "metrics.jsonl",
            "model.safetensors",
            "report.html",
        ] {
            assert!(folder.join(file).is_file(), "{file}");
        }
        assert_eq!(event_files(folder), 1);
    }
    assert_eq!(json["host_syncs"], 0);
    // The file has what the line has.
    let file = std::fs::read_to_string(out.join("summary.json")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    assert_eq!(file, json);
    let verdict = json["verdict"].as_str().unwrap();
    assert!(verdict.contains("the Assistant saved"), "{verdict}");
    assert!(verdict.to_lowercase().contains("worth it"), "{verdict}");
    let differences = json["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 10, "five arms against each of the two");
    for difference in differences {
        let of = |key: &str| {
            let key = format!("accuracy_vs_{}", key);
            let all = arms.iter().filter(|a| a["arm"] == difference["arm"]);
            let all: Vec<f64> = all.filter_map(|a| a[&key].as_f64()).collect();
            all.iter().sum::<f64>() / 2.0
        };
        let mean = of(difference["against"].as_str().unwrap());
        assert!((difference["mean"].as_f64().unwrap() - mean).abs() < 1e-12);
        assert!(difference["standard_error"].as_f64().unwrap() >= 0.0);
    }
    assert!(out.join("report.html").is_file() && out.join("config.toml").is_file());

    // Resuming a finished comparison only exports.
    let weights = temp.path().join("weights.safetensors");
    let again = resnet()
        .args([
            "--resume".as_ref(),
            out.as_os_str(),
            "--export".as_ref(),
            weights.as_os_str(),
        ])
        .args(["--json", "--quiet"])
        .output()
        .unwrap();
    assert!(
        again.status.success(),
        "{}",
        String::from_utf8_lossy(&again.stderr)
    );
    assert_eq!(self::json(&again)["arms"], json["arms"]);
    assert!(weights.is_file());

    // For people it ends with the ruling, which is the report's, too.
    let args = ["--resume".as_ref(), out.as_os_str()];
    let output = resnet().args(args).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (ruling, reason) = text.lines().last().unwrap().split_once(": ").unwrap();
    assert!(
        [
            "WORTH IT",
            "NOT WORTH IT",
            "UNDECIDED whether it was worth it"
        ]
        .contains(&ruling)
    );
    assert!(reason.starts_with("the Assistant saved "), "{text}");
    assert!(
        text.contains("memory* ") && text.contains("* the Assistant"),
        "{text}"
    );
    let report = std::fs::read_to_string(out.join("report.html")).unwrap();
    let ruling = ruling.trim_end_matches(" whether it was worth it");
    assert!(report.contains(&format!("<h1><span class=\"ruling\">{ruling}</span>")));
    // What stands out was seen lately and is what the network at the end says of it.
    let examples = std::fs::read(out.join("memory-seed4/examples.json")).unwrap();
    let examples: serde_json::Value = serde_json::from_slice(&examples).unwrap();
    let since = examples["since"].as_f64().unwrap();
    assert!(since >= 0.5, "{since}");
    for example in examples["hardest"].as_array().unwrap() {
        assert!(example["seen"].as_f64().unwrap() > since, "{example}");
        let (guess, sure) = (&example["guess"]["answer"], &example["guess"]["sure"]);
        assert!(
            ["blue", "green", "red"].contains(&guess.as_str().unwrap()),
            "{example}"
        );
        assert!(
            (1.0 / 3.0..=1.0).contains(&sure.as_f64().unwrap()),
            "{example}"
        );
    }
}

#[test]
fn weights_come_out_go_in_and_evaluate_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    write_folder(&data, &["blue", "green", "red"], 40);
    let at = |name: &str| temp.path().join(name).to_str().unwrap().to_string();
    let (out, weights, dir) = (at("run"), at("w.safetensors"), at("data"));
    let args = ["--data-dir", &dir, "--json", "--quiet"];
    let trained = resnet()
        .args(TINY)
        .args(args)
        .args(["--out", &out, "--export", &weights])
        .output()
        .unwrap();
    assert!(
        trained.status.success(),
        "{}",
        String::from_utf8_lossy(&trained.stderr)
    );
    let eval = [
        "--data",
        "folder",
        "--batch",
        "16",
        "--eval-only",
        "--init",
        &weights,
    ];
    let evaluated = resnet().args(eval).args(args).output().unwrap();
    assert!(
        evaluated.status.success(),
        "{}",
        String::from_utf8_lossy(&evaluated.stderr)
    );
    assert!(json(&evaluated)["train_loss"].is_null());
    assert_eq!(
        json(&trained)["test_accuracy"],
        json(&evaluated)["test_accuracy"]
    );

    // They come out again as they went in, from the file and from the run's folder.
    let copy = at("copy.safetensors");
    let again = [
        "--data",
        "folder",
        "--eval-only",
        "--export",
        &copy,
        "--init",
        &out,
    ];
    let copied = resnet().args(again).args(args).output().unwrap();
    assert!(copied.status.success(), "{copied:?}");
    let tensors = |file: &str| {
        let bytes = std::fs::read(file).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let all = file
            .iter()
            .map(|(name, view)| (name.to_string(), view.data().to_vec()));
        // Steps, which a file to evaluate does not tell.
        let mut all: Vec<_> = all.filter(|(name, _)| !name.ends_with("tracked")).collect();
        all.sort();
        all
    };
    assert!(tensors(&copy) == tensors(&weights));

    let other = [
        "--data",
        "folder",
        "--depth",
        "14",
        "--eval-only",
        "--init",
        &weights,
    ];
    let line = one_line(&[&other[..], &["--data-dir", &dir]].concat());
    assert!(
        line.contains("another network") && line.contains("--depth"),
        "{line}"
    );
    std::fs::write(&weights, &std::fs::read(&weights).unwrap()[..1000]).unwrap();
    let line = one_line(&[&eval[..], &["--data-dir", &dir]].concat());
    assert!(line.contains("not a whole safetensors file"), "{line}");
}

#[test]
fn a_small_network_overfits_one_batch() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    write_folder(&data, &["blue", "green", "red"], 40);
    let output = resnet()
        .args([
            "--data",
            "folder",
            "--batch",
            "16",
            "--overfit-one-batch",
            "--json",
        ])
        .args(["--data-dir".as_ref(), data.as_os_str()])
        .args(["--out".as_ref(), temp.path().join("run").as_os_str()])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(json(&output)["train_loss"].as_f64().unwrap() < 0.05);
}

#[test]
fn bad_arguments_are_named_with_their_remedy() {
    for (args, flag) in [
        (&["--budget", "0"][..], "--budget"),
        (&["--budget", "auto"], "--budget auto"),
        (&["--budget", "auto", "--assist", "off"], "--budget auto"),
        (&["--valid-share", "1"], "--valid-share"),
        (&["--valid-share", "NaN"], "--valid-share"),
        (&["--budget", "1.5"], "--budget"),
        (&["--budget", "NaN"], "--budget"),
        (&["--lr=-0.1"], "--lr"),
        (&["--lr", "-1"], "--lr"),
        (&["--epochs", "0"], "--epochs"),
        (&["--threads", "0"], "--threads"),
        (&["--init", "/"], "a folder without model.safetensors"),
        (&["--lr", "nan"], "--lr"),
        (&["--weight-decay=-1"], "--weight-decay"),
        (&["--rescale=inf"], "--rescale"),
        (&["--batch", "100000"], "--batch"),
        (&["--depth", "9"], "--depth"),
        (&["--data", "folder"], "--data-dir"),
        (
            &["--data", "folder", "--data-dir", "no-such-folder"],
            "no-such-folder",
        ),
        (&["--resume", "no-such-run"], "no-such-run"),
        (&["--config", "no-such.toml"], "no-such.toml"),
        (&["--device", "tpu"], "--device"),
        (&["--device", "cuda:9999"], "--device cuda"),
        (
            &["--device", "simt", "--precision", "bf16"],
            "--precision bf16: --device simt stores activations in bf16 by nature",
        ),
        (
            &["--device", "cuda:1", "--precision", "f32"],
            "--precision f32: --device cuda",
        ),
        (&["--out", "/proc/nowhere"], "/proc/nowhere"),
        (
            &["--export", "no-such-folder/w.safetensors"],
            "no-such-folder",
        ),
        (&["--seeds", "1,2", "--data", "synthetic"], "--compare"),
        (
            &["--init", "no-such.safetensors", "--eval-only"],
            "no-such.safetensors",
        ),
        (&["--eval-only"], "--init"),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let out = temp.path().join("run").to_str().unwrap().to_string();
        let takes_out = !args.iter().any(|a| ["--resume", "--out"].contains(a));
        let out_args: &[&str] = if takes_out { &["--out", &out] } else { &[] };
        let line = one_line(&[args, out_args].concat());
        assert!(line.contains(flag), "{args:?}: {line}");
    }
    // clap's own usage errors are fine.
    assert!(refused(&["--data", "cifar11"]).contains("synthetic"));
    assert!(refused(&["--precision", "f16"]).contains("bf16"));
    assert!(refused(&["--epochs=-3"]).contains("--epochs"));
    assert!(refused(&["--arch", "resnet18"]).contains("--depth"));
    assert!(refused(&["--batch-size", "8"]).contains("--batch"));
    assert!(refused(&["--compare", "most"]).contains("infobatch, or all"));
    assert!(refused(&["--overfit-one-batch", "--export", "w"]).contains("--export"));
    assert!(refused(&["--resume", "x", "--out", "y"]).contains("--out"));
    assert!(one_line(&["--resume", "x", "--lr", "0.1"]).contains("--resume"));
}

#[test]
fn an_instruction_set_that_is_not_there_is_a_line() {
    let missing = Isa::available().len() < Isa::NAMES.len();
    let absent = missing.then(|| Isa::NAMES[Isa::available().len()]);
    let known = absent.map(|name| (name, "this CPU does not have"));
    for (name, why) in [("mmx", "unknown instruction set")]
        .into_iter()
        .chain(known)
    {
        let mut command = resnet();
        let output = command
            .env("AUTOASSIST_ISA", name)
            .args(["--device", "cpu"])
            .args(["--epochs", "1", "--overfit-one-batch"]);
        let output = output.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(why) && text.contains(name), "{text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn bad_images_are_named_with_their_remedy() {
    let temp = tempfile::tempdir().unwrap();
    let spoilt = |name: &str, spoil: &dyn Fn(&Path)| {
        let data = temp.path().join(name);
        write_folder(&data, &["blue", "green", "red"], 8);
        spoil(&data);
        let out = temp.path().join("run");
        let line = one_line(&[
            "--data",
            "folder",
            "--batch",
            "8",
            "--data-dir",
            data.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ]);
        assert!(!out.exists(), "nothing is left of a run that never began");
        line
    };
    let line = spoilt("text", &|dir| {
        std::fs::write(dir.join("train/red/a.jpg"), "text").unwrap()
    });
    assert!(
        line.contains("train/red/a.jpg") && line.contains("replace or remove"),
        "{line}"
    );
    let line = spoilt("missing", &|dir| {
        std::fs::remove_dir_all(dir.join("test/green")).unwrap()
    });
    assert!(
        line.contains("test/green") && line.contains("same class"),
        "{line}"
    );
    let line = spoilt("empty", &|dir| {
        std::fs::create_dir_all(dir.join("train/void")).unwrap()
    });
    assert!(line.contains("train/void"), "{line}");
    let line = spoilt("none", &|dir| {
        std::fs::remove_dir_all(dir.join("train")).unwrap()
    });
    assert!(line.contains("train"), "{line}");
    let line = spoilt("size", &|dir| {
        image::RgbImage::new(9, 8)
            .save(dir.join("test/red/z.png"))
            .unwrap();
    });
    assert!(
        line.contains("test/red/z.png") && line.contains("9x8"),
        "{line}"
    );
}

#[test]
fn a_part_of_a_sweep_is_so_many_steps() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    write_folder(&data, &["blue", "green"], 40);
    let run = |epochs: &str, threads: &str| {
        let out = temp.path().join(format!("{epochs}-{threads}"));
        let flags = [
            "--data",
            "folder",
            "--batch",
            "8",
            "--budget",
            "1",
            "--deterministic",
        ];
        let output = resnet()
            .args(flags)
            .args([
                "--epochs",
                epochs,
                "--threads",
                threads,
                "--json",
                "--quiet",
            ])
            .args([
                "--data-dir".as_ref(),
                data.as_os_str(),
                "--out".as_ref(),
                out.as_os_str(),
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        (
            json(&output),
            std::fs::read(out.join("model.safetensors")).unwrap(),
        )
    };
    // 80 images in batches of 8.
    let (whole, _) = run("1", "1");
    let (half, weights) = run("0.5", "1");
    assert_eq!((&whole["steps"], &half["steps"]), (&10.into(), &5.into()));
    let ops = |of: &serde_json::Value| of["full_ops"].as_u64().unwrap();
    assert_eq!(ops(&whole), 2 * ops(&half));
    assert_eq!(run("1.25", "1").0["steps"], 13);
    assert!(
        run("0.5", "3").1 == weights,
        "whatever the number of threads"
    );
}

#[test]
fn a_run_of_the_other_program_is_called_so() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().to_str().unwrap();
    std::fs::write(
        temp.path().join("config.toml"),
        "program = \"transformer\"\n",
    )
    .unwrap();
    assert!(one_line(&["--resume", out]).contains("transformer"));
}

#[test]
fn versions_name_the_executors() {
    let output = resnet().arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(concat!("resnet ", env!("CARGO_PKG_VERSION"))));
    assert!(
        text.contains("executors: cpu, ") && text.contains("cuda"),
        "{text}"
    );
    let output = resnet().arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for part in [
        "Training:",
        "Machine:",
        "Examples:",
        "[default: 16; in the demonstration 6]",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
}

#[test]
fn a_folder_that_holds_a_run_is_not_overwritten_but_a_failed_start_is_no_run() {
    let temp = tempfile::tempdir().unwrap();
    let (data, out) = (temp.path().join("data"), temp.path().join("run"));
    write_folder(&data, &["blue", "green"], 20);
    let (data, out) = (data.to_str().unwrap(), out.to_str().unwrap());
    let args = [
        "--data",
        "folder",
        "--data-dir",
        data,
        "--out",
        out,
        "--epochs",
        "1",
    ];
    // Each is mended by another try in the same folder.
    one_line(&[&args[..], &["--batch", "1000"]].concat());
    one_line(&[&args[..], &["--batch", "8", "--device", "cuda:9999"]].concat());
    let again = [&args[..], &["--batch", "8", "--quiet"]].concat();
    let output = resnet().args(&again).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(one_line(&again).contains("--resume"));
    let compared = temp.path().join("comparison");
    std::fs::create_dir_all(compared.join("full-seed0")).unwrap();
    std::fs::write(compared.join("full-seed0/checkpoint.safetensors"), "").unwrap();
    assert!(one_line(&["--out", compared.to_str().unwrap()]).contains("--resume"));
}

#[test]
fn a_damaged_checkpoint_is_refused_and_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    write_folder(&data, &["blue", "green"], 20);
    let out = temp.path().join("run");
    let output = resnet()
        .args([
            "--data",
            "folder",
            "--epochs",
            "1",
            "--batch",
            "8",
            "--quiet",
            "--data-dir",
        ])
        .args([data.as_os_str(), "--out".as_ref(), out.as_os_str()])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let path = out.join("checkpoint.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let resume = ["--resume", out.to_str().unwrap()];
    for cut in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let line = one_line(&resume);
        assert!(
            line.contains("checkpoint.safetensors") && line.contains("damaged"),
            "{line}"
        );
        assert_eq!(std::fs::read(&path).unwrap().len(), cut);
    }
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_run() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    write_folder(&data, &["blue", "green"], 40);
    let out = temp.path().join("run");
    let output = resnet()
        .args([
            "--data", "folder", "--epochs", "30", "--batch", "8", "--lr", "1000", "--quiet",
        ])
        .args([
            "--data-dir".as_ref(),
            data.as_os_str(),
            "--out".as_ref(),
            out.as_os_str(),
        ])
        .args(["--weight-decay", "10"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("at step ") && text.contains("checkpoint.safetensors"),
        "{text}"
    );
}
