// What the gradients are multiplied by, so that their norm is at most `clip`:
//
//   scale = min(1, clip / √Σ g²), NaN if the norm is not finite
//
//   grads [n] f32, its start a multiple of 16 bytes; partial [blocks] f64: scratch
//
// The idea: two stages of sums whose order follows from n alone. A block adds up the squares of
// 16384 gradients, in double, in which no square of an f32 overflows; a single block adds up the
// blocks'.
//
// Bound: 4 bytes a gradient.
// Launch: clip_squares ceil(n / 16384) blocks of 256 threads; clip_finish 1 block of 256.
//
// Source: Pascanu, Mikolov, Bengio: On the difficulty of training Recurrent Neural Networks, 2012,
//   arXiv 1211.5063.
// Source: Harris: Optimizing Parallel Reduction in CUDA, NVIDIA, 2007.

#include "kernel.cuh"

namespace {

constexpr int THREADS = 256, CHUNK = 16384;

// A tree over the block's threads; the sum is thread 0's, which alone may read it without one
// barrier more.
DEVICE double sum_of_block(double sum, double (&shared)[THREADS]) {
    const int thread = int(threadIdx.x);
    shared[thread] = sum;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half)
            shared[thread] += shared[thread + half];
    }
    return thread == 0 ? shared[0] : 0.0;
}

}  // namespace

KERNEL(clip_squares, 256)
(const float *grads, uint32_t n, double *partial) {
    SHARED(double, shared, [THREADS]);
    const uint32_t first = blockIdx.x * CHUNK, end = min(n, first + CHUNK);
    double sum = 0.0;
    for (uint32_t i = first + 4 * threadIdx.x; i < end; i += 4 * THREADS) {
        if (i + 4 <= end) {
            const float4 g = *reinterpret_cast<const float4 *>(grads + i);
            sum += double(g.x) * double(g.x) + double(g.y) * double(g.y);
            sum += double(g.z) * double(g.z) + double(g.w) * double(g.w);
        } else {
            for (uint32_t j = i; j < end; j++)
                sum += double(grads[j]) * double(grads[j]);
        }
    }
    sum = sum_of_block(sum, shared);
    if (threadIdx.x == 0)
        partial[blockIdx.x] = sum;
}
EXPORT(clip_squares)

KERNEL(clip_finish, 256)
(const double *partial, uint32_t blocks, float clip, float *scale) {
    SHARED(double, shared, [THREADS]);
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < blocks; i += THREADS)
        sum += partial[i];
    sum = sum_of_block(sum, shared);
    if (threadIdx.x == 0) {
        const double norm = sqrt(sum);
        // A NaN norm fails the first comparison, an infinite one the second.
        *scale = !(norm < INFINITY) ? NAN : double(clip) < norm ? float(double(clip) / norm) : 1.0f;
    }
}
EXPORT(clip_finish)
