// Mathematical functions that C++ does not have. Part of cuda_runtime.h. What both have (expf, fma, ...)
// is the C library's.
#pragma once

#include <math.h>
#include <time.h>

#include <cmath>
#include <limits>

// Fast approximations are exact here. Macros, because the C library declares these names, too.
#define __expf expf
#define __exp10f exp10f
#define __logf logf
#define __log2f log2f
#define __log10f log10f
#define __sinf sinf
#define __cosf cosf
#define __sincosf sincosf
#define __tanf tanf
#define __tanhf tanhf
#define __powf powf

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

inline float __fdividef(float x, float y) {
    return x / y;
}
inline float fdividef(float x, float y) {
    return x / y;
}
inline double fdivide(double x, double y) {
    return x / y;
}
// NaN becomes 0.
inline float __saturatef(float x) {
    return x > 0.0f ? fminf(x, 1.0f) : 0.0f;
}

// What newer C libraries have under the same name and for the same types is theirs.
#if !defined(__GLIBC__) || !__GLIBC_PREREQ(2, 42)
inline double rsqrt(double x) {
    return 1.0 / sqrt(x);
}
#endif
inline float rsqrt(float x) {
    return 1.0f / sqrtf(x);
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda

namespace simt {
inline namespace SIMT_FLAVOUR {

// Of x * pi, without the rounding of that product.
template <class T> void sine_cosine_pi(T x, T &sine, T &cosine) {
    const T turns = std::remainder(x, T(2)), magnitude = std::fabs(turns);
    // Within an eighth of a turn of a multiple of a quarter.
    const int quarter = int(magnitude * 2 + T(0.5));
    const double rest = double(magnitude - T(quarter) / 2) * M_PI;
    const double s = std::sin(rest), c = std::cos(rest);
    const double sines[] = {s, c, -s}, cosines[] = {c, -s, -c};
    if (!(magnitude <= 1)) {  // NaN, or infinite
        sine = cosine = std::numeric_limits<T>::quiet_NaN();
        return;
    }
    sine = std::copysign(T(1), turns) * T(sines[quarter]);
    cosine = T(cosines[quarter]);
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

#define SIMT_PI(type, suffix)                                                    \
    inline void sincospi##suffix(type x, type *sine, type *cosine) {             \
        sine_cosine_pi(x, *sine, *cosine);                                       \
    }
SIMT_PI(float, f)
SIMT_PI(double, )
#undef SIMT_PI
#if !defined(__GLIBC__) || !__GLIBC_PREREQ(2, 41)
#define SIMT_PI(type, suffix)                  \
    inline type sinpi##suffix(type x) {        \
        type sine, cosine;                     \
        sine_cosine_pi(x, sine, cosine);       \
        return sine;                           \
    }                                          \
    inline type cospi##suffix(type x) {        \
        type sine, cosine;                     \
        sine_cosine_pi(x, sine, cosine);       \
        return cosine;                         \
    }
SIMT_PI(float, f)
SIMT_PI(double, )
#undef SIMT_PI
#endif

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda

namespace simt {
inline namespace SIMT_FLAVOUR {

// exp(x * x) * erfc(x)
inline double scaled_erfc(double x) {
    if (x > 50) {
        const double square = 1 / (x * x);
        return M_2_SQRTPI / 2 / x * (1 - square / 2 * (1 - 1.5 * square * (1 - 2.5 * square)));
    }
    return double(std::exp((long double)(x) * x) * std::erfc((long double)(x)));
}

// Newton's method; for small values from their tangent, and in the tails on the logarithm of erfc
// from a closed approximation (Winitzki, 2008).
inline double inverse_erf_of_small(double x) {
    double y = x / M_2_SQRTPI;
    for (int step = 0; step < 6; step++)
        y -= (std::erf(y) - x) / (M_2_SQRTPI * std::exp(-y * y));
    return y;
}

inline double inverse_erfc(double x) {
    if (!(x > 0 && x < 2))
        return x == 0 ? HUGE_VAL : x == 2 ? -HUGE_VAL : NAN;
    if (x > 0.5 && x < 1.5)
        return inverse_erf_of_small(1 - x);
    if (x > 1)
        return -inverse_erfc(2 - x);
    const double wanted = std::log(x), logarithm = wanted + std::log1p(1 - x);
    const double part = 2 / (M_PI * 0.147) + logarithm / 2;
    double y = std::sqrt(std::sqrt(part * part - logarithm / 0.147) - part);
    for (int step = 0; step < 6; step++) {
        const double scaled = scaled_erfc(y);
        y += (std::log(scaled) - y * y - wanted) * scaled / M_2_SQRTPI;
    }
    return y;
}

inline double inverse_erf(double x) {
    const double size = std::fabs(x);
    return size > 0.5 ? std::copysign(inverse_erfc(1 - size), x) : inverse_erf_of_small(x);
}

template <class T> double length(int count, const T *p) {
    double sum = 0, largest = 0;
    for (int i = 0; i < count; i++)
        largest = std::fmax(largest, std::fabs(double(p[i])));
    if (largest == 0 || std::isinf(largest))
        return largest;
    for (int i = 0; i < count; i++)
        sum += p[i] / largest * (p[i] / largest);
    return largest * std::sqrt(sum);
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

#define SIMT_MATH(type, suffix)                                               \
    inline type rcbrt##suffix(type x) {                                       \
        return type(1 / std::cbrt(double(x)));                                \
    }                                                                         \
    inline type erfinv##suffix(type x) {                                      \
        return type(inverse_erf(x));                                          \
    }                                                                         \
    inline type erfcinv##suffix(type x) {                                     \
        return type(inverse_erfc(x));                                         \
    }                                                                         \
    inline type erfcx##suffix(type x) {                                       \
        return type(scaled_erfc(x));                                          \
    }                                                                         \
    inline type normcdf##suffix(type x) {                                     \
        return type(std::erfc(double(x) * -M_SQRT1_2) / 2);                   \
    }                                                                         \
    inline type normcdfinv##suffix(type x) {                                  \
        return type(-M_SQRT2 * inverse_erfc(2 * double(x)));                  \
    }                                                                         \
    inline type rhypot##suffix(type x, type y) {                              \
        return type(1 / std::hypot(double(x), double(y)));                    \
    }                                                                         \
    inline type norm##suffix(int count, const type *p) {                      \
        return type(length(count, p));                                        \
    }                                                                         \
    inline type rnorm##suffix(int count, const type *p) {                     \
        return type(1 / length(count, p));                                    \
    }                                                                         \
    inline type norm3d##suffix(type x, type y, type z) {                      \
        return type(std::hypot(double(x), double(y), double(z)));             \
    }                                                                         \
    inline type rnorm3d##suffix(type x, type y, type z) {                     \
        return type(1 / std::hypot(double(x), double(y), double(z)));         \
    }                                                                         \
    inline type norm4d##suffix(type x, type y, type z, type w) {              \
        const double all[] = {double(x), double(y), double(z), double(w)};    \
        return type(length(4, all));                                          \
    }                                                                         \
    inline type rnorm4d##suffix(type x, type y, type z, type w) {             \
        const double all[] = {double(x), double(y), double(z), double(w)};    \
        return type(1 / length(4, all));                                      \
    }                                                                         \
    inline type cyl_bessel_i0##suffix(type x) {                               \
        return type(std::cyl_bessel_i(0.0, std::fabs(double(x))));            \
    }                                                                         \
    inline type cyl_bessel_i1##suffix(type x) {                               \
        const double of_size = std::cyl_bessel_i(1.0, std::fabs(double(x)));  \
        return type(x < 0 ? -of_size : of_size);                              \
    }

SIMT_MATH(float, f)
SIMT_MATH(double, )

#undef SIMT_MATH

inline double min(double a, double b) {
    return fmin(a, b);
}
inline double max(double a, double b) {
    return fmax(a, b);
}
inline double min(float a, double b) {
    return fmin(a, b);
}
inline double max(float a, double b) {
    return fmax(a, b);
}
inline double min(double a, float b) {
    return fmin(a, b);
}
inline double max(double a, float b) {
    return fmax(a, b);
}
// Templates, so that functions of a program that have these names come first.
#define SIMT_LIMITS(prefix, type)                              \
    template <class T> type prefix##min(T a, type b) {         \
        return min((type)(a), b);                               \
    }                                                          \
    template <class T> type prefix##max(T a, type b) {         \
        return max((type)(a), b);                               \
    }
SIMT_LIMITS(u, unsigned)
SIMT_LIMITS(ll, long long)
SIMT_LIMITS(ull, unsigned long long)
#undef SIMT_LIMITS

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda
