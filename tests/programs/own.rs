//! Programs of one's own: what CUDA's headers have for kernels, in the small programs of `tests/cuda/`.
//! Each prints what is wrong, and nothing else but its last line.

use assert_cmd::Command;
use autoassist::backend::gpu::catalog::NVCC;
use std::path::Path;
use std::process::Output;

/// `kernels run|check tests/cuda/NAME.cu`, which compiles into a folder that all of them share.
fn kernels(action: &str, name: &str) -> Output {
    let source = Path::new("tests/cuda").join(name).with_extension("cu");
    command(action, &source).output().expect("it runs")
}

fn command(action: &str, source: &Path) -> Command {
    let mut command = Command::cargo_bin("kernels").expect("the program is built");
    command.arg(action).arg(source);
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// Of a program that is right: runs it, and checks it, too.
fn is_right(name: &str) {
    let output = kernels("run", name);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "right\n");
    let output = kernels("check", name);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("right\n"), "{text}");
    assert!(text.contains(": 0 findings"), "{text}");
}

/// Of a program that is wrong if it is given this number: the checker says so, at all lines that are marked
/// with it. Returns what it says.
fn finds(name: &str, number: &str, wanted: &str) -> String {
    let source = Path::new("tests/cuda").join(name).with_extension("cu");
    let output = command("check", &source).args(["--", number]).output();
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(wanted), "{text}");
    let program = std::fs::read_to_string(&source).expect("the program");
    let mark = format!("// {number}");
    let marked: Vec<usize> = (1..)
        .zip(program.lines())
        .filter_map(|(i, line)| line.ends_with(&mark).then_some(i))
        .collect();
    assert!(!marked.is_empty(), "{name} has no line {mark}");
    for line in marked {
        let place = format!(" at {}:{line}\n", source.display());
        assert!(text.contains(&place), "{place}: {text}");
    }
    text
}

#[test]
fn groups_of_threads_know_their_ranks_and_work_together() {
    is_right("groups");
}

#[test]
fn numbers_of_sixteen_bits_are_rounded_once() {
    is_right("narrow");
}

#[test]
fn intrinsics_compute_what_their_names_say() {
    is_right("intrinsics");
}

#[test]
fn atomics_and_shuffles_of_all_types() {
    is_right("between_threads");
}

#[test]
fn fragments_are_multiplied() {
    is_right("fragments");
}

#[test]
fn copies_come_when_they_are_waited_for() {
    is_right("copies");
}

#[test]
fn random_numbers_are_those_of_their_generators() {
    is_right("random");
}

#[test]
fn blas_is_computed_on_the_host() {
    is_right("blas");
}

/// `check` finds what is missing, at its line.
#[test]
fn groups_that_do_not_meet_race() {
    let output = kernels("check", "unmet");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("turned: race"), "{text}");
    assert!(text.contains("turned: uninitialised"), "{text}");
    assert!(text.contains("tests/cuda/unmet.cu:13"), "{text}");
    // Of the kernel whose tiles wait there is none.
    assert!(text.contains(": 2 findings"), "{text}");
}

#[test]
fn an_assertion_in_a_kernel_ends_the_launch_alone() {
    let output = kernels("run", "assertion");
    // The program has looked at the error: its exit code is its own.
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    let wanted = "kernel positive (tests/cuda/assertion.cu), block (1,0,0), thread (5,0,0): \
                  tests/cuda/assertion.cu:8: Assertion `p[i] > 0 && \"a message, with \
                  a comma\"` failed.";
    assert!(said.contains(wanted), "{said}");
    // The host's code goes on.
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, "the launch failed\n");
}

/// Side by side, or in turns where somebody looks.
#[test]
fn blocks_of_a_cooperative_launch_wait_for_one_another() {
    is_right("together");
    let output = kernels("profile", "together");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("right\n"), "{text}");
    assert!(text.contains("Counts are exact"), "{text}");
    // 12 blocks meet four times; of the first, a thread reads what each has left, twice; a block reads
    // the line of `parts` anew after it has met others.
    assert!(text.contains("\n  48 barriers\n"), "{text}");
    assert!(text.contains(" 48 requests       192 B "), "{text}");
}

