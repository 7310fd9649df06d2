// Layer norm with residual and dropout (formulas: layer_norm.cuh).
//
// The idea: none yet; a thread a row, three walks: sum, squared differences, output. Neighbouring
// threads read addresses a whole row apart.
//
// Bound: 4 bytes an element without a branch (x, y), 8 with one (x, branch, h, y); in truth the
// latency of 3·D loads one after the other.
// Launch: ceil(R / 128) blocks of 128 threads.
//
// Source: Ba, Kiros, Hinton: Layer Normalization, 2016, arXiv 1607.06450.

#include "layer_norm.cuh"

KERNEL(layer_norm_rows, 128)
(const StepState *state, uint32_t site, uint32_t threshold, float survivors, const bf16 *x,
 const bf16 *branch, const float *gamma, const float *beta, int rows, int d, bf16 *h, bf16 *y,
 float *mean, float *rstd) {
    const int row = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (row >= rows)
        return;
    const size_t start = size_t(row) * d;
    const bf16 *stream = x;
    if (branch) {
        const Dropout dropout(state, site, threshold, survivors);
        for (int c = 0; c < d; c++) {
            const float added = dropout.factor(start + c) * to_float(branch[start + c]);
            h[start + c] = to_bf16(to_float(x[start + c]) + added);
        }
        stream = h;
    }
    float sum = 0.0f, squares = 0.0f;
    for (int c = 0; c < d; c++)
        sum += to_float(stream[start + c]);
    const float middle = sum / float(d);
    for (int c = 0; c < d; c++) {
        const float off = to_float(stream[start + c]) - middle;
        squares += off * off;
    }
    const float scale = 1.0f / sqrtf(squares / float(d) + NORM_EPS);
    for (int c = 0; c < d; c++) {
        const float normed = (to_float(stream[start + c]) - middle) * scale;
        y[start + c] = to_bf16(gamma[c] * normed + beta[c]);
    }
    mean[row] = middle;
    rstd[row] = scale;
}
EXPORT(layer_norm_rows)

// Try: a row is walked over three times. How often is a byte fetched in `kernels profile layer_norm
// --step 1 --shape 1x128x256`?
// Answer: `each byte 3.0 times`: h by every walk that comes after it, and by each thread for
// itself.
