//! What a warp asks of memory with one instruction: coalescing.

use super::record::{Bench, Result};
use super::svg::{Svg, WIDTH};
use crate::backend::gpu::Ladder;
use crate::backend::sequence::LayerNorm;
use crate::backend::{Executor, Kind};
use crate::simt::counts::Request;
use std::collections::BTreeMap;

const SECTOR: u64 = 32;

/// A step's name, and the first request of its first warp.
type Shown = (&'static str, Request);

pub(super) fn copy() -> Result {
    let mut shown = Vec::new();
    for (step, name) in [(1, "1 strided"), (2, "2 elements"), (3, "3 vectors")] {
        let mut bench = Bench::new(Ladder::Copy, step)?;
        let [from, to] = [(); 2].map(|()| bench.gpu.alloc(Kind::Float, [1, 1, 1, 2048]));
        let all = bench.record(|gpu| gpu.copy(from, to))?;
        let from = bench.span(from, 4);
        shown.push((name, first(all, |request| from.holds(request))));
    }
    Ok(draw(
        "copy: the first load of a warp, and the sectors of 32 bytes that it touches",
        &shown,
    ))
}

pub(super) fn rows() -> Result {
    let mut shown = Vec::new();
    for (step, name) in [(1, "1 thread per row"), (2, "2 warp per row")] {
        let mut bench = Bench::new(Ladder::LayerNorm, step)?;
        let gpu = &mut bench.gpu;
        let [x, h, y] = [(); 3].map(|()| gpu.alloc(Kind::Activation, [1, 1, 128, 256]));
        let mut floats = |n| gpu.alloc(Kind::Float, [1, 1, 1, n]);
        let norm = LayerNorm {
            gamma: floats(256),
            beta: floats(256),
            dgamma: floats(256),
            dbeta: floats(256),
            mean: floats(128),
            rstd: floats(128),
        };
        let all = bench.record(|gpu| {
            let ops = gpu.sequence().expect("a GPU has them");
            ops.add_norm(x, None, norm, h, y);
        })?;
        let x = bench.span(x, 2);
        shown.push((name, first(all, |request| x.holds(request))));
    }
    Ok(draw(
        "layer_norm: the first load of a warp, of rows of 256 bf16 (512 bytes)",
        &shown,
    ))
}

fn first(all: Vec<Request>, of: impl Fn(&Request) -> bool) -> Request {
    let mut wanted = all.into_iter().filter(|r| !r.write && of(r));
    wanted.next().expect("it is read")
}

/// A row a step: sectors side by side in the order of their addresses, with the bytes that lanes
/// ask for, and a gap where memory has something between them.
fn draw(title: &str, shown: &[Shown]) -> String {
    let mut svg = Svg::new();
    svg.text("head", [10.0, 22.0], title);
    for (i, (name, request)) in shown.iter().enumerate() {
        let y = 44.0 + 74.0 * i as f64;
        // Bytes that are wanted of each sector, and the lanes that want them.
        let mut sectors: BTreeMap<u64, (Vec<u64>, Vec<usize>)> = BTreeMap::new();
        for (lane, address) in &request.lanes {
            for byte in *address..address + request.size {
                let (bytes, lanes) = sectors.entry(byte / SECTOR).or_default();
                bytes.push(byte % SECTOR);
                lanes.push(*lane);
            }
        }
        let asked = request.size * request.lanes.len() as u64;
        let line = format!(
            "{name}: {} sectors for {asked} bytes, {} % of their bytes wanted",
            sectors.len(),
            100 * asked / (SECTOR * sectors.len() as u64)
        );
        svg.text("", [10.0, y + 12.0], &line);
        let wide = 17.0;
        let (mut x, mut before) = (10.0, None);
        for (sector, (bytes, lanes)) in &sectors {
            if before.is_some_and(|b| b + 1 != *sector) {
                x += 5.0;
            }
            before = Some(*sector);
            let scale = wide / SECTOR as f64;
            let (low, high) = (bytes.iter().min(), bytes.iter().max());
            let [low, high] = [low, high].map(|b| *b.expect("some are wanted") as f64);
            svg.rect("pale", [x, y + 20.0], [wide, 22.0]);
            svg.rect(
                "blue",
                [x + scale * low, y + 20.0],
                [scale * (high - low + 1.0), 22.0],
            );
            svg.rect("box", [x, y + 20.0], [wide, 22.0]);
            let lane = lanes.iter().min().expect("some want it");
            if lane % 4 == 0 || sectors.len() < 20 {
                let at = [x + wide / 2.0, y + 54.0];
                svg.text("soft mid tiny", at, &lane.to_string());
            }
            x += wide;
        }
        assert!(x < WIDTH, "a row has room for 32 sectors");
    }
    svg.finish(title)
}
