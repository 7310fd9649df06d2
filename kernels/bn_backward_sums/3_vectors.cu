// Back through the ReLU behind a batch norm, and the two sums that its input gradient needs
// (formulas: 1_three_passes.cu), where 8 divides C.
//
//   partial [C, chunks] {Σ g, Σ g·(x − mean)}, added up by bn_backward_sums_finish
//
// The idea: 8 channels a thread in loads of 16 bytes, two pixels at a time.
//
// Bound: 4 bytes an element (g and x read), 8 with the mask (y read, g written).
// Launch: see Walk in vector.cuh, about 1000 blocks at most; then bn_backward_sums_finish
// (2_one_pass.cu).
//
// Source: Ioffe, Szegedy: Batch Normalization: Accelerating Deep Network Training by Reducing
//   Internal Covariate Shift, 2015, arXiv 1502.03167.
// Source: Luitjens: CUDA Pro Tip: Increase Performance with Vectorized Memory Access, NVIDIA
//   developer blog, 2013.

#include "reduce.cuh"
#include "vector.cuh"

namespace {

// Pixels at a time: 96 bytes in flight a thread.
constexpr int BATCH = 2;
// Channels of a thread.
constexpr int N = 8;

}  // namespace

KERNEL(bn_backward_sums_8, WALKERS)
(bf16 *__restrict__ g, const bf16 *__restrict__ y, const bf16 *__restrict__ x,
 const float *__restrict__ mean_in, float2 *__restrict__ partial, int pixels, int channels,
 int across, int chunk) {
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
EXPORT(bn_backward_sums_8)
