// The input gradient of a batch norm, where no convolution reads it through Gradient (conv.cuh).
//
//   dx[p,c] = scale · (g[p,c] − dbeta/P − x̂ · dgamma/P),   x̂ = (y[p,c] − mean) · invstd
//
//   g, y, dx [P,C] bf16, y the batch norm's input; mean, invstd, scale, dgamma, dbeta [C] f32
//
// The idea: none yet; a thread an element, which divides to find its channel and loads five
// parameters of it, 20 bytes for an element's 6.
//
// Bound: 6 bytes an element (g and y read, dx written); in truth the division and the loads from
// cache.
// Launch: ceil(P·C / 256) blocks of 256 threads.
//
// Source: Ioffe, Szegedy: Batch Normalization: Accelerating Deep Network Training by Reducing
//   Internal Covariate Shift, 2015, arXiv 1502.03167.

#include "bf16.cuh"

// `inverse` is 1 / P.
KERNEL(bn_backward_elements, 256)
(const bf16 *g, const bf16 *y, const float *mean, const float *invstd, const float *scale,
 const float *dgamma, const float *dbeta, float inverse, bf16 *dx, int pixels, int channels) {
    const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= size_t(pixels) * channels)
        return;
    const int c = int(i % channels);
    const float x_hat = (to_float(y[i]) - mean[c]) * invstd[c];
    const float average = dbeta[c] * inverse + x_hat * (dgamma[c] * inverse);
    dx[i] = to_bf16(scale[c] * (to_float(g[i]) - average));
}
EXPORT(bn_backward_elements)
