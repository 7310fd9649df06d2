// CUDA's vector types, with CUDA's alignments. Part of simt.h.
#pragma once

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

#define SIMT_VECTORS(type, scalar, align2, align4)                                  \
    struct alignas(align2) type##2 {                                                \
        scalar x, y;                                                                \
    };                                                                              \
    struct type##3 {                                                                \
        scalar x, y, z;                                                             \
    };                                                                              \
    struct alignas(align4) type##4 {                                                \
        scalar x, y, z, w;                                                          \
    };                                                                              \
    inline type##2 make_##type##2(scalar x, scalar y) {                             \
        return {x, y};                                                              \
    }                                                                               \
    inline type##3 make_##type##3(scalar x, scalar y, scalar z) {                   \
        return {x, y, z};                                                           \
    }                                                                               \
    inline type##4 make_##type##4(scalar x, scalar y, scalar z, scalar w) {         \
        return {x, y, z, w};                                                        \
    }

SIMT_VECTORS(float, float, 8, 16)
SIMT_VECTORS(int, int, 8, 16)
SIMT_VECTORS(uint, unsigned, 8, 16)
SIMT_VECTORS(uchar, unsigned char, 2, 4)
SIMT_VECTORS(char, signed char, 2, 4)
SIMT_VECTORS(short, short, 4, 8)
SIMT_VECTORS(ushort, unsigned short, 4, 8)
SIMT_VECTORS(long, long, 16, 16)
SIMT_VECTORS(ulong, unsigned long, 16, 16)
SIMT_VECTORS(longlong, long long, 16, 16)
SIMT_VECTORS(ulonglong, unsigned long long, 16, 16)
SIMT_VECTORS(double, double, 16, 16)

#undef SIMT_VECTORS

struct dim3 {
    unsigned x, y, z;

    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const {
        return {x, y, z};
    }
};

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda
