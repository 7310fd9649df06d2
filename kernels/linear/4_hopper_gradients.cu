// Gradients of a linear layer with Hopper's own units; the formulas are in 1_naive.cu.
//
// The idea: wgmma reads a factor with K outermost as well as one with K innermost, it only has to be
// told so. In 2_pipeline.cu ldmatrix transposes on the way to registers; here nothing goes through
// registers, and the bit of the instruction that says which way a factor lies is all there is:
//
//             K    a               b
//   y         I    x   innermost   w   innermost     3_hopper.cu
//   dx        O    dz  innermost   w   outermost
//   dw        R    dz  outermost   x   outermost
//
// A box of TMA is 64 columns wide, so such a factor comes in tiles of 64 rows of K by 64 columns,
// one after the other (hopper.cuh); the main loop is that of gemm/7_hopper.cu (gemm_hopper.cuh).
//
// dw is small and its K long: rows are split into chunks, whose sums linear_add_parts adds up, as in
// step 2. While the tensor cores read a slice, the consumers of the first column of tiles add up db from the same slice of dz: a warp has
// 16 columns, a lane two of them and a quarter of the rows, such that the lanes' rows lie on
// different banks.
//
// Bound: FLOPs of wgmma, 2 R I O each, or memory, as step 2. Parts of dw go to L2 and come back, 8 I
// O bytes each.
//
// Launch: as 3_hopper.cu, dynamic shared memory and all; linear_dx_hopper_* have tiles of dx,
// linear_dw_hopper_* of dw, in as many parts as there are chunks, multiples of 64 rows. Where I and O
// are multiples of 8, and the factors of 16 bytes. Boxes of a factor with K outermost are 64 rows,
// others 128.
//
// Source: PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions":
//   "Strides", imm-trans-a, imm-trans-b.
#include "gemm_hopper.cuh"
#include "linear.cuh"

namespace {

template <int WIDTH, int STAGES>
DEVICE void dx_hopper(const TensorMap *dz, const TensorMap *w, const InputGrad &out, int outputs) {
    const auto leave = [&](const auto &sums, const HopperTile &tile, int row, void *spare) {
        leave_in_turns<WIDTH>(sums, row, tile.column, spare, out);
    };
    hopper_product<WIDTH, STAGES, false, true>(dz, w, {out.m, out.n, outputs, outputs}, leave);
}

// Sums of a warp's 16 columns over all rows of the slices.
struct WarpColumnSums {
    float low = 0, high = 0;

    // The warp's first column of the tile's 128, and the lane's two of them.
    DEVICE static int first() {
        return int(threadIdx.x) / 32 * 16;
    }
    DEVICE static int pair() {
        return int(threadIdx.x) % 8;
    }
    DEVICE static int quarter() {
        return int(threadIdx.x) % 32 / 8;
    }

    // `slice`: tiles of 64 columns with K outermost.
    DEVICE void add(const bf16 *slice) {
        const bf16 *tile = slice + first() / 64 * (WGMMA_OUTER_TILE / 2);
        const int chunk = first() % 64 / 8 + pair() / 4;
#pragma unroll 4
        for (int i = 0; i < TMA_COLUMNS / 4; i++) {
            // Quarters are two rows apart: chunks of such rows are on different banks.
            const int row = i / 2 * 8 + quarter() * 2 + i % 2;
            const bf16 *at = tile + row * TMA_COLUMNS + 8 * (chunk ^ row % 8) + 2 * (pair() % 4);
            const Pack<2> v = load<2>(at);
            low += v[0];
            high += v[1];
        }
        // Before one lane says for all that the slice has been read. TMA writes there only after
        // that arrival, so that these reads need no fence between the proxies.
        __syncwarp();
    }

    // Stores the sums of columns that there are, from `db` on, and begins anew.
    DEVICE void leave(float *db, int columns, int accumulate) {
#pragma unroll
        for (int lanes = 8; lanes < 32; lanes *= 2) {
            low += __shfl_xor_sync(~0u, low, lanes);
            high += __shfl_xor_sync(~0u, high, lanes);
        }
        const int column = first() + 2 * pair();
        if (quarter() == 0 && column < columns) {
            put_sum(db + column, accumulate, low);
            put_sum(db + column + 1, accumulate, high);
        }
        low = high = 0;
    }
};

// dw and db of each chunk of rows.
template <int WIDTH, int STAGES>
DEVICE void dw_hopper(const TensorMap *dz, const TensorMap *x, float *dw, float *db,
                      int accumulate, int rows, int inputs, int outputs, int chunk) {
    WarpColumnSums columns;
    const auto besides = [&](const HopperTile &tile, const auto &stage) {
        if (db && tile.column == 0)
            columns.add(stage.a.v);
    };
    const auto leave = [&](const auto &sums, const HopperTile &tile, int row, void *spare) {
        const size_t part = size_t(tile.part) * outputs;
        const WeightGrad out = {dw + part * inputs, accumulate, outputs, inputs};
        leave_in_turns<WIDTH>(sums, row, tile.column, spare, out);
        if (db && tile.column == 0)
            columns.leave(db + part + tile.row, outputs - tile.row, accumulate);
    };
    hopper_product<WIDTH, STAGES, true, true>(dz, x, {outputs, inputs, rows, chunk}, leave,
                                              besides);
}

}  // namespace

KERNEL(linear_dx_hopper_128, HOPPER_THREADS)
(const __grid_constant__ TensorMap dz, const __grid_constant__ TensorMap w, const bf16 *input,
 bf16 *dx, int act, int accumulate, int rows, int inputs, int outputs) {
    dx_hopper<128, 6>(&dz, &w, {input, dx, act, accumulate, rows, inputs}, outputs);
}
EXPORT(linear_dx_hopper_128)

KERNEL(linear_dx_hopper_256, HOPPER_THREADS)
(const __grid_constant__ TensorMap dz, const __grid_constant__ TensorMap w, const bf16 *input,
 bf16 *dx, int act, int accumulate, int rows, int inputs, int outputs) {
    dx_hopper<256, 4>(&dz, &w, {input, dx, act, accumulate, rows, inputs}, outputs);
}
EXPORT(linear_dx_hopper_256)

KERNEL(linear_dw_hopper_128, HOPPER_THREADS)
(const __grid_constant__ TensorMap dz, const __grid_constant__ TensorMap x, float *dw, float *db,
 int accumulate, int rows, int inputs, int outputs, int chunk) {
    dw_hopper<128, 6>(&dz, &x, dw, db, accumulate, rows, inputs, outputs, chunk);
}
EXPORT(linear_dw_hopper_128)

KERNEL(linear_dw_hopper_256, HOPPER_THREADS)
(const __grid_constant__ TensorMap dz, const __grid_constant__ TensorMap x, float *dw, float *db,
 int accumulate, int rows, int inputs, int outputs, int chunk) {
    dw_hopper<256, 4>(&dz, &x, dw, db, accumulate, rows, inputs, outputs, chunk);
}
EXPORT(linear_dw_hopper_256)

// Try: in step 2 warps read all of their factors from shared memory. What is still read there, of
// 4 blocks with 8 slices each, by `kernels profile linear_backward --step 4 --shape 512x128x128`?
// Answer: the slices of dz for db, `2.00 wavefronts a request, 0 conflicts` with the epilogue's; 256
// KiB of `TMA reads` are what came, and `wgmma` has read that by itself.
