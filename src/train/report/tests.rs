use super::*;
use crate::train::images::WORDS;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

fn run(arm: Arm, seed: u64) -> Run {
    let memory = arm == Arm::Memory;
    let share = if arm == Arm::Full { 1.0 } else { 0.65 };
    let points = (0..=40).map(|i| {
        let t = f64::from(i) / 40.0;
        Point {
            ops_fraction: share * t,
            train_loss: 2.3 * (-2.0 * t).exp() + seed as f64 * 0.01,
            keep_rate: memory.then_some(1.0 - 0.5 * t),
            v: Some(1.0 - 0.4 * t),
            evaluation: (i % 10 == 0).then_some(80.0 * t),
            assist_auc: memory.then_some(0.6 + 0.1 * t),
        }
    });
    Run {
        arm,
        seed,
        score: 80.0,
        vs_full: (arm != Arm::Full).then_some(-1.0),
        vs_uniform: memory.then_some(0.5),
        ops_saved: 1.0 - share,
        full_ops: 1e12,
        boss_ops: 1e12 * share,
        assist_ops: 1e8,
        assist_auc: memory.then_some(0.68),
        calibration: match arm {
            Arm::Memory => vec![bin(10, 0.05), bin(900, 0.15), bin(800, 0.25)],
            _ => Vec::new(),
        },
        wall_seconds: 30.0,
        instances_per_second: 3000.0,
        points: points.collect(),
    }
}

fn bin(count: u64, score: f64) -> Calibration {
    Calibration {
        count,
        score,
        observed: 0.9 * score,
    }
}

fn example(id: usize) -> Example {
    let picture = Picture {
        height: 2,
        width: 2,
        channels: 3,
        pixels: vec![id as u8; 12],
    };
    let class = "star".into();
    Example {
        id,
        loss: 4.2,
        seen: 0.97,
        times_trained: 1,
        guess: Guess {
            answer: "ring".into(),
            sure: 0.95,
            agrees: 0.0,
        },
        shown: Shown::Image { picture, class },
    }
}

fn report(runs: Vec<Run>) -> Report {
    let estimate = |mean| Estimate { mean, error: 0.5 };
    let mut arms: Vec<Arm> = runs.iter().map(|run| run.arm).collect();
    arms.dedup();
    let standing = |arm| Standing {
        arm,
        score: estimate(80.0),
        vs_uniform: (arm == Arm::Memory).then(|| estimate(0.5)),
        vs_full: (arm != Arm::Full).then(|| estimate(-1.0)),
    };
    Report {
        words: WORDS,
        samples: vec![],
        title: "ResNet-8 on synthetic".into(),
        verdict: Verdict {
            ruling: "UNDECIDED",
            reason: "the Assistant saved 34.9 % of the operations, but its -0.50 ± 1.17 points may be chance"
                .into(),
            next: Some("rerun with --seeds 0,1,2".into()),
        },
        standings: arms.into_iter().map(standing).collect(),
        subtitle: "cpu, 2 threads".into(),
        runs,
        config: "depth = 8\n".into(),
        examples: Examples {
            hardest: vec![example(3), example(4)],
            easiest: vec![example(5)],
            since: 0.75,
        },
    }
}

#[test]
fn the_verdict_comes_first_and_all_parts_follow() {
    let runs = [Arm::Full, Arm::Uniform, Arm::Memory]
        .into_iter()
        .flat_map(|arm| (0..3).map(move |s| run(arm, s)));
    let html = render(&report(runs.collect())).unwrap();
    let parts = [
        "<h1><span class=\"ruling\">UNDECIDED</span> The Assistant saved 34.9\u{a0}% of",
        "its −0.50\u{a0}±\u{a0}1.17 points may be chance</h1>",
        "<p class=\"next\">Rerun with <code>--seeds</code> 0,1,2</p>",
        "<table",
        "Assistant 0.010\u{a0}% · saved 35.0\u{a0}%",
        "class=\"legend\"",
        "Test accuracy, %</h3>",
        "Training loss</h3>",
    ]
    .into_iter()
    .chain([
        "Keep rate, %</h3>",
        "V, %</h3>",
        "AUC</h3>",
        "Calibration: observed, %</h3>",
        "<dl class=\"terms\">",
        "Hardest",
        "Easiest",
        "<pre>depth = 8",
    ]);
    let at: Vec<usize> = parts.map(|part| html.find(part).expect(part)).collect();
    assert!(at.is_sorted(), "{at:?}");
    assert_eq!(html.matches("data:image/png;base64,").count(), 3);
    assert!(html.contains("<b>80.00 <small>±\u{a0}0.50</small></b>"));
    assert!(html.contains("+0.50") && html.contains("−1.00"));
    assert_eq!(html.matches("role=\"img\"").count(), 6);
    // Without an Assistant that scores there is nothing to say of it.
    let html = render(&report(vec![run(Arm::Full, 0), run(Arm::Infobatch, 0)])).unwrap();
    assert!(!html.contains("AUC</h3>") && !html.contains("Calibration"));
    assert!(html.ends_with("</html>\n"));
}

#[test]
fn nothing_is_loaded_from_elsewhere() {
    let html = render(&report(vec![run(Arm::Memory, 0)])).unwrap();
    for outside in ["http:", "https:", "<script", "<link", "@import", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.contains("name=\"viewport\"") && html.contains("prefers-color-scheme: dark"));
}

#[test]
fn text_is_escaped_wherever_it_comes_from() {
    let evil = "\"'&<script>alert(1)</script>".to_owned();
    let mut report = report(vec![run(Arm::Memory, 0)]);
    let pair = || Shown::Pair {
        source: "\"'&<script>alert(1)</script>".into(),
        target: "\"'&<script>alert(1)</script>".into(),
    };
    if let Shown::Image { class, .. } = &mut report.examples.hardest[0].shown {
        class.clone_from(&evil);
    }
    for example in &mut report.examples.hardest {
        example.guess.answer.clone_from(&evil);
    }
    report.examples.hardest[1].shown = pair();
    report.samples = vec![Sample {
        source: evil.clone(),
        reference: evil.clone(),
        translation: evil.clone(),
    }];
    for text in [
        &mut report.title,
        &mut report.verdict.reason,
        &mut report.subtitle,
        &mut report.config,
    ] {
        text.clone_from(&evil);
    }
    let html = render(&report).unwrap();
    assert!(!html.contains("<script") && !html.contains("\"'&<"));
    // Title twice, verdict, subtitle, class, two guesses, configuration; a pair and a sample.
    assert_eq!(html.matches("&quot;&#39;&amp;&lt;script&gt;").count(), 13);
}

#[test]
fn missing_and_broken_numbers_are_no_error() {
    for points in [0, 1, 40] {
        let mut broken = run(Arm::Memory, 0);
        broken.points.truncate(points);
        for point in &mut broken.points {
            point.evaluation = None;
            point.keep_rate = Some(f64::INFINITY);
            point.assist_auc = Some(f64::NAN);
            point.v = Some(f64::NAN);
            point.train_loss = f64::NAN;
        }
        for number in [
            &mut broken.score,
            &mut broken.ops_saved,
            &mut broken.boss_ops,
            &mut broken.assist_ops,
            &mut broken.wall_seconds,
            &mut broken.instances_per_second,
        ] {
            *number = f64::NAN;
        }
        broken.vs_full = None;
        broken.vs_uniform = Some(f64::NAN);
        broken.assist_auc = Some(f64::NAN);
        broken
            .calibration
            .iter_mut()
            .for_each(|bin| bin.observed = f64::NAN);
        let alone = render(&report(vec![broken.clone()])).unwrap();
        assert!(!alone.contains("NaN") && alone.matches("Nothing measured").count() == 6);
        let says = format!("{points} value(s) were not finite");
        assert_eq!(
            alone.matches(&says).count(),
            if points == 0 { 0 } else { 4 }
        );
        let beside = render(&report(vec![run(Arm::Memory, 1), broken])).unwrap();
        assert_eq!(beside.matches("role=\"img\"").count(), 6);
    }
    let mut nothing = report(vec![]);
    nothing.examples = Examples::default();
    let nothing = render(&nothing).unwrap();
    assert!(!nothing.contains("<table") && !nothing.contains("<figure"));
}

