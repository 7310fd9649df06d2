//! `kernels profile`, `kernels ladder`, `kernels tables` and `kernels drawings` as a user meets them.

use crate::runs::without_progress;
use assert_cmd::Command;
use autoassist::backend::gpu::catalog::FILES;
use autoassist::backend::gpu::head::head;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn kernels(args: &[&str], folder: &Path) -> std::process::Output {
    let mut command = Command::cargo_bin("kernels").expect("the program is built");
    let command = command.args(args).current_dir(folder);
    command.output().expect("it runs")
}

/// What a command prints that must succeed.
fn printed(args: &[&str], folder: &Path) -> String {
    let output = kernels(args, folder);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_profile_tells_the_swizzled_product_from_the_other() {
    let here = Path::new(".");
    let shape = ["--shape", "128x128x64"];
    let plain = printed(
        &[&["profile", "gemm_tensor_cores"], &shape[..]].concat(),
        here,
    );
    assert!(plain.contains("4.0-way conflicts"), "{plain}");
    assert!(plain.contains("ldmatrix(a, chunk("), "{plain}");
    let file = "kernels/gemm/5_swizzle.cu";
    let swizzled = printed(&[&["profile", file], &shape[..]].concat(), here);
    assert!(!swizzled.contains("-way conflicts"), "{swizzled}");
    let none = swizzled.matches(", 0 conflicts").count();
    assert_eq!(none, 2, "{swizzled}");
    for text in [&plain, &swizzled] {
        assert!(text.contains("predictions for the H100 SXM"), "{text}");
    }
}

#[test]
fn without_a_step_the_last_one_is_taken_that_the_gpu_has() {
    let here = Path::new(".");
    let at = |gpu| {
        printed(
            &["profile", "gemm", "--shape", "64,64,64", "--gpu", gpu],
            here,
        )
    };
    assert!(at("h100").contains("kernels/gemm/7_hopper.cu"));
    assert!(at("A100").contains("kernels/gemm/6_pipeline.cu"));
    let strided = printed(&["profile", "copy", "--step", "1", "--shape", "4096"], here);
    assert!(strided.contains("32.00 sectors a request"), "{strided}");
}

#[test]
fn a_ladder_is_a_table_and_a_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = printed(&["ladder", "copy", "--shape", "4096"], folder.path());
    for step in ["1 strided", "2 elements", "3 vectors"] {
        assert!(text.contains(step), "{text}");
    }
    let page = fs::read_to_string(folder.path().join("ladder-copy.html")).expect("a page");
    assert!(page.contains("to[i] = from[i];"));
    let args = ["ladder", "gemm", "--shape", "9x5x7", "--page", "x.html"];
    let text = printed(&args, folder.path());
    assert!(text.contains("step 7 is left out"), "{text}");
    assert!(folder.path().join("x.html").exists());
}

#[test]
fn a_network_s_step_is_all_its_launches() {
    let args = ["profile", "--network", "resnet8", "--batch", "2"];
    let text = printed(&args, Path::new("."));
    assert!(
        text.starts_with("resnet8, 2 images a step, H100 SXM: "),
        "{text}"
    );
    let (summary, table) = text.split_once("\n\n").expect("a table");
    let mut rows: Vec<(&str, u32)> = Vec::new();
    for row in table.lines().skip(1) {
        let (name, numbers) = row.split_once("  ").expect("columns");
        let calls = numbers.split_whitespace().next().expect("a number");
        rows.push((name, calls.parse().expect("a number")));
    }
    let [
        kernels @ ..,
        ("gaps between launches", gaps),
        ("a step", all),
    ] = &rows[..]
    else {
        panic!("{text}");
    };
    assert_eq!(kernels.iter().map(|(_, calls)| calls).sum::<u32>(), *all);
    assert_eq!(gaps, all);
    assert!(summary.contains(&format!(". {all} launches, ")), "{text}");
    for kernel in ["gather", "softmax_xent", "sgd"] {
        assert!(kernels.contains(&(kernel, 1)), "{kernel}: {text}");
    }
}

#[test]
fn without_a_gpu_they_say_why_nothing_is_measured_and_fail_where_one_is_required() {
    let folder = tempfile::tempdir().expect("a folder");
    for args in [["ladder", "copy"], ["profile", "copy"]] {
        let run = |required: &str| {
            let mut command = Command::cargo_bin("kernels").expect("the program is built");
            command.args(args).args(["--shape", "4096"]);
            command.current_dir(folder.path());
            // Hides what GPUs there are.
            command.envs([("CUDA_VISIBLE_DEVICES", ""), ("REQUIRE_CUDA", required)]);
            let output = command.output().expect("it runs");
            let [out, error] =
                [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("text"));
            (output.status.code(), out, error)
        };
        let (code, out, _) = run("0");
        assert_eq!(code, Some(0));
        let reasons = out
            .lines()
            .filter(|line| line.starts_with("not measured: "));
        assert_eq!(reasons.count(), 1, "{out}");
        let (code, out, error) = run("1");
        assert_eq!((code, out.as_str()), (Some(1), ""));
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.starts_with("kernels: REQUIRE_CUDA=1: "), "{error}");
    }
}

#[test]
fn wrong_arguments_are_one_line_and_exit_code_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let markers = folder.path().join("a.md");
    fs::write(&markers, "<!-- ladder nothing -->\n<!-- /ladder -->\n").expect("a file");
    for (args, says) in [
        (&["profile", "nothing"][..], "there are copy, gemm,"),
        (
            &["profile", "gemm", "--shape", "5x5"],
            "gemm has 3 sizes (m, n, k), not 2",
        ),
        (
            &["profile", "gemm", "--shape", "5xfivex5"],
            "--shape: sizes look like",
        ),
        (&["profile", "gemm", "--shape", "0x5x5"], "sizes from 1 on"),
        (
            &["profile", "gemm", "--shape", "99999999x99999999x99999999"],
            "less than 2 GiB",
        ),
        (&["profile", "gemm", "--step", "9"], "gemm has no step 9"),
        (
            &["profile", "gemm", "--step", "7", "--shape", "5x5x5"],
            "step 7 does not take that shape on this GPU",
        ),
        (
            &["profile", "conv", "--shape", "1x8x8x4x4x2x1"],
            "an odd kernel",
        ),
        (
            &["profile", "gemm", "--gpu", "3090"],
            "one of h100, h200, a100",
        ),
        (
            &["ladder", "copy", "--shape", "9", "--page", "no/such/x.html"],
            "no/such/x.html",
        ),
        (
            &["profile", "--network", "resnet21"],
            "--network resnet21: one of resnet8, ",
        ),
        (&["tables", "missing.md"], "missing.md"),
        (&["tables", "a.md"], "line 1: nothing is no op"),
    ] {
        let output = kernels(args, folder.path());
        let error = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert_eq!(without_progress(&error).len(), 1, "{args:?}: {error}");
        assert!(error.contains(says), "{args:?}: {error}");
    }
    let kept = fs::read_to_string(&markers).expect("a file");
    assert!(
        kept.starts_with("<!-- ladder nothing -->"),
        "nothing is lost"
    );
}

#[test]
fn the_readmes_tables_are_those_of_the_kernels() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/README.md");
    let readme = fs::read_to_string(readme).expect("a README");
    let start = "<!-- ladder copy -->\n";
    let at = readme.find(start).expect("it shows that ladder");
    let end = readme[at..]
        .find("<!-- /ladder -->\n")
        .expect("and ends it");
    let table = &readme[at..at + end];
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.md");
    let empty = format!("before\n{start}<!-- /ladder -->\nafter\n");
    fs::write(&file, empty).expect("a file");
    printed(&["tables", "a.md"], folder.path());
    let new = fs::read_to_string(&file).expect("a file");
    assert_eq!(new, format!("before\n{table}<!-- /ladder -->\nafter\n"));
}

/// Drawings show what kernels do now, and all that there are, are in the text.
#[test]
fn the_readmes_drawings_are_those_of_the_kernels() {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let folder = tempfile::tempdir().expect("a folder");
    printed(&["drawings", "."], folder.path());
    let files = |folder: &Path| {
        let entries = fs::read_dir(folder).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names.collect::<BTreeSet<_>>()
    };
    let kept = kernels.join("drawings");
    assert_eq!(files(&kept), files(folder.path()));
    let readme = fs::read_to_string(kernels.join("README.md")).expect("it is there");
    for name in files(&kept) {
        let [old, new] = [&kept, folder.path()].map(|folder| {
            let file = folder.join(&name);
            fs::read_to_string(file).expect("a drawing")
        });
        let name = name.to_string_lossy();
        assert!(
            old == new,
            "{name}: `kernels drawings kernels/drawings` writes it anew"
        );
        assert!(new.len() < 20_000, "{name}: {} bytes", new.len());
        assert!(readme.contains(&format!("](drawings/{name})")), "{name}");
    }
}

/// Each question names one command, and each quotation in its answer is what that prints.
#[test]
fn what_the_kernels_ask_has_the_answers_that_they_give() {
    let tries = FILES.iter().flat_map(|file| {
        let head = head(file.path).expect("it is a source");
        head.tries.into_iter().map(|pair| (file.path, pair))
    });
    let tries: Vec<(&str, [String; 2])> = tries.collect();
    tries.par_iter().for_each(|(path, [question, answer])| {
        let commands: Vec<&str> = question.split('`').skip(1).step_by(2).collect();
        let [command] = commands[..] else {
            panic!("{path}: {question}")
        };
        let args = command.strip_prefix("kernels ").expect("this program's");
        let args: Vec<&str> = args.split(' ').collect();
        let text = printed(&args, Path::new("."));
        assert!(text.contains(*path), "{command} runs {path}");
        let quoted: Vec<&str> = answer.split('`').skip(1).step_by(2).collect();
        assert!(!quoted.is_empty(), "{path}: {answer}");
        for quote in quoted {
            // Not the end of another number.
            let whole =
                |(at, _): (usize, &str)| !text[..at].ends_with(|c: char| c.is_ascii_digit());
            assert!(
                text.match_indices(quote).any(whole),
                "{command}: no {quote} in\n{text}"
            );
        }
    });
    let asked: BTreeSet<&str> = tries.iter().map(|(path, _)| *path).collect();
    for folder in ["gemm", "copy", "conv_fprop", "attention", "layer_norm"] {
        let folder = format!("kernels/{folder}/");
        let steps = FILES.iter().filter(|file| file.path.starts_with(&folder));
        for step in steps {
            assert!(asked.contains(step.path), "{} asks nothing", step.path);
        }
    }
}

#[test]
fn without_a_name_the_ops_are_listed_and_a_slip_is_understood() {
    let here = Path::new(".");
    for command in ["profile", "ladder"] {
        let text = printed(&[command], here);
        let row = text
            .lines()
            .find(|line| line.starts_with("gemm "))
            .expect("a row");
        for part in ["1 to 7", "mxnxk", "Matrix product"] {
            assert!(row.contains(part), "{row}");
        }
    }
    for (args, meant) in [
        (["profile", "gem"], "gemm"),
        (["ladder", "atention"], "attention"),
        (["profile", "gemm_swizle"], "gemm_swizzle"),
        (["list", "gemmm"], "gemm"),
        (["check", "soft_max_xent"], "softmax_xent"),
    ] {
        let output = kernels(&args, here);
        let error = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{args:?}: {error}");
        assert!(
            error.contains(&format!("(did you mean {meant}?)")),
            "{error}"
        );
    }
}

/// Whoever has closed standard error does not want to know; what is wrong is still wrong.
#[test]
fn a_standard_error_that_takes_nothing_is_no_panic() {
    let program = assert_cmd::cargo::cargo_bin("kernels");
    for args in [
        "profile nothing",
        "check nothing",
        "list nothing",
        "tables nothing.md",
        "pack /dev/null",
    ] {
        let line = format!("exec {} {args} 2>/dev/full", program.display());
        let status = std::process::Command::new("sh")
            .args(["-c", &line])
            .status();
        assert_eq!(status.expect("a shell").code(), Some(2), "{args}");
    }
}
