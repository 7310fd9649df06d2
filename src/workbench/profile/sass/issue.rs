//! What the warps of a launch issue: its counts, told of its machine code.

use super::Code;
use super::clocks::{self, Clocks};
use super::flow::event;
use crate::simt::checker::Site;
use crate::simt::counts::{Counts, Done, Event, Issued, LaunchProfile, Line, Traffic};
use crate::simt::profiler::{site, sort};
use std::collections::BTreeMap;

const SECTOR: f64 = 32.0;

/// Adds to a launch what its warps issue, on a GPU of that architecture that runs this code, whose blocks
/// they [execute](super::flow::executions) so often.
pub fn add(launch: &mut LaunchProfile, code: &Code, arch: (u32, u32), times: &[f64]) {
    let clocks = clocks::of_arch(arch);
    merge(launch, code, times);
    let alone = clocks::alone(code, times, &clocks, read(launch, &clocks));
    let mut issued = Issued {
        slots: 0.0,
        pipes: [0.0; 4],
        alone: times
            .iter()
            .zip(&alone)
            .map(|(times, clocks)| times * clocks)
            .sum(),
        tensor: 0.0,
        registers: code.registers,
    };
    let mut by_chain = vec![0.0; code.chains.len()];
    for (block, times) in code.blocks.iter().zip(times) {
        for i in &code.instructions[block.instructions.clone()] {
            issued.slots += times;
            by_chain[i.chain] += times;
            if let Some((pipe, clocks)) = clocks.pipe(i) {
                issued.pipes[pipe as usize] += times * clocks;
            }
            if matches!(event(i), Some(Event::Mma | Event::Wgmma)) {
                issued.tensor += times;
            }
        }
    }
    for (chain, slots) in code.chains.iter().zip(by_chain) {
        let Some(site) = site(chain, launch.file) else {
            continue;
        };
        let known = launch.lines.iter_mut().find(|line| line.site == site);
        let counts = match known {
            Some(line) => &mut line.counts,
            None => {
                let counts = Counts::default();
                launch.lines.push(Line { site, counts });
                &mut launch.lines.last_mut().expect("just put there").counts
            }
        };
        counts.issued += slots.round() as u64;
    }
    sort(&mut launch.lines);
    launch.counts.issued = issued.slots.round() as u64;
    launch.issued = Some(issued);
}

/// Where a lane's neighbours are read or written at once, which were counted one by one, memory serves them at
/// once, too: a warp's requests are fewer, and so are sectors and wavefronts, as lanes whose neighbours
/// are between them do not share any of theirs.
fn merge(launch: &mut LaunchProfile, code: &Code, times: &[f64]) {
    // Instructions, and bytes of a lane.
    let mut in_code: BTreeMap<(Event, Site), [f64; 2]> = BTreeMap::new();
    for (block, times) in code.blocks.iter().zip(times) {
        for i in &code.instructions[block.instructions.clone()] {
            let place = site(&code.chains[i.chain], launch.file);
            if let (Some(event), Some(width), Some(place)) = (event(i), i.width(), place) {
                let [sum, bytes] = in_code.entry((event, place)).or_default();
                *sum += times;
                *bytes += times * width;
            }
        }
    }
    let mut counted: BTreeMap<(Event, Site), Done> = BTreeMap::new();
    for ((event, chain), done) in &launch.trace.events {
        if let Some(place) = site(chain, launch.file) {
            *counted.entry((*event, place)).or_default() += *done;
        }
    }
    for (key, [sum, bytes]) in in_code {
        let Some(done) = counted.get(&key).filter(|_| sum > 0.0) else {
            continue;
        };
        let part = done.width() * sum / bytes;
        // What is no whole number is what was inferred.
        if part > 0.95 {
            continue;
        }
        let (event, place) = key;
        let line = launch.lines.iter_mut().find(|line| line.site == place);
        let traffic = line.and_then(|line| traffic(&mut line.counts, event));
        let Some(traffic) = traffic else { continue };
        let scaled = |n: u64| (n as f64 * part).round() as u64;
        traffic.requests = scaled(traffic.requests);
        traffic.units = scaled(traffic.units);
        // As many as all that is read at once takes at least, which one by one conflicts with itself.
        traffic.ideal = traffic.ideal.min(traffic.units);
    }
    launch.counts = Counts::default();
    for line in &launch.lines {
        launch.counts += line.counts;
    }
}

fn traffic(counts: &mut Counts, event: Event) -> Option<&mut Traffic> {
    match event {
        Event::GlobalRead => Some(&mut counts.global_read),
        Event::GlobalWrite => Some(&mut counts.global_write),
        Event::SharedRead => Some(&mut counts.shared_read),
        Event::SharedWrite => Some(&mut counts.shared_write),
        _ => None,
    }
}

/// Clocks of a read of global memory: of what blocks have read before, of what other blocks have, and of
/// the rest, each as often as that is the case.
fn read(launch: &LaunchProfile, clocks: &Clocks) -> f64 {
    let footprint = &launch.footprint;
    let asked = (launch.counts.global_read.units as f64 * SECTOR).max(1.0);
    let by_blocks = (footprint.read_by_blocks as f64 / asked).min(1.0);
    let first = (footprint.read as f64 / asked).min(by_blocks);
    let [l1, l2, memory] = clocks.global;
    (1.0 - by_blocks) * l1 + (by_blocks - first) * l2 + first * memory
}
