// Matrix product on tensor cores without bank conflicts; the formula is in 1_naive.cu.
//
// The idea: the 16-byte chunks of a row change places, in each pair of rows differently, so that
// the same chunk of eight rows lies in all 32 banks. Chunk i is stored at i XOR (row / 2 mod 4):
//
//   banks       0 to 15  16 to 31   0 to 15  16 to 31
//   rows 0, 1   0 1 2 3  0 1 2 3    0 1 2 3  0 1 2 3    Which chunk lies where, in step 4 on the
//   rows 2, 3   0 1 2 3  0 1 2 3    1 0 3 2  1 0 3 2    left and here on the right. ldmatrix reads
//   rows 4, 5   0 1 2 3  0 1 2 3    2 3 0 1  2 3 0 1    all eight of a number: from two columns
//   rows 6, 7   0 1 2 3  0 1 2 3    3 2 1 0  3 2 1 0    there (four wavefronts), eight here (one).
//
// Padding the rows, as in step 2, would do the same, but takes memory, and TMA's tiles (step 7)
// have none. Stores write the same 128 bytes in another order. Nothing else is new: the type of a
// slice is all that differs.
//
// Bound: latency. A multiprocessor reads 24 KiB from shared memory for a block's 64 mma of each
// warp's 16 columns of K, three quarters of the tensor cores' time on an A100; but a slice's way
// from memory through registers is only partly hidden, and nothing is multiplied while it is
// stored.
//
// Launch: blocks of 256 threads, a tile of 128 x 128; ceil(M / 128) · ceil(N / 128) of them. Where
// K is a multiple of 8, and a and b of 16 bytes.
//
// Source: Kerr: Developing CUDA Kernels to Push Tensor Cores to the Absolute Limit on NVIDIA A100,
//   GTC 2020, talk S21745.
#include "gemm_slices.cuh"

KERNEL(gemm_swizzle, SLICES_THREADS)
(const bf16 *a, const bf16 *b, bf16 *c, int m, int n, int k) {
    using Swizzled = Slice<SLICES_TILE, RowsSwizzled>;
    SHARED(Swizzled, slices, [2]);
    slices_product(slices, a, b, c, m, n, k);
}
EXPORT(gemm_swizzle)

// Try: does the swizzle, which stores chunks in another order, cost the stores anything? See
// `kernels profile gemm --step 5 --shape 128x128x64`.
// Answer: no: `4.00 wavefronts a request, 0 conflicts`, of writes as of reads, which took 16.
