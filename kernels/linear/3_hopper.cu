// Linear layer with Hopper's own units; the formula is in 1_naive.cu, the gradients are in step 4.
//
// The idea: the forward product is that of gemm/7_hopper.cu, since both factors have K innermost:
// TMA, wgmma, blocks that stay. While the consumers leave a tile, with bias and activation, the
// producer fills the stages for the next one; so the sums cannot pass through the stages' memory as
// in step 2, and take turns in 2 KiB of each warp's own, 32 columns at a time.
//
// Bound: FLOPs of wgmma, 2 R I O, or memory, 2 (R I + R O + I O) bytes and 2 R O more for pre.
//
// Launch: as gemm/7_hopper.cu, of 384 threads: linear_hopper_256 with tiles of 128 x 256 and 4
// stages, linear_hopper_128 with 128 x 128 and 6; 16 KiB of dynamic shared memory more. Where I is
// a multiple of 8, and x and w of 16 bytes.
//
// Source: CUTLASS documentation, "Efficient GEMM in CUDA": Hopper warp specialization.
#include "gemm_hopper.cuh"
#include "linear.cuh"

namespace {

template <int WIDTH, int STAGES>
DEVICE void linear_hopper(const TensorMap *x, const TensorMap *w, const Forward &out, int inputs) {
    const auto leave = [&](const auto &sums, const HopperTile &tile, int row, void *spare) {
        leave_in_turns<WIDTH>(sums, row, tile.column, spare, out);
    };
    hopper_product<WIDTH, STAGES>(x, w, {out.m, out.n, inputs, inputs}, leave);
}

}  // namespace

KERNEL(linear_hopper_128, HOPPER_THREADS)
(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, const float *bias,
 bf16 *pre, bf16 *y, int act, int rows, int inputs, int outputs) {
    linear_hopper<128, 6>(&x, &w, {bias, pre, y, act, rows, outputs}, inputs);
}
EXPORT(linear_hopper_128)

KERNEL(linear_hopper_256, HOPPER_THREADS)
(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, const float *bias,
 bf16 *pre, bf16 *y, int act, int rows, int inputs, int outputs) {
    linear_hopper<256, 4>(&x, &w, {bias, pre, y, act, rows, outputs}, inputs);
}
EXPORT(linear_hopper_256)
