//! Tiles of the matrix product, bank conflicts and the swizzle, the ring of stages, and bands.

use super::record::{Bench, Result, Span};
use super::svg::Svg;
use crate::backend::gpu::Ladder;
use crate::backend::{Executor, Kind};
use crate::simt::counts::Request;
use std::collections::{BTreeMap, BTreeSet};

/// A product of so many rows, columns and K, by a step of the ladder.
struct Product {
    all: Vec<Request>,
    a: Span,
    b: Span,
    c: Span,
}

impl Product {
    fn run(step: u32, [m, n, k]: [usize; 3]) -> Result<Product> {
        let mut bench = Bench::new(Ladder::Gemm, step)?;
        let tensors = [[m, k], [n, k], [m, n]];
        let [a, b, c] = tensors.map(|[h, w]| bench.gpu.alloc(Kind::Activation, [1, 1, h, w]));
        let all = bench.record(|gpu| gpu.gemm(a, b, c))?;
        let [a, b, c] = [a, b, c].map(|t| bench.span(t, 2));
        Ok(Product { all, a, b, c })
    }
}

/// The rows and the columns, of elements of a matrix, as ranges.
fn extent(elements: impl Iterator<Item = u64>, columns: usize) -> [[f64; 2]; 2] {
    let places: BTreeSet<[u64; 2]> = elements
        .map(|at| [at / columns as u64, at % columns as u64])
        .collect();
    [0, 1].map(|i| {
        let along = || places.iter().map(|place| place[i]);
        let (low, high) = (along().min(), along().max());
        let [low, high] = [low, high].map(|e| e.expect("there are elements") as f64);
        [low, high + 1.0]
    })
}

/// What one block reads and writes in steps 2 and 3, and what one of its threads computes.
pub(super) fn tiles() -> Result {
    let mut svg = Svg::new();
    let title = "gemm 2 and 3: what a block copies of a and b, and what of c a thread computes";
    svg.text("head", [10.0, 22.0], title);
    let steps = [
        (2, "2 tiles", [64, 96, 64], 40.0),
        (3, "3 registers", [256, 384, 32], 296.0),
    ];
    for (step, name, [m, n, k], top) in steps {
        let product = Product::run(step, [m, n, k])?;
        // Block 1 has the second tile of the first row.
        let reads = || product.all.iter().filter(|r| r.block == 1 && !r.write);
        let writes = || product.all.iter().filter(|r| r.block == 1 && r.write);
        // c is as large in both pictures.
        let scale = 150.0 / n as f64;
        let [wide, high, deep] = [n, m, k].map(|size| scale * size as f64);
        let text = format!("{name}: {m}×{n}×{k}, block 1");
        svg.text("", [10.0, top + 12.0], &text);
        let (a, b) = ([200.0, top + deep + 36.0], [216.0 + deep, top + 20.0]);
        let c = [b[0], a[1]];
        for (name, at, size) in [
            ("a", a, [deep, high]),
            ("bᵀ", b, [wide, deep]),
            ("c", c, [wide, high]),
        ] {
            svg.rect("box", at, size);
            let below = if name == "a" {
                at[1] - 4.0
            } else {
                at[1] + 12.0
            };
            let left = if name == "a" {
                at[0]
            } else {
                at[0] + size[0] + 4.0
            };
            svg.text("soft", [left, below], name);
        }
        let last = reads().map(|r| r.turn).min().unwrap_or(0);
        for (class, last) in [("pale", u32::MAX), ("blue", last)] {
            let of = |span: Span| extent(span.all(reads().filter(|r| r.turn <= last)), k);
            let ([rows, along], [columns, along_b]) = (of(product.a), of(product.b));
            fill(&mut svg, class, a, scale, [rows, along]);
            fill(&mut svg, class, b, scale, [along_b, columns]);
        }
        let tile = extent(product.c.all(writes()), n);
        fill(&mut svg, "pale", c, scale, tile);
        fill(&mut svg, "frame", c, scale, tile);

        // The tile by itself, with what a warp stores, and what one of its lanes does.
        let [rows, columns] = tile;
        let zoom = 150.0 / (rows[1] - rows[0]);
        let corner = [520.0 - zoom * columns[0], top + 20.0 - zoom * rows[0]];
        let of_lanes = |lanes: std::ops::Range<usize>| {
            let mut elements = BTreeSet::new();
            for request in writes().filter(|r| r.warp == 0) {
                let wanted = request
                    .lanes
                    .iter()
                    .filter(|(lane, _)| lanes.contains(lane));
                elements.extend(wanted.flat_map(|(_, at)| product.c.elements(request, *at)));
            }
            elements
        };
        let (warp, thread) = (of_lanes(0..32), of_lanes(5..6));
        for (class, elements) in [("pale", &warp), ("warm", &thread)] {
            for [first, count] in runs(elements) {
                let (row, column) = ((first / n as u64) as f64, (first % n as u64) as f64);
                let places = [[row, row + 1.0], [column, column + count as f64]];
                fill(&mut svg, class, corner, zoom, places);
            }
        }
        fill(&mut svg, "frame", corner, zoom, tile);
        svg.text("", [520.0, top + 12.0], "its tile of c:");
        let counts = [
            format!("warp 0: {}", warp.len()),
            format!("lane 5: {}", thread.len()),
        ];
        for (i, line) in counts.iter().enumerate() {
            svg.text("soft", [678.0, top + 34.0 + 18.0 * i as f64], line);
        }
    }
    let notes = [
        "Dark: the first slice of K,",
        "which all threads share.",
        "Pale: all that the block reads.",
        "Frame: what it writes.",
    ];
    for (i, line) in notes.iter().enumerate() {
        svg.text("soft", [10.0, 80.0 + 18.0 * i as f64], line);
    }
    Ok(svg.finish(title))
}

/// Rows and columns of a matrix whose first element is drawn at `corner`.
fn fill(svg: &mut Svg, class: &str, corner: [f64; 2], scale: f64, [rows, columns]: [[f64; 2]; 2]) {
    let at = [corner[0] + scale * columns[0], corner[1] + scale * rows[0]];
    svg.rect(
        class,
        at,
        [columns, rows].map(|[low, high]| scale * (high - low)),
    );
}

/// Neighbouring elements: the first, and how many.
fn runs(elements: &BTreeSet<u64>) -> Vec<[u64; 2]> {
    let mut runs: Vec<[u64; 2]> = Vec::new();
    for at in elements {
        match runs.last_mut() {
            Some([first, count]) if *first + *count == *at => *count += 1,
            _ => runs.push([*at, 1]),
        }
    }
    runs
}

/// Which lane of the first warp holds which elements of a 16 x 8 tile of c in step 4: those that it
/// stores.
pub(super) fn fragments() -> Result {
    const N: u64 = 128;
    let product = Product::run(4, [N as usize, N as usize, 32])?;
    let mut svg = Svg::new();
    let title =
        "gemm 4: which lane holds which elements of a 16×8 tile of c, two side by side each";
    svg.text("head", [10.0, 22.0], title);
    let (left, top, wide, high) = (60.0, 56.0, 60.0, 20.0);
    for pair in 0..4 {
        let at = [left + wide * (f64::from(pair) + 0.5), top - 6.0];
        let columns = format!("{}, {}", 2 * pair, 2 * pair + 1);
        svg.text("soft mid tiny", at, &columns);
    }
    let stores = product
        .all
        .iter()
        .filter(|r| r.write && !r.shared && r.warp == 0);
    for request in stores {
        for (lane, address) in &request.lanes {
            let first = product.c.elements(request, *address).next();
            let (row, column) = first.map(|at| (at / N, at % N)).expect("c is written");
            if row >= 16 || column >= 8 {
                continue;
            }
            let corner = [left + wide * column as f64 / 2.0, top + high * row as f64];
            let (class, text) = match lane / 4 % 2 {
                0 => ("pale", "mid"),
                _ => ("blue", "on mid"),
            };
            svg.rect(class, corner, [wide - 1.0, high - 1.0]);
            let middle = [corner[0] + wide / 2.0, corner[1] + 14.0];
            svg.text(text, middle, &lane.to_string());
        }
    }
    for row in [0, 7, 8, 15] {
        let at = [10.0, top + high * f64::from(row) + 14.0];
        svg.text("soft tiny", at, &format!("row {row}"));
    }
    let notes = [
        "Four neighbouring lanes share a row, and each lane has",
        "the same columns again eight rows further down: four",
        "sums of the tile, which mma.sync adds to.",
        "",
        "So lane 4g + t has rows g and g + 8, columns 2t and 2t + 1.",
        "a and b are spread alike: rows of a as rows of c here, and",
        "columns of b as rows; ldmatrix brings them there.",
    ];
    for (i, line) in notes.iter().enumerate() {
        svg.text("", [340.0, 84.0 + 19.0 * i as f64], line);
    }
    Ok(svg.finish(title))
}

/// Which banks the lanes of the first `ldmatrix` read, in steps 4 and 5.
pub(super) fn swizzle() -> Result {
    const CHUNK: u64 = 16;
    const LINE: u64 = 128;
    let mut svg = Svg::new();
    let title = "gemm 4 and 5: which banks the lanes of a warp's first ldmatrix read";
    svg.text("head", [10.0, 22.0], title);
    for (i, (step, name)) in [(4, "4 tensor cores"), (5, "5 swizzle")]
        .into_iter()
        .enumerate()
    {
        let product = Product::run(step, [128, 128, 32])?;
        let whole = |r: &&Request| r.shared && !r.write && r.size == CHUNK && r.lanes.len() == 32;
        let request = product.all.iter().find(whole);
        let request = request.expect("ldmatrix reads with all lanes");
        let (left, top) = (40.0 + 380.0 * i as f64, 72.0);
        let start = request
            .lanes
            .iter()
            .map(|(_, at)| at / LINE)
            .min()
            .unwrap_or(0);
        let wavefronts: u64 = (0..4)
            .map(|quarter| {
                let lanes = request.lanes.iter().filter(|(lane, _)| lane / 8 == quarter);
                let mut wanted = BTreeMap::<u64, u64>::new();
                lanes.for_each(|(_, at)| *wanted.entry(at % LINE).or_default() += 1);
                wanted.into_values().max().unwrap_or(0)
            })
            .sum();
        svg.text(
            "",
            [left, 46.0],
            &format!("{name}: {wavefronts} wavefronts"),
        );
        for bank in 0..8 {
            let at = [left + 40.0 * f64::from(bank) + 20.0, top - 6.0];
            svg.text(
                "soft mid tiny",
                at,
                &format!("{}–{}", 4 * bank, 4 * bank + 3),
            );
        }
        for (lane, address) in &request.lanes {
            let (line, chunk) = (address / LINE - start, address % LINE / CHUNK);
            let corner = [left + 40.0 * chunk as f64, top + 20.0 * line as f64];
            let (class, on) = if *lane < 8 {
                ("blue", "on mid")
            } else {
                ("pale", "mid")
            };
            svg.rect(class, corner, [39.0, 19.0]);
            svg.text(on, [corner[0] + 20.0, corner[1] + 14.0], &lane.to_string());
        }
        svg.rect("box", [left, top], [320.0, 160.0]);
    }
    let notes = [
        "Columns: banks, four of 4 bytes each. Rows: 128 bytes of shared memory. Numbers: lanes, 16 bytes each.",
        "Lanes are served in quarters; dark is the first, the eight rows of one 8×8 tile. Two in one column wait for each other.",
    ];
    for (i, line) in notes.iter().enumerate() {
        svg.text("soft", [10.0, 256.0 + 18.0 * i as f64], line);
    }
    Ok(svg.finish(title))
}

/// The stages of the pipeline: what is asked for and what is read between two barriers.
pub(super) fn ring() -> Result {
    const SLICE: usize = 32;
    const SLICES: usize = 8;
    let k = SLICE * SLICES;
    let product = Product::run(6, [128, 128, k])?;
    // Where each slice is copied to; by turn, those that are asked for.
    let mut turns: BTreeMap<u32, BTreeMap<u64, BTreeSet<u64>>> = BTreeMap::new();
    let of_copies = |turn: u32, shared: bool| {
        let in_turn = product
            .all
            .iter()
            .filter(move |r| r.turn == turn && r.size == 16);
        in_turn.filter(move |r| r.shared == shared && r.write == shared)
    };
    let last = product.all.iter().map(|r| r.turn).max().unwrap_or(0);
    for turn in 0..=last {
        // A lane's copies: read here, written there, one after the other.
        for (from, to) in of_copies(turn, false).zip(of_copies(turn, true)) {
            assert_eq!(
                (from.block, from.warp),
                (to.block, to.warp),
                "pairs of one copy"
            );
            for ((_, from), (_, to)) in from.lanes.iter().zip(&to.lanes) {
                let element = product.a.of(*from).or(product.b.of(*from));
                let column = element.expect("a or b is copied") % k as u64;
                let slice = column / SLICE as u64;
                turns
                    .entry(turn)
                    .or_default()
                    .entry(slice)
                    .or_default()
                    .insert(*to);
            }
        }
    }
    let starts: BTreeSet<u64> = turns
        .values()
        .flat_map(BTreeMap::values)
        .filter_map(|to| to.first().copied())
        .collect();
    let stages: Vec<u64> = starts.into_iter().collect();
    let stage = |address: u64| {
        stages
            .iter()
            .rposition(|start| *start <= address)
            .expect("in a stage")
    };

    let mut svg = Svg::new();
    let title = format!(
        "gemm 6: {} stages of shared memory, and what happens to them between two barriers",
        stages.len()
    );
    svg.text("head", [10.0, 22.0], &title);
    let (left, top, wide, high) = (110.0, 56.0, 150.0, 26.0);
    for i in 0..stages.len() {
        svg.text(
            "soft mid",
            [left + wide * (i as f64 + 0.5), top - 8.0],
            &format!("stage {i}"),
        );
    }
    let mut held: BTreeMap<usize, u64> = BTreeMap::new();
    for turn in 0..=last {
        let y = top + high * f64::from(turn);
        let name = match turn {
            0 => "before".into(),
            n => format!("barrier {n}"),
        };
        svg.text("soft", [10.0, y + 17.0], &name);
        let mut reads = product
            .all
            .iter()
            .filter(|r| r.turn == turn && r.shared && !r.write);
        let read = reads.next().map(|r| stage(r.lanes[0].1));
        assert!(
            reads.all(|r| Some(stage(r.lanes[0].1)) == read),
            "a turn reads one stage"
        );
        let asked: BTreeMap<usize, u64> = turns
            .get(&turn)
            .into_iter()
            .flatten()
            .map(|(slice, to)| (stage(*to.first().expect("copied")), *slice))
            .collect();
        for i in 0..stages.len() {
            let corner = [left + wide * i as f64, y];
            let (class, on, text) = if read == Some(i) {
                (
                    "blue",
                    "on mid",
                    format!("slice {} is multiplied", held[&i]),
                )
            } else if let Some(slice) = asked.get(&i) {
                ("pale", "mid", format!("slice {slice} is asked for"))
            } else if let Some(slice) = held.get(&i) {
                ("box", "soft mid", format!("{slice}"))
            } else {
                continue;
            };
            svg.rect(
                class,
                [corner[0] + 1.0, corner[1] + 1.0],
                [wide - 2.0, high - 2.0],
            );
            svg.text(on, [corner[0] + wide / 2.0, y + 17.0], &text);
        }
        held.extend(asked);
        // What has been multiplied is of no use any more.
        if let Some(i) = read.filter(|i| {
            !turns
                .get(&turn)
                .into_iter()
                .flatten()
                .any(|(_, to)| stage(*to.first().expect("copied")) == *i)
        }) {
            held.remove(&i);
        }
    }
    Ok(svg.finish(&title))
}

/// Which tile each block takes, in steps 5 and 6.
pub(super) fn bands() -> Result {
    const TILES: usize = 10;
    const TOGETHER: u32 = 32;
    let n = 128 * TILES;
    let mut svg = Svg::new();
    let title = "gemm 5 and 6: which tile of c each block takes";
    svg.text("head", [10.0, 22.0], title);
    for (i, (step, name)) in [(5, "5 swizzle: in rows"), (6, "6 pipeline: in bands")]
        .into_iter()
        .enumerate()
    {
        let product = Product::run(step, [n, n, 8])?;
        let mut tiles: BTreeMap<u32, [u64; 2]> = BTreeMap::new();
        for request in product.all.iter().filter(|r| r.write && product.c.holds(r)) {
            let at = product.c.of(request.lanes[0].1).expect("it holds it");
            tiles
                .entry(request.block)
                .or_insert([at / n as u64 / 128, at % n as u64 / 128]);
        }
        assert_eq!(tiles.len(), TILES * TILES, "a block a tile");
        let first: Vec<[u64; 2]> = tiles
            .iter()
            .filter(|(block, _)| **block < TOGETHER)
            .map(|(_, tile)| *tile)
            .collect();
        let lines = |along: usize| {
            first
                .iter()
                .map(|tile| tile[along])
                .collect::<BTreeSet<u64>>()
                .len()
        };
        let (left, top, size) = (30.0 + 380.0 * i as f64, 76.0, 30.0);
        svg.text("", [left, 46.0], name);
        let needs = format!(
            "the first {TOGETHER} read {} rows of tiles of a, {} columns of b",
            lines(0),
            lines(1)
        );
        svg.text("soft", [left, 64.0], &needs);
        for (block, [row, column]) in &tiles {
            let corner = [left + size * *column as f64, top + size * *row as f64];
            if *block < TOGETHER {
                svg.rect("pale", corner, [size - 1.0, size - 1.0]);
            }
            let class = if *block < TOGETHER { "mid" } else { "soft mid" };
            svg.text(
                class,
                [corner[0] + size / 2.0, corner[1] + 19.0],
                &block.to_string(),
            );
        }
        svg.rect("box", [left, top], [size * TILES as f64; 2]);
    }
    Ok(svg.finish(title))
}
