// The loss of sentences (formulas: sentence_xent.cuh), a kernel for each quantity that the next one
// needs. The first and the third are those of softmax_xent/1_three_passes.cu:
//
//   softmax_xent_maxima     tops[r] = the largest logit of row r and its class
//   sentence_xent_sums      token_loss[r], right_rows[r]; rows[r] for the gradient
//   softmax_xent_gradient   dlogits, from rows[r]
//   sentence_xent_means     loss, right bit and record of each sentence
//
//   tops [R] Top, rows [R] RowScale, right_rows [R] f32: scratch
//
// The idea: none yet; a thread a row, then a thread a sentence.
//
// Bound: 8 bytes a logit (read three times, written once), and the latency of a row's walk.
// Launch: sums ceil(R / 128) blocks of 128 threads, means ceil(B / 128).

#include "sentence_xent.cuh"

KERNEL(sentence_xent_sums, 128)
(const bf16 *logits, const int *labels, const int *offsets, const float *weights, float smoothing,
 int n, int classes, int sentences, const Top *tops, RowScale *rows, float *token_loss,
 float *right_rows) {
    const int valid = count_valid(labels, n);
    const int row = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (row >= n)
        return;
    const int label = checked_label(labels, row, classes);
    if (label == IGNORED) {
        token_loss[row] = 0.0f;
        right_rows[row] = 0.0f;
        rows[row] = RowScale();
        return;
    }
    const bf16 *z = logits + size_t(row) * classes;
    RowSums sums;
    sums.top = tops[row];
    for (int c = 0; c < classes; c++)
        sums.add(to_float(z[c]), c);
    const float loss = Target(smoothing, classes).loss(sums, to_float(z[label]));
    token_loss[row] = loss;
    right_rows[row] = sums.top.index == label && fabsf(loss) < INFINITY ? 1.0f : 0.0f;
    const float weight = weights[sentence_of(offsets, sentences, row)];
    rows[row] = RowScale(sums, weight / float(valid), label);
}
EXPORT(sentence_xent_sums)

KERNEL(sentence_xent_means, 128)
(const StepState *state, const int *labels, const int *offsets, int sentences,
 const float *token_loss, const float *right_rows, float *loss, float *right, uint64_t *ring,
 uint32_t ring_slots, uint32_t ring_rows) {
    const int b = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (b >= sentences)
        return;
    SentenceSum sum;
    for (int row = offsets[b]; row < offsets[b + 1]; row++)
        sum.add(labels[row] != IGNORED, token_loss[row], right_rows[row] != 0.0f);
    sum.store({state, loss, right, ring, ring_slots, ring_rows}, b);
}
EXPORT(sentence_xent_means)
