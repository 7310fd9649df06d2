//! The program `kernels` as a user meets it, and the script that runs a pack.

#[path = "../kernels/build/log.rs"]
#[allow(dead_code, reason = "the build script's")]
mod log;

use assert_cmd::Command;
use autoassist::backend::gpu::catalog::{FILES, TOOLKIT};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn kernels(args: &[&str]) -> std::process::Output {
    let mut command = Command::cargo_bin("kernels").expect("the program is built");
    command.args(args).output().expect("it runs")
}

/// The `.cu` files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "cu") {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_list_names_every_kernel_of_the_sources_with_its_file() {
    let output = kernels(&["list"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("text");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let files = sources(&root.join("kernels"));
    let files = files
        .iter()
        .filter(|f| !f.starts_with(root.join("kernels/simt")));
    let mut count = 0;
    for file in files {
        let text = fs::read_to_string(file).expect("a source");
        let file = file.strip_prefix(root).expect("below the root");
        for line in text.lines() {
            let Some(name) = line.strip_prefix("EXPORT(") else {
                continue;
            };
            let name = name.split(')').next().expect("a name");
            let listed = |row: &&Vec<&str>| {
                row.first() == Some(&name) && row.get(1).is_some_and(|f| Path::new(f) == file)
            };
            let rows: Vec<_> = rows.iter().filter(listed).collect();
            assert!(
                !rows.is_empty(),
                "{name} of {} is not listed",
                file.display()
            );
            // Architecture and four numbers, where there was an nvcc.
            let columns = if TOOLKIT.is_some() { 7 } else { 2 };
            assert!(rows.iter().all(|row| row.len() == columns), "{rows:?}");
            count += 1;
        }
    }
    assert_eq!(count, FILES.iter().map(|f| f.kernels.len()).sum::<usize>());
    assert_eq!(
        TOOLKIT.is_none(),
        text.contains("pip install 'cuda-toolkit[nvcc,cccl]")
    );
}

#[test]
fn the_last_step_of_every_ladder_says_where_its_idea_is_from() {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let folders = fs::read_dir(&kernels).expect("a folder");
    let folders = folders.map(|entry| entry.expect("an entry").path());
    let folders = folders.filter(|path| path.is_dir() && !path.ends_with("simt"));
    let mut ladders = 0;
    for last in folders.filter_map(|folder| sources(&folder).into_iter().max()) {
        let name = last.file_name().expect("a file").to_string_lossy();
        if name.starts_with("1_") {
            continue;
        }
        let text = fs::read_to_string(&last).expect("a source");
        let mut head = text.lines().take_while(|line| line.starts_with("//"));
        let named = head.any(|line| line.starts_with("// Source: ") && line.len() > 30);
        assert!(named, "{}", last.display());
        ladders += 1;
    }
    assert!(ladders > 20, "{ladders}");
}

#[test]
fn no_kernel_spills_on_any_architecture() {
    for file in FILES {
        assert_eq!(file.fatbin.is_some(), TOOLKIT.is_some(), "{}", file.path);
        for kernel in file.kernels {
            let of_kernel = file.resources.iter().filter(|r| r.kernel == *kernel);
            let resources: Vec<_> = of_kernel.collect();
            assert_eq!(resources.is_empty(), TOOLKIT.is_none(), "{kernel}");
            for r in resources {
                assert!((1..=255).contains(&r.registers), "{r:?}");
                assert_eq!((r.spill_stores, r.spill_loads), (0, 0), "{r:?}");
            }
        }
    }
}

#[test]
fn a_folder_with_other_files_is_not_packed_into() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("thesis.tex");
    fs::write(&file, "years of work").expect("writable");
    for target in [dir.path(), &file] {
        let target = target.to_str().expect("text");
        let output = kernels(&["pack", target]);
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with(&format!("kernels: {target}: ")), "{text}");
    }
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
    assert_eq!(kernels(&["pack"]).status.code(), Some(2));
}

