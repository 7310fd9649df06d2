//! GPUs of several processes with NCCL between them, behind the stand-in, as `torchrun` would have
//! started them.

use crate::cuda::there;
use crate::images::write_folder;
use crate::runs::{fresh, weights};
use crate::sentences;
use crate::standin::StandIn;
use crate::store;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a rank ended with, and its GPU.
struct Rank {
    output: Output,
    standin: StandIn,
}

impl Rank {
    fn says(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }
}

/// So many processes of a command, which `each` may change for the one of that number.
fn torchrun(ranks: usize, command: &Command, each: impl Fn(usize, &mut Command)) -> Vec<Rank> {
    let place = store::start();
    let start = |rank: usize| {
        let standin = StandIn::new();
        let mut own = standin.command(command.get_program(), "h100");
        own.args(command.get_args());
        let variables = command.get_envs();
        own.envs(variables.filter_map(|(key, value)| Some((key, value?))));
        let variables = [
            ("TORCHELASTIC_RUN_ID", "test".to_string()),
            ("WORLD_SIZE", ranks.to_string()),
            ("RANK", rank.to_string()),
            ("LOCAL_RANK", rank.to_string()),
            ("MASTER_ADDR", place.ip().to_string()),
            ("MASTER_PORT", place.port().to_string()),
            ("STANDIN_DEVICES", ranks.to_string()),
        ];
        own.envs(variables).args(["--device", "cuda"]);
        each(rank, &mut own);
        let child = own.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        (child.expect("it starts"), standin)
    };
    let started: Vec<_> = (0..ranks).map(start).collect();
    let ended = started.into_iter().map(|(child, standin)| Rank {
        output: child.wait_with_output().expect("it ends"),
        standin,
    });
    ended.collect()
}

/// All have ended well and left nothing behind; what the first one says on standard output.
fn well(ranks: &[Rank]) -> Value {
    for rank in ranks {
        assert!(rank.output.status.success(), "{}", rank.says());
        rank.standin.totals().unwrap_or_else(|log| panic!("{log}"));
    }
    let texts = ranks
        .iter()
        .map(|rank| String::from_utf8_lossy(&rank.output.stdout));
    let texts: Vec<_> = texts.collect();
    assert!(texts[1..].iter().all(|text| text.is_empty()), "{texts:?}");
    serde_json::from_str(texts[0].trim()).expect("JSON")
}

fn images(dir: &Path, out: &str) -> Command {
    let data = dir.join("images");
    if !data.exists() {
        write_folder(&data, &["blue", "green"], 16);
    }
    let mut command = fresh(&data, &dir.join(out), "2");
    command.args(["--json", "--quiet"]);
    command
}

#[test]
fn ranks_train_one_network_with_equal_bits_and_wait_for_nothing() {
    if !there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = |ranks: usize, out: &str, landing: &str| {
        let each = |_, command: &mut Command| {
            command.env("AUTOASSIST_SIMT_LANDING", landing);
        };
        let json = well(&torchrun(ranks, &images(dir.path(), out), each));
        assert_eq!(json["world_size"], ranks);
        assert_eq!(json["host_syncs"], 0, "{json}");
        (json, weights(&dir.path().join(out)))
    };
    let (alone, _) = run(1, "one", "late");
    let (both, bits) = run(2, "two", "late");
    for key in ["boss_ops", "full_ops", "instances_trained", "steps"] {
        assert_eq!(both[key], alone[key], "{key}");
    }
    // Means may be there as soon as the backward pass has what they are of, or when they are waited for.
    assert!(run(2, "again", "at-once").1 == bits);
}

#[test]
fn a_translator_of_two_ranks_is_that_of_one_but_for_rounding() {
    if !there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sentences::write_pairs(dir.path(), 24);
    let run = |ranks: usize| {
        let mut command = sentences::transformer(dir.path());
        command
            .args(["--epochs", "1", "--dropout", "0", "--deterministic"])
            .args(["--json", "--quiet", "--out"])
            .arg(dir.path().join(format!("run-{ranks}")));
        well(&torchrun(ranks, &command, |_, _| ()))
    };
    let (alone, both) = (run(1), run(2));
    for key in ["boss_ops", "instances_trained", "steps", "candidates_seen"] {
        assert_eq!(both[key], alone[key], "{key}");
    }
    for key in ["train_loss", "valid_loss"] {
        let [a, b] = [&both, &alone].map(|json| json[key].as_f64().unwrap());
        // Weights and activations are bf16.
        assert!((a - b).abs() < 2e-2, "{key}: {a} and {b}");
    }
}

#[test]
fn a_rank_that_fails_ends_all() {
    if !there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ranks = torchrun(2, &images(dir.path(), "run"), |rank, command| {
        if rank == 1 {
            command.env("STANDIN_FAULT", "sgd:700");
        }
    });
    for rank in &ranks {
        assert_eq!(rank.output.status.code(), Some(1), "{}", rank.says());
    }
    let [first, second] = [0, 1].map(|rank: usize| ranks[rank].says());
    assert!(second.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{second}");
    assert!(first.contains("remote process exited"), "{first}");
    assert_eq!(first.lines().count(), 1, "{first}");
}

#[test]
fn an_old_library_is_refused_by_all_and_said_once() {
    if !there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ranks = torchrun(2, &images(dir.path(), "run"), |rank, command| {
        if rank == 1 {
            command.env("STANDIN_NCCL", "20905");
        }
    });
    let said: Vec<String> = ranks.iter().map(Rank::says).collect();
    for rank in &ranks {
        assert_eq!(rank.output.status.code(), Some(2), "{said:?}");
    }
    let all = said.concat();
    assert!(all.contains("libnccl.so.2 is of version 20905"), "{all}");
    assert_eq!(all.lines().count(), 1, "{all}");
    assert!(!fs::exists(dir.path().join("run")).unwrap());
}
