// Matrix product on tensor cores; the formula is in 1_naive.cu.
//
// The idea: mma.sync multiplies 16 x 16 by 16 x 8 elements for a warp, at sixteen times the FMA
// units' rate. It wants its operands spread over the lanes in a certain way: ldmatrix reads them so
// from shared memory, where slices lie in bf16 as in memory, 32 columns of K a row. The main loop
// is in gemm_slices.cuh, because step 5 has it, too; what a warp does with a slice in gemm_mma.cuh.
//
//             B  k 0..15, n 0..7                      lane 4g + t  holds of        (two bf16 each)
//             +----------------+
//             | column g       |                      A  row g      k 2t, 2t+1 and 2t+8, 2t+9
//             | rows 2t, 2t+1  |                         row g + 8  the same
//             +----------------+                      B  column g   k 2t, 2t+1 and 2t+8, 2t+9
//     A 16x16   v                                     D  row g      columns 2t, 2t+1
//     +-------+ +----------------+                       row g + 8  the same
//     | row g | | D 16x8: row g, |
//     |       |>| columns 2t,2t+1|     ldmatrix: lane i names row i % 8 of the 8x8 tile i / 8, and
//     | g + 8 | | and row g + 8  |     gets two elements of row g of each: A's four tiles at once.
//     +-------+ +----------------+
//
// Bound: shared memory, by its bank conflicts. A row has 64 bytes, which is 16 of the 32 banks.
// ldmatrix reads tiles of eight rows, 16 bytes of each: rows 0, 2, 4, 6 have theirs in the same
// four banks, and rows 1, 3, 5, 7 in four others. Four rows want each bank, so a tile takes four
// wavefronts (rounds of all banks) where one could do: 4 ways, and 16 wavefronts instead of 4 for
// an ldmatrix of four tiles. For 16 columns of K a block has 48 of them: 768 wavefronts, three
// times the tensor cores' time on an A100. Stores have no conflicts: eight threads write two whole
// rows, 128 bytes side by side.
//
// Launch: blocks of 256 threads, a tile of 128 x 128; ceil(M / 128) · ceil(N / 128) of them. Where
// K is a multiple of 8, and a and b of 16 bytes.
//
// Source: PTX ISA, "Warp Level Matrix Multiply-Accumulate Instructions": mma, ldmatrix.
#include "gemm_slices.cuh"

KERNEL(gemm_tensor_cores, SLICES_THREADS)
(const bf16 *a, const bf16 *b, bf16 *c, int m, int n, int k) {
    using AsItLies = Slice<SLICES_TILE, RowsAsTheyLie>;
    SHARED(AsItLies, slices, [2]);
    slices_product(slices, a, b, c, m, n, k);
}
EXPORT(gemm_tensor_cores)

// Try: an ldmatrix of four tiles has 512 bytes, four wavefronts of 128. How many does `kernels
// profile gemm --step 4 --shape 128x128x64` take?
// Answer: `16.00 wavefronts a request, 2304 conflicts`: 12 too many for each of the 192.
