// Softmax cross-entropy as a textbook has it (formulas: xent.cuh), a kernel for each quantity that
// the next one needs.
//
//   softmax_xent_maxima     tops[n] = the largest logit of row n and its class
//   softmax_xent_sums       the sums around it: loss, right bit and record; rows[n] for the gradient
//   softmax_xent_gradient   dlogits, from rows[n]
//
//   tops [N] Top, rows [N] RowScale: scratch
//
// The idea: none yet; a kernel a quantity, a textbook's three. The first two take a thread a row,
// so neighbouring threads read addresses a whole row apart: what a warp reads at once lies in 32
// sectors, of which the cache must keep the rest until the threads come to it. The gradient takes a
// block a row, whose threads are neighbours.
//
// Bound: 8 bytes a logit (read three times, written once), and the latency of a row's walk.
// Launch: maxima and sums ceil(N / 128) blocks of 128 threads; gradient N blocks of up to 256.

#include "xent.cuh"

KERNEL(softmax_xent_maxima, 128)
(const bf16 *logits, int n, int classes, Top *tops) {
    const int row = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (row >= n)
        return;
    const bf16 *z = logits + size_t(row) * classes;
    Top top;
    for (int c = 0; c < classes; c++)
        top.offer(to_float(z[c]), c);
    tops[row] = top;
}
EXPORT(softmax_xent_maxima)

KERNEL(softmax_xent_sums, 128)
(const StepState *state, const bf16 *logits, const int *labels, const float *weights,
 float smoothing, int n, int classes, const Top *tops, RowScale *rows, float *loss, float *right,
 uint64_t *ring, uint32_t ring_slots, uint32_t ring_rows) {
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
    RowSums sums;
    sums.top = tops[row];
    for (int c = 0; c < classes; c++)
        sums.add(to_float(z[c]), c);
    results.store(row, sums, label,
                  Target(smoothing, classes).loss(sums, to_float(z[label])));
    rows[row] = RowScale(sums, scale, label);
}
EXPORT(softmax_xent_sums)

KERNEL(softmax_xent_gradient, 256)
(const bf16 *logits, const RowScale *rows, float smoothing, int classes, bf16 *dlogits) {
    const RowScale row = rows[blockIdx.x];
    const Target target(smoothing, classes);
    const size_t start = size_t(blockIdx.x) * classes;
    for (int c = int(threadIdx.x); c < classes; c += int(blockDim.x)) {
        const float z = to_float(logits[start + c]);
        dlogits[start + c] = to_bf16(row.label == IGNORED ? 0.0f : target.gradient(row, z, c));
    }
}
EXPORT(softmax_xent_gradient)

// Try: a thread has a row. How many sectors does a request of the first kernel of `kernels profile
// softmax_xent --step 1 --shape 128x320` touch?
// Answer: `32.00 sectors a request`: 640 bytes are from row to row.
