// Tensor cores: the two instructions that serve every GPU from sm_80 on. The SIMT executor has them
// in kernels/simt/tensor.h.
//
//   mma.m16n8k16   d[16][8] += a[16][16] b[16][8], bf16 in, f32 added up
//   ldmatrix       8x8 tiles of bf16 from shared memory to where mma wants them
//
// A warp does both together; every lane holds a few elements of each matrix ("fragments"). With
// g = lane / 4 and t = lane % 4, and pairs of bf16 with the first in the lower half:
//
//   a[0] = A[g  ][2t, 2t+1]   a[2] = A[g  ][2t+8, 2t+9]     d[0], d[1] = D[g  ][2t, 2t+1]
//   a[1] = A[g+8][2t, 2t+1]   a[3] = A[g+8][2t+8, 2t+9]     d[2], d[3] = D[g+8][2t, 2t+1]
//   b[0] = B[2t, 2t+1][g]     b[1] = B[2t+8, 2t+9][g]
//
// PTX ISA, "Matrix Fragments for mma.m16n8k16".
#pragma once

#include "bf16.cuh"

#ifdef __CUDACC__

DEVICE uint32_t shared_address(const void *p) {
    return uint32_t(__cvta_generic_to_shared(p));
}

// Four 8x8 tiles. Lane i names row i % 8 of tile i / 8: 16 bytes, aligned. Of tile j, r[j] gets
// elements 2t, 2t+1 of row g. A's fragment is tiles (rows 0..7, k 0..7), (rows 8..15, k 0..7),
// (rows 0..7, k 8..15), (rows 8..15, k 8..15) of A; where B lies with k innermost, b is two tiles
// (columns as rows, k 0..7) and (k 8..15).
DEVICE void ldmatrix(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Each tile transposed: of tile j, r[j] gets rows 2t, 2t+1 of column g. For a matrix whose k is the
// outer index in memory.
DEVICE void ldmatrix_trans(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d[m][n] += a[m] b[n] for all M x N of a warp's tiles.
template <int M, int N>
DEVICE void mma(float (&d)[M][N][4], const uint32_t (&a)[M][4], const uint32_t (&b)[N][2]) {
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int n = 0; n < N; n++)
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                         "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                         : "+f"(d[m][n][0]), "+f"(d[m][n][1]), "+f"(d[m][n][2]), "+f"(d[m][n][3])
                         : "r"(a[m][0]), "r"(a[m][1]), "r"(a[m][2]), "r"(a[m][3]), "r"(b[n][0]),
                           "r"(b[n][1]));
    }
}

#endif
