//! Launches of `kernels/linear`.

use crate::backend::gpu::driver::{Arg, TensorMap};
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::sequence::{Act, Linear, LinearGrad, LinearInputGrad};
use crate::backend::{Kind, Tensor};

#[cfg(all(test, simt))]
#[path = "linear_layer_tests.rs"]
mod tests;

/// Rows and columns of a block of the kernels of step 1.
const NAIVE: [usize; 2] = [8, 32];
/// Threads of such a block, and of those that add up parts.
const ELEMENTS: usize = 256;
/// `PIPELINE_THREADS` of `kernels/include/gemm_pipeline.cuh`.
const THREADS: u32 = 128;
/// Its tiles, larger ones first.
const TILES: [usize; 2] = [128, 64];
/// Rows that are worth a part of the weights' gradient, and the writing and reading of it.
const LEAST_CHUNK: usize = 128;
/// Rows of a slice: chunks are whole ones.
const DEPTH: usize = 32;

/// Width of the tiles of steps 3 and 4, and their stages: of the first of two kernels, and of the second.
const HOPPER: [(usize, usize); 2] = [(256, 4), (128, 6)];
/// Rows of those tiles.
const HOPPER_ROWS: usize = 128;
/// `TMA_COLUMNS` of `kernels/include/hopper.cuh`: of a factor's K at once.
const HOPPER_DEPTH: usize = 64;
/// `HOPPER_THREADS` of `kernels/include/gemm_hopper.cuh`.
const HOPPER_THREADS: u32 = 384;

/// Dynamic shared memory of the pipeline: stages of two factors' slices.
fn shared(tile: usize, stages: usize) -> u32 {
    (stages * 2 * 2 * DEPTH * tile) as u32
}

/// Of two kernels with large tiles, the first with four stages and the second with three, the one
/// to launch and its shared memory: four, unless a multiprocessor then had one block of four warps.
fn staged(gpu: &Gpu, kernels: [&'static str; 2]) -> (&'static str, u32) {
    let [four, three] = [4, 3].map(|stages| shared(TILES[0], stages));
    match gpu.blocks_by_shared(kernels[0], four as usize) {
        0 | 1 => (kernels[1], three),
        _ => (kernels[0], four),
    }
}

/// The same of steps 3 and 4: a stage is 64 of K of both factors; 1 KiB aligns them, and a consuming
/// warp has 2 KiB.
fn hopper_shared((width, stages): (usize, usize)) -> u32 {
    (stages * (HOPPER_ROWS + width) * 2 * HOPPER_DEPTH + 1024 + 8 * 2048) as u32
}

/// Whether the device has what these two kernels of steps 3 and 4 want.
fn has_hopper(gpu: &Gpu, kernels: [&str; 2], step: u32) -> bool {
    let fits = |(kernel, tile)| gpu.fits(kernel, hopper_shared(tile) as usize);
    let mut kernels = kernels.into_iter().zip(HOPPER);
    gpu.stream.capability().hopper && kernels.all(fits) && gpu.allows(Ladder::Linear, step)
}

/// A factor that TMA copies: `box_rows` rows of so many at once.
fn map(base: u64, [rows, columns]: [usize; 2], box_rows: usize) -> Arg {
    Arg::Map(TensorMap {
        base,
        rows: rows as u64,
        columns: columns as u64,
        box_rows: box_rows as u32,
    })
}

/// As `kernels/include/linear.cuh` numbers them.
fn number(act: Act) -> Arg {
    Arg::I32(match act {
        Act::None => 0,
        Act::Relu => 1,
        Act::GeluErf => 2,
        Act::GeluTanh => 3,
    })
}

/// Sizes of a layer.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl Shape {
    /// Of input `x`, weights `w` and output (or its gradient) `y`.
    fn new(gpu: &Gpu, x: Tensor, w: Tensor, y: Tensor) -> Shape {
        let [one, also_one, outputs, inputs] = w.dims;
        let rows = x.len() / inputs.max(1);
        assert!(
            [one, also_one, x.dims[3]] == [1, 1, inputs] && !x.is_empty() && !w.is_empty(),
            "weights of {:?} for inputs of {:?}",
            w.dims,
            x.dims
        );
        assert_eq!(y.len(), rows * outputs, "outputs of {:?}", y.dims);
        expect(gpu, Kind::Activation, &[x, y]);
        expect(gpu, Kind::Float, &[w]);
        // The kernels count in 32 bits, and up to some tiles past the last element.
        let limit = i32::MAX as usize / 2;
        let sizes = [rows, inputs, outputs];
        assert!(sizes.iter().all(|size| *size <= limit), "{sizes:?}");
        Shape {
            rows,
            inputs,
            outputs,
        }
    }

    fn args(self) -> [Arg; 3] {
        [self.rows, self.inputs, self.outputs].map(|size| Arg::I32(size as i32))
    }

    /// Rows of a part of the weights' gradient, whole slices: as few as fill the device with tiles.
    fn chunk(self, multiprocessors: usize, tiles: u32, depth: usize) -> usize {
        let most = self.rows.div_ceil(LEAST_CHUNK);
        let parts = (multiprocessors / tiles as usize).clamp(1, most);
        self.rows.div_ceil(parts).next_multiple_of(depth)
    }
}

fn expect(gpu: &Gpu, kind: Kind, tensors: &[Tensor]) {
    let wrong = tensors.iter().find(|t| gpu.buffers[t.buffer].kind != kind);
    assert!(wrong.is_none(), "{wrong:?} is no {kind:?}");
}

/// Blocks of a product with so many rows and columns.
fn tiles(rows: usize, columns: usize, [down, across]: [usize; 2]) -> u32 {
    let tiles = rows.div_ceil(down) * columns.div_ceil(across);
    u32::try_from(tiles).expect("no product of that size fits into memory")
}

fn optional(gpu: &Gpu, t: Option<Tensor>) -> Arg {
    t.map_or(Arg::NULL, |t| gpu.address(t))
}

/// Whether tensor cores take these activations, in rows of the given lengths, and these weights.
fn has_vectors(gpu: &Gpu, activations: &[Tensor], w: Option<Tensor>, lengths: &[usize]) -> bool {
    gpu.allows(Ladder::Linear, 2)
        && gpu.fits("linear_dw_128_x3", shared(TILES[0], 3) as usize)
        && lengths.iter().all(|n| n.is_multiple_of(8))
        && activations.iter().all(|t| t.offset.is_multiple_of(8))
        && w.is_none_or(|w| w.offset.is_multiple_of(8))
}

/// A product of weights and activations that leaves activations.
struct Product<'a> {
    /// Of step 1, then of step 2: with large tiles and many stages or few, and with small tiles.
    kernels: [&'static str; 4],
    /// Of this step, with wide and with narrow tiles.
    hopper: (u32, [&'static str; 2]),
    vectors: bool,
    /// Of the result.
    rows: usize,
    columns: usize,
    /// Sum's length.
    length: usize,
    /// The factors.
    activations: Tensor,
    w: Tensor,
    /// Whether K is outermost in `w`.
    outer: bool,
    /// Arguments after them.
    rest: &'a [Arg],
}

impl Product<'_> {
    fn launch(&self, gpu: &mut Gpu) {
        let [rows, columns] = [self.rows, self.columns];
        let first = gpu.address(self.activations);
        if !self.vectors {
            let args = [&[first, gpu.address(self.w)], self.rest].concat();
            let blocks = tiles(rows, columns, NAIVE);
            gpu.launch(self.kernels[0], [blocks, 1, 1], ELEMENTS as u32, 0, &args);
            return;
        }
        let weights = gpu.shadow(self.w);
        // A smaller tile reads more for each multiplication; it pays where much would be idle.
        let blocks = TILES.map(|tile| tiles(rows, columns, [tile; 2]));
        let small = 2 * blocks[0] <= gpu.stream.capability().multiprocessors;
        let (step, hopper) = self.hopper;
        if !small && has_hopper(gpu, hopper, step) {
            self.launch_hopper(gpu, weights);
            return;
        }
        let args = [&[first, Arg::Ptr(weights)], self.rest].concat();
        let [_, four, three, narrow] = self.kernels;
        let (kernel, shared) = match small {
            true => (narrow, shared(TILES[1], 4)),
            false => staged(gpu, [four, three]),
        };
        let grid = [blocks[usize::from(small)], 1, 1];
        gpu.launch(kernel, grid, THREADS, shared, &args);
    }

    fn launch_hopper(&self, gpu: &mut Gpu, weights: u64) {
        let [rows, columns] = [self.rows, self.columns];
        let multiprocessors = gpu.stream.capability().multiprocessors;
        let blocks = |width| tiles(rows, columns, [HOPPER_ROWS, width]);
        // Columns of tiles that a multiprocessor computes, one after the other: the wide ones
        // unless they leave more of the device idle.
        let time = |&i: &usize| {
            let (width, _) = HOPPER[i];
            blocks(width).div_ceil(multiprocessors) as usize * width
        };
        let fastest = [0, 1].into_iter().min_by_key(time).expect("there are two");
        let (kernel, tile) = (self.hopper.1[fastest], HOPPER[fastest]);
        let (width, _) = tile;
        let activations = map(
            gpu.locate(self.activations),
            [rows, self.length],
            HOPPER_ROWS,
        );
        // As they lie, with the sum's length innermost or outermost.
        let [_, _, outputs, inputs] = self.w.dims;
        let box_rows = if self.outer { HOPPER_DEPTH } else { width };
        let factors = [activations, map(weights, [outputs, inputs], box_rows)];
        let args = [&factors[..], self.rest].concat();
        let grid = [blocks(width).min(multiprocessors), 1, 1];
        gpu.launch(kernel, grid, HOPPER_THREADS, hopper_shared(tile), &args);
    }
}

/// See [`Sequence`](crate::backend::sequence::Sequence).
pub(crate) fn linear(
    gpu: &mut Gpu,
    x: Tensor,
    layer: Linear,
    act: Act,
    pre: Option<Tensor>,
    y: Tensor,
) {
    let shape = Shape::new(gpu, x, layer.w, y);
    let Shape {
        rows,
        inputs,
        outputs,
    } = shape;
    if let Some(b) = layer.b {
        assert_eq!(b.len(), outputs, "one bias an output");
        expect(gpu, Kind::Float, &[b]);
    }
    if let Some(pre) = pre {
        assert_eq!(pre.len(), y.len(), "as many as outputs");
        expect(gpu, Kind::Activation, &[pre]);
    }
    let out = [
        optional(gpu, layer.b),
        optional(gpu, pre),
        gpu.address(y),
        number(act),
    ];
    let rest = [&out[..], &shape.args()].concat();
    let product = Product {
        kernels: ["linear_naive", "linear_128", "linear_128_x3", "linear_64"],
        hopper: (3, ["linear_hopper_256", "linear_hopper_128"]),
        vectors: has_vectors(gpu, &[x], Some(layer.w), &[inputs]),
        rows,
        columns: outputs,
        length: inputs,
        activations: x,
        w: layer.w,
        outer: false,
        rest: &rest,
    };
    product.launch(gpu);
}

/// See [`Sequence`](crate::backend::sequence::Sequence).
pub(crate) fn linear_backward(
    gpu: &mut Gpu,
    x: Tensor,
    w: Tensor,
    dz: Tensor,
    grad: LinearGrad,
    dx: Option<LinearInputGrad>,
) {
    let shape = Shape::new(gpu, x, w, dz);
    weights(gpu, shape, x, dz, grad);
    if let Some(dx) = dx {
        input(gpu, shape, w, dz, dx);
    }
}

/// `dx` from `dz` and the weights.
fn input(gpu: &mut Gpu, shape: Shape, w: Tensor, dz: Tensor, grad: LinearInputGrad) {
    let Shape {
        rows,
        inputs,
        outputs,
    } = shape;
    let at = grad.through.map(|(_, at)| at);
    assert!(
        at.is_none() || !grad.accumulate,
        "an input that is an activation's output has one reader"
    );
    for t in [Some(grad.dx), at].into_iter().flatten() {
        assert_eq!(t.len(), rows * inputs, "as many as inputs");
        expect(gpu, Kind::Activation, &[t]);
    }
    let out = [
        optional(gpu, at),
        gpu.address(grad.dx),
        number(grad.through.map_or(Act::None, |(act, _)| act)),
        Arg::I32(i32::from(grad.accumulate)),
    ];
    let rest = [&out[..], &shape.args()].concat();
    let product = Product {
        kernels: [
            "linear_naive_dx",
            "linear_dx_128",
            "linear_dx_128_x3",
            "linear_dx_64",
        ],
        hopper: (4, ["linear_dx_hopper_256", "linear_dx_hopper_128"]),
        vectors: has_vectors(gpu, &[dz], Some(w), &[inputs, outputs]),
        rows,
        columns: inputs,
        length: outputs,
        activations: dz,
        w,
        outer: true,
        rest: &rest,
    };
    product.launch(gpu);
}

/// `dw` and `db` from `dz` and the input.
fn weights(gpu: &mut Gpu, shape: Shape, x: Tensor, dz: Tensor, grad: LinearGrad) {
    let Shape {
        rows,
        inputs,
        outputs,
    } = shape;
    assert_eq!(grad.dw.len(), inputs * outputs, "one gradient a weight");
    expect(gpu, Kind::Float, &[grad.dw]);
    if let Some(db) = grad.db {
        assert_eq!(db.len(), outputs, "one gradient a bias");
        expect(gpu, Kind::Float, &[db]);
    }
    let factors = [dz, x].map(|t| gpu.address(t));
    let out = [gpu.address(grad.dw), optional(gpu, grad.db)];
    let accumulate = Arg::I32(i32::from(grad.accumulate));
    if !has_vectors(gpu, &[x, dz], None, &[inputs, outputs]) {
        let args = [&factors[..], &out, &[accumulate], &shape.args()].concat();
        let blocks = tiles(outputs, inputs + 1, NAIVE);
        gpu.launch("linear_naive_dw", [blocks, 1, 1], ELEMENTS as u32, 0, &args);
        return;
    }
    let multiprocessors = gpu.stream.capability().multiprocessors as usize;
    let kernels = ["linear_dw_hopper_256", "linear_dw_hopper_128"];
    let hopper = has_hopper(gpu, kernels, 4).then(|| {
        // Columns of tiles that a multiprocessor computes, times the rows of each.
        let time = |i: usize| {
            let (width, _) = HOPPER[i];
            let tiles = tiles(outputs, inputs, [HOPPER_ROWS, width]);
            let chunk = shape.chunk(multiprocessors, tiles, HOPPER_DEPTH);
            let blocks = tiles as usize * rows.div_ceil(chunk);
            let rounds = blocks.div_ceil(multiprocessors);
            (
                rounds * width * chunk,
                i,
                blocks.min(multiprocessors),
                chunk,
            )
        };
        [0, 1].map(time).into_iter().min().expect("there are two")
    });
    let chunk = match hopper {
        Some((_, _, _, chunk)) => chunk,
        None => shape.chunk(
            multiprocessors,
            tiles(outputs, inputs, [TILES[0]; 2]),
            DEPTH,
        ),
    };
    let parts = rows.div_ceil(chunk);
    let (sums, add) = match parts {
        1 => (out, accumulate),
        _ => {
            let weights = parts * inputs * outputs;
            let scratch = gpu.scratch(4 * (weights + parts * outputs));
            let db = grad.db.map_or(0, |_| scratch + 4 * weights as u64);
            ([scratch, db].map(Arg::Ptr), Arg::I32(0))
        }
    };
    let sizes = [&shape.args()[..], &[Arg::I32(chunk as i32)]].concat();
    match hopper {
        Some((_, i, blocks, _)) => {
            let factors = [(dz, outputs), (x, inputs)];
            let factors = factors.map(|(t, n)| map(gpu.locate(t), [rows, n], HOPPER_DEPTH));
            let args = [&factors[..], &sums, &[add], &sizes].concat();
            let shared = hopper_shared(HOPPER[i]);
            gpu.launch(
                kernels[i],
                [blocks as u32, 1, 1],
                HOPPER_THREADS,
                shared,
                &args,
            );
        }
        None => {
            let args = [&factors[..], &sums, &[add], &sizes].concat();
            let grid = [tiles(outputs, inputs, [TILES[0]; 2]), parts as u32, 1];
            let (kernel, shared) = staged(gpu, ["linear_dw_128", "linear_dw_128_x3"]);
            gpu.launch(kernel, grid, THREADS, shared, &args);
        }
    }
    if parts > 1 {
        let sizes = [parts, inputs, outputs].map(|size| Arg::I32(size as i32));
        let args = [&sums[..], &sizes, &[accumulate], &out].concat();
        let elements = outputs * (inputs + usize::from(grad.db.is_some()));
        let blocks = elements.div_ceil(ELEMENTS) as u32;
        gpu.launch(
            "linear_add_parts",
            [blocks, 1, 1],
            ELEMENTS as u32,
            0,
            &args,
        );
    }
}
