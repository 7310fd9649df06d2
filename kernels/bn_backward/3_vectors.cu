// The input gradient of a batch norm (formula: 1_elements.cu), where 8 divides C.
//
// The idea: 8 channels a thread in accesses of 16 bytes, two pixels at a time.
//
// Bound: 6 bytes an element (g and y read, dx written).
// Launch: see Walk in vector.cuh, about 4000 blocks at most.
//
// Source: Ioffe, Szegedy: Batch Normalization: Accelerating Deep Network Training by Reducing
//   Internal Covariate Shift, 2015, arXiv 1502.03167.
// Source: Luitjens: CUDA Pro Tip: Increase Performance with Vectorized Memory Access, NVIDIA
//   developer blog, 2013.

#include "vector.cuh"

namespace {

// Pixels at a time: 64 bytes in flight a thread.
constexpr int BATCH = 2;
// Channels of a thread.
constexpr int N = 8;

}  // namespace

// `inverse` is 1 / P.
KERNEL(bn_backward_8, WALKERS)
(const bf16 *__restrict__ g, const bf16 *__restrict__ y, const float *__restrict__ mean_in,
 const float *__restrict__ invstd, const float *__restrict__ scale_in,
 const float *__restrict__ dgamma, const float *__restrict__ dbeta, float inverse,
 bf16 *__restrict__ dx, int pixels, int channels, int across, int chunk) {
    const Walk<N> walk(pixels, channels, across, chunk);
    if (walk.idle())
        return;
    float mean[N], scale[N], offset[N], slope[N], factor[N];
    load<N>(mean_in + walk.channel, mean);
    load<N>(scale_in + walk.channel, scale);
    load<N>(dbeta + walk.channel, offset);
    load<N>(dgamma + walk.channel, slope);
    load<N>(invstd + walk.channel, factor);
#pragma unroll
    for (int c = 0; c < N; c++) {
        offset[c] *= inverse;
        slope[c] *= inverse * factor[c];
    }
    for (int p = walk.first; p < walk.end; p += BATCH * walk.rows) {
        Pack<N> grad[BATCH] = {}, in[BATCH] = {};
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int pixel = p + i * walk.rows;
            if (pixel < walk.end) {
                grad[i] = load<N>(g + walk.at(pixel));
                in[i] = load<N>(y + walk.at(pixel));
            }
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int pixel = p + i * walk.rows;
            float out[N];
#pragma unroll
            for (int c = 0; c < N; c++) {
                const float average = offset[c] + (in[i][c] - mean[c]) * slope[c];
                out[c] = scale[c] * (grad[i][c] - average);
            }
            if (pixel < walk.end)
                store<N>(dx + walk.at(pixel), out);
        }
    }
}
EXPORT(bn_backward_8)
