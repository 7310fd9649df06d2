//! Every op and whole training runs against reference numbers that PyTorch computed in float64
//! (formats: the fixtures' README).
//!
//! Reads every `*.safetensors` in `$ORACLE_DIR` (default `tests/fixtures`) and runs it on every
//! executor of this machine. Every tensor of a file must be used, every output compared, and every
//! comparison is shown to fail when its result is spoilt. Has its own `main`, because its last line
//! must be seen: `oracle: R run, S skipped: <names>`. Only ops that none of the asked executors has
//! may be skipped. `AUTOASSIST_TEST_DEVICES=cuda` runs on that alone.

#[path = "common/convolutional.rs"]
mod convolutional;
#[path = "common/devices.rs"]
mod devices;
#[path = "common/fixture.rs"]
mod fixture;
#[path = "common/limit.rs"]
mod limit;
#[path = "common/ops.rs"]
mod ops;
#[path = "common/recurrent.rs"]
mod recurrent;
#[path = "common/rounded.rs"]
mod rounded;
#[path = "common/sequence.rs"]
mod sequence;
#[path = "common/standin.rs"]
mod standin;
#[path = "common/transformer.rs"]
mod transformer;

use autoassist::backend::cpu::{Cpu, simd::Isa};
use autoassist::backend::gpu::{Gpu, Ladder};
use autoassist::backend::{DeviceError, Executor, Precision};
use fixture::{Check, Fixture};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

type Open = Box<dyn Fn() -> Box<dyn Executor>>;

/// One that can run the op set.
struct Candidate {
    name: String,
    precision: Precision,
    /// The only op to run, if not all.
    only: Option<&'static str>,
    open: Open,
}

/// The fixtures that a ladder's steps are tried on.
fn op_of(ladder: Ladder) -> Option<&'static str> {
    match ladder {
        Ladder::Conv => Some("conv2d"),
        Ladder::SoftmaxXent => Some("softmax_xent"),
        Ladder::BatchNorm => Some("batchnorm"),
        Ladder::Sgd => Some("sgd"),
        Ladder::Linear => Some("ffn"),
        Ladder::Attention => Some("attention"),
        Ladder::Embedding => Some("embedding"),
        Ladder::LayerNorm => Some("layernorm"),
        Ladder::SentenceXent => Some("sentence_xent"),
        Ladder::Adam => Some("adam"),
        Ladder::Gather | Ladder::Gemm | Ladder::Copy => None,
    }
}

type OpenGpu = fn() -> Result<Gpu, DeviceError>;

/// An executor that goes to the top of every ladder, and one for each lower step.
fn rungs(name: &str, open: OpenGpu) -> Vec<Candidate> {
    let there = move || open().expect("it was there a moment ago");
    let mut all = vec![Candidate {
        name: name.into(),
        precision: Precision::Bf16,
        only: None,
        open: Box::new(move || Box::new(there())),
    }];
    for ladder in Ladder::ALL {
        let Some(op) = op_of(ladder) else { continue };
        all.extend((1..ladder.last()).map(|step| Candidate {
            name: format!("{name}, step {step}"),
            precision: Precision::Bf16,
            only: Some(op),
            open: Box::new(move || {
                let mut gpu = there();
                gpu.limit(ladder, step);
                Box::new(gpu)
            }),
        }));
    }
    all
}

