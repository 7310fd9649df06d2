//! Implicit GEMM: which pixels a slice of K looks up, and how often a pixel is read in all.

use super::record::{Bench, Result, Span};
use super::svg::Svg;
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::{Executor, Grad, InputGrad, Kind, Load, Tensor, Window};
use crate::simt::counts::Request;
use std::collections::BTreeMap;

/// An image of `SIZE` rows and columns, and as many channels as a slice of K is deep.
const SIZE: usize = 16;
const CHANNELS: usize = 32;
const IMAGE: [usize; 4] = [1, SIZE, SIZE, CHANNELS];
const SAME: Window = Window { stride: 1, pad: 1 };

fn image(gpu: &mut Gpu) -> Tensor {
    gpu.alloc(Kind::Activation, IMAGE)
}

fn weights(gpu: &mut Gpu) -> Tensor {
    gpu.alloc(Kind::Float, [CHANNELS, 3, 3, CHANNELS])
}

/// How often each pixel is touched: its first channel.
fn pixels<'r>(span: Span, requests: impl Iterator<Item = &'r Request>) -> BTreeMap<u64, u32> {
    let mut count = BTreeMap::new();
    for at in span.all(requests) {
        if at % CHANNELS as u64 == 0 {
            *count.entry(at / CHANNELS as u64).or_default() += 1;
        }
    }
    count
}

/// The image, with numbers in its pixels; neighbours of the same number are one, and so are lines
/// that are the same.
fn map(svg: &mut Svg, [left, top]: [f64; 2], cell: f64, count: &BTreeMap<u64, u32>, numbers: bool) {
    let line = |row: usize| -> Vec<u32> {
        let at = |column| (row * SIZE + column) as u64;
        let times = |column| count.get(&at(column)).copied().unwrap_or(0);
        (0..SIZE).map(times).collect()
    };
    let lines: Vec<Vec<u32>> = (0..SIZE).map(line).collect();
    let (mut row, mut column) = (0, 0);
    for same in lines.chunk_by(|a, b| a == b) {
        let high = cell * same.len() as f64;
        for part in same[0].chunk_by(|a, b| a == b) {
            let corner = [left + cell * column as f64, top + cell * row as f64];
            let wide = cell * part.len() as f64;
            column = (column + part.len()) % SIZE;
            let (class, text) = match part[0] {
                0 => continue,
                1 => ("pale", "mid tiny"),
                _ => ("blue", "on mid tiny"),
            };
            svg.rect(class, corner, [wide - 0.5, high - 0.5]);
            if numbers {
                let middle = [corner[0] + wide / 2.0, corner[1] + high / 2.0 + 3.5];
                svg.text(text, middle, &part[0].to_string());
            }
        }
        row += same.len();
    }
    svg.rect("box", [left, top], [cell * SIZE as f64; 2]);
}

pub(super) fn draw() -> Result {
    let mut svg = Svg::new();
    let title = "conv: the pixels that an implicit GEMM looks up, and how often each is read";
    svg.text("head", [10.0, 22.0], title);
    slices(&mut svg)?;
    reads(&mut svg)?;
    Ok(svg.finish(title))
}

/// Step 3: what the first block reads of x for each slice of K, beside the outputs that it writes.
fn slices(svg: &mut Svg) -> Result<()> {
    let (all, x, y) = forward(3)?;
    let of_block = || all.iter().filter(|r| r.block == 0);
    let outputs = pixels(y, of_block().filter(|r| r.write));
    let rows = outputs
        .keys()
        .max()
        .map_or(0, |last| last / SIZE as u64 + 1);
    let about = format!(
        "3 tensor cores: block 0 computes rows 0 to {} of y (framed). A slice of K is one tap of the window: the tile of x, shifted.",
        rows - 1
    );
    svg.text("", [10.0, 44.0], &about);
    let mut turns: BTreeMap<u32, BTreeMap<u64, u32>> = BTreeMap::new();
    for request in of_block().filter(|r| !r.write && x.holds(r)) {
        let count = turns.entry(request.turn).or_default();
        for (pixel, times) in pixels(x, std::iter::once(request)) {
            *count.entry(pixel).or_default() += times;
        }
    }
    let cell = 4.6;
    for (i, count) in turns.values().enumerate() {
        let corner = [10.0 + 82.0 * i as f64, 72.0];
        svg.text(
            "soft tiny",
            [corner[0], corner[1] - 6.0],
            &format!("slice {i}"),
        );
        map(svg, corner, cell, count, false);
        svg.rect("frame", corner, [cell * SIZE as f64, cell * rows as f64]);
    }
    Ok(())
}

/// Reads of each pixel by all blocks, in steps that look every window up and in those that keep the
/// region.
fn reads(svg: &mut Svg) -> Result<()> {
    let top = 206.0;
    svg.text(
        "",
        [10.0, 178.0],
        "How often all blocks together read each pixel from memory or L1:",
    );
    let mut shown = Vec::new();
    for (step, name) in [(3, "x, forward, 3"), (4, "x, forward, 4 resident")] {
        let (all, x, _) = forward(step)?;
        shown.push((name, pixels(x, all.iter().filter(|r| !r.write))));
    }
    for (step, name) in [(3, "g, backward, 3"), (5, "g, backward, 5 fused")] {
        let mut bench = Bench::new(Ladder::Conv, step)?;
        let gpu = &mut bench.gpu;
        let [x, g, dx] = [image(gpu), image(gpu), image(gpu)];
        let [w, dw] = [weights(gpu), weights(gpu)];
        let to = InputGrad {
            dx,
            add: None,
            relu: false,
            sums: None,
        };
        let all = bench.record(|gpu| {
            let grad = Grad { g, norm: None };
            gpu.conv2d_backward(Load::plain(x), w, SAME, grad, dw, Some(to));
        })?;
        shown.push((
            name,
            pixels(bench.span(g, 2), all.iter().filter(|r| !r.write)),
        ));
    }
    for (i, (name, count)) in shown.iter().enumerate() {
        let corner = [10.0 + 188.0 * i as f64, top];
        let sum: u32 = count.values().sum();
        let mean = f64::from(sum) / (SIZE * SIZE) as f64;
        svg.text(
            "soft tiny",
            [corner[0], top - 8.0],
            &format!("{name}: {mean:.1} times"),
        );
        map(svg, corner, 11.0, count, true);
    }
    Ok(())
}

/// A 3x3 layer by a step: its requests, x and y.
fn forward(step: u32) -> Result<(Vec<Request>, Span, Span)> {
    let mut bench = Bench::new(Ladder::Conv, step)?;
    let gpu = &mut bench.gpu;
    let (x, w, y) = (image(gpu), weights(gpu), image(gpu));
    let all = bench.record(|gpu| gpu.conv2d(Load::plain(x), w, SAME, y, None))?;
    Ok((all, bench.span(x, 2), bench.span(y, 2)))
}
