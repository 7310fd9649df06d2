//! The program `kernels` as a user meets it, and the script that runs a pack.

#[path = "../../kernels/build/log.rs"]
#[allow(dead_code, reason = "the build script's")]
mod log;

use crate::runs::without_progress;
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
        .map(|l| {
            l.split(" # ")
                .next()
                .unwrap_or(l)
                .split_whitespace()
                .collect()
        })
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
            // Architecture and four numbers.
            assert!(rows.iter().all(|row| row.len() == 7), "{rows:?}");
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
fn a_part_of_the_list_is_that_part_with_what_it_computes() {
    let all = kernels(&["list"]);
    let all = String::from_utf8(all.stdout).expect("text");
    for (name, what) in [
        (
            "gemm/5",
            "  # Matrix product on tensor cores without bank conflicts\n",
        ),
        (
            "layer_norm_rows",
            "  # Layer norm with residual and dropout\n",
        ),
    ] {
        let output = kernels(&["list", name]);
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(text.contains(what), "{text}");
        let rows = |text: &str| -> Vec<Vec<String>> {
            let named = text.lines().filter(|line| line.contains(name));
            let cells = |line: &str| line.split_whitespace().map(String::from).collect();
            named.map(cells).collect()
        };
        assert_eq!(rows(&text), rows(&all));
        // Besides them a header, and what it says below the table.
        let below = all.lines().skip_while(|line| !line.is_empty()).count();
        assert_eq!(
            text.lines().count(),
            1 + rows(&text).len() + below,
            "{text}"
        );
    }
    // Of each file once.
    assert_eq!(all.matches(" # ").count(), 1 + FILES.len());
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
            assert!(
                !resources.is_empty(),
                "{kernel}: not in kernels/resources.txt"
            );
            for r in resources {
                assert!((1..=255).contains(&r.registers), "{r:?}");
                assert_eq!((r.stack, r.spills), (0, 0), "{r:?}");
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

#[test]
fn an_architecture_that_nvcc_does_not_have_is_one_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let target = dir.path().join("pack");
    for arch in ["95", "sm_90", "90a,", "75"] {
        let output = kernels(&["pack", target.to_str().expect("text"), "--arch", arch]);
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(text.lines().count(), 1, "{text}");
        // Without nvcc there is nothing to pack anyway.
        let (code, says) = match TOOLKIT {
            Some(_) => (2, "80, 86, "),
            None => (1, "no CUDA kernels"),
        };
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(says), "{text}");
        assert!(!target.exists());
    }
}

/// A pack whose programs are scripts, in an archive, and of no mode that lets them run.
struct Pack(tempfile::TempDir);

