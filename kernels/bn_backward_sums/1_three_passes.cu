// Back through the ReLU behind a batch norm, and the two sums that its input gradient needs.
//
//   g[p,c] ← g[p,c] · [y[p,c] > 0]      in place, if y is given
//   dbeta[c]  = Σ_p g[p,c]
//   dgamma[c] = Σ_p g[p,c] · (x[p,c] − mean[c]) · invstd[c]
//
//   g, y, x [P,C] bf16; mean, invstd, dgamma, dbeta [C] f32
//
// The idea: none yet; a kernel a formula. The mask takes a thread an element, the sums a block a
// channel, whose threads read addresses C apart. x − mean is taken before the product, where it is
// nearly exact: Σ g·x − mean · Σ g would cancel.
//
// Bound: 12 bytes an element with the mask (g read three times, y, x read, g written), 6 without;
// a sector of 32 bytes for each 2 of the sums.
// Launch: mask ceil(P·C / 256) blocks of 256 threads, sums C blocks of 256 threads each.
//
// Source: Ioffe, Szegedy: Batch Normalization: Accelerating Deep Network Training by Reducing
//   Internal Covariate Shift, 2015, arXiv 1502.03167.

#include "bf16.cuh"
#include "reduce.cuh"

namespace {

constexpr int THREADS = 256;

// Σ_p f(p's element of the block's channel), in thread 0.
template <class F> DEVICE float sum_of_channel(int pixels, int channels, F f) {
    SHARED(float, shared, [1][THREADS]);
    Sums<1> sum = {};
    for (int p = int(threadIdx.x); p < pixels; p += THREADS)
        sum.v[0] += f(size_t(p) * channels + blockIdx.x);
    reduce_rows(sum, shared, THREADS, 1);
    return sum.v[0];
}

}  // namespace

KERNEL(bn_mask, THREADS)
(bf16 *g, const bf16 *y, int pixels, int channels) {
    const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    // A NaN masks, as in the other steps.
    if (i < size_t(pixels) * channels && !(to_float(y[i]) > 0))
        g[i] = to_bf16(0);
}
EXPORT(bn_mask)

KERNEL(bn_dbeta, THREADS)
(const bf16 *g, int pixels, int channels, float *dbeta) {
    const float sum = sum_of_channel(pixels, channels, [&](size_t i) { return to_float(g[i]); });
    if (threadIdx.x == 0)
        dbeta[blockIdx.x] = sum;
}
EXPORT(bn_dbeta)

KERNEL(bn_dgamma, THREADS)
(const bf16 *g, const bf16 *x, const float *mean_in, const float *invstd, int pixels, int channels,
 float *dgamma) {
    const float mean = mean_in[blockIdx.x];
    const float sum = sum_of_channel(pixels, channels, [&](size_t i) {
        return to_float(g[i]) * (to_float(x[i]) - mean);
    });
    if (threadIdx.x == 0)
        dgamma[blockIdx.x] = sum * invstd[blockIdx.x];
}
EXPORT(bn_dgamma)
