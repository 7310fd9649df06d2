//! Several processes that train together, under every launcher that `AUTOASSIST_TEST_MPIEXEC` names
//! (paths with colons between). What needs no MPI is tried anywhere.

use crate::images::write_folder;
use crate::runs::{finish, fresh, resnet, resume, signal, started, weights};
use crate::sentences;
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// What does not depend on how many processes share the work. How many candidates there were depends
/// on the losses, and those of a network with batch norm on how many images of a batch it sees.
const LEDGER: [&str; 4] = ["boss_ops", "full_ops", "instances_trained", "steps"];

/// The launchers, each with the name of its variable for a process's number.
fn launchers() -> Vec<PathBuf> {
    let named = std::env::var_os("AUTOASSIST_TEST_MPIEXEC").unwrap_or_default();
    let paths: Vec<PathBuf> = std::env::split_paths(&named)
        .filter(|path| !path.as_os_str().is_empty())
        .map(|path| path.canonicalize().expect("a launcher"))
        .collect();
    if paths.is_empty() {
        println!("not tried: AUTOASSIST_TEST_MPIEXEC names no mpiexec");
    }
    paths
}

fn is_open_mpi(mpiexec: &Path) -> bool {
    let output = Command::new(mpiexec).arg("--version").output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains("Open MPI")
}

/// The command, run by so many processes.
fn shared(mpiexec: &Path, ranks: usize, command: &Command) -> Command {
    let mut all = Command::new(mpiexec);
    all.args(["-n", &ranks.to_string()])
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => all.env(key, value),
            None => all.env_remove(key),
        };
    }
    // As many as there are, whoever asks.
    all.env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe");
    all
}

/// 128 little images, and a place for runs.
fn place() -> (TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    write_folder(&data, &["blue", "green"], 64);
    (temp, data)
}

/// The only line on standard output, as JSON.
fn json(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(text.trim()).unwrap()
}

fn quiet_json(mut command: Command) -> Command {
    command.args(["--json", "--quiet"]);
    command
}

/// The code, and what the program said of all that is on standard error.
fn refusal(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let own = text.lines().filter(|line| line.starts_with("resnet: "));
    let own: Vec<&str> = own.collect();
    assert_eq!(own.len(), 1, "{text}");
    (output.status.code(), own[0].to_string())
}

#[test]
fn ranks_do_together_what_one_process_would_with_equal_bits_whoever_carries_them() {
    let (temp, data) = place();
    let out = |name: &str| temp.path().join(name);
    let mut bits = Vec::new();
    for (i, mpiexec) in launchers().iter().enumerate() {
        let run = |ranks, name: &str, threads: &str| {
            let mut command = quiet_json(fresh(&data, &out(name), "4"));
            command.env("RAYON_NUM_THREADS", threads);
            let json = json(&shared(mpiexec, ranks, &command).output().unwrap());
            assert_eq!(json["world_size"], ranks);
            (json, weights(&out(name)))
        };
        let alone = quiet_json(fresh(&data, &out(&format!("one-{i}")), "4")).output();
        let alone = json(&alone.unwrap());
        assert_eq!(
            (&alone["world_size"], &alone["reduce_seconds"]),
            (&1.into(), &0.0.into())
        );
        for ranks in [2, 3] {
            let (json, model) = run(ranks, &format!("{ranks}-{i}"), "1");
            for key in LEDGER {
                assert_eq!(json[key], alone[key], "{key} of {ranks} ranks");
            }
            assert!(json["reduce_seconds"].as_f64().unwrap() > 0.0);
            let (_, again) = run(ranks, &format!("{ranks}-{i}-again"), "2");
            assert!(model == again, "{ranks} ranks twice");
            if ranks == 2 {
                bits.push(model);
            }
            let report = out(&format!("{ranks}-{i}")).join("report.html");
            let report = fs::read_to_string(report).unwrap();
            assert!(report.contains(&format!(" · {ranks} processes, ")));
        }
    }
    assert!(
        bits.iter().all(|model| *model == bits[0]),
        "launchers differ"
    );
    let begun = fs::read_dir(temp.path()).unwrap().count();
    assert_eq!(begun, 1 + 5 * launchers().len(), "a folder a run");
}

/// The process of that number that trains in `out`.
fn rank(number: usize, out: &Path) -> libc::pid_t {
    let names = ["PMI_RANK", "OMPI_COMM_WORLD_RANK"].map(|name| format!("{name}={number}"));
    let has = |text: &[u8], part: &[u8]| text.split(|b| *b == 0).any(|field| field == part);
    let is_it = |process: &PathBuf| {
        let [line, variables] = ["cmdline", "environ"].map(|f| fs::read(process.join(f)));
        let (line, variables) = (line.unwrap_or_default(), variables.unwrap_or_default());
        // The launcher's line has the same words.
        let program = line.split(|b| *b == 0).next().unwrap_or_default();
        program.ends_with(b"resnet")
            && has(&line, out.as_os_str().as_encoded_bytes())
            && names.iter().any(|name| has(&variables, name.as_bytes()))
    };
    let all = fs::read_dir("/proc").unwrap().map(|e| e.unwrap().path());
    let found = all.into_iter().find(is_it).expect("it runs");
    found
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn a_rank_that_is_killed_ends_all_and_the_run_goes_on_with_equal_bits() {
    let (temp, data) = place();
    for (i, mpiexec) in launchers().iter().enumerate() {
        let out = |name: &str| temp.path().join(format!("{name}-{i}"));
        finish(shared(mpiexec, 2, &fresh(&data, &out("whole"), "12")));
        let command = shared(mpiexec, 2, &fresh(&data, &out("killed"), "12"));
        let (mut child, lines) = started(command, " step 16, ");
        let victim = rank(1, &out("killed"));
        // SAFETY: `kill` only sends a signal, to a process that was found by what only it has.
        assert_eq!(unsafe { libc::kill(victim, libc::SIGKILL) }, 0);
        lines.for_each(drop);
        assert!(!child.wait().unwrap().success());
        finish(shared(mpiexec, 2, &resume(&out("killed"))));
        assert!(weights(&out("killed")) == weights(&out("whole")));
    }
}

#[test]
fn ranks_stop_before_one_step_and_go_on_as_any_number_of_them() {
    let (temp, data) = place();
    // Open MPI's launcher kills its processes a moment after it has passed the signal on.
    let patient = launchers().into_iter().filter(|path| !is_open_mpi(path));
    for (i, mpiexec) in patient.enumerate() {
        let out = |name: &str| temp.path().join(format!("{name}-{i}"));
        let whole = shared(&mpiexec, 2, &quiet_json(fresh(&data, &out("whole"), "60")));
        let whole = json(&{ whole }.output().unwrap());
        for ranks in [1, 2, 3] {
            let name = out(&format!("stopped-{ranks}"));
            let command = shared(&mpiexec, 2, &fresh(&data, &name, "60"));
            let (mut child, lines) = started(command, " step 16, ");
            signal(&child, libc::SIGINT);
            let said = lines
                .filter(|line| line.contains("stopped at step"))
                .count();
            assert_eq!((child.wait().unwrap().code(), said), (Some(130), 1));
            assert!(!name.join("model.safetensors").exists());
            let mut command = resume(&name);
            command.arg("--json");
            let json = json(&shared(&mpiexec, ranks, &command).output().unwrap());
            for key in LEDGER {
                assert_eq!(json[key], whole[key], "{key} with {ranks} ranks");
            }
            let same = weights(&name) == weights(&out("whole"));
            assert_eq!(same, ranks == 2, "bits of {ranks} ranks");
        }
    }
}

#[cfg(simt)]
#[test]
fn on_simt_the_exchange_is_in_the_graph_and_nobody_waits_for_the_device() {
    let (temp, data) = place();
    for (i, mpiexec) in launchers().iter().enumerate() {
        let run = |ranks, name: &str| {
            let out = temp.path().join(format!("{name}-{i}"));
            let mut command = resnet();
            command
                .args([
                    "--data", "folder", "--epochs", "2", "--batch", "12", "--device", "simt",
                ])
                .args(["--json", "--quiet", "--data-dir"])
                .args([data.as_os_str(), "--out".as_ref(), out.as_os_str()]);
            let json = json(&shared(mpiexec, ranks, &command).output().unwrap());
            assert_eq!(json["host_syncs"], 0);
            (json, weights(&out))
        };
        let (alone, _) = run(1, "one");
        let (json, model) = run(2, "two");
        assert_eq!(json["device"], "2 x simt");
        for key in ["boss_ops", "instances_trained", "steps"] {
            assert_eq!(json[key], alone[key], "{key}");
        }
        assert!(run(2, "again").1 == model);
    }
}

#[test]
fn a_transformer_of_several_ranks_is_that_of_one_but_for_rounding() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    sentences::write_pairs(&data, 96);
    for (i, mpiexec) in launchers().iter().enumerate() {
        let run = |ranks, name: &str| {
            let out = temp.path().join(format!("{name}-{i}"));
            let mut command = sentences::transformer(&data);
            command
                .args(["--epochs", "2", "--dropout", "0", "--deterministic"])
                .args(["--json", "--quiet", "--out"])
                .arg(&out);
            let json = json(&shared(mpiexec, ranks, &command).output().unwrap());
            (json, weights(&out), out)
        };
        let (alone, _, _) = run(1, "one");
        for ranks in [2, 3] {
            // Batches of 4 sentences, and fewer: some ranks have nothing to do.
            let (json, model, out) = run(ranks, &format!("{ranks}"));
            for key in LEDGER.into_iter().chain(["candidates_seen"]) {
                assert_eq!(json[key], alone[key], "{key}");
            }
            for key in ["train_loss", "valid_loss"] {
                let [a, b] = [&json, &alone].map(|json| json[key].as_f64().unwrap());
                assert!((a - b).abs() < 1e-4, "{key}: {a} and {b}");
            }
            let translations = fs::read_to_string(out.join("translations.txt")).unwrap();
            assert_eq!(translations.lines().count(), 20);
            assert!(run(ranks, &format!("{ranks}-again")).1 == model);
        }
    }
}

