// What Hopper (sm_90a) adds: a unit that copies tiles by itself (TMA), barriers in shared memory
// that count what arrives (mbarrier), and tensor-core instructions that read both factors from
// shared memory and run on their own (wgmma). The SIMT executor has them in kernels/simt/hopper.h.
//
// mbarrier. A phase is complete when so many arrivals as it was made for have come, and as many
// bytes as were announced. Then the next phase begins at once. Phases are told apart by parity: the
// first is 0.
//
//   mbarrier_arrive_expect(full, bytes);  tma_load(tile, &map, column, row, full);   // one thread
//   mbarrier_wait(full, 0);                                                          // who reads
//
// wgmma. Four neighbouring warps (a warpgroup) together: d[64][N] (+)= a[64][16] b[N][16]ᵀ. Warp w
// has rows 16 w to 16 w + 15 of d, spread over the lanes as mma.m16n8k16 spreads them (mma.cuh),
// N / 8 tiles side by side. From wgmma to the wait for its group d must not be touched, nor the
// factors in shared memory be changed.
//
//   wgmma_begin();  wgmma(d, a, b, add);  wgmma(d, a2, b2, true);  wgmma_commit();   // a group
//   wgmma_wait<0>(d);
//
// Tiles in shared memory are rows of TMA_COLUMNS bf16, which is 128 bytes, and start at multiples
// of 1024 bytes. Chunk i of row r lies at i XOR r mod 8 ("128-byte swizzle"), so that the eight
// rows that are read at once come from all banks.
//
// A factor has K innermost, the rows of its tile are those of a or b; or outermost, the rows of its
// tile are K, and its other columns, if there are more than 64, are tiles that follow:
//
//          K innermost                     K outermost, 128 columns
//          64 of K                         64 columns    the next 64
//        +----------+                    +----------+  +----------+
//  row 0 |  a slice |              k = 0 |  a slice |  |  of 16   |   one tile after the other
//      1 |  of 16   |                  1 |  of 16   |  |  rows    |   in memory
//      : |  columns |                  : |  rows    |  |          |
//        +----------+                    +----------+  +----------+
//
// Source: PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions",
//   "cp.async.bulk.tensor", "mbarrier".
#pragma once

#include "bf16.cuh"

constexpr int TMA_COLUMNS = 64;
// Bytes of a tile with K outermost, 64 of K.
constexpr int WGMMA_OUTER_TILE = 64 * 2 * TMA_COLUMNS;

// Where a matrix is, and which box of it is copied at once: encoded by the host for the hardware.
// A kernel's parameter `const __grid_constant__ TensorMap map`.
#ifdef __CUDACC__
struct alignas(64) TensorMap {
#else
struct TensorMap {
#endif
    uint64_t words[16];
};

#if defined(__CUDACC__) && defined(__CUDA_ARCH_FEAT_SM90_ALL)

DEVICE uint32_t mbarrier_address(const uint64_t *barrier) {
    return uint32_t(__cvta_generic_to_shared(barrier));
}

DEVICE void mbarrier_init(uint64_t *barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(mbarrier_address(barrier)),
                 "r"(arrivals)
                 : "memory");
}

// By the thread that has made barriers, before the __syncthreads() after which others use them.
DEVICE void mbarrier_publish() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

DEVICE void mbarrier_arrive(uint64_t *barrier) {
    asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(
                     mbarrier_address(barrier))
                 : "memory");
}

// Announces bytes that the phase waits for, and arrives.
DEVICE void mbarrier_arrive_expect(uint64_t *barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(
                     mbarrier_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

// Waits until the phase of this parity is complete. Right from the start that of parity 1 is.
DEVICE void mbarrier_wait(uint64_t *barrier, uint32_t parity) {
    uint32_t done = 0;
    while (!done)
        asm volatile("{\n\t"
                     ".reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t"
                     "}"
                     : "=r"(done)
                     : "r"(mbarrier_address(barrier)), "r"(parity)
                     : "memory");
}

// Copies the box of the map that starts at (row, column) to shared memory, swizzled; zeros where
// the matrix has no elements. Counts all of the box's bytes to the barrier.
DEVICE void tma_load(void *shared, const TensorMap *map, int column, int row, uint64_t *barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(uint32_t(__cvta_generic_to_shared(shared))),
                 "l"(map), "r"(column), "r"(row), "r"(mbarrier_address(barrier))
                 : "memory");
}

// The address of a tile for wgmma, of its columns from `tile` on: K innermost, 128-byte swizzle,
// 1024 bytes from eight rows to the next eight.
DEVICE uint64_t wgmma_matrix(const bf16 *tile) {
    const uint64_t address = uint64_t(__cvta_generic_to_shared(tile));
    return (address & 0x3ffff) >> 4 | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 |
           uint64_t(1) << 62;
}

// The same with K outermost, from row `tile` on: 8 KiB from 64 columns to the next.
DEVICE uint64_t wgmma_matrix_outer(const bf16 *tile) {
    const uint64_t address = uint64_t(__cvta_generic_to_shared(tile));
    return (address & 0x3ffff) >> 4 | uint64_t(WGMMA_OUTER_TILE >> 4) << 16 |
           uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

// Before the first wgmma of a group: orders it after what the warps did to d.
DEVICE void wgmma_begin() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

DEVICE void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until no more than `groups` of the last groups are under way. d is what they write.
template <int groups, int TILES> DEVICE void wgmma_wait(float (&d)[1][TILES][4]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
    // The compiler must not move what uses d to before the wait.
#pragma unroll
    for (int i = 0; i < TILES; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++)
            asm volatile("" : "+f"(d[0][i][j])::"memory");
    }
}

#define WGMMA_D(i) "+f"(d[0][i][0]), "+f"(d[0][i][1]), "+f"(d[0][i][2]), "+f"(d[0][i][3])
#define WGMMA_D4(i) WGMMA_D(i), WGMMA_D(i + 1), WGMMA_D(i + 2), WGMMA_D(i + 3)
#define WGMMA_D16(i) WGMMA_D4(i), WGMMA_D4(i + 4), WGMMA_D4(i + 8), WGMMA_D4(i + 12)

// N = 8 TILES: 128 or 256. d is overwritten where `add` is false. Of factors with K outermost OUTER_A
// or OUTER_B is true.
template <bool OUTER_A = false, bool OUTER_B = false, int TILES>
DEVICE void wgmma(float (&d)[1][TILES][4], uint64_t a, uint64_t b, bool add) {
    static_assert(TILES == 16 || TILES == 32, "m64n128k16 or m64n256k16");
    if constexpr (TILES == 16) {
        asm volatile(
            "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %66, 0;\n\t"
            "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
            "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
            "%64, %65, p, 1, 1, %67, %68;\n\t}"
            : WGMMA_D16(0)
            : "l"(a), "l"(b), "r"(int(add)), "n"(int(OUTER_A)), "n"(int(OUTER_B)));
    } else {
        asm volatile(
            "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %130, 0;\n\t"
            "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
            "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
            "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
            "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
            "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, "
            "%110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, "
            "%123, %124, %125, %126, %127}, "
            "%128, %129, p, 1, 1, %131, %132;\n\t}"
            : WGMMA_D16(0), WGMMA_D16(16)
            : "l"(a), "l"(b), "r"(int(add)), "n"(int(OUTER_A)), "n"(int(OUTER_B)));
    }
}

#undef WGMMA_D16
#undef WGMMA_D4
#undef WGMMA_D

// A warpgroup gives registers of its threads back, or takes free ones, until it has so many each.
template <int count> DEVICE void registers_give_back() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}

template <int count> DEVICE void registers_take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

#endif
