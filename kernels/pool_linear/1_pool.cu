// Global average pooling and its gradient's way back.
//
//   pooled[n,c] = mean over h,w of x[n,h,w,c]       (pool)
//   dx[n,h,w,c] = d[n,c]                            (unpool; d is already divided by H·W)
//
//   x, dx [N,H,W,C], pooled, d [N,C], all bf16; sums in f32, rounded once
//
// The idea: an image is a chunk of a walk over pixels (Walk in vector.cuh), so a block's threads
// share it out, and their sums meet in a tree.
//
// Bound: 2 bytes an element of x or dx, and 2 an element of pooled or d.
// Launch: pool_8 and unpool_8 (C a multiple of 8) or _1: grid (N, tiles of channels), 256 threads.
//
// Source: Lin, Chen, Yan: Network In Network, 2013, arXiv 1312.4400.

#include "reduce.cuh"
#include "vector.cuh"

namespace {

// Loads in flight a thread: 64 bytes.
constexpr int BATCH = 4;

template <int N>
DEVICE void pool(const bf16 *x, bf16 *pooled, int pixels, int channels, int across, int chunk) {
    SHARED(float, shared, [N][WALKERS]);
    const Walk<N> walk(pixels, channels, across, chunk);
    Sums<N> sums = {};
    for (int p = walk.first; p < walk.end; p += BATCH * walk.rows) {
        Pack<N> some[BATCH] = {};
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int pixel = p + i * walk.rows;
            if (pixel < walk.end)
                some[i] = load<N>(x + walk.at(pixel));
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
#pragma unroll
            for (int c = 0; c < N; c++)
                sums.v[c] += some[i][c];
        }
    }
    reduce_rows(sums, shared, walk.rows, across);
    if (walk.row == 0 && !walk.idle()) {
        const float share = 1 / float(chunk);
#pragma unroll
        for (int c = 0; c < N; c++)
            sums.v[c] *= share;
        store<N>(pooled + walk.at(int(blockIdx.x)), sums.v);
    }
}

template <int N>
DEVICE void unpool(const bf16 *d, bf16 *dx, int pixels, int channels, int across, int chunk) {
    const Walk<N> walk(pixels, channels, across, chunk);
    if (walk.idle())
        return;
    const Pack<N> v = load<N>(d + walk.at(int(blockIdx.x)));
    for (int p = walk.first; p < walk.end; p += walk.rows)
        *reinterpret_cast<Pack<N> *>(dx + walk.at(p)) = v;
}

}  // namespace

KERNEL(pool_8, WALKERS)
(const bf16 *__restrict__ x, bf16 *__restrict__ pooled, int pixels, int channels, int across,
 int chunk) {
    pool<8>(x, pooled, pixels, channels, across, chunk);
}
EXPORT(pool_8)

KERNEL(pool_1, WALKERS)
(const bf16 *__restrict__ x, bf16 *__restrict__ pooled, int pixels, int channels, int across,
 int chunk) {
    pool<1>(x, pooled, pixels, channels, across, chunk);
}
EXPORT(pool_1)

KERNEL(unpool_8, WALKERS)
(const bf16 *__restrict__ d, bf16 *__restrict__ dx, int pixels, int channels, int across,
 int chunk) {
    unpool<8>(d, dx, pixels, channels, across, chunk);
}
EXPORT(unpool_8)

KERNEL(unpool_1, WALKERS)
(const bf16 *__restrict__ d, bf16 *__restrict__ dx, int pixels, int channels, int across,
 int chunk) {
    unpool<1>(d, dx, pixels, channels, across, chunk);
}
EXPORT(unpool_1)