impl Pack {
    fn of(programs: &[(&str, &str)]) -> Pack {
        let pack = Pack(tempfile::tempdir().expect("a folder"));
        let script = include_str!("../../src/workbench/pack/run.sh");
        fs::write(pack.path("run.sh"), script).expect("writable");
        fs::create_dir(pack.path("bin")).expect("a folder");
        for (name, body) in programs {
            let path = pack.path("bin").join(name);
            fs::write(path, format!("#!/bin/sh\n{body}\n")).expect("writable");
        }
        let args = ["-c", "tar -cf - bin | xz >programs.tar.xz && rm -r bin"];
        let mut archive = std::process::Command::new("sh");
        let status = archive.args(args).current_dir(&pack.0).status();
        assert!(status.expect("a shell").success());
        pack
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// A program of the machine, which is not in the pack.
    fn install(&self, name: &str, body: &str) {
        let folder = self.path("installed");
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
    }

    fn run(&self, args: &[&str], variables: &[(&str, &str)]) -> std::process::Output {
        let path = std::env::var("PATH").expect("a PATH");
        let mut command = Command::new("bash");
        command.arg(self.path("run.sh")).args(args);
        command.current_dir(&self.0).env_remove("CIFAR");
        command.env(
            "PATH",
            format!("{}:{path}", self.path("installed").display()),
        );
        command.envs(variables.iter().copied());
        command.output().expect("bash runs")
    }

    /// What became of a step.
    fn word(&self, out: &str, step: &str) -> Option<String> {
        let summary = self.read(&format!("{out}/summary.txt"));
        let mut lines = summary.lines().map(|line| line.split_whitespace());
        let mut line = lines.find(|line| line.clone().next() == Some(step))?;
        line.nth(1).map(String::from)
    }
}

const PROGRAMS: [(&str, &str); 9] = [
    ("kernels", "echo \"$@\""),
    ("test-oracle", "echo $ORACLE_DIR; exit 3"),
    (
        "test-gpu",
        "echo on $AUTOASSIST_TEST_DEVICES REQUIRE_CUDA=$REQUIRE_CUDA \"$@\"",
    ),
    ("resnet", "echo \"$@\"; echo '{\"device\":\"a GPU\"}'"),
    ("transformer", "echo '{\"bleu\":1}'"),
    ("bench-loss_export", "echo \"$@\""),
    ("bench-ladders", "echo \"$@\""),
    ("bench-gemm", "echo \"$@\""),
    (
        "bench-networks",
        "mkdir -p \"$CRITERION_HOME\"; echo '[1]' >\"$CRITERION_HOME/networks.json\"; \
         echo \"$CRITERION_HOME/networks.json\"",
    ),
];

#[test]
fn a_pack_runs_everything_even_after_a_failure_and_says_so() {
    let pack = Pack::of(&PROGRAMS);
    pack.install("nvidia-smi", "exit 9");
    let output = pack.run(&["first"], &[]);
    assert_eq!(output.status.code(), Some(1));
    for (step, word) in [
        ("nvidia-smi", "failed"),
        ("gpu", "passed"),
        ("oracle", "failed"),
        ("gpu-memcheck", "skipped"),
        ("resnet", "passed"),
        ("resnet20", "skipped"),
        ("loss-export", "passed"),
        ("ladder-gemm", "passed"),
        ("bench-networks", "passed"),
        ("gpu-simt", "passed"),
        ("bench-networks-cpu", "passed"),
    ] {
        assert_eq!(pack.word("first", step).as_deref(), Some(word), "{step}");
    }
    let printed = String::from_utf8(output.stdout).expect("text");
    assert!(
        printed.ends_with(&pack.read("first/summary.txt")),
        "{printed}"
    );
    assert_eq!(pack.read("first/gpu.txt"), "on cuda REQUIRE_CUDA=1\n");
    assert_eq!(pack.read("first/gpu-simt.txt"), "on simt REQUIRE_CUDA=\n");
    assert_eq!(pack.read("first/oracle.txt"), "tests/fixtures\n");
    assert_eq!(pack.read("first/loss-export.txt"), "--bench\n");
    assert!(
        pack.read("first/ladder-gemm.txt")
            .starts_with("ladder gemm --page ")
    );
    assert_eq!(pack.read("first/resnet.json"), "{\"device\":\"a GPU\"}\n");
    assert!(
        pack.read("first/resnet.txt")
            .contains("--device cuda --json")
    );
    assert_eq!(pack.read("first/bench-networks.json"), "[1]\n");
    assert!(!pack.path("first/gpu.json").exists());

    // What has ended is not run again, unless it is named.
    fs::remove_file(pack.path("first/gpu.txt")).expect("it is there");
    let output = pack.run(&["first"], &[("CIFAR", "/data/with space")]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!pack.path("first/gpu.txt").exists());
    assert!(
        pack.read("first/resnet20.txt")
            .contains("--data-dir /data/with space --depth 20")
    );
    let more = [("STEP_ARGS", "--epochs 1")];
    let output = pack.run(&["first", "gpu", "resnet"], &more);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        pack.read("first/gpu.txt"),
        "on cuda REQUIRE_CUDA=1 --epochs 1\n"
    );
    let said = pack.read("first/resnet.txt");
    assert!(said.contains("runs-resnet --epochs 1\n"), "{said}");
}

