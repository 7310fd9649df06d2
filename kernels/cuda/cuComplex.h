// Complex numbers as pairs.
#pragma once

#include "cuda_runtime.h"
#include "names_begin.h"

using cuFloatComplex = float2;
using cuDoubleComplex = double2;
using cuComplex = cuFloatComplex;

#define SIMT_COMPLEX(type, scalar, make, suffix, length)                             \
    inline type make(scalar real, scalar imaginary) {                                \
        return {real, imaginary};                                                    \
    }                                                                                \
    inline scalar cuCreal##suffix(type z) {                                          \
        return z.x;                                                                  \
    }                                                                                \
    inline scalar cuCimag##suffix(type z) {                                          \
        return z.y;                                                                  \
    }                                                                                \
    inline type cuConj##suffix(type z) {                                             \
        return {z.x, -z.y};                                                          \
    }                                                                                \
    inline type cuCadd##suffix(type a, type b) {                                     \
        return {a.x + b.x, a.y + b.y};                                               \
    }                                                                                \
    inline type cuCsub##suffix(type a, type b) {                                     \
        return {a.x - b.x, a.y - b.y};                                               \
    }                                                                                \
    inline type cuCmul##suffix(type a, type b) {                                     \
        return {a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x};                       \
    }                                                                                \
    /* Scaled, so that squares of large numbers do not overflow. */                  \
    inline type cuCdiv##suffix(type a, type b) {                                     \
        const scalar scale = 1 / (std::fabs(b.x) + std::fabs(b.y));                  \
        const scalar ax = a.x * scale, ay = a.y * scale;                             \
        const scalar bx = b.x * scale, by = b.y * scale;                             \
        const scalar over = 1 / (bx * bx + by * by);                                 \
        return {(ax * bx + ay * by) * over, (ay * bx - ax * by) * over};             \
    }                                                                                \
    inline scalar cuCabs##suffix(type z) {                                           \
        return length(z.x, z.y);                                                     \
    }                                                                                \
    inline type cuCfma##suffix(type a, type b, type c) {                             \
        const type product = cuCmul##suffix(a, b);                                   \
        return {product.x + c.x, product.y + c.y};                                   \
    }

SIMT_COMPLEX(cuFloatComplex, float, make_cuFloatComplex, f, hypotf)
SIMT_COMPLEX(cuDoubleComplex, double, make_cuDoubleComplex, , hypot)

#undef SIMT_COMPLEX

inline cuComplex make_cuComplex(float real, float imaginary) {
    return {real, imaginary};
}
inline cuDoubleComplex cuComplexFloatToDouble(cuFloatComplex z) {
    return {z.x, z.y};
}
inline cuFloatComplex cuComplexDoubleToFloat(cuDoubleComplex z) {
    return {float(z.x), float(z.y)};
}

#include "names_end.h"