/// Without the second barrier of the grid a block goes on while another reads; and what one does not
/// come to, the others wait for in vain.
#[test]
fn what_blocks_do_between_two_barriers_of_the_grid_races() {
    let source = std::fs::read_to_string("tests/cuda/together.cu").expect("the program");
    let folder = tempfile::tempdir().expect("a folder");
    let checked = |name: &str, text: &str| {
        assert_ne!(text, source);
        std::fs::write(folder.path().join(name), text).expect("written");
        let mut command = command("check", Path::new(name));
        let output = command.current_dir(folder.path()).output();
        let output = output.expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    };
    let header = std::fs::read("tests/cuda/expect.h").expect("a header");
    std::fs::write(folder.path().join("expect.h"), header).expect("written");
    let (text, _) = checked(
        "once.cu",
        &source.replace("        }\n        grid.sync();\n", "        }\n"),
    );
    assert!(text.contains("sums: race: "), "{text}");
    for act in [
        "  write by block (",
        " at once.cu:12\n",
        "  after read by block (0,0,0), thread (0,0,0) at once.cu:17\n",
    ] {
        assert!(text.contains(act), "{act}\n{text}");
    }
    let (_, said) = checked(
        "leaves.cu",
        &source.replace(
            "        if (threadIdx.x == 0)\n",
            "        if (blockIdx.x == 5) return;\n",
        ),
    );
    let wanted =
        "sync of the grid at leaves.cu:13: other blocks have returned, so it is never complete";
    assert!(said.contains(wanted), "{said}");
}

/// The guide's own loop is none; a read that nothing confirms is one.
#[test]
fn a_read_that_an_exchange_confirms_is_no_race() {
    let output = kernels("check", "exchange");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("4160 4160 1\n"), "{text}");
    assert!(text.contains("looks: race: bytes 0 to 3"), "{text}");
    assert!(text.contains(" at tests/cuda/exchange.cu:30\n"), "{text}");
    assert!(text.contains(": 1 finding\n"), "{text}");
}

