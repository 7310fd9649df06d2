//! The checker finds each of the mistakes that are planted in `kernels/simt`, and none in other
//! kernels.

use autoassist::backend::gpu::catalog::FILES;
use autoassist::backend::gpu::driver::{Arg, Driver, Launch, Scratch, TensorMap};
use autoassist::simt::checker::{Access, Act, Checker, Finding, Mistake};
use autoassist::simt::{Landing, Schedule, Simt};
use autoassist::workbench::check::Plan;

/// Files with mistakes, and their text.
const PLANTED: [(&str, &str); 2] = [
    (
        "kernels/simt/planted.cu",
        include_str!("../../kernels/simt/planted.cu"),
    ),
    (
        "kernels/simt/planted_order.cu",
        include_str!("../../kernels/simt/planted_order.cu"),
    ),
];
const SCHEDULES: [Schedule; 4] = [
    Schedule::Low,
    Schedule::High,
    Schedule::Random(1),
    Schedule::Random(2),
];
const LANDINGS: [Landing; 3] = [Landing::Late, Landing::AtOnce, Landing::Randomly];

/// Where `// MARK name` stands: `kernels/simt/planted.cu:17`.
fn at(mark: &str) -> String {
    let end = format!("// MARK {mark}");
    let mut found = PLANTED.iter().filter_map(|(file, text)| {
        let line = text.lines().position(|line| line.ends_with(&end))?;
        Some(format!("{file}:{}", line + 1))
    });
    found.next().expect("the mark is there")
}

/// An argument, and the memory behind it.
#[derive(Clone, Copy)]
enum Given {
    /// So many zero bytes.
    Memory(usize),
    /// So many bytes without contents.
    Scratch(usize),
    Int(i32),
    /// A matrix of 128 rows, so many tiles.
    Tiles(usize),
}
use Given::{Int, Memory, Scratch as Undefined, Tiles};

/// Runs a planted kernel and returns what is found.
fn run(
    name: &'static str,
    blocks: u32,
    given: &[Given],
    schedule: Schedule,
    landing: Landing,
) -> Vec<Finding> {
    let checker = Checker::new().expect("address space");
    let mut simt = Simt::checked(schedule, landing, checker.clone());
    let mut scratch = None;
    let args = given.iter().map(|given| match *given {
        Memory(bytes) => Arg::Ptr(simt.alloc(bytes).expect("memory")),
        Undefined(bytes) => {
            let address = simt.alloc(2 * bytes).expect("memory");
            scratch = Some(Scratch { address, bytes });
            Arg::Ptr(address)
        }
        Int(v) => Arg::I32(v),
        Tiles(tiles) => Arg::Map(TensorMap {
            base: simt.alloc(128 * 64 * tiles * 2).expect("memory"),
            rows: 128,
            columns: 64 * tiles as u64,
            box_rows: 128,
        }),
    });
    let args = args.collect();
    let (threads, shared) = match (name, given[0]) {
        ("planted_ldmatrix", _) => (32, 128),
        ("planted_nothing", _) => (64, 256),
        ("gemm_pipeline" | "mutant_pipeline_barrier" | "mutant_pipeline_wait", _) => {
            (128, 64 << 10)
        }
        // Six stages, or one tile, and what aligns them.
        ("gemm_hopper_128" | "mutant_hopper_wait", _) => (384, 193 << 10),
        (_, Tiles(_)) => (64, 17 << 10),
        _ => (64, 128),
    };
    let launch = Launch {
        kernel: name,
        grid: [blocks, 1, 1],
        threads,
        shared,
        args,
        scratch,
    };
    simt.launch(&launch).expect("a right launch");
    simt.synchronize().expect("no mistake is an error");
    checker.findings()
}

/// Under all schedules and landings one mistake is found, of one of these kinds, at these marks (each
/// without the kernel's name); `holds` is told who.
fn finds(
    name: &'static str,
    blocks: u32,
    given: &[Given],
    mistakes: &[Mistake],
    sites: &[&str],
    holds: impl Fn(&Finding, &[Act]) -> bool,
) {
    let mark = name.trim_start_matches("planted_");
    let mut wanted: Vec<String> = sites
        .iter()
        .map(|site| at(format!("{mark} {site}").trim_end()))
        .collect();
    wanted.sort();
    for schedule in SCHEDULES {
        for landing in LANDINGS {
            let found = run(name, blocks, given, schedule, landing);
            let text: Vec<String> = found.iter().map(Finding::to_string).collect();
            let text = format!("{schedule:?}, {landing:?}: {}", text.join("\n"));
            let [one] = &found[..] else {
                panic!("not one finding: {text}")
            };
            assert_eq!(one.kernel, name, "{text}");
            assert!(mistakes.contains(&one.mistake), "{text}");
            let mut places: Vec<String> = one.acts.iter().map(|a| a.site.place.clone()).collect();
            places.sort();
            assert_eq!(places, wanted, "{text}");
            assert!(holds(one, &one.acts), "{text}");
        }
    }
}

