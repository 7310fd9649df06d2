// Matrix product on tensor cores; the formula is in 1_naive.cu.
//
// The idea: mma.sync multiplies 16 x 16 by 16 x 8 elements for a warp, at sixteen times the FMA
// units' rate. It wants its operands spread over the lanes in a certain way: ldmatrix reads them so
// from shared memory, where slices lie in bf16 as in memory, but swizzled, so that every ldmatrix
// is free of bank conflicts (gemm_mma.cuh).
//
// Bound: latency. A multiprocessor reads 24 KiB from shared memory for a block's 64 mma of each
// warp's 16 columns of K, three quarters of the tensor cores' time on an A100; but a slice's way
// from memory through registers is only partly hidden, and nothing is multiplied while it is
// stored.
//
// Launch: blocks of 256 threads, a tile of 128 x 128; ceil(M / 128) · ceil(N / 128) of them. Where K
// is a multiple of 8, and a and b of 16 bytes.
#include "gemm_mma.cuh"

namespace {

constexpr int TILE = 128;
constexpr int THREADS = 256;
constexpr int COPIES = TILE * CHUNKS / THREADS;  // of each factor's slice, by a thread

// What a thread copies of a factor's slice.
struct Part {
    const bf16 *from;
    int rows;  // that the factor has, from the tile's first on
    bf16x8 v[COPIES];

    DEVICE static int row(int i) {
        return (i * THREADS + int(threadIdx.x)) / CHUNKS;
    }
    DEVICE static int chunk() {
        return int(threadIdx.x) % CHUNKS;
    }

    DEVICE void fetch(int start, int k) {
        const int at = start + 8 * chunk();
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            v[i] = {};
            if (row(i) < rows && at < k)
                v[i] = *reinterpret_cast<const bf16x8 *>(from + size_t(row(i)) * k + at);
        }
    }

    DEVICE void put(Slice<TILE> &to) const {
#pragma unroll
        for (int i = 0; i < COPIES; i++)
            *reinterpret_cast<bf16x8 *>(to.chunk(row(i), chunk())) = v[i];
    }
};

}  // namespace

KERNEL(gemm_tensor_cores, THREADS)(const bf16 *a, const bf16 *b, bf16 *c, int m, int n, int k) {
    SHARED(Slice<TILE>, slices, [2]);
    const TilePlace tile = tile_in_rows(int(blockIdx.x), n, TILE, TILE);
    // Warps are 2 x 4 tiles of 64 x 32.
    const int warp = int(threadIdx.x) / 32, row = warp / 4 * 64, column = warp % 4 * 32;

    Part of_a = {a + size_t(tile.row) * k, m - tile.row, {}};
    Part of_b = {b + size_t(tile.column) * k, n - tile.column, {}};
    of_a.fetch(0, k);
    of_b.fetch(0, k);
    float sums[4][4][4] = {};
    for (int start = 0; start < k; start += DEPTH) {
        of_a.put(slices[0]);
        of_b.put(slices[1]);
        __syncthreads();
        of_a.fetch(start + DEPTH, k);
        of_b.fetch(start + DEPTH, k);
        multiply(sums, slices[0], slices[1], row, column);
        __syncthreads();
    }
    store_fragments(c, m, n, tile.row + row, tile.column + column, sums);
}
EXPORT(gemm_tensor_cores)