#[test]
fn ranks_that_cannot_train_together_say_so_once() {
    let (temp, data) = place();
    let other = temp.path().join("other");
    write_folder(&other, &["blue", "green"], 60);
    let out = temp.path().join("run");
    for mpiexec in launchers() {
        let all = |ranks, command: &Command| refusal(shared(&mpiexec, ranks, command));
        let mut command = fresh(&data, &out, "1");
        command.args(["--depth", "9"]);
        let (code, text) = all(2, &command);
        assert_eq!(code, Some(2));
        assert!(text.starts_with("resnet: --depth 9"), "{text}");
        let mut command = resnet();
        command.args(["--data", "synthetic", "--batch", "2", "--quiet"]);
        let (code, text) = all(3, &command);
        assert_eq!(code, Some(2));
        assert!(text.contains("3 processes share each batch"), "{text}");
        // A program of its own for each rank.
        let different = |second: &Command| {
            let mut both = shared(&mpiexec, 1, &fresh(&data, &out, "1"));
            both.args([":", "-n", "1"])
                .arg(second.get_program())
                .args(second.get_args());
            refusal(both)
        };
        let (code, text) = different(&fresh(&other, &out, "1"));
        assert_eq!(
            (code, text.contains("rank 1 has other data")),
            (Some(2), true),
            "{text}"
        );
        let (code, text) = different(&fresh(&data, &out, "2"));
        assert_eq!(
            (code, text.contains("rank 1 has other settings")),
            (Some(2), true),
            "{text}"
        );
        let (code, text) = different(fresh(&data, &out, "1").arg("--no-such-flag"));
        assert_eq!(
            (code, text.contains("rank 1: error: unexpected")),
            (Some(2), true),
            "{text}"
        );
        let (code, text) = different(&fresh(&temp.path().join("none"), &out, "1"));
        assert_eq!(
            (code, text.starts_with("resnet: rank 1: ")),
            (Some(2), true),
            "{text}"
        );
        assert!(!out.exists());
    }
    // The library of one, and the launcher of another.
    let (open, others): (Vec<_>, Vec<_>) = launchers().into_iter().partition(|p| is_open_mpi(p));
    let library = |mpiexec: &Path, name: &str| {
        let prefix = mpiexec.parent().unwrap().parent().unwrap();
        prefix.join("lib").join(name)
    };
    for (open, other) in open.iter().zip(&others) {
        for (mpiexec, path) in [
            (open, library(other, "libmpi.so.12")),
            (other, library(open, "libmpi.so.40")),
        ] {
            let mut command = fresh(&data, &out, "1");
            command.env("AUTOASSIST_MPI", path);
            let (code, text) = refusal(shared(mpiexec, 2, &command));
            assert_eq!(code, Some(2));
            assert!(
                text.contains("AUTOASSIST_MPI=") && text.contains("the launcher"),
                "{text}"
            );
        }
    }
}

#[test]
fn who_was_started_as_one_of_several_does_not_train_alone() {
    let of = |variables: &[(&str, &str)]| {
        let mut command = resnet();
        command.args(["--data", "synthetic", "--quiet"]);
        refusal({
            command.envs(variables.iter().copied());
            command
        })
    };
    let pmi = [("PMI_SIZE", "2"), ("PMI_RANK", "0")];
    let (code, text) = of(&[&pmi[..], &[("AUTOASSIST_MPI", "/no/such/libmpi.so")]].concat());
    assert_eq!(code, Some(2));
    assert!(
        text.contains("has started 2 processes") && text.contains("pip install mpich"),
        "{text}"
    );
    let (code, text) = of(&[("PMI_SIZE", "many")]);
    assert_eq!(
        (code, text.contains("PMI_SIZE=many")),
        (Some(2), true),
        "{text}"
    );
    // A port where nobody listens any more.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let (code, text) = of(&[
        ("TORCHELASTIC_RUN_ID", "x"),
        ("WORLD_SIZE", "2"),
        ("RANK", "0"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", &port.to_string()),
    ]);
    assert_eq!(
        (code, text.contains("torchrun's store")),
        (Some(2), true),
        "{text}"
    );
    // One of one is alone, and so is a process of a batch script.
    let mut command = resnet();
    command.args(["--data", "synthetic", "--depth", "9"]);
    command.envs([("PMI_SIZE", "1"), ("SLURM_NTASKS", "4")]);
    assert!(refusal(command).1.starts_with("resnet: --depth 9"));
}
