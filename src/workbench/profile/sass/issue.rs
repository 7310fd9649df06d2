//! What the warps of a launch issue: its counts, told of its machine code.

use super::Code;
use super::clocks::{self, Clocks};
use super::flow::{event, executions};
use crate::simt::counts::{Counts, Event, Issued, LaunchProfile, Line};
use crate::simt::profiler::{site, sort};

const SECTOR: f64 = 32.0;

/// Adds to a launch what its warps issue, on a GPU of that architecture that runs this code.
pub fn add(launch: &mut LaunchProfile, code: &Code, arch: (u32, u32)) {
    let clocks = clocks::of_arch(arch);
    let times = executions(code, &launch.trace, launch.warps());
    let alone = clocks::alone(code, &times, &clocks, read(launch, &clocks));
    let mut issued = Issued {
        slots: 0.0,
        pipes: [0.0; 4],
        alone: times
            .iter()
            .zip(&alone)
            .map(|(times, clocks)| times * clocks)
            .sum(),
        tensor: 0.0,
    };
    let mut by_chain = vec![0.0; code.chains.len()];
    for (block, times) in code.blocks.iter().zip(&times) {
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
