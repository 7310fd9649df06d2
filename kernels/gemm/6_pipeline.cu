// Matrix product on tensor cores with a pipeline of copies; the formula is in 1_naive.cu.
//
// The idea: cp.async copies from memory to shared memory without passing through registers, and a
// thread that has asked for it goes on, so that copies and products overlap. With four slices in
// turn, three are on their way while one is multiplied, so that the tensor cores wait neither for
// memory nor for stores. One barrier a slice is enough: it says both that a slice has landed for
// everybody and that the one before, into which the next copy goes, has been read by everybody.
//
//              stage 0     stage 1     stage 2     stage 3        R  being multiplied
//    turn 0    R slice 0   landing 1   landing 2   asked for 3    landing  asked for in an earlier turn
//    turn 1    asked for 4 R slice 1   landing 2   landing 3
//    turn 2    landing 4   asked for 5 R slice 2   landing 3      A turn: wait for its slice, barrier,
//    turn 3    landing 4   landing 5   asked for 6 R slice 3      ask for the slice three ahead into
//    turn 4    R slice 4   landing 5   landing 6   asked for 7    the stage just read, multiply.
//
// Besides, a warp has a tile of 64 x 64, for which it loads a third less from shared memory than in
// step 5, and blocks take their tiles in bands, so that L2 serves most of what they read. The main
// loop is in gemm_pipeline.cuh, because linear/ has it, too.
//
// Bound: FLOPs of mma.sync, 2 M N K. On an A100 that is all of the tensor cores' rate, on an H100
// about two thirds. Shared memory is read for half of an A100's time.
//
// Launch: blocks of 128 threads, a tile of 128 x 128, 64 KiB of dynamic shared memory;
// ceil(M / 128) · ceil(N / 128) of them. Where K is a multiple of 8, and a and b of 16 bytes.
// gemm_pipeline_x3 has three slices in 48 KiB: of 100 KiB, as smaller GPUs have, two blocks get
// some, and eight warps wait for less than four do.
//
// Source: CUTLASS documentation, "Efficient GEMM in CUDA": pipelining, threadblock rasterization.
// Source: PTX ISA, "Data Movement and Conversion Instructions: cp.async".
#include "gemm_pipeline.cuh"

namespace {

constexpr int TILE = 128;
using Factor = KInner<TILE>;
using Pair = Stage<Factor, Factor>;

template <int STAGES>
DEVICE void product(const bf16 *a, const bf16 *b, bf16 *c, int m, int n, int k) {
    DYNAMIC_SHARED(Pair, stages);
    const TilePlace tile = tile_in_bands(int(blockIdx.x), m, n, TILE, TILE);
    const Factor of_a = {a + size_t(tile.row) * k, m - tile.row, k};
    const Factor of_b = {b + size_t(tile.column) * k, n - tile.column, k};
    // Warps are 2 x 2 tiles of 64 x 64.
    const int warp = int(threadIdx.x) / 32, row = warp / 2 * 64, column = warp % 2 * 64;
    float sums[4][8][4] = {};
    pipeline<STAGES>(sums, stages, of_a, of_b, row, column);
    store_fragments(c, m, n, tile.row + row, tile.column + column, sums);
}

}  // namespace

KERNEL(gemm_pipeline, PIPELINE_THREADS)
(const bf16 *a, const bf16 *b, bf16 *c, int m, int n, int k) {
    product<4>(a, b, c, m, n, k);
}
EXPORT(gemm_pipeline)

KERNEL(gemm_pipeline_x3, PIPELINE_THREADS)
(const bf16 *a, const bf16 *b, bf16 *c, int m, int n, int k) {
    product<3>(a, b, c, m, n, k);
}
EXPORT(gemm_pipeline_x3)

// Try: step 5 passes 16 barriers for 256 columns of K, two for each slice of 32. How many does
// `kernels profile gemm --step 6 --shape 128x128x256` pass?
// Answer: `8 barriers`: with four stages the one that is filled is never the one that is read.
