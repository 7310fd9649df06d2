// mbarriers, TMA and wgmma, as include/hopper.cuh has them for the device. Part of simt.h; what
// becomes of them is in engines.h.
#pragma once

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

DEVICE void mbarrier_init(uint64_t *barrier, int arrivals, SIMT_SITE) {
    simt_mbarrier_init(barrier, uint32_t(arrivals), line, file);
}

DEVICE void mbarrier_publish() {}

DEVICE void mbarrier_arrive(uint64_t *barrier, SIMT_SITE) {
    simt_mbarrier_arrive(barrier, 0, line, file);
}

DEVICE void mbarrier_arrive_expect(uint64_t *barrier, int bytes, SIMT_SITE) {
    simt_mbarrier_arrive(barrier, uint32_t(bytes), line, file);
}

DEVICE void mbarrier_wait(uint64_t *barrier, uint32_t parity, SIMT_SITE) {
    simt_mbarrier_wait(barrier, parity, line, file);
}

DEVICE void tma_load(void *shared, const void *map, int column, int row, uint64_t *barrier,
                     SIMT_SITE) {
    simt_tma_load(shared, map, column, row, barrier, line, file);
}

// wgmma. The four warps of a warpgroup do not meet: each does its own rows.

DEVICE uint64_t wgmma_matrix(const void *tile) {
    return reinterpret_cast<uint64_t>(tile);
}

DEVICE uint64_t wgmma_matrix_outer(const void *tile) {
    return reinterpret_cast<uint64_t>(tile);
}

DEVICE void wgmma_begin() {}

struct WgmmaArg {
    float *d;
    uint64_t a, b;
    bool add;
};

template <bool outer_a, bool outer_b, int tiles> void wgmma_run(const Lanes &lanes) {
    want_all_lanes(lanes);
    const WgmmaArg &first = *static_cast<const WgmmaArg *>(lanes.arg[0]);
    Wgmma wgmma = {};
    each_lane<WgmmaArg>(lanes, [&](int lane, WgmmaArg &arg) {
        if (arg.a != first.a || arg.b != first.b || arg.add != first.add)
            lanes.fail(lane, "its operands are not those of lane 0");
        wgmma.d[lane] = arg.d;
    });
    wgmma.tiles = tiles;
    wgmma.a = reinterpret_cast<const unsigned char *>(first.a);
    wgmma.b = reinterpret_cast<const unsigned char *>(first.b);
    wgmma.outer_a = outer_a;
    wgmma.outer_b = outer_b;
    wgmma.add = first.add;
    simt_wgmma_issue(lanes, wgmma);
}

inline void wgmma_run_commit(const Lanes &lanes) {
    want_all_lanes(lanes);
    simt_wgmma_commit();
}

template <int groups> void wgmma_run_wait(const Lanes &lanes) {
    want_all_lanes(lanes);
    simt_wgmma_wait(groups);
}

template <bool outer_a, bool outer_b, int tiles>
inline constexpr Collective WGMMA = {"wgmma", wgmma_run<outer_a, outer_b, tiles>};
inline constexpr Collective WGMMA_COMMIT = {"wgmma_commit", wgmma_run_commit};
template <int groups>
inline constexpr Collective WGMMA_WAIT = {"wgmma_wait", wgmma_run_wait<groups>};

template <bool OUTER_A = false, bool OUTER_B = false, int TILES>
DEVICE void wgmma(float (&d)[1][TILES][4], uint64_t a, uint64_t b, bool add, SIMT_SITE) {
    WgmmaArg arg = {d[0][0], a, b, add};
    simt_warp_collective(~0u, &WGMMA<OUTER_A, OUTER_B, TILES>, &arg, line, file);
}

DEVICE void wgmma_commit(SIMT_SITE) {
    simt_warp_collective(~0u, &WGMMA_COMMIT, nullptr, line, file);
}

template <int groups, int TILES> DEVICE void wgmma_wait(float (&)[1][TILES][4], SIMT_SITE) {
    simt_warp_collective(~0u, &WGMMA_WAIT<groups>, nullptr, line, file);
}

// Registers are no concern here.
template <int count> DEVICE void registers_give_back() {}
template <int count> DEVICE void registers_take() {}

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda
