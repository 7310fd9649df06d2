//! Kernels that were edited after the build: `kernels` answers for what is on the disk.

use std::fs;
use std::path::Path;
use std::process::Output;
use tempfile::TempDir;

/// A repository's kernels, to be edited.
struct Copy(TempDir);

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).expect("a copy")),
        }
    }
}

impl Copy {
    fn new() -> Copy {
        let folder = tempfile::tempdir().expect("a folder");
        let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        copy_folder(&kernels, &folder.path().join("kernels"));
        Copy(folder)
    }

    fn edit(&self, file: &str, edit: impl FnOnce(String) -> String) {
        let path = self.0.path().join(file);
        let text = fs::read_to_string(&path).expect("a source");
        fs::write(path, edit(text)).expect("written");
    }

    fn kernels(&self, args: &[&str]) -> Output {
        let mut command = assert_cmd::Command::cargo_bin("kernels").expect("the program is built");
        // Nothing has been compiled yet.
        let command = command.env("XDG_CACHE_HOME", self.0.path().join("cache"));
        let command = command.args(args).current_dir(&self.0);
        command.output().expect("it runs")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_edited_comment_changes_no_count() {
    // FMA and registers; special functions and atomics; wgmma and TMA.
    for (file, args) in [
        (
            "gemm/3_registers.cu",
            "profile gemm_registers --shape 64x64x64",
        ),
        (
            "softmax_xent/3_warp_per_row.cu",
            "profile softmax_xent --shape 64x10",
        ),
        (
            "gemm/7_hopper.cu",
            "profile gemm --step 7 --shape 256x256x128",
        ),
    ] {
        let copy = Copy::new();
        let args: Vec<&str> = args.split(' ').collect();
        let before = copy.kernels(&args);
        assert_eq!(text(&before.stderr), "");
        let file = format!("kernels/{file}");
        copy.edit(&file, |text| text + "// The end.\n");
        let after = copy.kernels(&args);
        let said = text(&after.stderr);
        assert!(
            said.contains("compiled again") && said.contains(&file),
            "{said}"
        );
        assert_eq!(text(&after.stdout), text(&before.stdout));
    }
}

#[test]
fn an_edited_kernel_is_the_one_that_is_checked_profiled_and_shown() {
    let copy = Copy::new();
    let file = "kernels/copy/2_elements.cu";
    let wrong = "to[i] = from[i + 1]; // too far";
    copy.edit(file, |text| text.replace("to[i] = from[i];", wrong));
    let output = copy.kernels(&["check", "copy"]);
    assert_eq!(output.status.code(), Some(1));
    let found = text(&output.stdout);
    assert!(found.contains("copy_elements: out of bounds"), "{found}");
    let path = copy.0.path().join(file);
    let source = fs::read_to_string(path).expect("a source");
    let line = source.lines().position(|line| line.contains(wrong));
    let place = format!("{file}:{}", line.expect("the edited line") + 1);
    assert!(found.contains(&place), "{found}");

    let output = copy.kernels(&["profile", "copy_elements", "--shape", "65536"]);
    let counted = text(&output.stdout);
    // A request of 128 bytes that begins within a sector.
    assert!(counted.contains("5.00 sectors a request"), "{counted}");
    assert!(
        counted.contains(&place) && counted.contains(wrong),
        "{counted}"
    );

    let output = copy.kernels(&["ladder", "copy", "--shape", "65536", "--page", "page.html"]);
    assert_eq!(output.status.code(), Some(0));
    let page = fs::read_to_string(copy.0.path().join("page.html")).expect("a page");
    assert!(page.contains("from[i + 1]; // too far"));
}

#[test]
fn both_sides_of_a_race_are_where_the_edited_file_has_them() {
    let copy = Copy::new();
    let file = "kernels/copy/2_elements.cu";
    copy.edit(file, |text| text.replace("to[i] =", "to[i / 2] ="));
    let output = copy.kernels(&["check", "copy_elements"]);
    let found = text(&output.stdout);
    let mut findings = found.split("\n\n");
    let race = findings.find(|f| f.starts_with("copy_elements: race: "));
    let race = race.unwrap_or_else(|| panic!("{found}"));
    let places = race
        .lines()
        .filter(|line| line.contains(&format!(" at {file}:")));
    assert_eq!(places.count(), 2, "{race}");
}

#[test]
fn an_edited_header_is_noticed_where_it_is_included() {
    let copy = Copy::new();
    copy.edit("kernels/include/vector.cuh", |text| {
        text + "\n// The end.\n"
    });
    let said = text(&copy.kernels(&["profile", "bn_moments"]).stderr);
    assert!(said.contains("kernels/bn_moments/2_one_pass.cu"), "{said}");
    assert!(!said.contains("1_two_passes"), "{said}");
}

/// What prepares an op, and what its steps launch of others', is compiled, too.
#[test]
fn ops_that_launch_others_kernels_are_profiled_with_nothing_compiled_before() {
    for args in [
        "profile attention_backward --shape 2x2x16x64",
        "profile conv_backward --step 1 --shape 2x8x8x16x16x3x1",
        "profile sentence_xent --step 1 --shape 4x40",
    ] {
        let args: Vec<&str> = args.split(' ').collect();
        let output = Copy::new().kernels(&args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
    }
}

#[test]
fn what_cannot_be_compiled_is_said_in_the_compilers_words() {
    let copy = Copy::new();
    copy.edit("kernels/copy/2_elements.cu", |text| {
        text.replace("to[i] =", "to[j] =")
    });
    let output = copy.kernels(&["check", "copy_elements"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(
        said.starts_with("kernels: kernels/copy/2_elements.cu does not compile:\n"),
        "{said}"
    );
    assert!(said.contains("kernels/copy/2_elements.cu:17"), "{said}");
    // Others are not asked about.
    assert_eq!(copy.kernels(&["check", "sgd"]).status.code(), Some(0));
}

#[test]
fn a_kernel_that_was_renamed_is_missed() {
    let copy = Copy::new();
    let rename = |text: String| text.replace("copy_elements", "copy_floats");
    copy.edit("kernels/copy/2_elements.cu", rename);
    let output = copy.kernels(&["check", "copy_elements"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(
        said.contains("copy_elements: no kernel has that name"),
        "{said}"
    );
}

#[test]
fn an_edited_executor_wants_a_build() {
    let copy = Copy::new();
    copy.edit("kernels/simt/block.cpp", |text| text + "\n// The end.\n");
    let output = copy.kernels(&["profile", "copy"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("kernels/simt, the executor, was edited"));
}
