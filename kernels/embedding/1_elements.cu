// Embedding and its gradient (formulas: embedding.cuh).
//
// The idea: none yet; forward a thread an element. Backward a thread an element of the table, which
// looks at every token of the batch for its own: V · R comparisons, of which R find something.
//
// Bound: forward 6 bytes an element; backward V · R loads from L1, 8000 · 1024 already as long as
// everything else of a layer.
// Launch: embed_elements ceil(R·d / 256) blocks of 256 threads; embed_backward_elements V blocks of
// up to 256.
//
// Source: Vaswani et al.: Attention Is All You Need, 2017, arXiv 1706.03762 (scale and positions).

#include "embedding.cuh"

KERNEL(embed_elements, 256)
(const StepState *state, uint32_t site, uint32_t threshold, float survivors, const int *tokens, const float *table,
 const float *positions, int rows, int length, int d, int vocabulary, int padding, float scale,
 bf16 *out) {
    const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const int row = int(i / d), c = int(i % d);
    if (row >= rows)
        return;
    const int token = checked_token(tokens, row, padding, vocabulary);
    float v = 0.0f;
    if (token >= 0) {
        const Dropout dropout(state, site, threshold, survivors);
        const float at = positions[size_t(row % length) * d + c];
        v = dropout.factor(i) * (scale * table[size_t(token) * d + c] + at);
    }
    out[i] = to_bf16(v);
}
EXPORT(embed_elements)

KERNEL(embed_backward_elements, 256)
(const StepState *state, uint32_t site, uint32_t threshold, float survivors, const int *tokens, const bf16 *dout, int rows, int d,
 int vocabulary, int padding, float scale, float *dtable) {
    const int token = int(blockIdx.x);
    const Dropout dropout(state, site, threshold, survivors);
    for (int c = int(threadIdx.x); c < d; c += int(blockDim.x)) {
        float sum = dtable[size_t(token) * d + c];
        for (int row = 0; row < rows; row++) {
            if (checked_token(tokens, row, padding, vocabulary) == token) {
                const size_t i = size_t(row) * d + c;
                sum += dropout.factor(i) * scale * to_float(dout[i]);
            }
        }
        dtable[size_t(token) * d + c] = sum;
    }
}
EXPORT(embed_backward_elements)
