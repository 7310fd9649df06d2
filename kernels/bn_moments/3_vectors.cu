// Mean and biased variance of each channel over all pixels (formula: 1_two_passes.cu), where 8
// divides C.
//
//   partial [C, chunks] {mean, sum of squares around it}, merged by bn_moments_finish
//
// The idea: more at once, vectors of channels and several pixels. A thread takes 8 channels of a
// pixel in one load and BATCH pixels at a time, computes their mean and the squares around it from
// registers, and merges that: a division for each batch, and enough loads in flight to keep the
// memory busy.
//
// Bound: 2 bytes an element, read once.
// Launch: see Walk in vector.cuh, about 1000 blocks at most; then bn_moments_finish (2_one_pass.cu).
//
// Source: Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample
//   Variances, 1979.
// Source: Luitjens: CUDA Pro Tip: Increase Performance with Vectorized Memory Access, NVIDIA
//   developer blog, 2013.

#include "reduce.cuh"
#include "vector.cuh"

namespace {

// Loads in flight a thread: 64 bytes.
constexpr int BATCH = 4;
// Channels of a thread.
constexpr int N = 8;

DEVICE Moments<N> moments_of(const Pack<N> (&x)[BATCH], int count) {
    Moments<N> some;
    some.n = float(count);
    const float share = 1 / some.n;
#pragma unroll
    for (int c = 0; c < N; c++) {
        float sum = 0, squares = 0;
#pragma unroll
        for (int i = 0; i < BATCH; i++)
            sum += i < count ? x[i][c] : 0;
        some.mean[c] = sum * share;
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const float d = i < count ? x[i][c] - some.mean[c] : 0;
            squares += d * d;
        }
        some.m2[c] = squares;
    }
    return some;
}

}  // namespace

KERNEL(bn_moments_8, WALKERS)
(const bf16 *__restrict__ x, float2 *__restrict__ partial, int pixels, int channels, int across,
 int chunk) {
    SHARED(float, shared, [sizeof(Moments<N>) / 4][WALKERS]);
    const Walk<N> walk(pixels, channels, across, chunk);
    Moments<N> all = {};
    for (int p = walk.first; p < walk.end; p += BATCH * walk.rows) {
        Pack<N> some[BATCH] = {};
        int count = 0;
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int pixel = p + i * walk.rows;
            if (pixel < walk.end) {
                some[i] = load<N>(x + walk.at(pixel));
                count++;
            }
        }
        all.add(moments_of(some, count));
    }
    reduce_rows(all, shared, walk.rows, across);
    if (walk.row == 0 && !walk.idle()) {
#pragma unroll
        for (int c = 0; c < N; c++)
            partial[size_t(walk.channel + c) * gridDim.x + blockIdx.x] = {all.mean[c], all.m2[c]};
    }
}
EXPORT(bn_moments_8)
