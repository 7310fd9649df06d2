//! Launches of `kernels/layer_norm` and `layer_norm_backward`.

use super::embedding::dropout_args;
use crate::backend::Tensor;
use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::sequence::{Dropout, LayerNorm};

#[cfg(all(test, simt))]
#[path = "layer_norm_tests.rs"]
mod tests;

/// Threads of the kernels with a thread a row or a column, and of forward's with a warp a row.
const THREADS: usize = 128;
/// Rows that a block of backward's works on at once.
const WARPS: usize = 8;
/// Columns that a warp holds at most.
const WIDEST: usize = 1024;
/// Blocks of backward's for a multiprocessor.
const STAYING: usize = 2;

/// Rows and columns.
fn shape(x: Tensor, norm: &LayerNorm) -> [usize; 2] {
    let d = x.dims[3];
    let rows = x.len() / d;
    assert!(rows > 0, "rows of {d}");
    assert_eq!(
        [norm.gamma.len(), norm.beta.len()],
        [d; 2],
        "a gain a column"
    );
    assert_eq!(
        [norm.mean.len(), norm.rstd.len()],
        [rows; 2],
        "a mean a row"
    );
    assert!(i32::try_from(rows).is_ok(), "the kernels count in 32 bits");
    [rows, d]
}

/// Whether a warp can hold rows, and eight neighbours are vectors.
fn has_vectors(gpu: &Gpu, d: usize, all: impl IntoIterator<Item = Tensor>) -> bool {
    let aligned = |t: Tensor| gpu.locate(t).is_multiple_of(16);
    let fits = d.is_multiple_of(8) && d <= WIDEST && gpu.allows(Ladder::LayerNorm, 2);
    fits && all.into_iter().all(aligned)
}

fn sizes([rows, d]: [usize; 2]) -> [Arg; 2] {
    [rows, d].map(|n| Arg::I32(n as i32))
}

/// See [`Sequence::add_norm`](crate::backend::sequence::Sequence::add_norm).
pub(crate) fn add_norm(
    gpu: &mut Gpu,
    x: Tensor,
    branch: Option<(Tensor, Option<Dropout>)>,
    norm: LayerNorm,
    h: Tensor,
    y: Tensor,
) {
    let shape = shape(x, &norm);
    let rows = shape[0];
    let (added, dropout) = branch.map_or((None, None), |(t, dropout)| (Some(t), dropout));
    let same = [Some(y), added, added.map(|_| h)];
    assert!(same.into_iter().flatten().all(|t| t.len() == x.len()));
    let all = [x, h, y, norm.gamma, norm.beta];
    let vectors = has_vectors(gpu, shape[1], all.into_iter().chain(added));
    let or_null = |t: Option<Tensor>| t.map_or(Arg::NULL, |t| gpu.address(t));
    let args = [
        &dropout_args(gpu, dropout)[..],
        &[gpu.address(x), or_null(added)],
        &[norm.gamma, norm.beta].map(|t| gpu.address(t)),
        &sizes(shape),
        &[or_null(added.map(|_| h))],
        &[y, norm.mean, norm.rstd].map(|t| gpu.address(t)),
    ]
    .concat();
    let (kernel, a_block) = match vectors {
        true => ("layer_norm", THREADS / 32),
        false => ("layer_norm_rows", THREADS),
    };
    let blocks = rows.div_ceil(a_block) as u32;
    gpu.launch(kernel, [blocks, 1, 1], THREADS as u32, 0, &args);
}

/// See [`Sequence::add_norm_backward`](crate::backend::sequence::Sequence::add_norm_backward).
pub(crate) fn add_norm_backward(
    gpu: &mut Gpu,
    h: Tensor,
    norm: LayerNorm,
    dy: Tensor,
    dh: Option<Tensor>,
    dx: Tensor,
    branch: Option<(Tensor, Dropout)>,
) {
    let shape = shape(h, &norm);
    let [rows, d] = shape;
    let dbranch = branch.map(|(t, _)| t);
    let same = [Some(dy), Some(dx), dh, dbranch];
    assert!(same.into_iter().flatten().all(|t| t.len() == h.len()));
    assert_eq!([norm.dgamma.len(), norm.dbeta.len()], [d; 2]);
    let all = [Some(h), Some(norm.gamma)]
        .into_iter()
        .chain(same)
        .flatten();
    let vectors = has_vectors(gpu, d, all.collect::<Vec<_>>());
    let or_null = |t: Option<Tensor>| t.map_or(Arg::NULL, |t| gpu.address(t));
    let row_args = [
        &dropout_args(gpu, branch.map(|(_, dropout)| dropout))[..],
        &[gpu.address(h), gpu.address(dy), or_null(dh)],
        &[norm.gamma, norm.mean, norm.rstd].map(|t| gpu.address(t)),
        &sizes(shape),
        &[gpu.address(dx), or_null(dbranch)],
    ]
    .concat();
    let sums = [norm.dgamma, norm.dbeta].map(|t| gpu.address(t));
    let blocks = |n: usize, each: usize| [n.div_ceil(each) as u32, 1, 1];
    if !vectors {
        let inputs = [h, dy, norm.mean, norm.rstd].map(|t| gpu.address(t));
        let columns = [&inputs[..], &sizes(shape), &sums].concat();
        let threads = THREADS as u32;
        let kernel = "layer_norm_backward_columns";
        gpu.launch(kernel, blocks(d, THREADS), threads, 0, &columns);
        let kernel = "layer_norm_backward_rows";
        return gpu.launch(kernel, blocks(rows, THREADS), threads, 0, &row_args);
    }
    let device = gpu.stream.capability();
    let staying = rows
        .div_ceil(WARPS)
        .min(STAYING * device.multiprocessors as usize);
    let partial = Arg::Ptr(gpu.scratch(4 * staying * 2 * d));
    let kernel = match d {
        ..=512 => "layer_norm_backward_512",
        _ => "layer_norm_backward_1024",
    };
    let shared = (4 * WARPS * 2 * d) as u32;
    let args = [&row_args[..], &[partial]].concat();
    gpu.launch(kernel, blocks(staying, 1), 32 * WARPS as u32, shared, &args);
    let args = [
        &[partial, Arg::I32(staying as i32), Arg::I32(d as i32)],
        &sums[..],
    ]
    .concat();
    let kernel = "layer_norm_backward_finish";
    gpu.launch(kernel, blocks(d, 32), 32 * WARPS as u32, 0, &args);
}
