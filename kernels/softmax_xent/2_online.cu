// Softmax cross-entropy (formulas: xent.cuh) with maximum and sums from one read of the logits.
//
//   softmax_xent_online     loss, right bit and record; rows[n] for the gradient
//   softmax_xent_gradient   dlogits: the kernel of 1_three_passes.cu
//
//   rows [N] RowScale: scratch
//
// The idea: maximum and sums in one walk, the sums being relative to the largest logit so far. When
// a larger one turns up, the exponentials are all too large by the same factor, and the offsets by
// the same difference:
//
//   others  ← (1 + others) · e^(old − new),   offsets ← offsets + count · (old − new)
//
// (OnlineSums; Milakov and Gimelshein, 2018). Random rows of C logits have about ln C such events.
//
// Bound: 6 bytes a logit (read twice, written once), and the latency of a row's walk.
// Launch: online ceil(N / 128) blocks of 128 threads, a thread a row.
//
// Source: Milakov, Gimelshein: Online normalizer calculation for softmax, 2018, arXiv 1805.02867.

#include "xent_online.cuh"

KERNEL(softmax_xent_online, 128)
(const StepState *state, const bf16 *logits, const int *labels, const float *weights,
 float smoothing, int n, int classes, RowScale *rows, float *loss, float *right, uint64_t *ring,
 uint32_t ring_slots, uint32_t ring_rows) {
    const int valid = count_valid(labels, n);
    const int row = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (row >= n)
        return;
    const RowResults results = {state, loss, right, ring, ring_slots, ring_rows};
    const int label = checked_label(labels, row, classes);
    if (label == IGNORED) {
        results.store(row, 0.0f, false);
        rows[row] = RowScale();
        return;
    }
    const float scale = weights[row] / float(valid);
    const bf16 *z = logits + size_t(row) * classes;
    OnlineSums online(to_float(z[0]), 0);
#pragma unroll 4
    for (int c = 1; c < classes; c++)
        online.add(to_float(z[c]), c);
    const RowSums sums = online.row();
    results.store(row, sums, label,
                  Target(smoothing, classes).loss(sums, to_float(z[label])));
    rows[row] = RowScale(sums, scale, label);
}
EXPORT(softmax_xent_online)
