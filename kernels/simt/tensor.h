// Tensor-core instructions and asynchronous copies, as include/mma.cuh and include/copy.cuh have
// them for the device. Part of simt.h.
#pragma once

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

// They are .aligned: all 32 lanes of a warp or none.
inline void want_all_lanes(const Lanes &lanes) {
    if (lanes.mask != ~0u)
        lanes.fail(__builtin_ctz(lanes.mask), "it needs all lanes, and 0x%08x have returned",
                   ~lanes.mask);
}

// ldmatrix

struct LdmatrixArg {
    const unsigned char *row;
    uint32_t *r;
};

template <bool trans> SIMT_UNCHECKED void ldmatrix_run(const Lanes &lanes) {
    want_all_lanes(lanes);
    uint16_t tiles[4][8][8];
    each_lane<LdmatrixArg>(lanes, [&](int lane, LdmatrixArg &arg) {
        if (uintptr_t(arg.row) % 16 != 0)
            lanes.fail(lane, "row %p is not aligned to 16 bytes", (const void *)arg.row);
        if (!simt_shared_holds(arg.row, 16))
            lanes.fail(lane, "row %p is not in shared memory", (const void *)arg.row);
        simt_check(lane, arg.row, 16, false);
        __builtin_memcpy(tiles[lane / 8][lane % 8], arg.row, 16);
    });
    each_lane<LdmatrixArg>(lanes, [&](int lane, LdmatrixArg &arg) {
        const int g = lane / 4, t = lane % 4;
        for (int j = 0; j < 4; j++) {
            const uint16_t low = trans ? tiles[j][2 * t][g] : tiles[j][g][2 * t];
            const uint16_t high = trans ? tiles[j][2 * t + 1][g] : tiles[j][g][2 * t + 1];
            arg.r[j] = uint32_t(high) << 16 | low;
        }
    });
}

inline constexpr Collective LDMATRIX = {"ldmatrix", ldmatrix_run<false>};
inline constexpr Collective LDMATRIX_TRANS = {"ldmatrix.trans", ldmatrix_run<true>};

DEVICE void ldmatrix(uint32_t (&r)[4], const void *row, SIMT_SITE) {
    LdmatrixArg arg = {static_cast<const unsigned char *>(row), r};
    simt_warp_collective(~0u, &LDMATRIX, &arg, line, file);
}

DEVICE void ldmatrix_trans(uint32_t (&r)[4], const void *row, SIMT_SITE) {
    LdmatrixArg arg = {static_cast<const unsigned char *>(row), r};
    simt_warp_collective(~0u, &LDMATRIX_TRANS, &arg, line, file);
}

// mma.m16n8k16: all of a warp's tiles at one meeting, which costs more than the arithmetic.

struct MmaArg {
    float (*d)[4];            // [M][N]
    const uint32_t (*a)[4];   // [M]
    const uint32_t (*b)[2];   // [N]
};

inline void mma_halves(uint32_t pair, float &low, float &high) {
    low = __uint_as_float(pair << 16);
    high = __uint_as_float(pair & 0xffff0000u);
}

template <int M, int N> SIMT_UNCHECKED void mma_run(const Lanes &lanes) {
    want_all_lanes(lanes);
    float a[M][16][16], b[N][16][8], d[M][N][16][8];
    each_lane<MmaArg>(lanes, [&](int lane, MmaArg &arg) {
        const int g = lane / 4, t = lane % 4;
        for (int m = 0; m < M; m++)
            for (int i = 0; i < 4; i++) {
                float *to = &a[m][g + i % 2 * 8][2 * t + i / 2 * 8];
                mma_halves(arg.a[m][i], to[0], to[1]);
                const int row = g + i / 2 * 8, column = 2 * t + i % 2;
                for (int n = 0; n < N; n++)
                    d[m][n][row][column] = arg.d[m * N + n][i];
            }
        for (int n = 0; n < N; n++)
            for (int i = 0; i < 2; i++)
                mma_halves(arg.b[n][i], b[n][2 * t + 8 * i][g], b[n][2 * t + 8 * i + 1][g]);
    });
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++)
            for (int row = 0; row < 16; row++) {
                float sum[8];
                __builtin_memcpy(sum, d[m][n][row], sizeof sum);
                for (int k = 0; k < 16; k++)
                    for (int column = 0; column < 8; column++)
                        sum[column] += a[m][row][k] * b[n][k][column];
                __builtin_memcpy(d[m][n][row], sum, sizeof sum);
            }
    each_lane<MmaArg>(lanes, [&](int lane, MmaArg &arg) {
        const int g = lane / 4, t = lane % 4;
        for (int m = 0; m < M; m++)
            for (int n = 0; n < N; n++)
                for (int i = 0; i < 4; i++)
                    arg.d[m * N + n][i] = d[m][n][g + i / 2 * 8][2 * t + i % 2];
    });
}

template <int M, int N> inline constexpr Collective MMA = {"mma", mma_run<M, N>, false,
                                                           2ull * 16 * 8 * 16 * M * N};

template <int M, int N>
DEVICE void mma(float (&d)[M][N][4], const uint32_t (&a)[M][4], const uint32_t (&b)[N][2],
                SIMT_SITE) {
    MmaArg arg = {d[0], a, b};
    simt_warp_collective(~0u, &MMA<M, N>, &arg, line, file);
}

// cp.async, as include/copy.cuh has it; what happens to the bytes is in copies.h.

DEVICE void copy_async(void *shared, const void *global, bool there = true, SIMT_SITE) {
    simt_copy_async(shared, global, there, line, file);
}

DEVICE void copy_commit() {
    simt_copy_commit();
}

template <int groups> DEVICE void copy_wait() {
    simt_copy_wait(groups);
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda
