//! Weight files as users move them about: what belongs to them comes along, and what does not belong
//! together is told apart, by both programs.

use crate::images::write_folder;
use crate::sentences::{transformer, write_pairs};
use crate::weight_files::{F32, Type, metadata, rewrite};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn resnet(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_resnet"));
    command
        .env("RAYON_NUM_THREADS", "2")
        .env_remove("AUTOASSIST_ISA")
        .args(["--data", "folder", "--batch", "8", "--data-dir"])
        .arg(data);
    command
}

/// Standard output's last line as JSON, of a run that succeeds.
fn json(mut command: Command) -> Value {
    let output = command.args(["--json", "--quiet"]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// Evaluates weights.
fn eval(mut command: Command, init: &Path) -> Command {
    command.args(["--eval-only", "--init"]).arg(init);
    command
}

/// The one line that says why not, which has all of `parts`.
fn refused(mut command: Command, parts: &[&str]) {
    says(command.arg("--quiet").output().unwrap(), parts);
}

fn says(output: Output, parts: &[&str]) {
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

/// A trained ResNet-8: its data, its run, and a file that it was exported to.
fn trained(temp: &Path) -> [PathBuf; 3] {
    let [data, run, file] = ["data", "run", "exported.safetensors"].map(|name| temp.join(name));
    write_folder(&data, &["blue", "green", "red"], 16);
    let mut command = resnet(&data);
    command.args(["--epochs", "3", "--assist", "off", "--budget", "1"]);
    command.arg("--out").arg(&run).arg("--export").arg(&file);
    let accuracy = json(command)["test_accuracy"].clone();
    assert_eq!(
        accuracy,
        json(eval(resnet(&data), &file))["test_accuracy"],
        "as it was trained"
    );
    [data, run, file]
}

/// All files below, darker or brighter.
fn shade(dir: &Path, by: i16) {
    for class in ["blue", "green", "red"] {
        for entry in fs::read_dir(dir.join(class)).unwrap() {
            let path = entry.unwrap().path();
            let mut image = image::open(&path).unwrap().into_rgb8();
            image
                .iter_mut()
                .for_each(|byte| *byte = (i16::from(*byte) + by).clamp(0, 255) as u8);
            image.save(path).unwrap();
        }
    }
}

#[test]
fn weights_bring_their_classes_and_their_normalisation() {
    let temp = tempfile::tempdir().unwrap();
    let [data, run, file] = trained(temp.path());
    let said = metadata(&file);
    assert_eq!(said, metadata(&run.join("model.safetensors")));
    for (key, value) in [
        ("program", "resnet"),
        ("depth", "8"),
        ("image", "8x8x3"),
        ("classes", r#"["blue","green","red"]"#),
        ("precision", "f32"),
        ("version", env!("CARGO_PKG_VERSION")),
    ] {
        assert_eq!(said[key], value, "{key}");
    }
    let kept: Value =
        serde_json::from_str(&fs::read_to_string(run.join("data.json")).unwrap()).unwrap();
    for key in ["mean", "std"] {
        let values: Vec<f64> = serde_json::from_str(&said[key]).unwrap();
        assert!(values.len() == 3 && values.iter().all(|v| (0.0..1.0).contains(v)));
        assert_eq!(
            serde_json::from_str::<Value>(&said[key]).unwrap(),
            kept[key]
        );
    }

    // Other training images have another mean, which is none of the weights' business.
    let before = json(eval(resnet(&data), &file));
    shade(&data.join("train"), -60);
    assert_eq!(
        before["test_accuracy"],
        json(eval(resnet(&data), &file))["test_accuracy"]
    );
    // Nor of a run that begins with them, today or when it is resumed without them.
    let tuned = temp.path().join("tuned");
    let mut command = resnet(&data);
    command.args(["--epochs", "1", "--init"]).arg(&file);
    let output = command.arg("--out").arg(&tuned).output().unwrap();
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && notes.contains("normalised as the weights were"),
        "{notes}"
    );
    let of_tuned = metadata(&tuned.join("model.safetensors"));
    assert_eq!(
        ["mean", "std"].map(|key| &of_tuned[key]),
        ["mean", "std"].map(|key| &said[key])
    );
    let text = fs::read_to_string(tuned.join("data.json")).unwrap();
    assert_eq!(text, fs::read_to_string(run.join("data.json")).unwrap());
    fs::remove_file(&file).unwrap();
    let mut resume = Command::new(env!("CARGO_BIN_EXE_resnet"));
    resume.arg("--resume").arg(&tuned);
    json(resume);

    // A run's folder stands for its weights; that of a comparison has none.
    assert_eq!(
        before["test_accuracy"],
        json(eval(resnet(&data), &run))["test_accuracy"]
    );
    refused(
        eval(resnet(&data), temp.path()),
        &["no trained model is", "one of its arms"],
    );
    refused(
        eval(resnet(&data), &run.join("checkpoint.safetensors")),
        &["a run's checkpoint", "--resume", "model.safetensors"],
    );
}

#[test]
fn other_networks_and_other_classes_are_told_apart() {
    let temp = tempfile::tempdir().unwrap();
    let [data, _, file] = trained(temp.path());
    let mut deeper = eval(resnet(&data), &file);
    deeper.args(["--depth", "14"]);
    refused(
        deeper,
        &["another network", "depth 8, not 14", "use --depth 8"],
    );

    // The same classes under other numbers.
    let other = temp.path().join("other.safetensors");
    let mut said = metadata(&file);
    said.insert("classes".into(), r#"["red","green","blue"]"#.into());
    rewrite(&file, &other, Some(said.clone()), F32);
    refused(
        eval(resnet(&data), &other),
        &[
            "other.safetensors",
            "the same classes in another order",
            "\"red\"",
        ],
    );
    for split in ["train", "test"] {
        let class = |name| data.join(split).join(name);
        fs::rename(class("red"), class("rot")).unwrap();
    }
    refused(
        eval(resnet(&data), &file),
        &[
            r#"class 2 was "red", here it is "rot""#,
            "give data with the same classes",
        ],
    );
    let mut tune = resnet(&data);
    tune.arg("--init")
        .arg(&file)
        .arg("--out")
        .arg(temp.path().join("never"));
    refused(tune, &[r#"class 2 was "red""#]);
    assert!(!temp.path().join("never").exists());
    for split in ["train", "test"] {
        fs::remove_dir_all(data.join(split).join("rot")).unwrap();
    }
    refused(eval(resnet(&data), &file), &["3 classes, these have 2"]);

    // What another version, another program or another tool wrote.
    for (key, value, parts) in [
        ("autoassist", "2", &["newer version", "format 2"][..]),
        (
            "program",
            "transformer",
            &["`transformer`, not of `resnet`"],
        ),
        ("mean", "[0.5", &["not a whole safetensors file"]),
        ("std", "[0.5]", &["of 3 channels"]),
        ("std", "[0.5,0,0.5]", &["pixels in 0..1 do not have"]),
        (
            "mean",
            "[123.7,116.3,103.5]",
            &["pixels in 0..1 do not have"],
        ),
    ] {
        let mut said = said.clone();
        said.insert(key.into(), value.into());
        rewrite(&file, &other, Some(said), F32);
        refused(eval(resnet(&data), &other), parts);
    }
    // What this program says it says whole.
    for key in ["classes", "mean", "std"] {
        let mut said = said.clone();
        said.remove(key);
        rewrite(&file, &other, Some(said), F32);
        refused(
            eval(resnet(&data), &other),
            &[&format!("metadata have no {key}")],
        );
    }
    fs::write(&other, b"PK\x03\x04 and so on").unwrap();
    refused(
        eval(resnet(&data), &other),
        &["torch.save", "safetensors.torch.save_file"],
    );
}

#[test]
fn numbers_of_other_types_are_converted_and_names_alone_are_enough() {
    let temp = tempfile::tempdir().unwrap();
    let [data, _, file] = trained(temp.path());
    let other = temp.path().join("other.safetensors");
    let expected = json(eval(resnet(&data), &file));
    let exact: [Type; 2] = [F32, (Dtype::F64, |v| f64::from(v).to_le_bytes().to_vec())];
    for kind in exact {
        // As PyTorch would write them: no metadata.
        rewrite(&file, &other, None, kind);
        let found = json(eval(resnet(&data), &other));
        assert_eq!(
            found["test_accuracy"], expected["test_accuracy"],
            "{kind:?}"
        );
    }
    let rounded: [Type; 2] = [
        (Dtype::F16, |v| f16::from_f32(v).to_le_bytes().to_vec()),
        (Dtype::BF16, |v| bf16::from_f32(v).to_le_bytes().to_vec()),
    ];
    for kind in rounded {
        rewrite(&file, &other, Some(metadata(&file)), kind);
        let found = json(eval(resnet(&data), &other));
        let [a, b] = [&found, &expected].map(|j| j["test_accuracy"].as_f64().unwrap());
        assert!((a - b).abs() < 0.2, "{kind:?}: {a}, not {b}");
    }
    rewrite(&file, &other, None, (Dtype::I8, |v| vec![v as i8 as u8]));
    refused(
        eval(resnet(&data), &other),
        &[
            "conv1.weight is of type I8",
            "f16, bf16, f32 and f64",
            "tensor.float()",
        ],
    );
    // Too large for the type that is computed with.
    rewrite(
        &file,
        &other,
        None,
        (Dtype::F64, |_| 1e300f64.to_le_bytes().to_vec()),
    );
    refused(eval(resnet(&data), &other), &["not finite"]);

    // A header of a length that reads as a pickle's beginning.
    let bytes = fs::read(&file).unwrap();
    let (length, rest) = bytes.split_at(8);
    let (header, tensors) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let mut header = header.to_vec();
    header.resize(0x1_0280, b' ');
    fs::write(
        &other,
        [&0x1_0280u64.to_le_bytes(), &header[..], tensors].concat(),
    )
    .unwrap();
    let found = json(eval(resnet(&data), &other));
    assert_eq!(found["test_accuracy"], expected["test_accuracy"]);
}

#[test]
fn what_fairseq_has_beside_the_weights_is_no_other_network() {
    let temp = tempfile::tempdir().unwrap();
    let (data, run) = (temp.path().join("data"), temp.path().join("run"));
    write_pairs(&data, 96);
    let mut command = transformer(&data);
    command.args(["--epochs", "1", "--out"]).arg(&run);
    let trained = json(command);
    let from = run.join("model.safetensors");
    let bytes = fs::read(&from).unwrap();
    let own = SafeTensors::deserialize(&bytes).unwrap();
    let table = own.tensor("encoder.embed_tokens.weight").unwrap();
    let (zeros, one) = (vec![0; table.data().len()], 3f32.to_le_bytes());
    let another = TensorView::new(Dtype::F32, table.shape().to_vec(), &zeros).unwrap();
    let number = TensorView::new(Dtype::F32, vec![1], &one).unwrap();
    let to = run.join("more.safetensors");
    let with = |more: &[(&str, &TensorView)]| {
        let more = more
            .iter()
            .map(|(name, view)| (name.to_string(), (*view).clone()));
        let views: Vec<_> = own.tensors().into_iter().chain(more).collect();
        fs::write(&to, serialize(views, Some(metadata(&from))).unwrap()).unwrap();
    };
    with(&[
        ("decoder.embed_tokens.weight", &table),
        ("decoder.output_projection.weight", &table),
        ("decoder.version", &number),
        ("encoder.embed_positions._float_tensor", &number),
    ]);
    let found = json(eval(transformer(&data), &to));
    assert_eq!(found["valid_loss"], trained["valid_loss"]);
    // A table that is not tied is another network's, and so is what has no name here.
    for (name, view) in [
        ("decoder.output_projection.weight", &another),
        ("head.bias", &number),
    ] {
        with(&[(name, view)]);
        refused(
            eval(transformer(&data), &to),
            &[&format!("it has {name}, too")],
        );
    }
}

fn translate(model: &Path, input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_transformer"))
        .args(["translate", "--model"])
        .arg(model)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have refused before it reads.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Trains a few steps on other sentences, so that the vocabulary is another of the same size.
fn other_run(temp: &Path) -> PathBuf {
    let (data, out) = (temp.join("other-data"), temp.join("other-run"));
    write_pairs(&data, 96);
    for name in ["train.de", "train.en"] {
        let text = fs::read_to_string(data.join(name)).unwrap();
        let text: String = text
            .lines()
            .map(|l| l.replace("ei", "ie") + "n\n")
            .collect();
        fs::write(data.join(name), text).unwrap();
    }
    let mut command = transformer(&data);
    command.args(["--epochs", "1", "--vocab", "40", "--out"]);
    command.arg(&out);
    json(command);
    out
}

#[test]
fn weights_bring_their_tokenizer() {
    let temp = tempfile::tempdir().unwrap();
    let (data, run) = (temp.path().join("data"), temp.path().join("run"));
    write_pairs(&data, 96);
    let file = temp.path().join("files/w.safetensors");
    fs::create_dir(temp.path().join("files")).unwrap();
    let mut command = transformer(&data);
    // Long enough to be told from a network that knows nothing.
    command.args(["--epochs", "30", "--lr", "0.01", "--dropout", "0"]);
    command.args(["--label-smoothing", "0", "--assist", "off"]);
    command.args(["--vocab", "40", "--out"]);
    command.arg(&run).arg("--export").arg(&file);
    let trained = json(command);
    assert!(trained["bleu"].as_f64().unwrap() > 30.0, "{trained}");
    let said = metadata(&file);
    for (key, value) in [
        ("program", "transformer"),
        ("d-model", "16"),
        ("layers", "1"),
        ("heads", "2"),
        ("ffn", "32"),
        ("norm", "pre"),
        ("vocab", "40"),
        ("max-length", "128"),
        ("beam", "2"),
    ] {
        assert_eq!(said[key], value, "{key}");
    }
    let beside = fs::read_to_string(run.join("tokenizer.json")).unwrap();
    assert_eq!(said["tokenizer"], beside);
    assert_eq!(said["tokenizer-sha256"].len(), 64);

    // Alone, wherever it is, whatever the vocabulary would be: the same translations.
    let same = |init: &Path| {
        let mut command = eval(transformer(&data), init);
        command.args(["--vocab", "50"]);
        let found = json(command);
        assert_eq!(
            [&found["bleu"], &found["valid_loss"]],
            [&trained["bleu"], &trained["valid_loss"]]
        );
    };
    same(&file);
    same(&run);
    let [a, b] = [&run, &file].map(|model| translate(model, "eins zwei\n\ndrei\n"));
    assert!(a.status.success() && a.stdout == b.stdout && a.stdout.len() > 3);

    // A tokenizer that is not theirs, though it has as many tokens.
    let (other, beside) = (
        other_run(temp.path()),
        file.with_file_name("tokenizer.json"),
    );
    fs::copy(other.join("tokenizer.json"), &beside).unwrap();
    let parts = ["tokenizer.json", "not the tokenizer that", "w.safetensors"];
    refused(eval(transformer(&data), &file), &parts);
    says(translate(&file, "eins\n"), &parts);
    fs::copy(&beside, run.join("tokenizer.json")).unwrap();
    says(translate(&run, "eins\n"), &parts[..2]);
    // Nor without the one inside, whose digest remains; nor is another one inside.
    let mut without = said.clone();
    without.remove("tokenizer");
    rewrite(&file, &file, Some(without.clone()), F32);
    refused(eval(transformer(&data), &file), &parts);
    says(translate(&file, "eins\n"), &parts);
    without.insert("tokenizer".into(), fs::read_to_string(&beside).unwrap());
    rewrite(&file, &file, Some(without), F32);
    says(
        translate(&file, "eins\n"),
        &["w.safetensors", "the one inside is not"],
    );
    rewrite(&file, &file, Some(said.clone()), F32);
    // Theirs, however it is laid out.
    let tokenizer: Value = serde_json::from_str(&said["tokenizer"]).unwrap();
    fs::write(&beside, tokenizer.to_string()).unwrap();
    same(&file);

    // Sizes that are not there are not made up.
    let mut fewer = said.clone();
    fewer.remove("heads");
    rewrite(&file, &file, Some(fewer), F32);
    says(translate(&file, "eins\n"), &["metadata have no heads"]);
    refused(eval(transformer(&data), &file), &["metadata have no heads"]);
    // Without metadata it is the one beside them, and there must be one.
    rewrite(&file, &file, None, F32);
    same(&file);
    says(
        translate(&file, "eins\n"),
        &[
            "does not say which network",
            "files/config.toml",
            "put that of its run there",
        ],
    );
    fs::remove_file(&beside).unwrap();
    refused(
        eval(transformer(&data), &file),
        &[
            "comes without the tokenizer",
            "files/tokenizer.json",
            "put it there",
        ],
    );
}

#[test]
fn other_translators_are_told_apart() {
    let temp = tempfile::tempdir().unwrap();
    let (data, run) = (temp.path().join("data"), temp.path().join("run"));
    write_pairs(&data, 96);
    let mut command = transformer(&data);
    command.args(["--epochs", "1", "--out"]).arg(&run);
    json(command);
    let mut wider = eval(transformer(&data), &run);
    wider.args(["--d-model", "32", "--norm", "post"]);
    refused(
        wider,
        &[
            "d-model 16, not 32, norm pre, not post",
            "use --d-model 16 --norm pre",
        ],
    );
    // Also of those that say nothing: whose flags are named, are this program's.
    let bare = run.join("bare.safetensors");
    rewrite(&run.join("model.safetensors"), &bare, None, F32);
    let mut wider = eval(transformer(&data), &bare);
    wider.args(["--ffn", "48"]);
    let output = wider.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("[32, 16], not [48, 16]") && text.contains("--ffn"),
        "{text}"
    );
    assert!(!text.contains("--depth"), "{text}");

    let [images, resnet_run, file] = trained(temp.path().join("images").as_path());
    for model in [&resnet_run, &file] {
        let parts = ["`resnet`, not of `transformer`"];
        says(translate(model, "eins\n"), &parts);
        refused(eval(transformer(&data), model), &parts);
    }
    refused(
        eval(resnet(&images), &run),
        &["`transformer`, not of `resnet`"],
    );
}
