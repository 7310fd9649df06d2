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

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda
