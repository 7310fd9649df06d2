// The vector types that the kernels of this repository do not use. Part of cuda_runtime.h.
#pragma once

#include "cuda_runtime.h"

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

#define SIMT_VECTOR(type, scalar)                 \
    struct type##1 {                              \
        scalar x;                                 \
    };                                            \
    inline type##1 make_##type##1(scalar x) {     \
        return {x};                               \
    }

SIMT_VECTOR(char, signed char)
SIMT_VECTOR(uchar, unsigned char)
SIMT_VECTOR(short, short)
SIMT_VECTOR(ushort, unsigned short)
SIMT_VECTOR(int, int)
SIMT_VECTOR(uint, unsigned)
SIMT_VECTOR(long, long)
SIMT_VECTOR(ulong, unsigned long)
SIMT_VECTOR(longlong, long long)
SIMT_VECTOR(ulonglong, unsigned long long)
SIMT_VECTOR(float, float)
SIMT_VECTOR(double, double)

#undef SIMT_VECTOR

#define SIMT_VECTORS(type, scalar)                                                      \
    struct alignas(16) type##2 {                                                        \
        scalar x, y;                                                                    \
    };                                                                                  \
    struct type##3 {                                                                    \
        scalar x, y, z;                                                                 \
    };                                                                                  \
    struct alignas(16) type##4 {                                                        \
        scalar x, y, z, w;                                                              \
    };                                                                                  \
    inline type##2 make_##type##2(scalar x, scalar y) {                                 \
        return {x, y};                                                                  \
    }                                                                                   \
    inline type##3 make_##type##3(scalar x, scalar y, scalar z) {                       \
        return {x, y, z};                                                               \
    }                                                                                   \
    inline type##4 make_##type##4(scalar x, scalar y, scalar z, scalar w) {             \
        return {x, y, z, w};                                                            \
    }

SIMT_VECTORS(long, long)
SIMT_VECTORS(ulong, unsigned long)

#undef SIMT_VECTORS

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda
