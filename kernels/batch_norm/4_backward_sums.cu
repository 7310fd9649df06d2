// Back through the ReLU behind a batch norm, and the two sums that its input gradient needs.
//
//   g[p,c] ← g[p,c] · [y[p,c] > 0]      in place, if y is given
//   dbeta[c]  = Σ_p g[p,c]
//   dgamma[c] = Σ_p g[p,c] · (x[p,c] − mean[c]) · invstd[c]
//
//   g, y, x [P,C] bf16; mean, invstd, dgamma, dbeta [C] f32;
//   partial [C, chunks] {Σ g, Σ g·(x − mean)}
//
// The one idea: mask and both sums in one pass. x − mean is taken before the product, where it is
// nearly exact: Σ g·x − mean · Σ g would cancel. invstd comes out of the sum.
//
// Bound: 4 bytes an element (g and x read), 8 with the mask (y read, g written).
// Launch: bn_backward_sums_8 (C a multiple of 8) or _1: see Walk in vector.cuh, about 1000 blocks
// at most; then bn_backward_sums_finish: C blocks of 128 threads.

#include "reduce.cuh"
#include "vector.cuh"

namespace {

// Pixels at a time: 96 bytes in flight a thread.
constexpr int BATCH = 2;
constexpr int FINISHERS = 128;

template <int N>
DEVICE void backward_sums(bf16 *g, const bf16 *y, const bf16 *x, const float *mean_in,
                          float2 *partial, int pixels, int channels, int across, int chunk) {
    SHARED(float, shared, [2 * N][WALKERS]);
    const Walk<N> walk(pixels, channels, across, chunk);
    // Of g in the first half, of products in the second.
    Sums<2 * N> sums = {};
    float mean[N] = {};
    if (!walk.idle())
        load<N>(mean_in + walk.channel, mean);
    for (int p = walk.first; p < walk.end; p += BATCH * walk.rows) {
        // Zeros past the end add nothing, unless the mean is not finite: then the sums are not.
        Pack<N> grad[BATCH] = {}, out[BATCH] = {}, in[BATCH] = {};
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int pixel = p + i * walk.rows;
            if (pixel < walk.end) {
                grad[i] = load<N>(g + walk.at(pixel));
                in[i] = load<N>(x + walk.at(pixel));
                if (y)
                    out[i] = load<N>(y + walk.at(pixel));
            }
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            float masked[N];
#pragma unroll
            for (int c = 0; c < N; c++) {
                masked[c] = y && !(out[i][c] > 0) ? 0 : grad[i][c];
                sums.v[c] += masked[c];
                sums.v[N + c] += masked[c] * (in[i][c] - mean[c]);
            }
            const int pixel = p + i * walk.rows;
            if (y && pixel < walk.end)
                store<N>(g + walk.at(pixel), masked);
        }
    }
    reduce_rows(sums, shared, walk.rows, across);
    if (walk.row == 0 && !walk.idle()) {
#pragma unroll
        for (int c = 0; c < N; c++)
            partial[size_t(walk.channel + c) * gridDim.x + blockIdx.x] = {sums.v[c],
                                                                          sums.v[N + c]};
    }
}

}  // namespace

KERNEL(bn_backward_sums_8, WALKERS)
(bf16 *__restrict__ g, const bf16 *__restrict__ y, const bf16 *__restrict__ x,
 const float *__restrict__ mean, float2 *__restrict__ partial, int pixels, int channels, int across,
 int chunk) {
    backward_sums<8>(g, y, x, mean, partial, pixels, channels, across, chunk);
}
EXPORT(bn_backward_sums_8)

KERNEL(bn_backward_sums_1, WALKERS)
(bf16 *__restrict__ g, const bf16 *__restrict__ y, const bf16 *__restrict__ x,
 const float *__restrict__ mean, float2 *__restrict__ partial, int pixels, int channels, int across,
 int chunk) {
    backward_sums<1>(g, y, x, mean, partial, pixels, channels, across, chunk);
}
EXPORT(bn_backward_sums_1)

// Adds up the chunks' sums, a block a channel.
KERNEL(bn_backward_sums_finish, FINISHERS)
(const float2 *__restrict__ partial, int chunks, const float *__restrict__ invstd,
 float *__restrict__ dgamma, float *__restrict__ dbeta) {
    SHARED(float, shared, [2][FINISHERS]);
    const int c = int(blockIdx.x);
    Sums<2> sums = {};
#pragma unroll 4
    for (int i = int(threadIdx.x); i < chunks; i += FINISHERS) {
        const float2 part = partial[size_t(c) * chunks + i];
        sums.add({{part.x, part.y}});
    }
    reduce_rows(sums, shared, FINISHERS, 1);
    if (threadIdx.x == 0) {
        dbeta[c] = sums.v[0];
        dgamma[c] = sums.v[1] * invstd[c];
    }
}
EXPORT(bn_backward_sums_finish)
