// Back through the ReLU behind a batch norm, and the two sums that its input gradient needs
// (formulas: 1_three_passes.cu).
//
//   partial [C, chunks] {Σ g, Σ g·(x − mean)}
//
// The idea: mask and both sums in one pass, by threads that keep their channel (Walk in
// vector.cuh), so that neighbours read neighbours. Blocks take chunks of pixels; a second kernel
// adds up the chunks. invstd comes out of the sum.
//
// Bound: 4 bytes an element (g and x read), 8 with the mask (y read, g written).
// Launch: bn_backward_sums_1: see Walk, about 1000 blocks at most; then bn_backward_sums_finish: C
// blocks of 128 threads.

#include "reduce.cuh"
#include "vector.cuh"

namespace {

constexpr int FINISHERS = 128;

}  // namespace

KERNEL(bn_backward_sums_1, WALKERS)
(bf16 *__restrict__ g, const bf16 *__restrict__ y, const bf16 *__restrict__ x,
 const float *__restrict__ mean_in, float2 *__restrict__ partial, int pixels, int channels,
 int across, int chunk) {
    SHARED(float, shared, [2][WALKERS]);
    const Walk<1> walk(pixels, channels, across, chunk);
    Sums<2> sums = {};
    const float mean = walk.idle() ? 0 : mean_in[walk.channel];
    for (int p = walk.first; p < walk.end; p += walk.rows) {
        const size_t i = walk.at(p);
        float grad = to_float(g[i]);
        if (y) {
            grad = to_float(y[i]) > 0 ? grad : 0;
            g[i] = to_bf16(grad);
        }
        sums.v[0] += grad;
        sums.v[1] += grad * (to_float(x[i]) - mean);
    }
    reduce_rows(sums, shared, walk.rows, across);
    if (walk.row == 0 && !walk.idle())
        partial[size_t(walk.channel) * gridDim.x + blockIdx.x] = {sums.v[0], sums.v[1]};
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
