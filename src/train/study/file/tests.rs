//! Which runs a study takes, and what is refused.

use super::*;
use crate::train::images::Resnet;
use crate::train::summary::Summary;
use crate::train::task::Score;

const FILE: &str = r#"
title = "t"
arms = ["full", "uniform", "memory"]
seeds = [10, 11, 12, 13]
[settings]
data = "synthetic"
epochs = 2
[tune]
valid-share = 0.1
seeds = [0, 1]
[tune.full]
lr = [0.1, 0.2]
[tune.uniform]
lr = [0.1, 0.4]
batch = [32, 64]
[futility]
after = 2
below = -0.15
"#;

fn read(text: &str) -> Result<Study<Resnet>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.toml");
    std::fs::write(&path, text).unwrap();
    Study::read(&path, None, &[]).map_err(|e| {
        assert_eq!(e.exit_code(), 2);
        let text = e.to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    })
}

fn line(spec: &Spec, accuracy: f64) -> Line {
    let score = Score {
        test_accuracy: Some(accuracy),
        ..Score::default()
    };
    let summary = Summary {
        seed: spec.seed,
        score,
        ..Summary::default()
    };
    Line::new(spec, summary)
}

#[test]
fn settings_are_chosen_then_frozen_then_tested_as_far_as_it_is_not_in_vain() {
    let study = read(FILE).unwrap();
    let tuning = study.wanted(&[]);
    assert_eq!(tuning.len(), 2 * 2 + 4 * 2);
    assert!(tuning.iter().all(|spec| spec.settings[VALID_SHARE] == 0.1));
    let mut lines: Vec<Line> = Vec::new();
    for spec in &tuning {
        // No other run is wanted while one is missing, whichever.
        assert_eq!(study.wanted(&lines), tuning);
        let best = match spec.arm {
            Arm::Full => spec.settings["lr"] == 0.1,
            _ => spec.settings["lr"] == 0.4 && spec.settings["batch"] == 32,
        };
        lines.push(match best || spec.seed == 0 {
            true => line(spec, if best { 0.8 } else { 0.79 }),
            // A run that failed is never better.
            false => Line::failed(spec, "the loss became NaN".into()),
        });
    }
    let first = study.wanted(&lines)[tuning.len()..].to_vec();
    let arms: Vec<(Arm, u64)> = first.iter().map(|spec| (spec.arm, spec.seed)).collect();
    let of_seed = |seed| [Arm::Full, Arm::Uniform, Arm::Memory].map(|arm| (arm, seed));
    assert_eq!(
        arms,
        [of_seed(10), of_seed(11)].concat(),
        "futility looks first"
    );
    assert!(
        first
            .iter()
            .all(|spec| !spec.settings.contains_key(VALID_SHARE))
    );
    assert_eq!(first[0].settings["lr"], 0.1);
    // Memory has what uniform chose.
    assert_eq!(first[2].settings["lr"], 0.4);
    assert_eq!(first[2].settings["batch"], 32);
    let then = |memory: f64| {
        let tested = first.iter().map(|spec| {
            let memory = spec.arm == Arm::Memory;
            line(spec, if memory { 0.8 } else { 0.81 })
        });
        let mut all = lines.clone();
        all.extend(tested);
        for line in &mut all[tuning.len()..] {
            if line.spec().arm == Arm::Memory {
                line.summary.score.test_accuracy = Some(memory);
            }
        }
        study.wanted(&all).len() - tuning.len()
    };
    assert_eq!(then(0.81), 4 * 3, "all seeds");
    assert_eq!(then(0.808), 2 * 3, "in vain");
}

#[test]
fn runs_of_other_settings_have_other_names() {
    let names = |text: &str| {
        let study = read(text).unwrap();
        let all = study.wanted(&[]);
        all.iter().map(Spec::name).collect::<Vec<_>>()
    };
    let all = names(FILE);
    let distinct: std::collections::HashSet<&String> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
    let longer = names(&FILE.replace("epochs = 2", "epochs = 3"));
    assert!(longer.iter().all(|name| !all.contains(name)));
    assert!(all[0].starts_with("full-seed0-"), "{}", all[0]);
}

#[test]
fn what_makes_no_sense_is_refused_in_a_line_that_names_it() {
    for (from, to, says) in [
        (
            "title = \"t\"",
            "titel = \"t\"",
            "line 2: unknown field `titel`",
        ),
        ("[settings]", "[settings", "line 5"),
        ("epochs = 2", "epochs = 0", "--epochs 0"),
        ("epochs = 2", "epoch = 2", "unknown setting `epoch`"),
        ("epochs = 2", "seed = 2", "`seed` is no setting of a study"),
        ("epochs = 2", "epochs = \"two\"", "settings, full"),
        ("data = \"synthetic\"", "", "name the data"),
        (
            "\"memory\"]",
            "\"memory\", \"memory\"]",
            "arms: name at least one, each once",
        ),
        ("\"memory\"]", "\"best\"]", "unknown variant `best`"),
        (
            "[10, 11, 12, 13]",
            "[10, 10]",
            "seeds: name at least one, each once",
        ),
        ("[0, 1]", "[]", "tune.seeds: name"),
        ("0.1\nseeds", "1.5\nseeds", "--valid-share 1.5"),
        ("[tune.full]", "[tune.best]", "best"),
        ("lr = [0.1, 0.2]", "lr = []", "tune.full"),
        ("lr = [0.1, 0.2]", "lr = [0.1, -1]", "--lr -1"),
        (
            "[tune.full]",
            "[tune.paper]",
            "tune.paper: an arm of the study",
        ),
        ("after = 2", "after = 1", "futility"),
    ] {
        let text = FILE.replacen(from, to, 1);
        assert_ne!(text, FILE, "{from}");
        let error = read(&text).err().unwrap_or_else(|| panic!("{to} passed"));
        assert!(error.contains(says), "{to}: {error}");
    }
    let beds = FILE.replace("[tune]", "[beds.\"a b\"]\nepochs = 3\n[tune]");
    assert!(read(&beds).err().unwrap().contains("small letters"));
    let beds = FILE.replace("[tune]", "[beds.a]\nepochs = 3\n[beds.b]\n[tune]");
    assert_eq!(read(&beds).unwrap().wanted(&[]).len(), 2 * 12);
}

#[test]
fn the_studies_of_this_repository_can_be_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/studies");
    let mut count = 0;
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        Study::<Resnet>::read(&path, Some(3), &[]).unwrap();
        count += 1;
    }
    assert!(count >= 3);
}