fn thread(act: &Act) -> u32 {
    act.thread[0]
}

/// The act of that kind.
fn of(acts: &[Act], access: Access) -> &Act {
    let mut all = acts.iter().filter(|a| a.access == access);
    all.next().expect("somebody did that")
}

#[test]
fn races_in_shared_memory() {
    finds(
        "planted_missing_barrier",
        1,
        &[Memory(256)],
        &[Mistake::Race],
        &["write", "read"],
        |f, acts| {
            let [reader, writer] = [Access::Read, Access::Write].map(|a| thread(of(acts, a)));
            let bytes = format!(
                "bytes {} to {} of shared variable tile (256 bytes)",
                4 * writer,
                4 * writer + 3
            );
            reader == 63 - writer && f.what == bytes
        },
    );
    finds(
        "planted_two_writers",
        1,
        &[Memory(256)],
        &[Mistake::Race],
        &["", ""],
        |_, acts| thread(&acts[0]).abs_diff(thread(&acts[1])) == 32,
    );
    finds(
        "planted_missing_syncwarp",
        1,
        &[Memory(256)],
        &[Mistake::Race],
        &["write", "read"],
        |_, acts| thread(&acts[0]) ^ 1 == thread(&acts[1]),
    );
    finds(
        "planted_ldmatrix",
        1,
        &[Memory(256)],
        &[Mistake::Race],
        &["write", "read"],
        |_, acts| thread(of(acts, Access::Read)) == 31 - thread(of(acts, Access::Write)),
    );
}

#[test]
fn races_in_global_memory() {
    finds(
        "planted_two_blocks",
        2,
        &[Memory(512)],
        &[Mistake::Race],
        &["write", "read"],
        |_, acts| acts[0].block != acts[1].block && thread(&acts[0]) == thread(&acts[1]),
    );
    finds(
        "planted_atomic_and_plain",
        1,
        &[Memory(4), Memory(4)],
        &[Mistake::Race],
        &["add", "read"],
        |_, acts| thread(of(acts, Access::Read)) == 40 && thread(of(acts, Access::Atomic)) != 40,
    );
    finds(
        "planted_half_words",
        1,
        &[Memory(128)],
        &[Mistake::Race],
        &["owner", "stranger"],
        |_, acts| acts.iter().map(thread).sum::<u32>() == 31,
    );
}

/// Partial results, counter and result of three blocks.
const LAST_BLOCK: [Given; 3] = [Memory(768), Memory(4), Memory(256)];

#[test]
fn races_between_blocks_that_leave_word() {
    let one = |name, holds: &dyn Fn(u32, u32) -> bool| {
        let sites = ["write", "read"];
        finds(name, 3, &LAST_BLOCK, &[Mistake::Race], &sites, |_, acts| {
            let [reader, writer] = [Access::Read, Access::Write].map(|a| of(acts, a));
            reader.block != writer.block && holds(thread(reader), thread(writer))
        });
    };
    one("planted_missing_fence", &|reader, writer| {
        reader == 63 - writer
    });
    one("planted_early_fence", &|reader, writer| {
        reader == 0 && writer == 0
    });
    // What thread 0 itself wrote is in order.
    one("planted_barrier_before_fence", &|reader, writer| {
        reader == 63 - writer && writer != 0
    });
    // And what it reads.
    one("planted_shuffled_last", &|reader, writer| {
        reader == writer && reader != 0
    });
}