#[test]
fn a_packs_step_that_hangs_is_cut_and_named() {
    let mut programs = PROGRAMS;
    programs[2].1 = "echo begun; exec tail -f /dev/null";
    let pack = Pack::of(&programs);
    // In pieces, into the same folder.
    let limit = [("STEP_SECONDS", "1")];
    let output = pack.run(&["out", "transformer", "gpu", "kernels"], &limit);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        pack.run(&["out", "loss-export"], &[]).status.code(),
        Some(0)
    );
    for (step, word) in [
        ("transformer", "passed"),
        ("gpu", "cut"),
        ("kernels", "passed"),
        ("loss-export", "passed"),
    ] {
        assert_eq!(pack.word("out", step).as_deref(), Some(word), "{step}");
    }
    assert_eq!(pack.read("out/gpu.txt"), "begun\n");
    assert_eq!(pack.read("out/transformer.json"), "{\"bleu\":1}\n");
    assert_eq!(pack.word("out", "oracle"), None);
}

#[test]
fn a_packs_tests_are_run_under_the_sanitizer_where_there_is_one() {
    let pack = Pack::of(&PROGRAMS);
    pack.install("compute-sanitizer", "echo \"$@\"; shift 4; exec \"$@\"");
    let output = pack.run(&["out", "gpu-memcheck", "oracle-racecheck"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = pack.read("out/gpu-memcheck.txt");
    let skips = "bin/test-gpu --skip a_fault_is_reported";
    assert_eq!(
        text,
        format!(
            "--tool memcheck --error-exitcode 9 {skips}\non cuda REQUIRE_CUDA=1 {}\n",
            &skips[13..]
        )
    );
    let text = pack.read("out/oracle-racecheck.txt");
    assert!(text.starts_with("--tool racecheck "), "{text}");
}

#[test]
fn a_packs_wrong_arguments_are_one_line_and_nothing_runs() {
    let pack = Pack::of(&PROGRAMS);
    for (args, variable, says) in [
        (
            &["out", "no_such"][..],
            "1",
            "choose of nvidia-smi gpu oracle ",
        ),
        (&["gpu"], "1", "bash run.sh OUT gpu"),
        (&["--fast"], "1", "no option"),
        (&["out"], "1h", "STEP_SECONDS=1h: "),
        (&["out"], "0", "STEP_SECONDS=0: "),
    ] {
        let output = pack.run(args, &[("STEP_SECONDS", variable)]);
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
        assert!(text.contains(says), "{args:?}: {text}");
    }
    for (args, code) in [(&[][..], 2), (&["--help"], 0)] {
        let output = pack.run(args, &[]);
        assert_eq!(output.status.code(), Some(code));
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(text.starts_with("bash run.sh OUT [STEP...]\n"), "{text}");
        assert!(text.contains("\nSteps: nvidia-smi gpu "), "{text}");
    }
    assert!(!pack.path("out").exists() && !pack.path("bin").exists());
}

/// A machine of few tools: some of the usual ones by their names.
fn tools(pack: &Pack, names: &[&str]) -> String {
    let folder = pack.path("few");
    fs::create_dir(&folder).expect("a folder");
    for name in names {
        let path = std::env::var_os("PATH").expect("a PATH");
        let mut places = std::env::split_paths(&path).map(|place| place.join(name));
        let place = places.find(|place| place.is_file()).expect("a usual tool");
        std::os::unix::fs::symlink(place, folder.join(name)).expect("writable");
    }
    folder.to_str().expect("text").into()
}

#[test]
fn a_pack_that_cannot_be_unpacked_says_what_to_install() {
    let pack = Pack::of(&PROGRAMS);
    let few = tools(
        &pack,
        &["bash", "cat", "cksum", "dirname", "mkdir", "rm", "timeout"],
    );
    let output = pack.run(&["out", "gpu"], &[("PATH", &few)]);
    let text = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("install xz-utils"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
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
    let output = kernels(&["check", "kernels/copy"]);
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
    let error = String::from_utf8(output.stderr).expect("text");
    assert!(without_progress(&error).is_empty(), "{error}");

    let output = kernels(&["check", "no_such"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(
        text.contains("\"no_such\"") && text.lines().count() == 1,
        "{text}"
    );
}
