//! Launch of `kernels/softmax_xent/1_warp_per_row.cu`.

use super::driver::Arg;
use super::{Gpu, RingBuffer};
use crate::backend::{LossOutputs, Tensor};

/// Classes of which a warp holds a row in registers.
const HELD: usize = 1024;

/// See [`Executor::softmax_xent`](crate::backend::Executor::softmax_xent).
pub(super) fn softmax_xent(
    gpu: &mut Gpu,
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    smoothing: f32,
    out: LossOutputs,
    record: bool,
) {
    const THREADS: usize = 128;
    const WARPS: usize = THREADS / 32;
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
    let ring = record.then(|| gpu.ring_buffer());
    let ring = ring.map(|ring| ring.expect("a ring is made before losses are recorded"));
    let [ring, ring_slots, ring_rows] = match ring {
        None => [Arg::NULL, Arg::U32(0), Arg::U32(0)],
        Some(RingBuffer {
            address,
            slots,
            rows,
        }) => [Arg::Ptr(address), Arg::U32(slots), Arg::U32(rows)],
    };
    let args = [
        gpu.state(),
        gpu.address(logits),
        gpu.address(labels),
        gpu.address(weights),
        Arg::F32(smoothing),
        Arg::I32(n as i32),
        Arg::I32(classes as i32),
        gpu.address(out.dlogits),
        gpu.address(out.loss),
        gpu.address(out.right),
        ring,
        ring_slots,
        ring_rows,
    ];
    let kernel = if classes <= HELD {
        "softmax_xent"
    } else {
        "softmax_xent_wide"
    };
    let blocks = n.div_ceil(WARPS) as u32;
    gpu.launch(kernel, [blocks, 1, 1], THREADS as u32, 0, &args);
}
