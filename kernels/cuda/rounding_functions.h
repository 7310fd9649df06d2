// Arithmetic and conversions with a rounding of their own: to nearest (rn), towards zero (rz), up (ru)
// and down (rd). Part of cuda_runtime.h.
//
// The processor's rounding mode stays as it is, since compilers do not know of it. Results are
// rounded to nearest, and moved to the neighbour where the exact value, of which `excess` has the
// sign of the difference, lies on the wrong side.
#pragma once

#include <limits>

namespace simt {
inline namespace SIMT_FLAVOUR {

enum class Rounding { NEAREST, ZERO, UP, DOWN };

template <Rounding mode, class T, class Excess> T directed(T nearest, Excess excess) {
    const bool too_high = excess > 0, too_low = excess < 0;
    const T low = -std::numeric_limits<T>::infinity(), high = -low;
    if (too_high && (mode == Rounding::DOWN || (mode == Rounding::ZERO && nearest > 0)))
        return std::nextafter(nearest, low);
    if (too_low && (mode == Rounding::UP || (mode == Rounding::ZERO && nearest < 0)))
        return std::nextafter(nearest, high);
    return nearest;
}

// A type in which products of T are exact.
template <class T> struct WiderOf;
template <> struct WiderOf<float> {
    using Type = double;
};
template <> struct WiderOf<double> {
    __extension__ using Type = __float128;
};
template <class T> using Wider = typename WiderOf<T>::Type;

// a + b is sum + error, exactly (Knuth's two-sum).
template <class W> struct Sum {
    W sum, error;

    Sum(W a, W b) : sum(a + b) {
        const W part = sum - a;
        error = (a - (sum - part)) + (b - part);
    }
};

// A sum that is exactly zero is -0 where it is rounded down, unless both are +0.
template <Rounding mode, class W> bool is_negative_zero(W a, W b) {
    return mode == Rounding::DOWN && a == -b &&
           (std::signbit(double(a)) || std::signbit(double(b)));
}

template <Rounding mode, class T> T add_rounded(T a, T b) {
    if (is_negative_zero<mode>(a, b))
        return -T(0);
    const T nearest = a + b;
    const Sum<Wider<T>> exact(a, b);
    return directed<mode>(nearest, Wider<T>(nearest) - exact.sum - exact.error);
}

template <Rounding mode, class T> T multiply_rounded(T a, T b) {
    const T nearest = a * b;
    return directed<mode>(nearest, Wider<T>(nearest) - Wider<T>(a) * Wider<T>(b));
}

template <Rounding mode, class T> T fma_rounded(T a, T b, T c) {
    const Wider<T> product = Wider<T>(a) * Wider<T>(b);
    if (is_negative_zero<mode>(product, Wider<T>(c)))
        return -T(0);
    const T nearest = std::fma(a, b, c);
    const Sum<Wider<T>> exact(product, Wider<T>(c));
    return directed<mode>(nearest, Wider<T>(nearest) - exact.sum - exact.error);
}

template <Rounding mode, class T> T divide_rounded(T a, T b) {
    const T nearest = a / b;
    const Wider<T> excess = Wider<T>(nearest) * Wider<T>(b) - Wider<T>(a);
    return directed<mode>(nearest, b < 0 ? -excess : excess);
}

template <Rounding mode, class T> T sqrt_rounded(T a) {
    const T nearest = std::sqrt(a);
    return directed<mode>(nearest, Wider<T>(nearest) * Wider<T>(nearest) - Wider<T>(a));
}

// Of a wider type, or an integer.
template <Rounding mode, class T, class From> T narrow_rounded(From x) {
    const T nearest = T(x);
    using Exact = std::conditional_t<std::is_integral_v<From>, long double, From>;
    return directed<mode>(nearest, Exact(nearest) - Exact(x));
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

#define SIMT_ROUNDED(suffix, mode)                                                       \
    inline float __fadd_##suffix(float x, float y) {                                     \
        return add_rounded<Rounding::mode>(x, y);                                        \
    }                                                                                    \
    inline float __fsub_##suffix(float x, float y) {                                     \
        return add_rounded<Rounding::mode>(x, -y);                                       \
    }                                                                                    \
    inline float __fmul_##suffix(float x, float y) {                                     \
        return multiply_rounded<Rounding::mode>(x, y);                                   \
    }                                                                                    \
    inline float __fmaf_##suffix(float x, float y, float z) {                            \
        return fma_rounded<Rounding::mode>(x, y, z);                                     \
    }                                                                                    \
    inline float __fdiv_##suffix(float x, float y) {                                     \
        return divide_rounded<Rounding::mode>(x, y);                                     \
    }                                                                                    \
    inline float __frcp_##suffix(float x) {                                              \
        return divide_rounded<Rounding::mode>(1.0f, x);                                  \
    }                                                                                    \
    inline float __fsqrt_##suffix(float x) {                                             \
        return sqrt_rounded<Rounding::mode>(x);                                          \
    }                                                                                    \
    inline double __dadd_##suffix(double x, double y) {                                  \
        return add_rounded<Rounding::mode>(x, y);                                        \
    }                                                                                    \
    inline double __dsub_##suffix(double x, double y) {                                  \
        return add_rounded<Rounding::mode>(x, -y);                                       \
    }                                                                                    \
    inline double __dmul_##suffix(double x, double y) {                                  \
        return multiply_rounded<Rounding::mode>(x, y);                                   \
    }                                                                                    \
    inline double __fma_##suffix(double x, double y, double z) {                         \
        return fma_rounded<Rounding::mode>(x, y, z);                                     \
    }                                                                                    \
    inline double __ddiv_##suffix(double x, double y) {                                  \
        return divide_rounded<Rounding::mode>(x, y);                                     \
    }                                                                                    \
    inline double __drcp_##suffix(double x) {                                            \
        return divide_rounded<Rounding::mode>(1.0, x);                                   \
    }                                                                                    \
    inline double __dsqrt_##suffix(double x) {                                           \
        return sqrt_rounded<Rounding::mode>(x);                                          \
    }                                                                                    \
    inline float __double2float_##suffix(double x) {                                     \
        return narrow_rounded<Rounding::mode, float>(x);                                 \
    }

