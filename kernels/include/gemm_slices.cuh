// The main loop of matrix products whose slices pass through registers, one at a time;
// gemm/4_tensor_cores.cu explains it, and gemm/5_swizzle.cu has it with slices in another order.
#pragma once

#include "gemm_mma.cuh"

constexpr int SLICES_TILE = 128;
constexpr int SLICES_THREADS = 256;

// What a thread copies of a factor's slice.
struct SlicePart {
    static constexpr int COPIES = SLICES_TILE * CHUNKS / SLICES_THREADS;

    const bf16 *from;
    int rows;  // that the factor has, from the tile's first on
    bf16x8 v[COPIES];

    DEVICE static int row(int i) {
        return (i * SLICES_THREADS + int(threadIdx.x)) / CHUNKS;
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

    template <class Order> DEVICE void put(Slice<SLICES_TILE, Order> &to) const {
#pragma unroll
        for (int i = 0; i < COPIES; i++)
            *reinterpret_cast<bf16x8 *>(to.chunk(row(i), chunk())) = v[i];
    }
};

// The block's tile of c, by way of one slice of each factor.
template <class Order>
DEVICE void slices_product(Slice<SLICES_TILE, Order> (&slices)[2], const bf16 *a, const bf16 *b,
                           bf16 *c, int m, int n, int k) {
    const TilePlace tile = tile_in_rows(int(blockIdx.x), n, SLICES_TILE, SLICES_TILE);
    // Warps are 2 x 4 tiles of 64 x 32.
    const int warp = int(threadIdx.x) / 32, row = warp / 4 * 64, column = warp % 4 * 32;

    SlicePart of_a = {a + size_t(tile.row) * k, m - tile.row, {}};
    SlicePart of_b = {b + size_t(tile.column) * k, n - tile.column, {}};
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
