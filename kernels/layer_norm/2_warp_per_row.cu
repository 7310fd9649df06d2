// Layer norm with residual and dropout (formulas: layer_norm.cuh).
//
// The idea: a warp holds its row in registers, so memory is crossed once. Each lane loads and
// stores eight neighbours at once, and sums are butterfly shuffles.
//
//     lane      0         1               31       0       (8 columns a lane: one access of 16 bytes)
//     row     |0 .. 7  |8 .. 15 | ... |248..255|256..263| ...
//
//     warp_sum: lane l adds what lane l XOR 16 has, then XOR 8, 4, 2, 1: after five shuffles every
//     lane has the whole sum, added up in the same order in every run
//
// Bound: 4 bytes an element without a branch (x, y), 8 with one (x, branch, h, y).
// Launch: ceil(R / 4) blocks of 128 threads. 8 divides D, which is at most 1024, and rows start at
// multiples of 16 bytes.
//
// Source: Ba, Kiros, Hinton: Layer Normalization, 2016, arXiv 1607.06450.
// Source: CUDA C++ Programming Guide, "Warp Shuffle Functions".

#include "layer_norm.cuh"

namespace {

// One row of at most 256 · PACKS columns.
template <int PACKS>
DEVICE void norm_row(const Dropout &dropout, const bf16 *x, const bf16 *branch, const float *gamma,
                     const float *beta, int row, int d, bf16 *h, bf16 *y, float *mean,
                     float *rstd) {
    const size_t start = size_t(row) * d;
    HeldRow<PACKS> held;
    held.load_row(x + start, d);
    if (branch) {
        held.each(d, [&](int p, int column) {
            const Pack<8> added = load<8>(branch + start + column);
            float factors[8];
            dropout.factors(start + column, factors);
#pragma unroll
            for (int i = 0; i < 8; i++)
                held.v[p][i] = rounded(held.v[p][i] + factors[i] * added[i]);
            store(h + start + column, held.v[p]);
        });
    }
    float sum = 0.0f, squares = 0.0f;
    held.each(d, [&](int p, int) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            sum += held.v[p][i];
    });
    const float middle = warp_sum(sum) / float(d);
    held.each(d, [&](int p, int) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float off = held.v[p][i] - middle;
            squares += off * off;
        }
    });
    const float scale = 1.0f / sqrtf(warp_sum(squares) / float(d) + NORM_EPS);
    held.each(d, [&](int p, int column) {
        float g[8], b[8], out[8];
        load<8>(gamma + column, g);
        load<8>(beta + column, b);
#pragma unroll
        for (int i = 0; i < 8; i++)
            out[i] = g[i] * ((held.v[p][i] - middle) * scale) + b[i];
        store(y + start + column, out);
    });
    if (threadIdx.x % 32 == 0) {
        mean[row] = middle;
        rstd[row] = scale;
    }
}

}  // namespace

KERNEL_BLOCKS(layer_norm, 128, 7)
(const StepState *state, uint32_t site, uint32_t threshold, float survivors, const bf16 *x,
 const bf16 *branch, const float *gamma, const float *beta, int rows, int d, bf16 *h, bf16 *y,
 float *mean, float *rstd) {
    const int row = int(blockIdx.x) * 4 + int(threadIdx.x) / 32;
    if (row >= rows)
        return;
    const Dropout dropout(state, site, threshold, survivors);
    if (d <= 512)
        norm_row<2>(dropout, x, branch, gamma, beta, row, d, h, y, mean, rstd);
    else
        norm_row<4>(dropout, x, branch, gamma, beta, row, d, h, y, mean, rstd);
}
EXPORT(layer_norm)

// Try: two sums a row, each a butterfly over 32 lanes. How many shuffles are that for the 128 rows
// of `kernels profile layer_norm --step 2 --shape 1x128x256`?
// Answer: `1280 warp operations`: two sums of five rounds, a row.
