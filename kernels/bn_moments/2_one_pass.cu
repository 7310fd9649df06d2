// Mean and biased variance of each channel over all pixels, where no convolution has left them.
//
//   mean[c] = Σ_p x[p,c] / P,   var[c] = Σ_p (x[p,c] − mean[c])² / P
//
//   x [P,C] bf16; mean, var [C] f32; partial [C, chunks] {mean, sum of squares around it}
//
// The idea: mean and squares around it, of any part of the pixels, merge with those of another part
// (Moments in reduce.cuh). So pixels can be dealt out at will, and read once: neighbouring threads
// take neighbouring channels (Walk in vector.cuh), blocks take chunks of pixels, and a second
// kernel merges the chunks.
//
// Bound: 2 bytes an element, read once; in truth a division an element.
// Launch: bn_moments_1: see Walk, about 1000 blocks at most; then bn_moments_finish: C blocks of
// 128 threads.
//
// Source: Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample
//   Variances, 1979.

#include "reduce.cuh"
#include "vector.cuh"

namespace {

constexpr int FINISHERS = 128;

}  // namespace

KERNEL(bn_moments_1, WALKERS)
(const bf16 *__restrict__ x, float2 *__restrict__ partial, int pixels, int channels, int across,
 int chunk) {
    SHARED(float, shared, [sizeof(Moments<1>) / 4][WALKERS]);
    const Walk<1> walk(pixels, channels, across, chunk);
    Moments<1> all = {};
    for (int p = walk.first; p < walk.end; p += walk.rows)
        all.add({1, {to_float(x[walk.at(p)])}, {0}});
    reduce_rows(all, shared, walk.rows, across);
    if (walk.row == 0 && !walk.idle())
        partial[size_t(walk.channel) * gridDim.x + blockIdx.x] = {all.mean[0], all.m2[0]};
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
