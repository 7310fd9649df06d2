// Layer norm's backward pass (formulas: layer_norm.cuh).
//
// The idea: one walk for both directions, the sums of rows and those of columns. A warp holds h and
// dy of a row in registers, as forward does, and goes from row to row; its lanes keep their columns
// all the while, so that they add up dγ and dβ on the way. Blocks stay, so there are few such sums:
// each block adds its warps' and leaves them in scratch, and a second kernel adds the blocks' in
// their order.
//
//   partial [blocks, 2, D] f32: scratch
//
// Bound: 6 bytes an element (h, dy, dx), 2 more each with dh and dbranch.
// Launch: layer_norm_backward up to twice the multiprocessors in blocks of 256 threads and 64·D
// bytes of dynamic shared memory; layer_norm_backward_finish ceil(D / 32) blocks of 256. 8 divides
// D, at most 1024 (512 and 64·D bytes for the first of the two variants), rows start at multiples of
// 16 bytes.
//
// Source: Ba, Kiros, Hinton: Layer Normalization, 2016, arXiv 1607.06450.

#include "layer_norm.cuh"

namespace {

constexpr int WARPS = 8;

template <int PACKS>
DEVICE void backward_rows(const Dropout &dropout, const bf16 *h, const bf16 *dy, const bf16 *dh,
                          const float *gamma, const float *mean, const float *rstd, int rows,
                          int d, bf16 *dx, bf16 *dbranch, float *partial, float *sums) {
    const int warp = int(threadIdx.x) / 32;
    float gains[PACKS][8], offsets[PACKS][8];
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            gains[p][i] = offsets[p][i] = 0.0f;
    }
    for (int row = int(blockIdx.x) * WARPS + warp; row < rows; row += int(gridDim.x) * WARPS) {
        const size_t start = size_t(row) * d;
        const float middle = mean[row], scale = rstd[row];
        HeldRow<PACKS> normed, g;
        normed.load_row(h + start, d);
        g.load_row(dy + start, d);
        float sum = 0.0f, along = 0.0f;
        g.each(d, [&](int p, int column) {
            float gain[8];
            load<8>(gamma + column, gain);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float x = (normed.v[p][i] - middle) * scale;
                gains[p][i] += g.v[p][i] * x;
                offsets[p][i] += g.v[p][i];
                normed.v[p][i] = x;
                g.v[p][i] *= gain[i];
                sum += g.v[p][i];
                along += g.v[p][i] * x;
            }
        });
        sum = warp_sum(sum) / float(d);
        along = warp_sum(along) / float(d);
        g.each(d, [&](int p, int column) {
            float out[8];
#pragma unroll
            for (int i = 0; i < 8; i++)
                out[i] = scale * (g.v[p][i] - sum - normed.v[p][i] * along);
            if (dh) {
                const Pack<8> more = load<8>(dh + start + column);
#pragma unroll
                for (int i = 0; i < 8; i++)
                    out[i] += more[i];
            }
            store(dx + start + column, out);
            if (dbranch) {
                float factors[8];
                dropout.factors(start + column, factors);
#pragma unroll
                for (int i = 0; i < 8; i++)
                    out[i] *= factors[i];
                store(dbranch + start + column, out);
            }
        });
    }
    // sums [WARPS, 2, D]
    float *mine = sums + size_t(warp) * 2 * d;
    HeldRow<PACKS>::each(d, [&](int p, int column) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            mine[column + i] = gains[p][i];
            mine[d + column + i] = offsets[p][i];
        }
    });
    __syncthreads();
    for (int c = int(threadIdx.x); c < 2 * d; c += 32 * WARPS) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            sum += sums[size_t(w) * 2 * d + c];
        partial[size_t(blockIdx.x) * 2 * d + c] = sum;
    }
}

}  // namespace

KERNEL(layer_norm_backward_512, 256)
(const StepState *state, uint32_t site, uint32_t threshold, float survivors, const bf16 *h,
 const bf16 *dy, const bf16 *dh, const float *gamma, const float *mean, const float *rstd,
 int rows, int d, bf16 *dx, bf16 *dbranch, float *partial) {
    DYNAMIC_SHARED(float, sums);
    const Dropout dropout(state, site, threshold, survivors);
    backward_rows<2>(dropout, h, dy, dh, gamma, mean, rstd, rows, d, dx, dbranch, partial, sums);
}
EXPORT(layer_norm_backward_512)

KERNEL(layer_norm_backward_1024, 256)
(const StepState *state, uint32_t site, uint32_t threshold, float survivors, const bf16 *h,
 const bf16 *dy, const bf16 *dh, const float *gamma, const float *mean, const float *rstd,
 int rows, int d, bf16 *dx, bf16 *dbranch, float *partial) {
    DYNAMIC_SHARED(float, sums);
    const Dropout dropout(state, site, threshold, survivors);
    backward_rows<4>(dropout, h, dy, dh, gamma, mean, rstd, rows, d, dx, dbranch, partial, sums);
}
EXPORT(layer_norm_backward_1024)

// A block 32 columns of both sums; eight rows of threads share the blocks' partial sums.
KERNEL(layer_norm_backward_finish, 256)
(const float *partial, int blocks, int d, float *dgamma, float *dbeta) {
    SHARED(float, parts, [2][WARPS][32]);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const int c = int(blockIdx.x) * 32 + lane;
    float gain = 0.0f, offset = 0.0f;
    for (int block = warp; block < blocks && c < d; block += WARPS) {
        gain += partial[size_t(block) * 2 * d + c];
        offset += partial[size_t(block) * 2 * d + d + c];
    }
    parts[0][warp][lane] = gain;
    parts[1][warp][lane] = offset;
    __syncthreads();
    if (warp < 2 && c < d) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            sum += parts[warp][w][lane];
        (warp == 0 ? dgamma : dbeta)[c] = sum;
    }
}
EXPORT(layer_norm_backward_finish)
