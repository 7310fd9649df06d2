//! Launches of `kernels/embedding`.

use crate::backend::Tensor;
use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::sequence::{Dropout, Embedding};

/// See [`Sequence::embed`](crate::backend::sequence::Sequence::embed).
pub(crate) fn embed(gpu: &mut Gpu, e: Embedding, out: Tensor) {
    const THREADS: usize = 256;
    let [rows, d, _] = shape(&e, out);
    let positions = e.positions.expect("kernels want places");
    let [_, _, places, width] = positions.dims;
    let length = e.tokens.dims[3];
    assert!(
        places >= length && width == d,
        "{places} places of {length}"
    );
    let tables = [e.table, positions];
    let vectors = has_vectors(gpu, d, &tables, out);
    let (kernel, each) = match vectors && gpu.allows(Ladder::Embedding, 2) {
        true => ("embed", 8),
        false => ("embed_elements", 1),
    };
    let inputs = [e.tokens, e.table, positions].map(|t| gpu.address(t));
    let args = [
        &dropout_args(gpu, e.dropout)[..],
        &inputs,
        &sizes(&e, [rows, length, d]),
        &[gpu.address(out)],
    ]
    .concat();
    let blocks = (rows * d / each).div_ceil(THREADS) as u32;
    gpu.launch(kernel, [blocks, 1, 1], THREADS as u32, 0, &args);
}

/// See [`Sequence::embed_backward`](crate::backend::sequence::Sequence::embed_backward).
pub(crate) fn embed_backward(gpu: &mut Gpu, e: Embedding, dout: Tensor, dtable: Tensor) {
    let [rows, d, vocabulary] = shape(&e, dout);
    assert_eq!(dtable.dims, e.table.dims, "a gradient for each number");
    let vectors = has_vectors(gpu, d, &[dtable], dout);
    let inputs = [e.tokens, dout].map(|t| gpu.address(t));
    let sizes = sizes(&e, [rows, d, d]);
    let args = [
        &dropout_args(gpu, e.dropout)[..],
        &inputs,
        // Rows and d, not a sentence's length.
        &[&sizes[..1], &sizes[2..]].concat(),
        &[gpu.address(dtable)],
    ]
    .concat();
    let (kernel, blocks, threads) = match vectors && gpu.allows(Ladder::Embedding, 2) {
        true => ("embed_backward", rows, 128),
        false => (
            "embed_backward_elements",
            vocabulary,
            d.next_multiple_of(32).min(256),
        ),
    };
    gpu.launch(kernel, [blocks as u32, 1, 1], threads as u32, 0, &args);
}

/// State, site, threshold and scale as kernels take them (`kernels/include/dropout.cuh`).
pub(crate) fn dropout_args(gpu: &Gpu, dropout: Option<Dropout>) -> [Arg; 4] {
    let (site, threshold, scale) =
        dropout.map_or((0, 0, 1.0), |d| (d.site, d.threshold(), d.scale()));
    [
        gpu.state(),
        Arg::U32(site),
        Arg::U32(threshold),
        scale.into(),
    ]
}

/// Rows, d, vocabulary.
fn shape(e: &Embedding, rows: Tensor) -> [usize; 3] {
    let [_, _, vocabulary, d] = e.table.dims;
    let n = e.tokens.len();
    assert!(n > 0 && rows.len() == n * d, "{n} rows of {d}");
    let counts = [rows.len(), e.table.len()];
    assert!(
        counts.iter().all(|n| i32::try_from(*n).is_ok()),
        "the kernels count in 32 bits"
    );
    [n, d, vocabulary]
}

/// Rows, length and d; vocabulary, padding and the factor of the table.
fn sizes(e: &Embedding, [rows, length, d]: [usize; 3]) -> [Arg; 6] {
    let size = |n: usize| Arg::I32(n as i32);
    [
        size(rows),
        size(length),
        size(d),
        size(e.table.dims[2]),
        // No token is negative.
        Arg::I32(e.padding.unwrap_or(-1)),
        e.scale.into(),
    ]
}

/// Whether eight neighbours of all rows are whole vectors.
fn has_vectors(gpu: &Gpu, d: usize, floats: &[Tensor], activations: Tensor) -> bool {
    let mut all = floats.iter().chain([&activations]);
    d.is_multiple_of(8) && all.all(|t| gpu.locate(*t).is_multiple_of(16))
}

#[cfg(all(test, simt))]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::backend::sequence::Sequence;
    use crate::backend::{Executor, Kind, Pass, StepInputs};
    use crate::rng::Stream;
    use crate::simt::{Landing, Schedule};
    use half::bf16;

    /// Sentences, their length, d, vocabulary.
    const SHAPES: [[usize; 4]; 5] = [
        [1, 1, 8, 3],
        [3, 5, 12, 7],
        [4, 7, 16, 9],
        [2, 3, 1040, 5],
        // More rows than are looked at at once.
        [300, 4, 8, 6],
    ];

    /// Output, and what has become of the table's gradient.
    fn run(exec: &mut dyn Sequence, shape: [usize; 4], dropout: Option<Dropout>) -> [Vec<f32>; 2] {
        let [b, l, d, vocabulary] = shape;
        let mut random = Stream::new(3, 0, 0);
        let mut fresh = |exec: &mut dyn Sequence, kind, dims| {
            let t = exec.alloc(kind, dims);
            let draw = |_| bf16::from_f32(2.0 * random.f32() - 1.0).to_f32();
            let values: Vec<f32> = (0..t.len()).map(draw).collect();
            exec.write(t, &values).unwrap();
            t
        };
        let e = Embedding {
            table: fresh(exec, Kind::Float, [1, 1, vocabulary, d]),
            scale: (d as f32).sqrt(),
            positions: Some(fresh(exec, Kind::Float, [1, 1, l + 1, d])),
            tokens: exec.alloc(Kind::Label, [1, 1, b, l]),
            padding: Some(1),
            dropout,
        };
        let dout = fresh(exec, Kind::Activation, [1, b, l, d]);
        let dtable = fresh(exec, Kind::Float, e.table.dims);
        let out = exec.alloc(Kind::Activation, dout.dims);
        let tokens: Vec<i32> = (0..b * l).map(|i| (i * i % vocabulary) as i32).collect();
        exec.write_labels(e.tokens, &tokens).unwrap();
        let inputs = StepInputs {
            step: 3,
            seed: 5,
            ..StepInputs::default()
        };
        let ops = |exec: &mut dyn Executor| {
            let ops = exec.sequence().unwrap();
            ops.embed(e, out);
            ops.embed_backward(e, dout, dtable);
        };
        exec.step(Pass::Train, inputs, &ops).unwrap();
        [out, dtable].map(|t| exec.read(t).unwrap())
    }

    #[test]
    fn it_is_the_cpu_s_to_the_bit() {
        for shape in SHAPES {
            for dropout in [None, Some(Dropout { p: 0.3, site: 2 })] {
                let [out, dtable] = run(&mut Cpu::new().unwrap(), shape, dropout);
                let rounded = out.iter().map(|v| bf16::from_f32(*v).to_f32());
                let expected = [rounded.collect::<Vec<_>>(), dtable];
                for step in 1..=Ladder::Embedding.last() {
                    for schedule in [Schedule::Low, Schedule::High, Schedule::Random(1)] {
                        let mut gpu = Gpu::simt_scheduled(schedule, Landing::Late);
                        gpu.limit(Ladder::Embedding, step);
                        let ours = run(&mut gpu, shape, dropout);
                        assert!(ours == expected, "step {step}, {shape:?}, {dropout:?}");
                    }
                }
            }
        }
    }
}
