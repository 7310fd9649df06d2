// The input gradient of a batch norm (formula: 1_elements.cu).
//
// The idea: per channel this is scale · (g − (offset + (y − mean) · slope)): four numbers that a
// thread holds in registers, since it keeps its channel (Walk in vector.cuh).
//
// Bound: 6 bytes an element (g and y read, dx written).
// Launch: see Walk, about 4000 blocks at most.

#include "vector.cuh"

// `inverse` is 1 / P.
KERNEL(bn_backward_1, WALKERS)
(const bf16 *__restrict__ g, const bf16 *__restrict__ y, const float *__restrict__ mean_in,
 const float *__restrict__ invstd, const float *__restrict__ scale_in,
 const float *__restrict__ dgamma, const float *__restrict__ dbeta, float inverse,
 bf16 *__restrict__ dx, int pixels, int channels, int across, int chunk) {
    const Walk<1> walk(pixels, channels, across, chunk);
    if (walk.idle())
        return;
    const int c = walk.channel;
    const float mean = mean_in[c], scale = scale_in[c];
    const float offset = dbeta[c] * inverse, slope = dgamma[c] * (inverse * invstd[c]);
    for (int p = walk.first; p < walk.end; p += walk.rows) {
        const size_t i = walk.at(p);
        const float average = offset + (to_float(y[i]) - mean) * slope;
        dx[i] = to_bf16(scale * (to_float(g[i]) - average));
    }
}
EXPORT(bn_backward_1)
