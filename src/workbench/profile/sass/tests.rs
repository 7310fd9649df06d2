//! Machine code is read, and executions are inferred, as by hand.

use super::clocks::{alone, of_arch};
use super::flow::executions;
use super::{Code, in_repository, parse};
use crate::simt::counts::{Done, Event, Trace};

/// An instruction as nvdisasm has it, with clocks to the next, the scoreboard that it releases (7: none),
/// and those that it waits for.
fn line(text: &str, [stall, writes, waits]: [u64; 3]) -> String {
    let word = stall << 41 | writes << 46 | 7 << 49 | waits << 52;
    format!("        /*0000*/  {text} ;  /* 0x0 */\n        /* {word:#018x} */\n")
}

fn at(number: u32) -> String {
    format!("\t//## File \"/tmp/x/kernels/include/../k/1_k.cu\", line {number}\n")
}

/// A loop that reads, unrolled twice, and a store behind it.
fn looping() -> Code {
    looping_over("LDG.E")
}

fn looping_over(read: &str) -> Code {
    let text = [
        "\n//--------------------- .text.k    ------\n".into(),
        at(3),
        line("S2R R0, SR_TID.X", [1, 0, 0]),
        line("MOV R1, RZ", [4, 7, 1]),
        ".L_x_0:\n".into(),
        at(5),
        line(&format!("{read} R2, [R0]"), [1, 1, 0]),
        line(&format!("{read} R3, [R0+0x4]"), [2, 1, 0]),
        at(4),
        line("ISETP.NE.AND P0, PT, R0, 0x5, PT", [10, 7, 0]),
        at(5),
        line("FADD R1, R2, R3", [5, 7, 2]),
        line("@P0 BRA `(.L_x_0)", [5, 7, 0]),
        at(6),
        line("STG.E [R0], R1", [1, 7, 0]),
        line("EXIT", [5, 7, 0]),
        ".L_x_1:\n".into(),
        line("BRA `(.L_x_1)", [0, 7, 0]),
        line("NOP", [0, 7, 0]),
    ];
    parse(&text.concat(), &in_repository)
        .remove("k")
        .expect("it is there")
}

/// Lines with how often they were executed; and what was done there, how often, by so many bytes a lane.
fn trace(lines: &[(u32, u64)], events: &[(Event, u32, u64, u64)]) -> Trace {
    let place = |line: &u32| format!("kernels/k/1_k.cu:{line}");
    Trace {
        lines: lines.iter().map(|(line, n)| (place(line), *n)).collect(),
        events: events
            .iter()
            .map(|(event, line, times, size)| {
                let [times, bytes] = [*times, times * size];
                ((*event, place(line)), Done { times, bytes })
            })
            .collect(),
    }
}

#[test]
fn code_is_read_with_lines_scoreboards_and_blocks() {
    let code = looping();
    assert_eq!(code.instructions.len(), 10, "padding is none of it");
    let read = &code.instructions[3];
    assert_eq!((read.opcode.as_str(), read.base()), ("LDG.E", "LDG"));
    assert_eq!(code.chains[read.chain], "kernels/k/1_k.cu:5");
    assert_eq!((read.stall, read.writes, read.waits), (2, Some(1), 0));
    assert_eq!(code.instructions[5].waits, 2);
    let next: Vec<&[usize]> = code.blocks.iter().map(|block| &block.next[..]).collect();
    assert_eq!(next, [&[1][..], &[1, 2], &[], &[3]]);
    assert!(code.instructions[6].predicated && code.blocks[2].ends);
}

#[test]
fn what_was_counted_says_how_often_an_unrolled_loop_turns() {
    // 8 warps read 10 times each, in a loop of 5 turns then; their line alone would say 80.
    let counted = [(Event::GlobalRead, 5, 80, 4), (Event::GlobalWrite, 6, 8, 4)];
    let lines = [(3, 8), (4, 88), (5, 80), (6, 8)];
    let times = executions(&looping(), &trace(&lines, &counted), 8);
    let want = [8.0, 40.0, 8.0, 0.0];
    for (times, want) in times.iter().zip(want) {
        assert!((times - want).abs() < 0.4, "{times} for {want}");
    }
}

/// Where 4 neighbours of 4 bytes are one instruction, that is executed a fourth as often.
#[test]
fn neighbours_that_are_read_at_once_are_told_by_their_bytes() {
    let code = looping_over("LDG.E.128");
    assert_eq!(code.instructions[3].width(), Some(16.0));
    assert_eq!(code.instructions[5].width(), None);
    // Two of them a turn: 5 turns for 40 reads of 4 bytes each by 1 warp.
    let counted = [(Event::GlobalRead, 5, 40, 4)];
    let lines = [(3, 1), (4, 40), (5, 40), (6, 1)];
    let times = executions(&code, &trace(&lines, &counted), 1);
    assert!((times[1] - 5.0).abs() < 0.1, "{times:?}");
}

/// A line is said where it changes (findings/nvdisasm-lines-run-on.sh).
#[test]
fn a_kernel_may_begin_on_the_line_that_the_one_before_has_ended_on() {
    let kernel = |name: &str, place: &str| {
        let heading = format!("\n//--------------------- .text.{name}    ------\n");
        [heading, place.into(), line("EXIT", [5, 7, 0])].concat()
    };
    let text = kernel("a", &at(3)) + &kernel("b", "");
    let code = parse(&text, &in_repository);
    assert_eq!(code["a"].chains, ["kernels/k/1_k.cu:3"]);
    assert_eq!(code["b"].chains, code["a"].chains);
}

#[test]
fn registers_are_those_that_ptxas_has_said() {
    let log = "ptxas info    : Compiling entry function 'k' for 'sm_90a'\n\
               ptxas info    : Function properties for k\n    \
               0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
               ptxas info    : Used 18 registers, used 1 barriers, 512 bytes smem\n";
    let code = |before: &str| {
        let text = format!("{before}\n//--------------------- .text.k    ------\n");
        parse(&text, &in_repository)["k"].registers
    };
    assert_eq!((code(log), code("")), (Some(18), None));
}

#[test]
fn where_nothing_was_counted_lines_say_it() {
    let lines = [(3, 8), (4, 88), (5, 80), (6, 8)];
    let times = executions(&looping(), &trace(&lines, &[]), 8);
    assert!(
        (times[1] - 80.0).abs() < 8.0 && (times[2] - 8.0).abs() < 0.1,
        "{times:?}"
    );
}

#[test]
fn a_warp_that_is_alone_waits_for_what_it_reads() {
    let code = looping();
    let clocks = of_arch((9, 0));
    let taken = alone(&code, &[8.0, 40.0, 8.0, 0.0], &clocks, 300.0);
    // The second read is issued a clock after the first and is there 300 later; then 5 and 5.
    assert_eq!(taken[1], 1.0 + 300.0 + 5.0 + 5.0);
    assert_eq!(taken[2], 1.0 + 5.0);
}
