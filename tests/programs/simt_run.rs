//! Training runs on the SIMT executor, through the program.

use crate::images::write_folder;
use assert_cmd::Command;
use std::path::Path;

/// Trains on little images; the last line of standard output as JSON.
fn train(data: &Path, out: &Path, device: &str, extra: &[&str]) -> serde_json::Value {
    let output = Command::cargo_bin("resnet")
        .expect("the program is built")
        .args(["--data", "folder", "--epochs", "3", "--batch", "8"])
        .args(["--lr", "0.05", "--budget", "0.65", "--deterministic"])
        .args(["--json", "--quiet", "--device", device])
        .arg("--data-dir")
        .arg(data)
        .arg("--out")
        .arg(out)
        .args(extra)
        .output()
        .expect("it runs");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stderr}");
    serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON")
}

#[test]
fn the_kernels_train_a_network_without_a_synchronisation() {
    let temp = tempfile::tempdir().expect("a folder");
    let data = temp.path().join("data");
    write_folder(&data, &["blue", "green", "red"], 24);
    let run = |name: &str, device: &str, extra: &[&str]| {
        let out = temp.path().join(name);
        let json = train(&data, &out, device, extra);
        let model = std::fs::read(out.join("model.safetensors")).expect("a model");
        (json, model)
    };
    let (json, model) = run("simt", "simt", &[]);
    assert!(json["device"].as_str().expect("text").starts_with("simt"));
    assert_eq!(json["host_syncs"], 0);
    assert_eq!(json["batches_unscored"], 0);
    // The colours are easy to tell apart.
    assert!(
        json["test_accuracy"].as_f64().expect("a number") > 0.8,
        "{json}"
    );
    // Guesses are about training images, of which there are more than of those that it evaluates.
    let examples = std::fs::read(temp.path().join("simt/examples.json")).expect("examples");
    let examples: serde_json::Value = serde_json::from_slice(&examples).expect("JSON");
    for kind in ["hardest", "easiest"] {
        let examples = examples[kind].as_array().expect("a list");
        assert_eq!(examples.len(), 18);
        for example in examples {
            let id = example["id"].as_u64().expect("a number") as usize;
            let right = example["guess"]["answer"] == ["blue", "green", "red"][id / 24];
            assert_eq!(example["guess"]["agrees"] == 1.0, right, "{example}");
        }
    }
    // Bit by bit the same, though checkpoints made it stop and read everything back.
    let (_, again) = run("again", "simt", &["--checkpoint-every", "3"]);
    assert!(model == again, "equal runs differ");
    // The same instances as on the CPU, to about the same end.
    let (cpu, _) = run("cpu", "cpu", &[]);
    assert_eq!(json["boss_ops"], cpu["boss_ops"]);
    let gap = |key: &str| (json[key].as_f64().expect(key) - cpu[key].as_f64().expect(key)).abs();
    assert!(gap("train_loss") < 0.1, "{json} {cpu}");
}