#[test]
fn malformed_pictures_are_errors() {
    for (channels, bytes) in [(3, 11), (2, 8), (1, 12)] {
        let mut report = report(vec![]);
        let picture = Picture {
            height: 2,
            width: 2,
            channels,
            pixels: vec![0; bytes],
        };
        let class = String::new();
        report.examples.easiest[0].shown = Shown::Image { picture, class };
        let error = render(&report).unwrap_err().to_string();
        assert!(
            error.starts_with("training image 5 cannot be shown"),
            "{error}"
        );
    }
    let mut report = report(vec![]);
    let picture = Picture {
        height: 0,
        width: 5,
        channels: 1,
        pixels: vec![],
    };
    let class = String::new();
    report.examples.easiest[0].shown = Shown::Image { picture, class };
    assert!(render(&report).is_err());
}

#[test]
fn pictures_survive_the_trip() {
    let html = render(&report(vec![])).unwrap();
    let data = html
        .split("base64,")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let png = image::load_from_memory(&BASE64_STANDARD.decode(data).unwrap()).unwrap();
    assert_eq!(png.to_rgb8().into_raw(), vec![3; 12]);
}

#[test]
fn an_arm_has_one_colour_wherever_and_with_whomever_it_is_shown() {
    // Every line of a page, with how often it is drawn.
    let lines = |arms: &[Arm]| {
        let html = render(&report(arms.iter().map(|arm| run(*arm, 0)).collect())).unwrap();
        move |colour: &str| {
            html.matches(&format!("stroke=\"{colour}\" stroke-width"))
                .count()
        }
    };
    let (blue, orange, grey) = ("#0072B2", "#C25500", "#4D4D4D");
    let alone = lines(&[Arm::Memory]);
    // Table, ledger, legend, four curves and the calibration, glossary.
    assert!(alone(blue) >= 8, "{}", alone(blue));
    // The glossary explains full and uniform whoever is shown.
    assert_eq!((alone(orange), alone(grey)), (1, 1));
    let beside = lines(&[Arm::Uniform, Arm::Memory]);
    assert_eq!(beside(blue), alone(blue));
    assert_eq!(beside(grey), 1);
    assert!(beside(orange) > 4);
}

#[test]
fn losses_of_kept_instances_are_called_so() {
    let html = render(&report(vec![run(Arm::Full, 0), run(Arm::Memory, 0)])).unwrap();
    assert!(html.contains("memory: of the images kept, which are the harder ones"));
    let html = render(&report(vec![run(Arm::Full, 0), run(Arm::Random, 0)])).unwrap();
    assert!(!html.contains("which are the harder ones"));
}

#[test]
fn what_stands_out_says_when_it_was_seen_and_what_is_guessed() {
    let mut report = report(vec![run(Arm::Memory, 0)]);
    let html = render(&report).unwrap();
    for says in [
        "trained on in the last 25\u{a0}% of training",
        "last seen at 97\u{a0}%",
        "✗ guess: ring, 95\u{a0}%",
        "label noise?</b><br>",
        "at least 90\u{a0}% sure of another class",
    ] {
        assert!(html.contains(says), "{says}");
    }
    for example in [&mut report.examples.hardest, &mut report.examples.easiest]
        .into_iter()
        .flatten()
    {
        example.guess.sure = 0.5;
    }
    assert!(!render(&report).unwrap().contains("label noise?"));
}
