// Matrix product with tiles in shared memory; the formula is in 1_naive.cu.
//
// The idea: a block computes a tile of c, and what its threads need of a and b, nearly the same,
// they bring into shared memory together, each element once. They do so slice by slice of K, and
// then each reads its row and its column there. A warp's loads of b become coalesced, and an
// element from memory is used TILE times instead of once.
//
//                             b, rows are columns of c                Slices of 32 columns of K, one
//                             +---------------------+                 after the other:
//                         K   | bs |  next  |  ...  |  32 rows
//                             +---------------------+                 as, bs  copied by all, each
//       a                       v                                             element once
//     +---------------------+  +----+                                 c[i][j] += as[i][d] bs[j][d]
//     | as |  next  |  ...  | >| c  | 32 rows                                 by thread (i, j)
//     +---------------------+  +----+
//                 K             32 columns: the block's tile
//
// Bound: loads from shared memory, two words a multiply-add: a multiprocessor has 32 a clock and
// could do 128 multiply-adds. From L2 and memory come 2 K (1/TILE + 1/TILE) bytes an element of c.
//
// Launch: blocks of 1024 threads, a tile of 32 x 32; ceil(M / 32) · ceil(N / 32) of them.
//
// Source: CUDA C++ Programming Guide, "Shared Memory" (its example).
#include "gemm.cuh"

namespace {

constexpr int TILE = 32;

}  // namespace

KERNEL(gemm_tiles, TILE * TILE)(const bf16 *a, const bf16 *b, bf16 *c, int m, int n, int k) {
    // Rows of TILE + 1 floats: a warp that reads down a column finds 32 banks.
    SHARED(float, as, [TILE][TILE + 1]);
    SHARED(float, bs, [TILE][TILE + 1]);
    const TilePlace tile = tile_in_rows(int(blockIdx.x), n, TILE, TILE);
    const int i = int(threadIdx.x) / TILE, j = int(threadIdx.x) % TILE;
    // The rows of a and of b that the thread copies a part of.
    const int a_row = tile.row + i, b_row = tile.column + i;
    float sum = 0;
    for (int start = 0; start < k; start += TILE) {
        const int at = start + j;
        as[i][j] = a_row < m && at < k ? to_float(a[size_t(a_row) * k + at]) : 0;
        bs[i][j] = b_row < n && at < k ? to_float(b[size_t(b_row) * k + at]) : 0;
        __syncthreads();
#pragma unroll
        for (int d = 0; d < TILE; d++)
            sum += as[i][d] * bs[j][d];
        __syncthreads();
    }
    if (tile.row + i < m && tile.column + j < n)
        c[size_t(tile.row + i) * n + tile.column + j] = to_bf16(sum);
}
EXPORT(gemm_tiles)

// Try: each multiply-add loads two numbers from shared memory. How many requests are that for the
// 8192 multiply-adds of a warp, in all of `kernels profile gemm --step 2 --shape 64x64x64`, and do
// they conflict?
// Answer: `16384 requests`, two for every 32 multiply-adds, and `0 conflicts`: that is what the + 1
// in [TILE + 1] is for. Take it away and look again.
