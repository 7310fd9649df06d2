//! Launches of `kernels/softmax_xent`.

use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::{Gpu, Ladder, RingBuffer};
use crate::backend::{LossOutputs, Tensor};

#[cfg(all(test, simt))]
#[path = "loss_tests.rs"]
mod tests;

/// Classes of which a warp holds a row in registers.
const HELD: usize = 1024;
/// Threads of the kernels that take a thread or a warp a row.
const THREADS: usize = 128;
/// Bytes of `Top` and `RowScale` (`kernels/include/xent.cuh`).
pub(crate) const TOP: usize = 8;
pub(crate) const ROW_SCALE: usize = 16;

/// See [`Executor::softmax_xent`](crate::backend::Executor::softmax_xent).
pub(crate) fn softmax_xent(
    gpu: &mut Gpu,
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    smoothing: f32,
    out: LossOutputs,
    record: bool,
) {
    let n = labels.len();
    assert!(n > 0, "a batch has rows");
    let classes = logits.len() / n;
    assert_eq!(
        [logits.len(), out.dlogits.len()],
        [n * classes; 2],
        "logits and their gradient are rows of {classes} classes"
    );
    assert_eq!(
        [weights.len(), out.loss.len(), out.right.len()],
        [n; 3],
        "labels, weights, losses and right bits belong to the same rows"
    );
    let counts = [n, classes];
    assert!(
        counts.iter().all(|v| i32::try_from(*v).is_ok()),
        "the kernel counts in 32 bits"
    );
    let ring = gpu.ring_args(record);
    let inputs = [
        gpu.state(),
        gpu.address(logits),
        gpu.address(labels),
        gpu.address(weights),
        smoothing.into(),
    ];
    let sizes = counts.map(|size| Arg::I32(size as i32));
    let results = [out.loss, out.right].map(|t| gpu.address(t));
    // `between` are what a kernel has between its sizes and its results.
    let args = |between: &[Arg]| [&inputs[..], &sizes, between, &results, &ring].concat();

    if gpu.allows(Ladder::SoftmaxXent, 3) {
        let kernel = match classes {
            ..=HELD => "softmax_xent",
            _ => "softmax_xent_wide",
        };
        let args = args(&[gpu.address(out.dlogits)]);
        return launch_rows(gpu, kernel, 32 * n, &args);
    }
    let scratch = gpu.scratch((ROW_SCALE + TOP) * n);
    let rows = Arg::Ptr(scratch);
    if gpu.allows(Ladder::SoftmaxXent, 2) {
        launch_rows(gpu, "softmax_xent_online", n, &args(&[rows]));
    } else {
        let tops = Arg::Ptr(scratch + (ROW_SCALE * n) as u64);
        maxima(gpu, logits, n, classes, tops);
        launch_rows(gpu, "softmax_xent_sums", n, &args(&[tops, rows]));
    }
    gradient(gpu, logits, rows, smoothing, [n, classes], out.dlogits);
}

/// The largest logit of each row, to `tops`.
pub(crate) fn maxima(gpu: &mut Gpu, logits: Tensor, n: usize, classes: usize, tops: Arg) {
    let [rows, classes] = [n, classes].map(|size| Arg::I32(size as i32));
    let args = [gpu.address(logits), rows, classes, tops];
    launch_rows(gpu, "softmax_xent_maxima", n, &args);
}

/// The gradient of rows of classes whose `RowScale` is known.
pub(crate) fn gradient(
    gpu: &mut Gpu,
    logits: Tensor,
    rows: Arg,
    smoothing: f32,
    [n, classes]: [usize; 2],
    dlogits: Tensor,
) {
    let args = [
        gpu.address(logits),
        rows,
        smoothing.into(),
        Arg::I32(classes as i32),
        gpu.address(dlogits),
    ];
    let threads = classes.next_multiple_of(32).min(256) as u32;
    gpu.launch("softmax_xent_gradient", [n as u32, 1, 1], threads, 0, &args);
}

impl Gpu {
    /// The ring as kernels take it, or none.
    pub(crate) fn ring_args(&self, record: bool) -> [Arg; 3] {
        let ring = record.then(|| self.ring_buffer());
        match ring.map(|ring| ring.expect("a ring is made before losses are recorded")) {
            None => [Arg::NULL, Arg::U32(0), Arg::U32(0)],
            Some(RingBuffer {
                address,
                slots,
                rows,
            }) => [Arg::Ptr(address), Arg::U32(slots), Arg::U32(rows)],
        }
    }
}

/// Launches a kernel that takes so many threads for all rows.
fn launch_rows(gpu: &mut Gpu, kernel: &'static str, threads: usize, args: &[Arg]) {
    let blocks = threads.div_ceil(THREADS) as u32;
    gpu.launch(kernel, [blocks, 1, 1], THREADS as u32, 0, args);
}