SIMT_ROUNDED(rz, ZERO)
SIMT_ROUNDED(ru, UP)
SIMT_ROUNDED(rd, DOWN)

#undef SIMT_ROUNDED

// To nearest is what the processor does.
inline float __fadd_rn(float x, float y) {
    return x + y;
}
inline float __fsub_rn(float x, float y) {
    return x - y;
}
inline float __fmul_rn(float x, float y) {
    return x * y;
}
inline float __fmaf_rn(float x, float y, float z) {
    return fmaf(x, y, z);
}
inline float __fdiv_rn(float x, float y) {
    return x / y;
}
inline float __frcp_rn(float x) {
    return 1.0f / x;
}
inline float __fsqrt_rn(float x) {
    return sqrtf(x);
}
inline float __frsqrt_rn(float x) {
    return float(1.0 / sqrt(double(x)));
}
inline double __dadd_rn(double x, double y) {
    return x + y;
}
inline double __dsub_rn(double x, double y) {
    return x - y;
}
inline double __dmul_rn(double x, double y) {
    return x * y;
}
inline double __fma_rn(double x, double y, double z) {
    return fma(x, y, z);
}
inline double __ddiv_rn(double x, double y) {
    return x / y;
}
inline double __drcp_rn(double x) {
    return 1.0 / x;
}
inline double __dsqrt_rn(double x) {
    return sqrt(x);
}
inline float __double2float_rn(double x) {
    return float(x);
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda

namespace simt {
inline namespace SIMT_FLAVOUR {

template <Rounding mode, class F> F to_whole(F x) {
    switch (mode) {
    case Rounding::NEAREST:
        return std::nearbyint(x);
    case Rounding::ZERO:
        return std::trunc(x);
    case Rounding::UP:
        return std::ceil(x);
    default:
        return std::floor(x);
    }
}

// To an integer: what is too large becomes the largest. NaN becomes 0, or, where one of the types
// has 64 bits, the highest bit alone.
template <Rounding mode, class I, class F> I to_integer(F x) {
    const F whole = to_whole<mode>(x);
    constexpr I low = std::numeric_limits<I>::min(), high = std::numeric_limits<I>::max();
    if (whole != whole)
        return sizeof(I) == 8 || sizeof(F) == 8 ? I(1ull << (sizeof(I) * 8 - 1)) : I(0);
    if (whole <= F(low))
        return low;
    return whole >= F(high) ? high : I(whole);
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

#define SIMT_CONVERSIONS(suffix, mode)                                   \
    inline int __float2int_##suffix(float x) {                           \
        return to_integer<Rounding::mode, int>(x);                       \
    }                                                                    \
    inline unsigned __float2uint_##suffix(float x) {                     \
        return to_integer<Rounding::mode, unsigned>(x);                  \
    }                                                                    \
    inline long long __float2ll_##suffix(float x) {                      \
        return to_integer<Rounding::mode, long long>(x);                 \
    }                                                                    \
    inline unsigned long long __float2ull_##suffix(float x) {            \
        return to_integer<Rounding::mode, unsigned long long>(x);        \
    }                                                                    \
    inline int __double2int_##suffix(double x) {                         \
        return to_integer<Rounding::mode, int>(x);                       \
    }                                                                    \
    inline unsigned __double2uint_##suffix(double x) {                   \
        return to_integer<Rounding::mode, unsigned>(x);                  \
    }                                                                    \
    inline long long __double2ll_##suffix(double x) {                    \
        return to_integer<Rounding::mode, long long>(x);                 \
    }                                                                    \
    inline unsigned long long __double2ull_##suffix(double x) {          \
        return to_integer<Rounding::mode, unsigned long long>(x);        \
    }                                                                    \
    inline float __int2float_##suffix(int x) {                           \
        return narrow_rounded<Rounding::mode, float>(x);                 \
    }                                                                    \
    inline float __uint2float_##suffix(unsigned x) {                     \
        return narrow_rounded<Rounding::mode, float>(x);                 \
    }                                                                    \
    inline float __ll2float_##suffix(long long x) {                      \
        return narrow_rounded<Rounding::mode, float>(x);                 \
    }                                                                    \
    inline float __ull2float_##suffix(unsigned long long x) {            \
        return narrow_rounded<Rounding::mode, float>(x);                 \
    }                                                                    \
    inline double __ll2double_##suffix(long long x) {                    \
        return narrow_rounded<Rounding::mode, double>(x);                \
    }                                                                    \
    inline double __ull2double_##suffix(unsigned long long x) {          \
        return narrow_rounded<Rounding::mode, double>(x);                \
    }

SIMT_CONVERSIONS(rn, NEAREST)
SIMT_CONVERSIONS(rz, ZERO)
SIMT_CONVERSIONS(ru, UP)
SIMT_CONVERSIONS(rd, DOWN)

#undef SIMT_CONVERSIONS

inline double __int2double_rn(int x) {
    return x;
}
inline double __uint2double_rn(unsigned x) {
    return x;
}

inline double __longlong_as_double(long long x) {
    double y;
    __builtin_memcpy(&y, &x, sizeof y);
    return y;
}
inline long long __double_as_longlong(double x) {
    long long y;
    __builtin_memcpy(&y, &x, sizeof y);
    return y;
}
inline int __double2hiint(double x) {
    return int(__double_as_longlong(x) >> 32);
}
inline int __double2loint(double x) {
    return int(__double_as_longlong(x));
}
inline double __hiloint2double(int high, int low) {
    return __longlong_as_double((long long)(uint64_t(unsigned(high)) << 32 | unsigned(low)));
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda
