//! Launches of `kernels/sentence_xent`.

use super::loss::{ROW_SCALE, TOP, gradient, maxima};
use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::sequence::SentenceLoss;

#[cfg(all(test, simt))]
#[path = "sentence_loss_tests.rs"]
mod tests;

/// Threads of a block with a thread a row.
const THREADS: usize = 128;
/// Threads of the block that begins, and of a block with a row.
const BEGIN_THREADS: u32 = 1024;
const ROW_THREADS: u32 = 256;

/// See [`Sequence::sentence_xent`](crate::backend::sequence::Sequence::sentence_xent).
pub(crate) fn sentence_xent(gpu: &mut Gpu, l: SentenceLoss, record: bool) {
    let (rows, sentences) = (l.labels.len(), l.weights.len());
    assert!(rows > 0 && sentences > 0, "a batch has sentences");
    let classes = l.logits.len() / rows;
    assert_eq!(
        [l.logits.len(), l.dlogits.len(), l.token_loss.len()],
        [rows * classes, rows * classes, rows],
        "{rows} rows of {classes} classes"
    );
    assert_eq!(
        [l.offsets.len(), l.loss.len(), l.right.len()],
        [sentences + 1, sentences, sentences],
        "{sentences} sentences"
    );
    let [rows_arg, classes_arg, sentences_arg] = [rows, classes, sentences].map(|n| {
        let n = i32::try_from(n).expect("the kernels count in 32 bits");
        Arg::I32(n)
    });
    let ring = gpu.ring_args(record);
    let [logits, labels, offsets, weights] =
        [l.logits, l.labels, l.offsets, l.weights].map(|t| gpu.address(t));
    let [dlogits, token_loss, loss, right] =
        [l.dlogits, l.token_loss, l.loss, l.right].map(|t| gpu.address(t));
    let smoothing = l.smoothing.into();
    let results = [&[loss, right], &ring[..]].concat();

    let row_bytes = 2 * classes;
    let lies_well = |t| gpu.locate(t).is_multiple_of(16);
    let fits = classes.is_multiple_of(8)
        && lies_well(l.logits)
        && lies_well(l.dlogits)
        && gpu.fits("sentence_xent", row_bytes);
    if fits && gpu.allows(Ladder::SentenceXent, 2) {
        let scratch = gpu.scratch(4 * (1 + sentences + rows));
        let at = |words: usize| Arg::Ptr(scratch + 4 * words as u64);
        let (total, counters, right_rows) = (at(0), at(1), at(1 + sentences));
        let state = gpu.state();
        let begin = [
            &[
                state,
                labels,
                offsets,
                rows_arg,
                sentences_arg,
                total,
                counters,
            ][..],
            &results[..],
        ]
        .concat();
        gpu.launch("sentence_xent_begin", [1, 1, 1], BEGIN_THREADS, 0, &begin);
        let args = [
            &[state, logits, labels, offsets, weights, smoothing][..],
            &[
                classes_arg,
                sentences_arg,
                total,
                counters,
                dlogits,
                token_loss,
                right_rows,
            ],
            &results[..],
        ]
        .concat();
        let grid = [rows as u32, 1, 1];
        return gpu.launch("sentence_xent", grid, ROW_THREADS, row_bytes as u32, &args);
    }
    let bytes = (ROW_SCALE + TOP + 4) * rows;
    let scratch = gpu.scratch(bytes);
    let row_scales = Arg::Ptr(scratch);
    let tops = Arg::Ptr(scratch + (ROW_SCALE * rows) as u64);
    let right_rows = Arg::Ptr(scratch + ((ROW_SCALE + TOP) * rows) as u64);
    maxima(gpu, l.logits, rows, classes, tops);
    let sums = [
        &[logits, labels, offsets, weights, smoothing][..],
        &[
            rows_arg,
            classes_arg,
            sentences_arg,
            tops,
            row_scales,
            token_loss,
            right_rows,
        ],
    ]
    .concat();
    let blocks = |n: usize| [n.div_ceil(THREADS) as u32, 1, 1];
    gpu.launch("sentence_xent_sums", blocks(rows), THREADS as u32, 0, &sums);
    gradient(
        gpu,
        l.logits,
        row_scales,
        l.smoothing,
        [rows, classes],
        l.dlogits,
    );
    let means = [
        &[
            gpu.state(),
            labels,
            offsets,
            sentences_arg,
            token_loss,
            right_rows,
        ][..],
        &results[..],
    ]
    .concat();
    gpu.launch(
        "sentence_xent_means",
        blocks(sentences),
        THREADS as u32,
        0,
        &means,
    );
}
