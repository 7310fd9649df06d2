// Inline PTX, as src/workbench/program/translate/ptx.rs writes it: instructions are calls of what is
// here, their registers variables. Part of cuda_runtime.h.
#pragma once

namespace simt::ptx {

// The value in another type of the same size, or converted.
template <class T, class S> SIMT_INLINE T as(const S &value) {
    if constexpr (sizeof(T) == sizeof(S) && std::is_trivially_copyable_v<S>) {
        T same;
        __builtin_memcpy(&same, &value, sizeof same);
        return same;
    } else if constexpr (std::is_pointer_v<S>) {
        return T(reinterpret_cast<uintptr_t>(value));
    } else {
        return T(value);
    }
}
template <class D, class S> SIMT_INLINE void set(D &to, const S &value) {
    to = as<D>(value);
}

template <class T> SIMT_INLINE T *at(uint64_t address) {
    return reinterpret_cast<T *>(address);
}
// Addresses of 32 bits are of shared memory: the lower half of what lies near it.
template <class T> SIMT_INLINE T *at(uint32_t low) {
    const auto near = reinterpret_cast<uintptr_t>(simt_dynamic_shared());
    return reinterpret_cast<T *>(near + intptr_t(int32_t(low - uint32_t(near))));
}

SIMT_INLINE uint32_t thread_in_block() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}
SIMT_INLINE uint32_t laneid() {
    return thread_in_block() % 32;
}
SIMT_INLINE uint32_t warpid() {
    return thread_in_block() / 32;
}

SIMT_INLINE uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
    uint32_t r = 0;
    for (uint32_t i = 0; i < 8; i++)
        if (table >> i & 1)
            r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return r;
}
SIMT_INLINE uint32_t bfind(uint32_t v) {
    return v == 0 ? ~0u : 31 - uint32_t(__builtin_clz(v));
}
template <class T> SIMT_INLINE T shl(T v, uint32_t n) {
    return n >= sizeof(T) * 8 ? T(0) : T(v << n);
}
template <class T> SIMT_INLINE T shr(T v, uint32_t n) {
    const uint32_t most = sizeof(T) * 8 - 1;
    return n > most ? (v < 0 ? T(-1) : T(0)) : T(v >> n);
}


// Tiles of 8 rows, whose addresses the first lanes have.
template <int tiles> struct LdmatrixArg {
    const unsigned char *row;
    uint32_t *to;
};
template <int tiles, bool trans> SIMT_UNCHECKED void ldmatrix_run(const Lanes &lanes) {
    simt::cuda::want_all_lanes(lanes);
    uint16_t tile[tiles][8][8];
    simt::each_lane<LdmatrixArg<tiles>>(lanes, [&](int lane, LdmatrixArg<tiles> &arg) {
        if (lane >= tiles * 8)
            return;
        if (uintptr_t(arg.row) % 16 != 0)
            lanes.fail(lane, "row %p is not aligned to 16 bytes", (const void *)arg.row);
        if (!simt_shared_holds(arg.row, 16))
            lanes.fail(lane, "row %p is not in shared memory", (const void *)arg.row);
        simt_check(lane, arg.row, 16, false);
        __builtin_memcpy(tile[lane / 8][lane % 8], arg.row, 16);
    });
    simt::each_lane<LdmatrixArg<tiles>>(lanes, [&](int lane, LdmatrixArg<tiles> &arg) {
        const int g = lane / 4, t = lane % 4;
        for (int j = 0; j < tiles; j++) {
            const uint16_t low = trans ? tile[j][2 * t][g] : tile[j][g][2 * t];
            const uint16_t high = trans ? tile[j][2 * t + 1][g] : tile[j][g][2 * t + 1];
            arg.to[j] = uint32_t(high) << 16 | low;
        }
    });
}
template <int tiles, bool trans>
inline constexpr Collective LDMATRIX = {"ldmatrix", ldmatrix_run<tiles, trans>};

template <bool trans, class... R>
SIMT_INLINE void ldmatrix(const void *row, int line, const char *file, R &...to) {
    uint32_t r[sizeof...(R)];
    LdmatrixArg<sizeof...(R)> arg = {static_cast<const unsigned char *>(row), r};
    simt_warp_collective(~0u, &LDMATRIX<sizeof...(R), trans>, &arg, line, file);
    int i = 0;
    (set(to, r[i++]), ...);
}

// m16n8k16 of bf16, with sums in f32.
template <class D, class A, class B, class C>
SIMT_INLINE void mma(D &d0, D &d1, D &d2, D &d3, A a0, A a1, A a2, A a3, B b0, B b1, C c0, C c1,
                     C c2, C c3, int line, const char *file) {
    float d[1][1][4] = {{{c0, c1, c2, c3}}};
    const uint32_t a[1][4] = {{a0, a1, a2, a3}}, b[1][2] = {{b0, b1}};
    simt::cuda::mma(d, a, b, line, file);
    d0 = d[0][0][0], d1 = d[0][0][1], d2 = d[0][0][2], d3 = d[0][0][3];
}

// 16 bytes, or zeros in their place.
template <class T, class F>
SIMT_INLINE void copy(T to, F from, bool there, int line, const char *file) {
    simt_copy_async(at<void>(to), at<const void>(from), there, line, file);
}

}  // namespace simt::ptx
