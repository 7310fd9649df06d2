// Matrix products of tiles with mma.sync: swizzled slices in shared memory, and their product by a
// warp.
#pragma once

#include "gemm.cuh"
#include "mma.cuh"

// DEPTH columns of some rows of a factor in shared memory, in chunks of 16 bytes. A row of 64 bytes
// covers half of the 32 banks, so as it lies in memory, the same chunk of eight rows, which is what
// ldmatrix reads at once, would come from two places of the banks only: four times the time.
//
// The swizzle: chunk i of a row is stored at i XOR (row / 2 mod 4). Eight neighbouring rows have
// their chunk at eight different places then, which together are all of the banks; and the four
// chunks of two neighbouring rows, which is what eight threads store at once, still are, too.
constexpr int DEPTH = 32, CHUNKS = DEPTH / 8;

template <int ROWS> struct alignas(16) Slice {
    bf16 v[ROWS][DEPTH];

    DEVICE bf16 *chunk(int row, int i) {
        return v[row] + 8 * (i ^ row / 2 % CHUNKS);
    }
    DEVICE const bf16 *chunk(int row, int i) const {
        return v[row] + 8 * (i ^ row / 2 % CHUNKS);
    }
};

// d[m][n] += a's 16 rows from `row` + 16 m on, times b's 8 rows from `column` + 8 n on.
template <int M, int N, int A, int B>
DEVICE void multiply(float (&d)[M][N][4], const Slice<A> &a, const Slice<B> &b, int row,
                     int column) {
    static_assert(N % 2 == 0, "ldmatrix loads two of b's tiles");
    const int lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk += 2) {
        uint32_t fa[M][4], fb[N][2];
#pragma unroll
        for (int i = 0; i < M; i++)
            ldmatrix(fa[i], a.chunk(row + 16 * i + lane % 16, chunk + lane / 16));
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            uint32_t r[4];
            ldmatrix(r, b.chunk(column + 8 * j + lane % 8 + lane / 16 * 8, chunk + lane / 8 % 2));
            fb[j][0] = r[0], fb[j][1] = r[1];
            fb[j + 1][0] = r[2], fb[j + 1][1] = r[3];
        }
        mma(d, fa, fb);
    }
}
