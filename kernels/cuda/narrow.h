// Numbers of 16 bits: how __half and __nv_bfloat16 are made from wider ones. Part of cuda_fp16.h and
// cuda_bf16.h.
#pragma once

#include "cuda_runtime.h"
#include "names_begin.h"

namespace simt {
inline namespace SIMT_FLAVOUR {

// A sign, so many bits of exponent, and the rest of 16 bits of fraction.
template <int exponent_bits> struct Narrow {
    static constexpr int FRACTION = 15 - exponent_bits;
    static constexpr int BIAS = (1 << (exponent_bits - 1)) - 1;
    static constexpr uint16_t INFINITE = ((1 << exponent_bits) - 1) << FRACTION;

    // Rounds once. There is one NaN.
    template <Rounding mode> static uint16_t from(double x) {
        uint64_t bits;
        __builtin_memcpy(&bits, &x, sizeof bits);
        const uint16_t sign = uint16_t(bits >> 48 & 0x8000);
        const uint64_t magnitude = bits & ~(1ull << 63);
        if (magnitude > 0x7ffull << 52)
            return 0x7fff;
        if (magnitude == 0x7ffull << 52)
            return sign | INFINITE;
        const int exponent = int(magnitude >> 52) - 1023 + BIAS;
        // How far the fraction is shifted out; more if the result is below the smallest normal one.
        const int shift = 52 - FRACTION + (exponent < 1 ? 1 - exponent : 0);
        uint64_t fraction = magnitude & ((1ull << 52) - 1);
        if (magnitude >> 52 != 0)
            fraction |= 1ull << 52;
        uint64_t kept = shift > 54 ? 0 : fraction >> shift;
        const uint64_t lost = shift > 54 ? fraction : fraction & ((1ull << shift) - 1);
        const uint64_t half = shift > 54 ? 1ull << 55 : 1ull << (shift - 1);
        const bool up = mode == Rounding::NEAREST
                            ? lost > half || (lost == half && (kept & 1))
                            : lost != 0 && mode == (sign ? Rounding::DOWN : Rounding::UP);
        kept += up;
        // A carry into the exponent is right as it is; so is one out of the subnormals.
        if (exponent >= 1)
            kept += uint64_t(exponent - 1) << FRACTION;
        if (kept >= INFINITE) {
            const bool stays = mode == Rounding::ZERO ||
                               mode == (sign ? Rounding::UP : Rounding::DOWN);
            return sign | uint16_t(INFINITE - (stays ? 1 : 0));
        }
        return sign | uint16_t(kept);
    }

    static float to_float(uint16_t bits) {
        if constexpr (exponent_bits == 8)
            return __uint_as_float(unsigned(bits) << 16);
        const unsigned sign = unsigned(bits & 0x8000) << 16, magnitude = bits & 0x7fffu;
        if (magnitude >= INFINITE)
            return __uint_as_float(sign | 0x7f800000u | (magnitude & ~INFINITE) << 13);
        // As a float with the smaller bias, and then with its own; exact, subnormals included.
        return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude << 13) * 0x1p112f));
    }
};

// Integers of 64 bits and sums have more digits than a double. Of those that it cannot have the last
// bit says so, which is all that a later rounding needs to know (Boldo and Melquiond, 2008).
inline double rounded_to_odd(double sum, double error) {
    uint64_t bits;
    __builtin_memcpy(&bits, &sum, sizeof bits);
    if (error != 0 && sum != 0 && (bits & 1) == 0)
        bits += (error > 0) == (sum > 0) ? 1 : -1;
    __builtin_memcpy(&sum, &bits, sizeof bits);
    return sum;
}

inline double exact_double(double x) {
    return x;
}
inline double exact_double(long long x) {
    const double nearest = double(x);
    return rounded_to_odd(nearest, double((long double)(x) - (long double)(nearest)));
}
inline double exact_double(unsigned long long x) {
    const double nearest = double(x);
    return rounded_to_odd(nearest, double((long double)(x) - (long double)(nearest)));
}

// a * b + c, to be rounded to 16 bits. The product is exact.
inline double narrow_fma(float a, float b, float c) {
    const Sum<double> exact(double(a) * double(b), double(c));
    return exact.error == exact.error ? rounded_to_odd(exact.sum, exact.error) : exact.sum;
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt

#include "names_end.h"