#[test]
fn a_page_has_the_sources_with_what_their_lines_cost() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("a.html");
    let output = command("profile", Path::new("tests/cuda/transpose.cu"))
        .arg("--page")
        .arg(&page)
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.ends_with(&format!("{}: annotated sources\n", page.display())),
        "{text}"
    );
    let page = std::fs::read_to_string(&page).expect("a page");
    assert!(page.contains("<h4>tests/cuda/transpose.cu</h4>"), "{page}");
    // The line that conflicts, escaped, with its cost below.
    let line = page.split("<h4>").nth(1).expect("a source");
    let line = line.split("= tile[threadIdx.x][threadIdx.y + i];").nth(1);
    let note = line.expect("the line").lines().nth(1).expect("a note");
    assert!(note.contains("32.0-way conflicts"), "{note}");
    for broken in ["NaN", "inf", "http", "src=", "<cstdio>"] {
        assert!(!page.contains(broken), "{broken}");
    }
    // A place that cannot be written.
    let output = command("profile", Path::new("tests/cuda/transpose.cu"))
        .args(["--page", "absent/a.html"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.starts_with("kernels: ") && said.contains("absent"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_program_is_given_an_architecture_room_and_threads() {
    is_right("whole");
}

/// A multiply-add is one, in however many lines it is written.
#[test]
fn a_statement_over_two_lines_is_fused() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("two.cu");
    let text = "__global__ void f(float *p, float x) {
    p[threadIdx.x] +=
        p[threadIdx.x + 32] * x;
}
int main() {
    float *p;
    cudaMalloc(&p, 64 * sizeof(float));
    f<<<1, 32>>>(p, 2);
    cudaFree(p);
}
";
    std::fs::write(&source, text).expect("written");
    let output = command("profile", &source).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.lines().filter(|line| line.contains("FMA units ("));
    // Of the kernel, and of the line that multiplies.
    let fused = said.map(|line| line.contains("(100 % fusable)"));
    assert_eq!(fused.collect::<Vec<_>>(), [true, true], "{text}");
}

/// Of blocks that all do the same, some tell what all do.
#[test]
fn a_profile_may_be_of_some_blocks() {
    let source = Path::new("tests/cuda/transpose.cu");
    let lines = |max: &[&str]| -> Vec<String> {
        let output = command("profile", source)
            .args(max)
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(str::to_string).collect()
    };
    let (all, some) = (lines(&[]), lines(&["--max-blocks", "5"]));
    assert!(
        some.iter()
            .any(|line| line == "  sampled: 5 of 4096 blocks"),
        "{some:?}"
    );
    let counts = |lines: &[String]| -> Vec<String> {
        let counted = lines.iter().filter(|line| line.contains("requests"));
        counted.cloned().collect()
    };
    assert_eq!(counts(&all), counts(&some));
    assert_eq!(counts(&all).len(), 4);
}

/// What nvcc makes of a program is read, where there is an nvcc: registers, instructions, and that it
/// reads and writes neighbours at once.
#[test]
fn a_profile_has_what_machine_code_says() {
    let output = command("profile", Path::new("tests/cuda/merged.cu"))
        .args(["-D", "add(a,b)=a+b"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let nvdisasm = NVCC.map(|nvcc| Path::new(nvcc).with_file_name("nvdisasm"));
    if !nvdisasm.is_some_and(|path| path.is_file()) {
        assert!(text.contains("Issue slots, integers and logic"), "{text}");
        assert!(
            text.contains("shared reads             4 requests"),
            "{text}"
        );
        return;
    }
    assert!(
        text.contains("What warps issue is read from nvcc's machine code"),
        "{text}"
    );
    let of = |name: &str| {
        let (_, after) = text
            .split_once(&format!("{name} (tests/cuda/merged.cu)\n"))
            .expect(name);
        after.split("\n\n").next().expect("its end").to_string()
    };
    // Of 4 neighbours, which conflict if they are read one by one; neighbours of threads stay 4 reads.
    let neighbours = of("neighbours<4, float>");
    for line in [
        "  global reads             4 requests       512 B   4.00 sectors a request, 100 % of them needed",
        "  shared reads             1 requests       512 B   4.00 wavefronts a request, 0 conflicts",
        "  shared writes            1 requests       512 B   4.00 wavefronts a request, 0 conflicts",
    ] {
        assert!(neighbours.lines().any(|l| l == line), "{neighbours}");
    }
    for name in ["neighbours<4, float>", "one", "two"] {
        let found = of(name);
        assert!(found.contains(" registers: "), "{found}");
        assert!(found.contains("\n  issued: "), "{found}");
        assert!(found.contains(" instructions issued\n"), "{found}");
    }
}

/// Neither those that come before headers in the source nor those of `-D`.
#[test]
fn a_programs_macros_do_not_reach_into_headers() {
    let mut command = command("check", Path::new("tests/cuda/names.cu"));
    for name in [
        "WIDTH=1000",
        "W=8",
        "KIND=1",
        "TYPE=float",
        "SIZE",
        "add(a,b)=a+b",
    ] {
        command.args(["-D", name]);
    }
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("right\n"), "{output:?}");
    assert!(text.contains(": 0 findings"), "{text}");
}

#[test]
fn what_many_programs_do_is_right() {
    is_right("customs");
    // What is fenced by one thread alone is not what the others have written.
    finds("customs", "1", "lonely: race: ");
}

/// Not within headers, where nobody would look for them.
#[test]
fn mistakes_in_calls_of_cudas_functions_are_found_at_the_calls() {
    for (number, wanted) in [
        ("1", "load: out of bounds: "),
        ("2", "sum: race: "),
        ("3", "count: race: "),
        ("4", "fetch<__half>: out of bounds: "),
    ] {
        let text = finds("lines", number, wanted);
        assert!(!text.contains("code address"), "{text}");
    }
}

/// What comes of it looks like a number, so that nothing else would say it.
#[test]
fn calls_of_the_host_that_read_what_nothing_has_written_are_found() {
    is_right("unwritten");
    for number in ["1", "2", "3"] {
        let text = finds("unwritten", number, "main(): uninitialised: byte ");
        assert!(text.contains(": 1 finding\n"), "{text}");
    }
}

/// As they would with CUDA, and never without a word.
#[test]
fn programs_that_end_badly_say_how() {
    let run = |action, number| {
        command(action, Path::new("tests/cuda/ends.cu"))
            .args(["--", number])
            .output()
            .expect("it runs")
    };
    let output = run("run", "1");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), None, "{text}"); // abort()
    assert!(
        text.contains("what():  input.txt is not there") && !text.contains("Rust"),
        "{text}"
    );
    for action in ["run", "check"] {
        let output = run(action, "2");
        assert_eq!(output.status.code(), Some(1), "{action}: {output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains("recur") && text.contains("tests/cuda/ends.cu:"),
            "{action}: {text}"
        );
    }
}

