// Matrix product with Hopper's own units; the formula is in 1_naive.cu.
//
// The idea: threads only give orders, to a unit that copies and to tensor cores that read shared
// memory themselves. One thread (the producer) has the TMA unit copy slices into a ring of stages;
// two warpgroups (the consumers) have the tensor cores multiply them right out of shared memory
// with wgmma, the sums being in registers. mbarriers connect the two: `full` says that a stage's
// bytes have arrived, `empty` that both warpgroups have read it. So nobody computes addresses,
// copies through registers or waits for anybody else's turn. The producer's registers go to the
// consumers, each thread of which holds 64 x WIDTH / 128 sums.
//
//     producer, one thread                                  consumers, two warpgroups, 64 rows each
//                             ring of stages
//     wait empty[s]  <-----  +---+---+---+---+  <-----      arrive empty[s], when wgmma has read it
//     expect bytes           | 0 | 1 | 2 | 3 |
//     tma_load a, b  ----->  +---+---+---+---+  ----->      wait full[s]
//     (TMA copies,             |                            wgmma  sums += a[s] b[s]
//     and arrives)             +-> full[s]: bytes are there        (tensor cores read shared memory)
//                                  empty[s]: both groups have read
//     Turn: s = 0, 1, .., STAGES - 1, 0, ..; each round the phases' parity changes.
//
// Blocks stay: each takes every gridDim-th tile, and its producer is ahead in the next tile while
// the results of the last one are stored. Tiles come in bands, as in step 6. The main loop is in
// gemm_hopper.cuh, because linear/ has it, too.
//
// Bound: FLOPs of wgmma, 2 M N K. For a tile's 64 columns of K a wgmma of 256 columns reads 40 KiB
// from shared memory in five eighths of the tensor cores' time. From L2 come
// 2 K (1/128 + 1/WIDTH) bytes an element of c.
//
// Launch: as many blocks as multiprocessors, or as tiles if those are fewer, of 384 threads;
// gemm_hopper_256 with tiles of 128 x 256 and 4 stages, gemm_hopper_128 with 128 x 128 and 6;
// dynamic shared memory for the stages (48 or 32 KiB each) and 1 KiB for their alignment. Where K
// is a multiple of 8, and a and b of 16 bytes. The maps' boxes are 128 and WIDTH rows.
//
// Source: CUTLASS documentation, "Efficient GEMM in CUDA": Hopper warp specialization.
// Source: PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions" (wgmma),
//   "cp.async.bulk.tensor", "mbarrier".
// Source: Hopper Tuning Guide, "Tensor Memory Accelerator".
#include "gemm_hopper.cuh"

namespace {

template <int WIDTH, int STAGES>
DEVICE void gemm_hopper(const TensorMap *a, const TensorMap *b, bf16 *c, int m, int n, int k) {
    const auto leave = [=](const auto &sums, const HopperTile &tile, int row, void *) {
        store_fragments(c, m, n, row, tile.column, sums);
    };
    hopper_product<WIDTH, STAGES>(a, b, {m, n, k, k}, leave);
}

}  // namespace

KERNEL(gemm_hopper_128, HOPPER_THREADS)
(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, bf16 *c, int m, int n,
 int k) {
    gemm_hopper<128, 6>(&a, &b, c, m, n, k);
}
EXPORT(gemm_hopper_128)

KERNEL(gemm_hopper_256, HOPPER_THREADS)
(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, bf16 *c, int m, int n,
 int k) {
    gemm_hopper<256, 4>(&a, &b, c, m, n, k);
}
EXPORT(gemm_hopper_256)

// Try: step 6 reads memory and shared memory by hundreds of requests. Which of these rows are left
// in `kernels profile gemm --step 7 --shape 128x256x64`?
// Answer: none: there are `TMA reads`, which one thread orders, and wgmma reads shared memory by
// itself.
