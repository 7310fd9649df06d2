//! Profiles as text for a terminal.

use super::gpus::Specs;
use super::measure::{Measured, Times};
use super::roofline::{held, registers, shares, waves};
pub use super::roofline::{predict, time};
use super::{Ladder, Step};
use crate::backend::gpu::catalog::sources;
use crate::simt::counts::{Counts, Issued, LaunchProfile, Line, Traffic};
use crate::workbench::workload::{Dims, Op};
use std::borrow::Cow;
use std::fmt::Write as _;

/// Lines that are shown with their code.
const COSTLIEST: usize = 3;

/// A line of a kernel, of a header, or of a program of one's own, if the place is one.
pub fn source_line(place: &str) -> Option<String> {
    let (path, line) = place.rsplit_once(':')?;
    let known = sources().find(|(known, _)| *known == path);
    let text = match known {
        Some((_, text)) => Cow::Borrowed(text),
        None => Cow::Owned(std::fs::read_to_string(path).ok()?),
    };
    let at: usize = line.parse().ok()?;
    let line = text.lines().nth(at.checked_sub(1)?)?;
    Some(line.trim().into())
}

/// `1 block`, `2 blocks`.
pub fn number(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// `1.5 MiB`.
pub fn bytes(n: u64) -> String {
    match n {
        n if n < 10 << 10 => format!("{n} B"),
        n if n < 1 << 20 => format!("{:.1} KiB", n as f64 / 1024.0),
        n => format!("{:.1} MiB", n as f64 / f64::from(1 << 20)),
    }
}

/// `2.1 GFLOP`.
pub fn flops(n: u64) -> String {
    match n as f64 {
        n if n < 1e6 => format!("{:.1} kFLOP", n / 1e3),
        n if n < 1e9 => format!("{:.1} MFLOP", n / 1e6),
        n => format!("{:.2} GFLOP", n / 1e9),
    }
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

/// The rows of a table of memory accesses.
fn traffic(counts: &Counts) -> String {
    let mut text = String::new();
    let row = |name: &str, t: Traffic, unit: &str| {
        if t.requests == 0 {
            return String::new();
        }
        let needed = match unit {
            "sectors" => format!("{:.0} % of them needed", 100.0 * ratio(t.ideal, t.units)),
            _ => format!("{} conflicts", t.units - t.ideal),
        };
        format!(
            "  {name:<15} {:>10} requests {:>11} {:>6.2} {unit} a request, {needed}\n",
            t.requests,
            bytes(t.bytes),
            ratio(t.units, t.requests)
        )
    };
    text += &row("global reads", counts.global_read, "sectors");
    text += &row("global writes", counts.global_write, "sectors");
    text += &row("global atomics", counts.global_atomic, "sectors");
    text += &row("shared reads", counts.shared_read, "wavefronts");
    text += &row("shared writes", counts.shared_write, "wavefronts");
    text += &row("shared atomics", counts.shared_atomic, "wavefronts");
    if counts.tma_bytes > 0 {
        let _ = writeln!(text, "  TMA reads {:>35}", bytes(counts.tma_bytes));
    }
    text
}

/// What is computed, and where threads meet.
fn work(counts: &Counts) -> Vec<String> {
    let mut parts = Vec::new();
    let tensor = [
        (counts.mma_flops, "mma.sync"),
        (counts.wgmma_flops, "wgmma"),
    ];
    for (n, name) in tensor.into_iter().filter(|(n, _)| *n > 0) {
        parts.push(format!("{} of {name}", flops(n)));
    }
    if counts.flops > 0 {
        let fused = 200.0 * ratio(counts.fusable, counts.flops);
        parts.push(format!(
            "{} of FMA units ({fused:.0} % fusable)",
            flops(counts.flops)
        ));
    }
    let events = [
        (counts.special, "special function", "special functions"),
        (counts.barriers, "barrier", "barriers"),
        (counts.warp_ops, "warp operation", "warp operations"),
    ];
    for (n, one, many) in events.into_iter().filter(|event| event.0 > 0) {
        parts.push(number(n, one, many));
    }
    parts
}

/// What a warp issues: `2310 instructions a warp, 3 % of them for tensor cores; alone 0.31 a clock`.
fn warps_issue(launch: &LaunchProfile, issued: &Issued) -> String {
    let tensor = match issued.tensor {
        0.0 => String::new(),
        n => format!(
            ", {:.1} % of them for tensor cores",
            100.0 * n / issued.slots
        ),
    };
    format!(
        "issued: {:.0} instructions a warp{tensor}; alone it issues {:.2} in a clock",
        issued.slots / launch.warps() as f64,
        issued.slots / issued.alone
    )
}

/// The costliest lines with what makes them so, and the one of most conflicts in shared memory: that
/// is waste, whatever bounds the launch.
fn costliest(specs: &Specs, launch: &LaunchProfile) -> String {
    let shares = shares(specs, launch);
    let mut lines: Vec<(&Line, f64)> = launch.lines.iter().zip(shares).collect();
    lines.sort_by(|a, b| b.1.total_cmp(&a.1));
    let conflicts = |(line, _): &(&Line, f64)| line.counts.conflicts();
    let worst = (0..lines.len()).max_by_key(|at| conflicts(&lines[*at]));
    let costly = (0..COSTLIEST.min(lines.len())).filter(|at| lines[*at].1 > 0.0);
    let wasteful = worst.filter(|at| *at >= COSTLIEST && conflicts(&lines[*at]) > 0);
    let mut text = String::new();
    for (line, share) in costly.chain(wasteful).map(|at| lines[at]) {
        let share = 100.0 * share;
        let from = line.site.caller.as_deref();
        let from = from.map_or(String::new(), |from| format!(", from {from}"));
        let _ = writeln!(
            text,
            "  {share:>3.0} %  {}{from}: {}",
            line.site.place,
            why(&line.counts)
        );
        if let Some(code) = source_line(&line.site.place) {
            let _ = writeln!(text, "         {code}");
        }
    }
    text
}

/// In a few words, what a line does.
pub fn why(counts: &Counts) -> String {
    let mut parts = Vec::new();
    let global = [
        (counts.global_read, "read"),
        (counts.global_write, "written"),
        (counts.global_atomic, "changed atomically"),
    ];
    for (t, how) in global.into_iter().filter(|(t, _)| t.requests > 0) {
        let sectors = ratio(t.units, t.requests);
        parts.push(format!(
            "{} {how}, {sectors:.1} sectors a request",
            bytes(t.bytes)
        ));
    }
    let mut shared = counts.shared_read;
    shared += counts.shared_write;
    shared += counts.shared_atomic;
    if shared.requests > 0 {
        let ways = ratio(shared.units, shared.ideal);
        let conflicts = match counts.conflicts() {
            0 => "no conflict".into(),
            _ => format!("{ways:.1}-way conflicts"),
        };
        parts.push(format!(
            "{} of shared memory, {conflicts}",
            number(shared.units, "wavefront", "wavefronts")
        ));
    }
    if counts.tma_bytes > 0 {
        parts.push(format!("{} by TMA", bytes(counts.tma_bytes)));
    }
    parts.extend(work(counts));
    if counts.issued > 0 {
        let issued = number(counts.issued, "instruction", "instructions");
        parts.push(format!("{issued} issued"));
    }
    parts.join("; ")
}

/// Seconds that a launch takes by itself.
pub fn predicted(specs: &Specs, launch: &LaunchProfile) -> f64 {
    predict(specs, launch).seconds()
}

/// A launch: what it does, what bounds it, and its costliest lines.
pub fn launch(specs: &Specs, launch: &LaunchProfile) -> String {
    facts(specs, launch) + &costliest(specs, launch)
}

/// What a launch does, and what bounds it.
pub fn facts(specs: &Specs, launch: &LaunchProfile) -> String {
    let registers = registers(specs, launch);
    let shared = launch.static_shared + launch.dynamic_shared;
    let mut text = format!(
        "{} ({})\n  {} of {}, {} of shared memory, {}: {}; {}\n",
        launch.kernel,
        launch.file,
        number(launch.blocks(), "block", "blocks"),
        number(u64::from(launch.threads), "thread", "threads"),
        bytes(u64::from(shared)),
        registers.map_or("registers unknown without nvcc".into(), |n| format!(
            "{n} registers"
        )),
        held(specs, launch),
        filled(specs, launch)
    );
    if launch.is_sampled() {
        let _ = writeln!(text, "  sampled: {}", sample(launch));
    }
    text += &traffic(&launch.counts);
    let work = work(&launch.counts);
    if !work.is_empty() {
        let _ = writeln!(text, "  {}", work.join(", "));
    }
    if let Some(issued) = &launch.issued {
        let _ = writeln!(text, "  {}", warps_issue(launch, issued));
    }
    let f = &launch.footprint;
    let reads = launch.counts.global_read.bytes + launch.counts.tma_bytes;
    let _ = writeln!(
        text,
        "  of memory: {} read and {} written; blocks read {}, each byte {:.1} times",
        bytes(f.read),
        bytes(f.written),
        bytes(f.read_by_blocks),
        ratio(reads, f.read_by_blocks)
    );
    let _ = writeln!(text, "  {}", predict(specs, launch));
    text
}

/// `264 of 4096 blocks`.
pub(super) fn sample(launch: &LaunchProfile) -> String {
    format!("{} of {} blocks", launch.run, launch.blocks())
}

/// `3.9 waves`.
pub(super) fn filled(specs: &Specs, launch: &LaunchProfile) -> String {
    format!("{:.1} waves", waves(specs, launch))
}

/// How far counts can be believed, and times.
pub(super) fn belief<'a>(specs: &Specs, steps: impl IntoIterator<Item = &'a Step>) -> String {
    let steps: Vec<&Step> = steps.into_iter().collect();
    let is_sampled = steps.iter().any(|step| step.sampled().next().is_some());
    let missing = steps.iter().find_map(|step| step.missing.as_ref());
    let missing = missing.map_or(String::new(), |why| missing_units(why));
    let counts = match is_sampled {
        true => "Counts of sampled launches are estimates, others exact",
        false => "Counts are exact",
    };
    format!(
        "{counts}; times are predictions for the {}.{missing}",
        specs.name
    )
}

/// Which units predictions lack without machine code.
pub fn missing_units(why: &str) -> String {
    format!(" Issue slots, integers and logic, f64 and waits within warps are not in them: {why}.")
}

/// What `kernels profile` prints.
pub fn profile(specs: &Specs, op: &Op, shape: &[usize], step: &Step) -> String {
    let mut text = format!(
        "{} of {} ({}), step {}. {}\n",
        op.name,
        Dims(shape),
        op.dims.join(" x "),
        step.number,
        belief(specs, [step])
    );
    for launch in &step.launches {
        text += "\n";
        text += &self::launch(specs, launch);
    }
    let minimum = (op.bytes)(shape) as u64;
    let moved: u64 = step.launches.iter().map(moved).sum();
    let _ = writeln!(
        text,
        "\n{} {} of memory moved, {} at least: {:.0} %",
        if step.launches.len() == 1 {
            "1 launch,"
        } else {
            "All launches:"
        },
        bytes(moved),
        bytes(minimum),
        100.0 * ratio(moved, minimum)
    );
    let work = (op.flops)(shape) as u64;
    let seconds = step.predicted(specs);
    let rate = match work {
        0 => format!("{:.0} GB/s", minimum as f64 / seconds / 1e9),
        n => format!("{:.2} TFLOP/s", n as f64 / seconds / 1e12),
    };
    let _ = writeln!(text, "predicted {}, {rate}", time(seconds));
    text + &measured(step, seconds)
}

/// What was measured, and how far that is from what was predicted.
fn measured(step: &Step, predicted: f64) -> String {
    let Some(Measured { warm, cold }) = step.measured else {
        return String::new();
    };
    let line = |name: &str, t: Times| {
        format!(
            "measured, {name} L2: {} ({} to {}), {:.2} times the prediction\n",
            time(t.median),
            time(t.p20),
            time(t.p80),
            t.median / predicted
        )
    };
    line("warm", warm) + &line("cold", cold)
}

/// Bytes that a launch moves from and to memory.
pub fn moved(launch: &LaunchProfile) -> u64 {
    launch.footprint.read + launch.footprint.written
}

/// What `kernels ladder` prints: a row a step.
pub fn ladder(specs: &Specs, ladder: &Ladder) -> String {
    let mut rows = vec![HEADER.map(String::from).to_vec()];
    rows.extend((0..ladder.steps.len()).map(|i| row(specs, ladder, i)));
    let mut text = format!(
        "{} of {} ({}). {}\n\n",
        ladder.op.name,
        Dims(&ladder.shape),
        ladder.op.dims.join(" x "),
        belief(specs, &ladder.steps)
    );
    text += &aligned(&rows, &[0, 3, 8]);
    for remark in remarks(specs, ladder) {
        let _ = writeln!(text, "{remark}");
    }
    for (step, why) in &ladder.skipped {
        let _ = writeln!(text, "step {step} is left out: {why}");
    }
    let samples = ladder.steps.iter().flat_map(|step| {
        let of = |launch| format!("{}'s {}", step.name(), sample(launch));
        step.sampled().map(of)
    });
    let samples: Vec<String> = samples.collect();
    if !samples.is_empty() {
        let _ = writeln!(text, "sampled: {}", samples.join(", "));
    }
    text
}

pub(super) const HEADER: [&str; 10] = [
    "step",
    "sectors/read",
    "conflicts",
    "FLOPs on",
    "moved, of least",
    "blocks (waves)",
    "warps",
    "predicted",
    "bound by",
    "faster",
];

/// The cells of a step.
pub(super) fn row(specs: &Specs, ladder: &Ladder, index: usize) -> Vec<String> {
    let step = &ladder.steps[index];
    let counts = step.counts();
    let seconds = step.predicted(specs);
    let slowest = step.slowest(specs);
    let minimum = (ladder.op.bytes)(&step.shape) as u64;
    let moved: u64 = step.launches.iter().map(moved).sum();
    let on = match counts {
        c if c.wgmma_flops > 0 => "wgmma",
        c if c.mma_flops > 0 => "mma.sync",
        c if c.flops > 0 => "FMA",
        _ => "–",
    };
    let read = counts.global_read;
    let sectors = match read.requests {
        0 => "TMA".into(),
        n => format!("{:.1}", ratio(read.units, n)),
    };
    let held = held(specs, slowest);
    let mut cells = vec![
        title(ladder, step),
        sectors,
        counts.conflicts().to_string(),
        on.into(),
        format!("{:.0} %", 100.0 * ratio(moved, minimum)),
        format!("{} ({:.1})", slowest.blocks(), waves(specs, slowest)),
        format!("{}/{}", held.warps, held.most),
        time(seconds),
        predict(specs, slowest).bound().to_string(),
        faster(specs, ladder, index).map_or("–".into(), |times| format!("{times:.2}x")),
    ];
    if let Some(measured) = step.measured {
        let warm = measured.warm.median;
        cells[7] += &format!(" (measured {}, {:.2}x)", time(warm), warm / seconds);
    }
    cells
}

/// A step's name, with its shape if that is one of its own.
fn title(ladder: &Ladder, step: &Step) -> String {
    match step.shape == ladder.shape {
        true => step.name(),
        false => format!("{} of {}", step.name(), Dims(&step.shape)),
    }
}

/// How many times as fast a step is as the one before at the same shape.
fn faster(specs: &Specs, ladder: &Ladder, index: usize) -> Option<f64> {
    let before = ladder.before(index)?;
    Some(before.predicted(specs) / ladder.steps[index].predicted(specs))
}

/// Less than that is no gain that anybody would see.
pub(super) const GAIN: f64 = 1.1;

/// A sentence for each step that is no faster than the one before, or hardly: what bounds both, and
/// what it saves that does not show in the time.
pub(super) fn remarks(specs: &Specs, ladder: &Ladder) -> Vec<String> {
    let remark = |index: usize| {
        let (step, before) = (&ladder.steps[index], ladder.before(index)?);
        let same = faster(specs, ladder, index)? < GAIN;
        same.then(|| remark(specs, step, before))
    };
    (0..ladder.steps.len()).filter_map(remark).collect()
}

fn remark(specs: &Specs, step: &Step, before: &Step) -> String {
    let bound = |step: &Step| predict(specs, step.slowest(specs)).bound();
    let bounds = match (bound(before), bound(step)) {
        (a, b) if a == b => format!("both are bound by {a}"),
        (a, b) => format!("that is bound by {a}, it by {b}"),
    };
    let saved = match less(step, before) {
        Some(less) => format!("It has {less}"),
        None => "What it saves is not counted, such as instructions on integers".into(),
    };
    format!(
        "{} is no faster than {} on paper: {bounds}. {saved}.",
        step.name(),
        before.name()
    )
}

/// What a step has less of than another, at most the three things that differ most.
pub(super) fn less(step: &Step, before: &Step) -> Option<String> {
    let [less, more] = [step, before].map(|step| {
        let c = step.counts();
        let global = c.global_read.requests + c.global_write.requests + c.global_atomic.requests;
        let waits = step.launches.iter().map(|launch| launch.waits).sum();
        let by_blocks = |l: &LaunchProfile| l.footprint.read_by_blocks + 32 * c.global_write.units;
        [
            (step.launches.len() as u64, "launches"),
            (step.launches.iter().map(moved).sum(), "bytes of memory"),
            (
                step.launches.iter().map(by_blocks).sum(),
                "bytes through L2",
            ),
            (global, "requests to memory"),
            (c.wavefronts(), "wavefronts of shared memory"),
            (waits, "round trips"),
            (c.flops, "FLOPs of threads"),
            (c.special, "special functions"),
            (c.barriers, "barriers"),
            (c.warp_ops, "warp operations"),
        ]
    });
    let pairs = less.into_iter().zip(more);
    let mut found: Vec<(f64, &str)> = pairs
        .map(|((less, what), (more, _))| (more as f64 / less.max(1) as f64, what))
        .filter(|(times, _)| *times >= GAIN)
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.truncate(3);
    let found = found
        .iter()
        .map(|(times, what)| format!("{times:.1} times fewer {what}"));
    let found: Vec<String> = found.collect();
    (!found.is_empty()).then(|| found.join(", "))
}

/// The same table in Markdown, without the step that a GPU's name would be in.
pub fn markdown(specs: &Specs, ladder: &Ladder) -> String {
    let mut text = format!(
        "| {} |\n|{}\n",
        HEADER.join(" | "),
        "---|".repeat(HEADER.len())
    );
    for index in 0..ladder.steps.len() {
        let _ = writeln!(text, "| {} |", row(specs, ladder, index).join(" | "));
    }
    for remark in remarks(specs, ladder) {
        let _ = writeln!(text, "\n{remark}");
    }
    text
}

/// A table whose columns are as wide as they have to be; of `texts` what stands there is to the left.
pub(super) fn aligned(rows: &[Vec<String>], texts: &[usize]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns).filter_map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| match texts.contains(&column) {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            })
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(all(test, simt_counted))]
mod tests {
    use super::super::{find, gpus, step};
    use super::*;

    #[test]
    fn a_measurement_is_shown_beside_the_prediction() {
        let specs = gpus::find("a100").unwrap();
        let op = find("copy").unwrap().op;
        let mut copied = step(op, &[5000], 2, specs, None).unwrap();
        assert!(!profile(specs, op, &[5000], &copied).contains("measured"));
        // So small a copy is bound by its launch: 2 µs.
        let times = |median| Times {
            p20: 0.9 * median,
            median,
            p80: 1.1 * median,
        };
        copied.measured = Some(Measured {
            warm: times(5e-6),
            cold: times(8e-6),
        });
        let text = profile(specs, op, &[5000], &copied);
        for line in [
            "measured, warm L2: 5.0 µs (4.5 µs to 5.5 µs), 2.50 times the prediction\n",
            "measured, cold L2: 8.0 µs (7.2 µs to 8.8 µs), 4.00 times the prediction\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let steps = Ladder {
            op,
            shape: vec![5000],
            steps: vec![copied],
            skipped: Vec::new(),
        };
        let table = ladder(specs, &steps);
        assert!(table.contains("2.0 µs (measured 5.0 µs, 2.50x)"), "{table}");
    }
}