#[test]
fn bugs_out_of_textbooks_are_found_at_their_lines() {
    for (bug, wanted) in [
        (
            "1",
            "twice: out of bounds: bytes 4000 to 4003 of device memory",
        ),
        (
            "2",
            "blur: uninitialised: bytes 516 to 519 of shared variable near",
        ),
        ("3", "largest: race: bytes 4 to 7 of shared variable part"),
    ] {
        let text = finds("bugs", bug, wanted);
        assert!(text.contains(": 1 finding\n"), "{text}");
    }
}

/// A kernel's own heap is there as long as it is, and no further.
#[test]
fn what_kernels_allocate_is_theirs() {
    is_right("heap");
    for (number, kernel) in [("1", "beyond"), ("2", "too_late")] {
        let text = finds("heap", number, &format!("{kernel}: out of bounds: "));
        assert!(text.contains(": 1 finding\n"), "{text}");
    }
}

/// What `kernels/README.md` quotes is what its commands print.
#[test]
fn the_worked_examples_are_as_the_text_says() {
    let readme = std::fs::read_to_string("kernels/README.md").expect("a README");
    let (_, section) = readme
        .split_once("\n## Your own program")
        .expect("a section");
    let section = section.split("\n## ").next().expect("it has a text");
    let quoted = |heading: &str| {
        let (_, after) = section
            .split_once(&format!("**{heading}\n```"))
            .expect(heading);
        let (_, after) = after.split_once('\n').expect("a block");
        after.split("\n```").next().expect("its end").to_string()
    };
    let folder = tempfile::tempdir().expect("a folder");
    for (action, name) in [("check", "sum"), ("profile", "transpose")] {
        let path = Path::new("tests/cuda").join(name).with_extension("cu");
        let source = std::fs::read_to_string(&path).expect("the program");
        let code = quoted(&format!("`{}`**", path.display()));
        assert!(source.contains(&code), "not in {name}: {code}");
        let says = |path: &Path, wanted: &str| {
            let output = command(action, path).output().expect("it runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            // The text was written without an nvcc, which adds to all but what is counted.
            let counts =
                |line: &&str| NVCC.is_none() || action == "check" || line.contains("requests");
            for line in wanted.lines().filter(counts) {
                assert!(
                    text.lines().any(|l| l == line),
                    "{line}\n is not in\n{text}"
                );
            }
            text
        };
        let text = says(
            &path,
            &quoted(&format!("`kernels {action} {}`**", path.display())),
        );
        // Mended as the text says.
        let mended = match name {
            "sum" => source.replace(
                &code,
                &code.replace("half];\n", "half];\n__syncthreads();\n"),
            ),
            _ => source.replace("[TILE][TILE]", "[TILE][TILE + 1]"),
        };
        assert_ne!(mended, source);
        let path = folder.path().join(path.file_name().expect("a file"));
        std::fs::write(&path, mended).expect("written");
        match name {
            "sum" => {
                assert!(text.starts_with("1072\n"), "{text}");
                let text = says(&path, "29994");
                assert!(text.contains(": 0 findings"), "{text}");
            }
            _ => {
                says(
                    &path,
                    &quoted(&format!(
                        "`kernels {action} tests/cuda/{name}.cu`, mended**"
                    )),
                );
            }
        }
    }
}
