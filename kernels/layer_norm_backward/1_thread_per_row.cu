// Layer norm's backward pass (formulas: layer_norm.cuh), in two kernels:
//
//   layer_norm_backward_rows      dx, dbranch: a thread a row, two walks
//   layer_norm_backward_columns   dγ, dβ: a thread a column, a walk over all rows
//
// The idea: none yet; a thread a row, then a thread a column. Columns come first, since dx may take
// the place of dy.
//
// Bound: 6 bytes an element (h, dy, dx), 2 more each with dh and dbranch; in truth latency, and
// R loads one after the other for columns.
// Launch: rows ceil(R / 128) blocks of 128 threads, columns ceil(D / 128).
//
// Source: Ba, Kiros, Hinton: Layer Normalization, 2016, arXiv 1607.06450.

#include "layer_norm.cuh"

KERNEL(layer_norm_backward_columns, 128)
(const bf16 *h, const bf16 *dy, const float *mean, const float *rstd, int rows, int d,
 float *dgamma, float *dbeta) {
    const int c = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= d)
        return;
    float gamma = 0.0f, beta = 0.0f;
    for (int row = 0; row < rows; row++) {
        const size_t i = size_t(row) * d + c;
        const float g = to_float(dy[i]);
        gamma += g * ((to_float(h[i]) - mean[row]) * rstd[row]);
        beta += g;
    }
    dgamma[c] = gamma;
    dbeta[c] = beta;
}
EXPORT(layer_norm_backward_columns)

KERNEL(layer_norm_backward_rows, 128)
(const StepState *state, uint32_t site, uint32_t threshold, float survivors, const bf16 *h,
 const bf16 *dy, const bf16 *dh, const float *gamma, const float *mean, const float *rstd,
 int rows, int d, bf16 *dx, bf16 *dbranch) {
    const int row = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (row >= rows)
        return;
    const Dropout dropout(state, site, threshold, survivors);
    const size_t start = size_t(row) * d;
    const float middle = mean[row], scale = rstd[row];
    float sum = 0.0f, along = 0.0f;
    for (int c = 0; c < d; c++) {
        const float g = gamma[c] * to_float(dy[start + c]);
        sum += g;
        along += g * ((to_float(h[start + c]) - middle) * scale);
    }
    sum /= float(d), along /= float(d);
    for (int c = 0; c < d; c++) {
        const size_t i = start + c;
        const float normed = (to_float(h[i]) - middle) * scale;
        float out = scale * (gamma[c] * to_float(dy[i]) - sum - normed * along);
        if (dh)
            out += to_float(dh[i]);
        dx[i] = to_bf16(out);
        if (dbranch)
            dbranch[i] = to_bf16(dropout.factor(i) * out);
    }
}
EXPORT(layer_norm_backward_rows)
