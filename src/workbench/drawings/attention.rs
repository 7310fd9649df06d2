//! Which block looks at which scores, and in which order.

use super::record::{Bench, Result};
use super::svg::Svg;
use crate::backend::gpu::Ladder;
use crate::backend::sequence::{Attention, Heads, Mask};
use crate::backend::{Executor, Kind};
use std::collections::{BTreeMap, BTreeSet};

const TOKENS: usize = 256;
const DEPTH: usize = 64;

/// The third step with a causal mask: what it reads of q, and in each turn of k.
pub(super) fn online() -> Result {
    let mut bench = Bench::new(Ladder::Attention, 3)?;
    let gpu = &mut bench.gpu;
    let mut heads = || Heads {
        t: gpu.alloc(Kind::Activation, [1, 1, TOKENS, DEPTH]),
        first: 0,
    };
    let [q, k, v] = [heads(), heads(), heads()];
    let key_len = gpu.alloc(Kind::Label, [1, 1, 1, 1]);
    gpu.write_labels(key_len, &[TOKENS as i32])?;
    let attention = Attention {
        heads: 1,
        q,
        k,
        v,
        mask: Mask {
            key_len,
            causal: true,
        },
        out: gpu.alloc(Kind::Activation, [1, 1, TOKENS, DEPTH]),
        lse: gpu.alloc(Kind::Float, [1, 1, 1, TOKENS]),
    };
    let all = bench.record(|gpu| gpu.sequence().expect("a GPU has them").attention(attention))?;
    let [q, k] = [q, k].map(|of| bench.span(of.t, 2));

    let mut queries: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    let mut keys: BTreeMap<u32, BTreeMap<u32, BTreeSet<u64>>> = BTreeMap::new();
    for request in all.iter().filter(|r| !r.write) {
        let rows = |span: super::record::Span| {
            let rows = span.all(std::iter::once(request));
            rows.map(|at| at / DEPTH as u64)
        };
        queries.entry(request.block).or_default().extend(rows(q));
        let of_block = keys.entry(request.block).or_default();
        let turn = of_block.entry(request.turn).or_default();
        turn.extend(rows(k));
    }

    let mut svg = Svg::new();
    let title = "attention 3: which scores a block computes, tile after tile of keys (causal)";
    svg.text("head", [10.0, 22.0], title);
    let ([left, top], scale) = ([150.0, 60.0], 1.0);
    svg.text("soft", [left, top - 10.0], "keys 0 to 255 →");
    svg.rect("box", [left, top], [scale * TOKENS as f64; 2]);
    for (block, queries) in &queries {
        let [low, high] = ends(queries);
        let y = top + scale * low;
        let rows = format!("block {block}: queries {low} to {}", high - 1.0);
        svg.text(
            "soft tiny",
            [10.0, y + scale * (high - low) / 2.0 + 4.0],
            &rows,
        );
        let tiles = keys[block].values().filter(|rows| !rows.is_empty());
        for (i, rows) in tiles.enumerate() {
            let [from, to] = ends(rows);
            let class = if i % 2 == 0 { "blue" } else { "pale" };
            let corner = [left + scale * from, y];
            let size = [scale * (to - from), scale * (high - low)];
            svg.rect(class, corner, size);
            svg.rect("box", corner, size);
            let middle = [corner[0] + size[0] / 2.0, y + size[1] / 2.0 + 4.0];
            let class = if i % 2 == 0 { "on mid" } else { "mid" };
            svg.text(class, middle, &format!("tile {i}"));
        }
    }
    let about = [
        "A block keeps, of each of its queries,",
        "the largest score so far (m), the sum of",
        "exponentials (l) and the weighted sum of",
        "values (o), and takes the next tile.",
        "",
        "Where a tile raises m, l and o are",
        "multiplied by exp(old m − new m).",
        "",
        "Tiles past a block's last query",
        "are never read.",
    ];
    for (i, line) in about.iter().enumerate() {
        svg.text("", [440.0, 76.0 + 19.0 * i as f64], line);
    }
    Ok(svg.finish(title))
}

/// The first row, and the one after the last.
fn ends(rows: &BTreeSet<u64>) -> [f64; 2] {
    let [low, high] = [rows.first(), rows.last()].map(|row| *row.expect("some are read") as f64);
    [low, high + 1.0]
}
