// Mean and biased variance of each channel over all pixels, where no convolution has left them.
//
//   mean[c] = Σ_p x[p,c] / P,   var[c] = Σ_p (x[p,c] − mean[c])² / P
//
//   x [P,C] bf16; mean, var [C] f32
//
// The idea: none yet; a block a channel, a kernel a formula. Neighbouring threads read addresses C
// apart, so that a 32-byte sector is fetched for 2 bytes of it, and a network of 16 channels has no
// more than 16 blocks. Yet the variance is that of numbers relative to the mean: E[x²] − E[x]² in
// f32 would have no digit left at mean = 1000 · std.
//
// Bound: 4 bytes an element (x read twice), 64 of traffic where C > 8 and the cache does not help.
// Launch: C blocks of 256 threads each.
//
// Source: Ioffe, Szegedy: Batch Normalization: Accelerating Deep Network Training by Reducing
//   Internal Covariate Shift, 2015, arXiv 1502.03167.

#include "bf16.cuh"
#include "reduce.cuh"

namespace {

constexpr int THREADS = 256;

// Σ_p f(x[p,c]) for the block's channel c, in thread 0.
template <class F> DEVICE float sum_of_channel(const bf16 *x, int pixels, int channels, F f) {
    SHARED(float, shared, [1][THREADS]);
    Sums<1> sum = {};
    for (int p = int(threadIdx.x); p < pixels; p += THREADS)
        sum.v[0] += f(to_float(x[size_t(p) * channels + blockIdx.x]));
    reduce_rows(sum, shared, THREADS, 1);
    return sum.v[0];
}

}  // namespace

KERNEL(bn_mean, THREADS)
(const bf16 *x, int pixels, int channels, float *mean) {
    const float sum = sum_of_channel(x, pixels, channels, [](float v) { return v; });
    if (threadIdx.x == 0)
        mean[blockIdx.x] = sum / float(pixels);
}
EXPORT(bn_mean)

KERNEL(bn_variance, THREADS)
(const bf16 *x, int pixels, int channels, const float *mean_in, float *var) {
    const float mean = mean_in[blockIdx.x];
    const float sum = sum_of_channel(x, pixels, channels,
                                     [&](float v) { return (v - mean) * (v - mean); });
    if (threadIdx.x == 0)
        var[blockIdx.x] = sum / float(pixels);
}
EXPORT(bn_variance)
