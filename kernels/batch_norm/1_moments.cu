// Mean and biased variance of each channel over all pixels, where no convolution has left them.
//
//   mean[c] = Σ_p x[p,c] / P,   var[c] = Σ_p (x[p,c] − mean[c])² / P
//
//   x [P,C] bf16; mean, var [C] f32; partial [C, chunks] {mean, sum of squares around it}
//
// The one idea: never square a number that is not yet relative to a mean. A thread takes BATCH
// pixels at a time, computes their mean and the squares around it from registers, and merges that
// into what it has by the formula for two groups (Moments in reduce.cuh); so do the threads of a
// block, and then the blocks. E[x²] − E[x]² in f32 would have no digit left at mean = 1000 · std.
//
// Bound: 2 bytes an element, read once.
// Launch: bn_moments_8 (C a multiple of 8) or _1: see Walk in vector.cuh, about 1000 blocks at
// most; then bn_moments_finish: C blocks of 128 threads.

#include "reduce.cuh"
#include "vector.cuh"

namespace {

// Loads in flight a thread: 64 bytes.
constexpr int BATCH = 4;
constexpr int FINISHERS = 128;

template <int N> DEVICE Moments<N> moments_of(const Pack<N> (&x)[BATCH], int count) {
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

template <int N>
DEVICE void moments(const bf16 *x, float2 *partial, int pixels, int channels, int across,
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
        all.add(moments_of<N>(some, count));
    }
    reduce_rows(all, shared, walk.rows, across);
    if (walk.row == 0 && !walk.idle()) {
#pragma unroll
        for (int c = 0; c < N; c++)
            partial[size_t(walk.channel + c) * gridDim.x + blockIdx.x] = {all.mean[c], all.m2[c]};
    }
}

}  // namespace

KERNEL(bn_moments_8, WALKERS)
(const bf16 *__restrict__ x, float2 *__restrict__ partial, int pixels, int channels, int across,
 int chunk) {
    moments<8>(x, partial, pixels, channels, across, chunk);
}
EXPORT(bn_moments_8)

KERNEL(bn_moments_1, WALKERS)
(const bf16 *__restrict__ x, float2 *__restrict__ partial, int pixels, int channels, int across,
 int chunk) {
    moments<1>(x, partial, pixels, channels, across, chunk);
}
EXPORT(bn_moments_1)

// Merges the chunks' moments, a block a channel. All chunks have `chunk` pixels but the last.
KERNEL(bn_moments_finish, FINISHERS)
(const float2 *__restrict__ partial, int pixels, int chunk, int chunks, float *__restrict__ mean,
 float *__restrict__ var) {
    SHARED(float, shared, [sizeof(Moments<1>) / 4][FINISHERS]);
    const int c = int(blockIdx.x);
    Moments<1> all = {};
#pragma unroll 4
    for (int i = int(threadIdx.x); i < chunks; i += FINISHERS) {
        const float2 part = partial[size_t(c) * chunks + i];
        all.add({float(min(chunk, pixels - i * chunk)), {part.x}, {part.y}});
    }
    reduce_rows(all, shared, FINISHERS, 1);
    if (threadIdx.x == 0) {
        mean[c] = all.mean[0];
        var[c] = all.m2[0] / all.n;
    }
}
EXPORT(bn_moments_finish)