#[test]
fn a_flag_that_is_read_too_early() {
    let pair = |what: &str| ["read", "write"].map(|site| at(&format!("{what} {site}")));
    let flag = pair("barrier_after_flag");
    let partial = pair("barrier_after_flag partial");
    for schedule in SCHEDULES {
        let name = "planted_barrier_after_flag";
        let found = run(name, 3, &LAST_BLOCK, schedule, Landing::Late);
        let mut flags = 0;
        for finding in &found {
            assert_eq!(finding.mistake, Mistake::Race, "{finding}");
            let [reader, writer] =
                [Access::Read, Access::Write].map(|access| of(&finding.acts, access));
            let sites = [reader, writer].map(|act| act.site.place.clone());
            if sites == flag {
                flags += 1;
                assert_eq!(reader.block, writer.block, "{finding}");
                assert_eq!(thread(writer), 0, "{finding}");
            } else {
                assert_eq!(sites, partial, "{finding}");
                assert_ne!(reader.block, writer.block, "{finding}");
            }
            assert_ne!(thread(reader), 0, "{finding}");
        }
        assert_eq!(flags, 1, "{schedule:?}: {found:?}");
    }
}

#[test]
fn accesses_that_leave_their_memory() {
    let one = |name, given: &[Given], who, what: &str| {
        finds(name, 1, given, &[Mistake::Bounds], &[""], |f, acts| {
            thread(&acts[0]) == who && f.what.starts_with(what)
        });
    };
    let two = [Memory(256), Memory(256)];
    let what = "bytes 256 to 259 of device memory (256 bytes), which argument 1 points to";
    one("planted_read_beyond", &two, 63, what);
    let what = "bytes 64 to 67 of device memory (64 bytes), which argument 1 points to";
    one("planted_write_past_end", &[Memory(64), Int(16)], 16, what);
    let what = "bytes 256 to 259 of shared variable tile (256 bytes)";
    one("planted_beyond_shared", &[Memory(256)], 63, what);
    // With the first that goes too far the block ends: which one that is is the schedule's choice.
    let first = |name, given: &[Given], least, what: &str| {
        finds(name, 1, given, &[Mistake::Bounds], &[""], |f, acts| {
            thread(&acts[0]) >= least && f.what.contains(what)
        });
    };
    let memory = [Memory(256)];
    first("planted_wild", &two, 0, "which is no device memory");
    first(
        "planted_beyond_dynamic",
        &memory,
        32,
        "of dynamic shared memory (128 bytes)",
    );
    first("planted_beyond_row", &memory, 4, "into 'float [4]'");
}

#[test]
fn bytes_that_nobody_wrote() {
    let one = |name, given: &[Given], who, what: &str| {
        finds(
            name,
            1,
            given,
            &[Mistake::Uninitialised],
            &[""],
            |f, acts| thread(&acts[0]) == who && f.what.starts_with(what),
        );
    };
    let what = "bytes 20 to 23 of shared variable tile";
    one("planted_uninitialised_shared", &[Memory(256)], 5, what);
    let what = "bytes 24 to 27 of device memory (512 bytes), which argument 1 points to";
    one(
        "planted_uninitialised_scratch",
        &[Undefined(256), Memory(256)],
        6,
        what,
    );
}

#[test]
fn scratch_is_as_large_as_was_asked_for() {
    for schedule in SCHEDULES {
        let given = [Undefined(128), Memory(256)];
        let name = "planted_uninitialised_scratch";
        let found = run(name, 1, &given, schedule, Landing::Late);
        assert!(
            found.iter().any(|f| f.mistake == Mistake::Bounds),
            "{found:?}"
        );
    }
}

#[test]
fn arithmetic_that_is_not_defined() {
    let one = |name, given: &[Given], mistake, who: &dyn Fn(u32) -> bool, what: &str| {
        finds(name, 1, given, &[mistake], &[""], |f, acts| {
            who(thread(&acts[0])) && f.what.contains(what)
        });
    };
    let memory = [Memory(256)];
    one(
        "planted_misaligned",
        &[Memory(256), Memory(256)],
        Mistake::Misaligned,
        &|i| i == 3,
        "which is no multiple of 16",
    );
    one(
        "planted_shift",
        &memory,
        Mistake::Undefined,
        &|i| i == 32,
        "with 32 bits, by 32",
    );
    one(
        "planted_overflow",
        &[Memory(256), Int(i32::MAX - 60)],
        Mistake::Undefined,
        &|i| i > 60,
        "overflow: ",
    );
    one(
        "planted_division",
        &memory,
        Mistake::Undefined,
        &|i| i == 7,
        "division by zero: 100 / 0",
    );
}