/// Everything wanted on this machine that can run the op set, and what is not there with the
/// reason.
fn executors(wanted: &[&str]) -> (Vec<Candidate>, Vec<(&'static str, DeviceError)>) {
    let mut absent = Vec::new();
    let mut all = Vec::new();
    for isa in Isa::available() {
        let cpu = |name, precision| Candidate {
            name,
            precision,
            only: None,
            open: Box::new(move || Box::new(Cpu::with(isa, precision))),
        };
        if !wanted.contains(&"cpu") {
            continue;
        }
        // What has tiles more than another computes in f32 as that does.
        if isa == isa.vectors() {
            all.push(cpu(format!("cpu/{isa}"), Precision::F32));
        }
        all.push(cpu(format!("cpu/{isa} bf16"), Precision::Bf16));
    }
    let gpus: [(&'static str, OpenGpu); 2] = [("simt", Gpu::simt), ("cuda", || Gpu::cuda(0))];
    for (name, open) in gpus.into_iter().filter(|(name, _)| wanted.contains(name)) {
        match open() {
            Ok(_) => all.extend(rungs(name, open)),
            Err(e) => absent.push((name, e)),
        }
    }
    (all, absent)
}

/// What became of a fixture on an executor.
struct Outcome {
    /// Comparisons with the reference.
    checks: Vec<Check>,
    /// What else there is to say about them.
    notes: Vec<String>,
    /// The worst error of the naive computation in the executor's precision, if it is a low one.
    naive: Option<f64>,
}

fn run(fixture: &Fixture, candidate: &Candidate) -> Result<Outcome, ops::Failure> {
    let exec = &mut *(candidate.open)();
    if candidate.precision == Precision::F32 {
        let (checks, notes) = match fixture.op.as_str() {
            "resnet_train" => ops::resnet_train(fixture, exec)?,
            _ => (ops::run(fixture, exec)?, Vec::new()),
        };
        return Ok(Outcome {
            checks,
            notes,
            naive: None,
        });
    }
    let cpu = || Cpu::with_isa(Isa::PORTABLE);
    let mut naive = vec![ops::run(fixture, &mut rounded::Rounded::new(cpu()))?];
    if fixture.op == "resnet_train" {
        // Rounding decides on which side of zero some ReLU inputs fall: one run says little about
        // the others.
        for seed in 1..5 {
            let mut dithered = rounded::Rounded::dithered(cpu(), seed);
            naive.push(ops::run(fixture, &mut dithered)?);
        }
    }
    let checks = ops::run(fixture, exec)?;
    let little = ops::little(fixture);
    let errors = naive
        .iter()
        .flatten()
        .filter(|c| !c.loose)
        .map(Check::error);
    Ok(Outcome {
        naive: Some(errors.fold(0.0, f64::max)),
        checks: fixture::beside(checks, &naive, little),
        notes: Vec::new(),
    })
}

/// Worst error of each op on each executor.
type Worst = BTreeMap<(String, String), f64>;

impl Candidate {
    /// Whether it has the fixture's op.
    fn concerns(&self, fixture: &Fixture) -> bool {
        let of_sequences = sequence::is_op(&fixture.op) || fixture.op == "transformer_train";
        let of_recurrence = recurrent::is_op(&fixture.op) || fixture.op == "lstm_train";
        let of_convolutions = convolutional::is_op(&fixture.op) || fixture.op == "convs2s_train";
        let able = || {
            let exec = &mut *(self.open)();
            let ops = exec.sequence();
            if of_convolutions {
                ops.and_then(|ops| ops.convolutional()).is_some()
            } else if of_recurrence {
                ops.and_then(|ops| ops.recurrent()).is_some()
            } else {
                !of_sequences || ops.is_some()
            }
        };
        self.only.is_none_or(|op| op == fixture.op) && able()
    }
}

/// What is wrong with a file's results, one line a finding.
fn failures(
    name: &str,
    fixture: &Fixture,
    candidates: &[Candidate],
    worst: &mut Worst,
) -> Vec<String> {
    let mut found = Vec::new();
    for candidate in candidates.iter().filter(|c| c.concerns(fixture)) {
        let executor = &candidate.name;
        let outcome = match run(fixture, candidate) {
            Ok(outcome) => outcome,
            Err(e) => {
                found.push(format!("on {executor}: {e}"));
                continue;
            }
        };
        let mut keep = |executor: &str, error: f64| {
            let key = (fixture.op.clone(), executor.to_string());
            let worst = worst.entry(key).or_default();
            *worst = worst.max(error);
        };
        if let Some(error) = outcome.naive {
            keep("naive bf16", error);
        }
        for note in outcome.notes {
            println!(
                "note: {name} on {executor} agrees with this decided as in the reference: {note}"
            );
        }
        for check in &outcome.checks {
            if !check.loose {
                keep(executor, check.error());
            }
            match check.verdict() {
                Err(e) => found.push(format!("on {executor}: {e}")),
                Ok(()) if !check.notices_errors() => {
                    found.push(format!("on {executor}: a spoilt result is not noticed"));
                }
                Ok(()) => (),
            }
        }
    }
    if found.is_empty() && !fixture.unused().is_empty() {
        found.push(format!("nothing looks at {:?}", fixture.unused()));
    }
    found
}

/// The fixtures' paths, in order.
fn fixtures(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn main() -> ExitCode {
    // What cargo and its users pass to any test; there is one test here.
    if std::env::args().any(|a| a == "--list") {
        println!("oracle: test");
        return ExitCode::SUCCESS;
    }
    limit::steps();
    let dir = std::env::var_os("ORACLE_DIR").map_or("tests/fixtures".into(), PathBuf::from);
    let files = match fixtures(&dir) {
        Ok(files) if !files.is_empty() => files,
        Ok(_) => {
            eprintln!("no fixtures in {}", dir.display());
            return ExitCode::FAILURE;
        }
        Err(e) => {
            eprintln!("cannot read {}: {e}", dir.display());
            return ExitCode::FAILURE;
        }
    };
    let wanted = match devices::wanted() {
        Ok(wanted) => wanted,
        Err(why) => {
            eprintln!("oracle: {why}");
            return ExitCode::from(2);
        }
    };
    let (candidates, absent) = executors(&wanted);
    for (name, reason) in &absent {
        println!("{name} is skipped: {reason}");
    }
    for (_, reason) in absent.into_iter().filter(|(name, _)| *name == "cuda") {
        if let Err(e) = reason.unless_required() {
            eprintln!("oracle: {e}");
            return ExitCode::FAILURE;
        }
    }
    let (mut run_count, mut failed, mut skipped) = (0, 0, Vec::new());
    let mut worst = Worst::new();
    for file in &files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let found = match Fixture::read(file) {
            // Nobody of those that are asked has it.
            Ok(fixture) if !candidates.iter().any(|c| c.concerns(&fixture)) => {
                skipped.push(name.into_owned());
                continue;
            }
            Ok(fixture) => failures(&name, &fixture, &candidates, &mut worst),
            Err(e) => vec![e],
        };
        run_count += 1;
        failed += usize::from(!found.is_empty());
        for failure in found {
            println!("FAILED {name} {failure}");
        }
    }
    let passed = run_count - failed;
    if wanted.contains(&"standin") {
        failed += standin::again();
    }
    for ((op, executor), error) in &worst {
        println!("{op:<17} {executor:<17} worst error {error:.1e} of the tensor's maximum");
    }
    println!(
        "\ntest result: {}. {passed} passed; {failed} failed; {} ignored",
        if failed == 0 { "ok" } else { "FAILED" },
        skipped.len()
    );
    println!(
        "oracle: {run_count} run, {} skipped: {}",
        skipped.len(),
        skipped.join(" ")
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