/// A pack whose programs are scripts.
fn fake_pack(dir: &Path, programs: &[(&str, &str)]) {
    fs::create_dir(dir.join("bin")).expect("a folder");
    let script = include_str!("../src/workbench/pack/run.sh");
    fs::write(dir.join("run.sh"), script).expect("writable");
    for (name, body) in programs {
        let path = dir.join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
    }
}

#[test]
fn a_pack_runs_everything_even_after_a_failure_and_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    fake_pack(
        dir.path(),
        &[
            ("kernels", "echo \"$@\""),
            ("test-oracle", "ls -d $ORACLE_DIR; exit 3"),
            ("test-gpu", "echo REQUIRE_CUDA=$REQUIRE_CUDA"),
            ("resnet", "echo \"$@\"; echo '{\"device\":\"a GPU\"}'"),
            ("bench-one", "mkdir -p \"$CRITERION_HOME/x\"; echo $1"),
        ],
    );
    let gzip = Command::new("gzip")
        .arg(dir.path().join("bin/kernels"))
        .output();
    assert!(gzip.expect("gzip runs").status.success());
    let run = |cifar: Option<&str>, out: &str| {
        let mut command = Command::new("bash");
        command.arg(dir.path().join("run.sh")).arg(out);
        command.current_dir(dir.path()).env_remove("CIFAR");
        command.envs(cifar.map(|c| ("CIFAR", c)));
        command.output().expect("bash runs").status.code()
    };
    let read = |name: &str| {
        let path = dir.path().join(name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    assert_eq!(run(None, "first"), Some(1));
    let summary = read("first/summary.txt");
    let status = |step: &str| {
        let line = summary.lines().find(|l| l.split(' ').next() == Some(step));
        let line = line.unwrap_or_else(|| panic!("no {step} in {summary}"));
        line.split_whitespace().nth(2).map(String::from)
    };
    assert_eq!(status("oracle").as_deref(), Some("3"));
    for step in ["kernels", "gpu", "demonstration", "bench-one"] {
        assert_eq!(status(step).as_deref(), Some("0"), "{step}");
    }
    assert!(summary.contains("resnet20") && summary.contains("skipped"));
    assert!(summary.ends_with("FAILED\n"), "{summary}");
    assert_eq!(read("first/gpu.log"), "REQUIRE_CUDA=1\n");
    assert_eq!(read("first/bench-one.log"), "--bench\n");
    assert!(read("first/ladder-gemm.log").starts_with("ladder gemm --page "));
    assert_eq!(read("first/demonstration.json"), "{\"device\":\"a GPU\"}\n");
    assert!(!dir.path().join("first/gpu.json").exists());
    assert!(dir.path().join("first/criterion/x").is_dir());
    assert!(read("first/demonstration.log").contains("--device cuda"));

    // Results are not overwritten.
    assert_eq!(run(None, "first"), Some(2));
    fs::write(dir.path().join("bin/test-oracle"), "#!/bin/sh\n").expect("writable");
    assert_eq!(run(Some("/data/with space"), "second"), Some(0));
    assert!(read("second/summary.txt").ends_with("all passed\n"));
    assert!(read("second/resnet20.log").contains("--data-dir /data/with space --depth 20"));
}

#[cfg(all(simt, not(simt_counted)))]
#[test]
fn a_build_by_clang_does_not_count() {
    let output = kernels(&["profile", "copy"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(
        text.contains("CXX=g++") && text.lines().count() == 1,
        "{text}"
    );
}

#[cfg(simt)]
#[test]
fn a_check_names_what_it_did_and_wants_a_kernel_that_exists() {
    let output = kernels(&["check", "kernels/sgd"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("text");
    let mut parts = text.split([' ', '\n']);
    assert!(
        parts.next().expect("a number") != "0" && text.lines().count() == 1,
        "{text}"
    );
    assert!(
        text.ends_with(" launches, 3 schedules × 3 landing modes: 0 findings\n"),
        "{text}"
    );
    assert!(output.stderr.is_empty());

    let output = kernels(&["check", "no_such"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(
        text.contains("\"no_such\"") && text.lines().count() == 1,
        "{text}"
    );
}