#[test]
fn asynchronous_copies() {
    let vectors = [Memory(256), Memory(256)];
    let copier = |acts: &[Act]| thread(of(acts, Access::Copy));
    for name in ["planted_missing_wait", "planted_wait_off_by_one"] {
        let sites = ["copy", "read"];
        finds(name, 1, &vectors, &[Mistake::Copy], &sites, |_, acts| {
            thread(of(acts, Access::Read)) / 4 == copier(acts)
        });
    }
    // Whether the read comes before the wait or after it is the schedule's choice.
    let either = [Mistake::Race, Mistake::Copy];
    for name in ["planted_barrier_after_wait", "planted_reuse"] {
        let sites = ["copy", "read"];
        finds(name, 1, &vectors, &either, &sites, |_, acts| {
            (63 - thread(of(acts, Access::Read))) / 4 == copier(acts)
        });
    }
}

/// Whether the copy comes before the read or after it is the schedule's choice.
#[test]
fn tiles_that_are_copied_and_read_by_units() {
    let one = |name, holds: &dyn Fn(u32) -> bool| {
        let either = [Mistake::Race, Mistake::Copy];
        let (given, sites) = ([Tiles(2), Memory(256)], ["copy", "read"]);
        finds(name, 1, &given, &either, &sites, |_, acts| {
            thread(of(acts, Access::Copy)) == 32 && holds(thread(of(acts, Access::Read)))
        });
    };
    one("planted_unwaited_tile", &|reader| reader == 0);
    one("planted_full_tile", &|reader| reader == 7);
    one("planted_early_empty", &|reader| reader == 0);
    one("planted_empty_for_others", &|reader| reader == 7);
}

/// Kernels of the build as they are, and with something taken out: a product of 128 x 128 elements,
/// through more slices than there are stages.
#[test]
fn kernels_that_lack_something() {
    let sizes = |k| [Int(128), Int(128), Int(k)];
    let c = Memory(128 * 128 * 2);
    let factor = Memory(128 * 256 * 2);
    let pipeline = [&[factor, factor, c][..], &sizes(256)].concat();
    let hopper = [&[Tiles(8), Tiles(8), c][..], &sizes(512)].concat();
    let pipelines = ["mutant_pipeline_barrier", "mutant_pipeline_wait"];
    for (kernel, given, mutants) in [
        ("gemm_pipeline", &pipeline, &pipelines[..]),
        ("gemm_hopper_128", &hopper, &["mutant_hopper_wait"]),
    ] {
        for schedule in SCHEDULES {
            let found = run(kernel, 1, given, schedule, Landing::Randomly);
            assert!(found.is_empty(), "{schedule:?}: {found:?}");
            for mutant in mutants {
                let found = run(mutant, 1, given, schedule, Landing::Randomly);
                // A buffer is read before it is full, or filled before it has been read.
                let is_it = |f: &Finding| {
                    let has = |access| f.acts.iter().any(|act| act.access == access);
                    [Mistake::Race, Mistake::Copy].contains(&f.mistake)
                        && has(Access::Copy)
                        && has(Access::Read)
                };
                assert!(found.iter().any(is_it), "{mutant}, {schedule:?}: {found:?}");
            }
        }
    }
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    for schedule in SCHEDULES {
        for landing in LANDINGS {
            let given = [Memory(512), Memory(256), Memory(4), Memory(512)];
            let found = run("planted_nothing", 2, &given, schedule, landing);
            assert!(found.is_empty(), "{schedule:?}, {landing:?}: {found:?}");
            let found = run("planted_last_block", 3, &LAST_BLOCK, schedule, landing);
            assert!(found.is_empty(), "{schedule:?}, {landing:?}: {found:?}");
            let given = [Tiles(2), Memory(256)];
            let found = run("planted_tiles", 1, &given, schedule, landing);
            assert!(found.is_empty(), "{schedule:?}, {landing:?}: {found:?}");
        }
    }
}

/// The rest of what `kernels check` does is left to it.
#[test]
fn no_kernel_of_the_build_has_a_mistake() {
    let runs = [(Schedule::Random(1), Landing::Randomly)];
    let plan = Plan::new("").expect("there are kernels");
    let report = plan.run(&runs, &|_| ()).expect("address space");
    assert!(report.is_clean(), "{}", report.text());
    let kernels: usize = FILES.iter().map(|file| file.kernels.len()).sum();
    let text = report.text();
    assert!(text.starts_with(&format!("{kernels} kernels, ")), "{text}");
    assert!(text.ends_with(": 0 findings\n"), "{text}");
}
