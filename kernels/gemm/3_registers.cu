// Matrix product with micro-tiles in registers; the formula is in 1_naive.cu.
//
// The idea: a thread computes 8 x 8 elements of c, so that what it loads from shared memory is used
// eight times. For each k it loads 8 numbers of a and 8 of b from shared memory and makes 64
// multiply-adds of them: a quarter of a word each, instead of two words. Slices lie with K
// outermost, so that the 8 numbers are two float4; the next slice is on its way from memory while
// this one is multiplied.
//
//                column     q0 .. q3  of bs[d]           q4 .. q7        for one k = d, thread (y, x)
//              +--------------------------------------------------+
//     p0 .. p3 |     64 columns       |      64 columns           |      8 loaded of a:  2 float4
//     of as[d] |   [4 x 4]            |    [4 x 4]                |      8 loaded of b:  2 float4
//              |----------------------+---------------------------|      64 multiply-adds
//     p4 .. p7 |   [4 x 4]            |    [4 x 4]                |
//              |                      |                           |      A thread's four squares are
//              +--------------------------------------------------+      64 apart: its neighbours
//                the block's tile of c, 128 x 128                        read neighbouring float4.
//
// Bound: FLOPs of the FMA units, 2 M N K. From L2 and memory come 2 K (1/128 + 1/128) bytes an
// element of c.
//
// Launch: blocks of 256 threads, a tile of 128 x 128; ceil(M / 128) · ceil(N / 128) of them.
//
// Source: Volkov, Demmel: Benchmarking GPUs to Tune Dense Linear Algebra, SC 2008.
#include "gemm.cuh"

namespace {

constexpr int TILE = 128;
constexpr int DEPTH = 16;
constexpr int THREADS = 256;
static_assert(THREADS == 2 * TILE, "a thread copies a row of a or of b");

// A slice of K of one factor.
struct alignas(16) Slice {
    float v[DEPTH][TILE];
};

// A row's next DEPTH elements, 0 past its end.
DEVICE void fetch(bf16 (&to)[DEPTH], const bf16 *row, int at, int k, bool vectors) {
    if (vectors && at + DEPTH <= k) {
#pragma unroll
        for (int d = 0; d < DEPTH; d += 8)
            *reinterpret_cast<bf16x8 *>(to + d) = *reinterpret_cast<const bf16x8 *>(row + at + d);
    } else {
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            to[d] = at + d < k ? row[at + d] : to_bf16(0);
    }
}

// Of 8 rows, a thread has 4 in each half of the tile: neighbouring threads then read neighbouring
// float4, without bank conflicts.
DEVICE int place(int i, int thread) {
    return i / 4 * (TILE / 2) + 4 * thread + i % 4;
}

DEVICE void load(float (&to)[8], const float *row, int thread) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        const float4 v = *reinterpret_cast<const float4 *>(row + place(i, thread));
        to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
    }
}

}  // namespace

KERNEL(gemm_registers, THREADS)(const bf16 *a, const bf16 *b, bf16 *c, int m, int n, int k) {
    SHARED(Slice, slices, [2]);
    const int thread = int(threadIdx.x), x = thread % 16, y = thread / 16;
    const TilePlace tile = tile_in_rows(int(blockIdx.x), n, TILE, TILE);

    // The first half of the threads copies rows of a, the other of b.
    const int factor = thread / TILE, line = thread % TILE;
    const int row = (factor ? tile.column : tile.row) + line;
    const bf16 *from = (factor ? b : a) + size_t(row) * k;
    const int length = row < (factor ? n : m) ? k : 0;
    const bool vectors = k % 8 == 0 && reinterpret_cast<uintptr_t>(factor ? b : a) % 16 == 0;

    alignas(16) bf16 next[DEPTH];
    fetch(next, from, 0, length, vectors);
    float sums[8][8] = {};
    for (int start = 0; start < k; start += DEPTH) {
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            slices[factor].v[d][line] = to_float(next[d]);
        __syncthreads();
        fetch(next, from, start + DEPTH, length, vectors);
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            float p[8], q[8];
            load(p, slices[0].v[d], y);
            load(q, slices[1].v[d], x);
#pragma unroll
            for (int i = 0; i < 8; i++) {
#pragma unroll
                for (int j = 0; j < 8; j++)
                    sums[i][j] += p[i] * q[j];
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
#pragma unroll
        for (int j = 0; j < 8; j += 2)
            store_pair(c, m, n, tile.row + place(i, y), tile.column + place(j, x), sums[i][j],
                       sums[i][j + 1]);
    }
}
EXPORT(gemm_registers)

// Try: step 2 would read shared memory 65,536 times for this product. How often does `kernels
// profile gemm --step 3 --shape 128x128x64`?
// Answer: `2048 requests`: a float4 a lane, and each number is used eight times.
