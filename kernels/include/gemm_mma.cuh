// Matrix products of tiles with mma.sync: slices in shared memory, and their product by a warp.
#pragma once

#include "gemm.cuh"
#include "mma.cuh"

// DEPTH columns of K in shared memory, in chunks of 16 bytes.
constexpr int DEPTH = 32, CHUNKS = DEPTH / 8;

// Where a row of a slice stores its chunk i. A row of 64 bytes covers half of the 32 banks, so as
// it lies in memory, the same chunk of eight rows, which is what ldmatrix reads at once, comes from
// two places of the banks only: four times the time.
struct RowsAsTheyLie {
    DEVICE static int place(int, int i) {
        return i;
    }
};

// The swizzle: eight neighbouring rows have their chunk at eight different places, which together
// are all of the banks; and the four chunks of two neighbouring rows, which is what eight threads
// store at once, still are, too. gemm/5_swizzle.cu has a picture.
struct RowsSwizzled {
    DEVICE static int place(int row, int i) {
        return i ^ row / 2 % CHUNKS;
    }
};

// DEPTH columns of some rows of a factor.
template <int ROWS, class Order = RowsSwizzled> struct alignas(16) Slice {
    bf16 v[ROWS][DEPTH];

    DEVICE bf16 *chunk(int row, int i) {
        return v[row] + 8 * Order::place(row, i);
    }
    DEVICE const bf16 *chunk(int row, int i) const {
        return v[row] + 8 * Order::place(row, i);
    }

    // mma's a: sixteen rows, two chunks.
    DEVICE void load_a(uint32_t (&a)[4], int row, int i) const {
        const int lane = int(threadIdx.x) % 32;
        ldmatrix(a, chunk(row + lane % 16, i + lane / 16));
    }
    // mma's b, twice: eight rows each, two chunks.
    DEVICE void load_b(uint32_t (&b)[4], int row, int i) const {
        const int lane = int(threadIdx.x) % 32;
        ldmatrix(b, chunk(row + lane % 8 + lane / 16 * 8, i + lane / 8 % 2));
    }
};

// The same of a factor that has K outermost in memory: rows of K. So is it copied, and ldmatrix
// transposes. Its eight rows are 128 bytes apart or a multiple: chunk i is stored at
// i XOR (row mod 8).
template <int COLUMNS> struct alignas(16) Slab {
    static_assert(COLUMNS % 64 == 0, "eight chunks change places");
    bf16 v[DEPTH][COLUMNS];

    DEVICE bf16 *chunk(int k, int i) {
        return v[k] + 8 * (i ^ k % 8);
    }
    DEVICE const bf16 *chunk(int k, int i) const {
        return v[k] + 8 * (i ^ k % 8);
    }

    DEVICE void load_a(uint32_t (&a)[4], int column, int i) const {
        const int lane = int(threadIdx.x) % 32;
        ldmatrix_trans(a, chunk(8 * i + lane % 8 + lane / 16 * 8, column / 8 + lane / 8 % 2));
    }
    DEVICE void load_b(uint32_t (&b)[4], int column, int i) const {
        const int lane = int(threadIdx.x) % 32;
        ldmatrix_trans(b, chunk(8 * i + lane % 16, column / 8 + lane / 16));
    }
};

// d[m][n] += a's 16 rows from `row` + 16 m on, times b's 8 rows from `column` + 8 n on; each is a
// Slice or a Slab.
template <int M, int N, class A, class B>
DEVICE void multiply(float (&d)[M][N][4], const A &a, const B &b, int row, int column) {
    static_assert(N % 2 == 0, "ldmatrix loads two of b's tiles");
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk += 2) {
        uint32_t fa[M][4], fb[N][2];
#pragma unroll
        for (int i = 0; i < M; i++)
            a.load_a(fa[i], row + 16 * i, chunk);
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            uint32_t r[4];
            b.load_b(r, column + 8 * j, chunk);
            fb[j][0] = r[0], fb[j][1] = r[1];
            fb[j + 1][0] = r[2], fb[j + 1][1] = r[3];
        }
        mma(d, fa, fb);
    }
}
