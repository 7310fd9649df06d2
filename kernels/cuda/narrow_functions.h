// One of the types of 16 bits, and what CUDA can do with it. Included for each of them, with
//   SIMT_T, SIMT_T2        the type, and two of them
//   SIMT_EXPONENT          bits of its exponent
//   SIMT_NARROW(a, b)      a name: `a`, what the type is called in names, `b`
// Arithmetic is that of floats, rounded once, which is exact enough for sums, products, quotients and
// square roots to be as if rounded from the exact value (a float has more than twice the digits).

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

struct SIMT_NARROW(simt_, _raw) {
    unsigned short x;
};

struct alignas(2) SIMT_T {
    unsigned short __x;

    SIMT_T() = default;
    SIMT_T(SIMT_NARROW(simt_, _raw) raw) : __x(raw.x) {}
    template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>> SIMT_T(T x) {
        using Wide = std::conditional_t<std::is_floating_point_v<T>, double,
                                        std::conditional_t<std::is_signed_v<T>, long long,
                                                           unsigned long long>>;
        __x = Narrow<SIMT_EXPONENT>::from<Rounding::NEAREST>(exact_double(Wide(x)));
    }
    operator float() const {
        return Narrow<SIMT_EXPONENT>::to_float(__x);
    }
    operator SIMT_NARROW(simt_, _raw)() const {
        return {__x};
    }
    explicit operator bool() const {
        return (__x & 0x7fff) != 0;
    }
};

SIMT_INLINE SIMT_T SIMT_NARROW(__ushort_as_, )(unsigned short bits) {
    return SIMT_NARROW(simt_, _raw){bits};
}
SIMT_INLINE SIMT_T SIMT_NARROW(__short_as_, )(short bits) {
    return SIMT_NARROW(simt_, _raw){(unsigned short)(bits)};
}
SIMT_INLINE unsigned short SIMT_NARROW(__, _as_ushort)(SIMT_T a) {
    return a.__x;
}
SIMT_INLINE short SIMT_NARROW(__, _as_short)(SIMT_T a) {
    return short(a.__x);
}

// Conversions

SIMT_INLINE float SIMT_NARROW(__, 2float)(SIMT_T a) {
    return float(a);
}
SIMT_INLINE SIMT_T SIMT_NARROW(__double2, )(double x) {
    return x;
}
SIMT_INLINE SIMT_T SIMT_NARROW(__float2, )(float x) {
    return x;
}

#define SIMT_FROM(suffix, mode, name, type)                                            \
    SIMT_INLINE SIMT_T SIMT_NARROW(__##name##2, _##suffix)(type x) {                   \
        using Wide = std::conditional_t<                                               \
            std::is_floating_point_v<type>, double,                                    \
            std::conditional_t<std::is_signed_v<type>, long long, unsigned long long>>; \
        return SIMT_NARROW(simt_, _raw){                                               \
            Narrow<SIMT_EXPONENT>::from<Rounding::mode>(exact_double(Wide(x)))};       \
    }
#define SIMT_CONVERSIONS(suffix, mode, name, type)                                     \
    SIMT_FROM(suffix, mode, name, type)                                                \
    SIMT_INLINE type SIMT_NARROW(__, 2##name##_##suffix)(SIMT_T a) {                   \
        return to_integer<Rounding::mode, type>(float(a));                             \
    }
#define SIMT_CONVERSION(suffix, mode)                                                  \
    SIMT_FROM(suffix, mode, float, float)                                              \
    SIMT_CONVERSIONS(suffix, mode, short, short)                                       \
    SIMT_CONVERSIONS(suffix, mode, ushort, unsigned short)                             \
    SIMT_CONVERSIONS(suffix, mode, int, int)                                           \
    SIMT_CONVERSIONS(suffix, mode, uint, unsigned)                                     \
    SIMT_CONVERSIONS(suffix, mode, ll, long long)                                      \
    SIMT_CONVERSIONS(suffix, mode, ull, unsigned long long)
SIMT_CONVERSION(rn, NEAREST)
SIMT_CONVERSION(rz, ZERO)
SIMT_CONVERSION(ru, UP)
SIMT_CONVERSION(rd, DOWN)
#undef SIMT_CONVERSION
#undef SIMT_CONVERSIONS
#undef SIMT_FROM

SIMT_INLINE signed char SIMT_NARROW(__, 2char_rz)(SIMT_T a) {
    return to_integer<Rounding::ZERO, signed char>(float(a));
}
SIMT_INLINE unsigned char SIMT_NARROW(__, 2uchar_rz)(SIMT_T a) {
    return to_integer<Rounding::ZERO, unsigned char>(float(a));
}

// Two of them

struct SIMT_NARROW(simt_, 2_raw) {
    unsigned short x, y;
};

struct alignas(4) SIMT_T2 {
    SIMT_T x, y;

    SIMT_T2() = default;
    SIMT_T2(SIMT_T x, SIMT_T y) : x(x), y(y) {}
    SIMT_T2(SIMT_NARROW(simt_, 2_raw) raw)
        : x(SIMT_NARROW(simt_, _raw){raw.x}), y(SIMT_NARROW(simt_, _raw){raw.y}) {}
};

SIMT_INLINE SIMT_T2 SIMT_NARROW(make_, 2)(SIMT_T x, SIMT_T y) {
    return {x, y};
}
SIMT_INLINE float __low2float(SIMT_T2 a) {
    return float(a.x);
}
SIMT_INLINE float __high2float(SIMT_T2 a) {
    return float(a.y);
}
SIMT_INLINE SIMT_T SIMT_NARROW(__low2, )(SIMT_T2 a) {
    return a.x;
}
SIMT_INLINE SIMT_T SIMT_NARROW(__high2, )(SIMT_T2 a) {
    return a.y;
}
SIMT_INLINE SIMT_T2 SIMT_NARROW(__low2, 2)(SIMT_T2 a) {
    return {a.x, a.x};
}
SIMT_INLINE SIMT_T2 SIMT_NARROW(__high2, 2)(SIMT_T2 a) {
    return {a.y, a.y};
}
SIMT_INLINE SIMT_T2 SIMT_NARROW(__lows2, 2)(SIMT_T2 a, SIMT_T2 b) {
    return {a.x, b.x};
}
SIMT_INLINE SIMT_T2 SIMT_NARROW(__highs2, 2)(SIMT_T2 a, SIMT_T2 b) {
    return {a.y, b.y};
}
SIMT_INLINE SIMT_T2 __lowhigh2highlow(SIMT_T2 a) {
    return {a.y, a.x};
}
SIMT_INLINE SIMT_T2 SIMT_NARROW(__halves2, 2)(SIMT_T a, SIMT_T b) {
    return {a, b};
}
SIMT_INLINE SIMT_T2 SIMT_NARROW(__float2, 2_rn)(float x) {
    return {x, x};
}
SIMT_INLINE SIMT_T2 SIMT_NARROW(__floats2, 2_rn)(float x, float y) {
    return {x, y};
}
SIMT_INLINE SIMT_T2 SIMT_NARROW(__float22, 2_rn)(float2 v) {
    return {v.x, v.y};
}
SIMT_INLINE float2 SIMT_NARROW(__, 22float2)(SIMT_T2 a) {
    return {float(a.x), float(a.y)};
}

// Arithmetic. In names `h` is for one and `h2` or `2` for two.

#define SIMT_UNARY(name, name2, value)      \
    SIMT_INLINE SIMT_T name(SIMT_T a) {     \
        const float x = float(a);           \
        return value;                       \
    }                                       \
    SIMT_INLINE SIMT_T2 name2(SIMT_T2 a) {  \
        return {name(a.x), name(a.y)};      \
    }
#define SIMT_BINARY(name, name2, value)               \
    SIMT_INLINE SIMT_T name(SIMT_T a, SIMT_T b) {     \
        const float x = float(a), y = float(b);       \
        return value;                                 \
    }                                                 \
    SIMT_INLINE SIMT_T2 name2(SIMT_T2 a, SIMT_T2 b) { \
        return {name(a.x, b.x), name(a.y, b.y)};      \
    }
#define SIMT_TERNARY(name, name2, value)                                  \
    SIMT_INLINE SIMT_T name(SIMT_T a, SIMT_T b, SIMT_T c) {               \
        return value;                                                     \
    }                                                                     \
    SIMT_INLINE SIMT_T2 name2(SIMT_T2 a, SIMT_T2 b, SIMT_T2 c) {          \
        return {name(a.x, b.x, c.x), name(a.y, b.y, c.y)};                \
    }

SIMT_BINARY(__hadd, __hadd2, x + y)
SIMT_BINARY(__hsub, __hsub2, x - y)
SIMT_BINARY(__hmul, __hmul2, x *y)
SIMT_BINARY(__hadd_rn, __hadd2_rn, x + y)
SIMT_BINARY(__hsub_rn, __hsub2_rn, x - y)
SIMT_BINARY(__hmul_rn, __hmul2_rn, x *y)
SIMT_BINARY(__hadd_sat, __hadd2_sat, __saturatef(x + y))
SIMT_BINARY(__hsub_sat, __hsub2_sat, __saturatef(x - y))
SIMT_BINARY(__hmul_sat, __hmul2_sat, __saturatef(x *y))
SIMT_BINARY(__hdiv, __h2div, x / y)
SIMT_BINARY(__hmin, __hmin2, fminf(x, y))
SIMT_BINARY(__hmax, __hmax2, fmaxf(x, y))
SIMT_BINARY(__hmin_nan, __hmin2_nan, x != x ? x : y != y ? y : fminf(x, y))
SIMT_BINARY(__hmax_nan, __hmax2_nan, x != x ? x : y != y ? y : fmaxf(x, y))
SIMT_TERNARY(__hfma, __hfma2, narrow_fma(a, b, c))
SIMT_TERNARY(__hfma_sat, __hfma2_sat, __saturatef(float(SIMT_T(narrow_fma(a, b, c)))))
// NaN stays.
SIMT_TERNARY(__hfma_relu, __hfma2_relu, narrow_fma(a, b, c) < 0 ? 0.0 : narrow_fma(a, b, c))

SIMT_INLINE SIMT_T __hneg(SIMT_T a) {
    return SIMT_NARROW(simt_, _raw){(unsigned short)(a.__x ^ 0x8000)};
}
SIMT_INLINE SIMT_T2 __hneg2(SIMT_T2 a) {
    return {__hneg(a.x), __hneg(a.y)};
}
SIMT_INLINE SIMT_T __habs(SIMT_T a) {
    return SIMT_NARROW(simt_, _raw){(unsigned short)(a.__x & 0x7fff)};
}
SIMT_INLINE SIMT_T2 __habs2(SIMT_T2 a) {
    return {__habs(a.x), __habs(a.y)};
}

// Of complex numbers: a * b + c.
SIMT_INLINE SIMT_T2 __hcmadd(SIMT_T2 a, SIMT_T2 b, SIMT_T2 c) {
    const SIMT_T real = __hfma(a.x, b.x, c.x), imaginary = __hfma(a.x, b.y, c.y);
    return {__hfma(__hneg(a.y), b.y, real), __hfma(a.y, b.x, imaginary)};
}

SIMT_UNARY(hexp, h2exp, expf(x))
SIMT_UNARY(hexp2, h2exp2, exp2f(x))
SIMT_UNARY(hexp10, h2exp10, exp10f(x))
SIMT_UNARY(hlog, h2log, logf(x))
SIMT_UNARY(hlog2, h2log2, log2f(x))
SIMT_UNARY(hlog10, h2log10, log10f(x))
SIMT_UNARY(hsin, h2sin, sinf(x))
SIMT_UNARY(hcos, h2cos, cosf(x))
SIMT_UNARY(htanh, h2tanh, tanhf(x))
SIMT_UNARY(htanh_approx, h2tanh_approx, tanhf(x))
SIMT_UNARY(hsqrt, h2sqrt, sqrtf(x))
SIMT_UNARY(hrsqrt, h2rsqrt, 1 / sqrt(double(x)))
SIMT_UNARY(hrcp, h2rcp, 1 / x)
SIMT_UNARY(hceil, h2ceil, ceilf(x))
SIMT_UNARY(hfloor, h2floor, floorf(x))
SIMT_UNARY(htrunc, h2trunc, truncf(x))
SIMT_UNARY(hrint, h2rint, nearbyintf(x))

#undef SIMT_UNARY
#undef SIMT_BINARY
#undef SIMT_TERNARY

// Comparisons; those with `u` are true of NaNs. Of two: 1 or 0 each, all bits or none, or both.

#define SIMT_COMPARE(name, condition)                                               \
    SIMT_INLINE bool __h##name(SIMT_T a, SIMT_T b) {                                \
        const float x = float(a), y = float(b);                                     \
        return condition;                                                           \
    }                                                                               \
    SIMT_INLINE SIMT_T2 __h##name##2(SIMT_T2 a, SIMT_T2 b) {                        \
        return {float(__h##name(a.x, b.x)), float(__h##name(a.y, b.y))};            \
    }                                                                               \
    SIMT_INLINE unsigned __h##name##2_mask(SIMT_T2 a, SIMT_T2 b) {                  \
        return (__h##name(a.x, b.x) ? 0xffffu : 0) |                                \
               (__h##name(a.y, b.y) ? 0xffff0000u : 0);                             \
    }                                                                               \
    SIMT_INLINE bool __hb##name##2(SIMT_T2 a, SIMT_T2 b) {                          \
        return __h##name(a.x, b.x) && __h##name(a.y, b.y);                          \
    }
SIMT_COMPARE(eq, x == y)
SIMT_COMPARE(ne, x < y || x > y)
SIMT_COMPARE(lt, x < y)
SIMT_COMPARE(le, x <= y)
SIMT_COMPARE(gt, x > y)
SIMT_COMPARE(ge, x >= y)
SIMT_COMPARE(equ, !(x < y || x > y))
SIMT_COMPARE(neu, x != y)
SIMT_COMPARE(ltu, !(x >= y))
SIMT_COMPARE(leu, !(x > y))
SIMT_COMPARE(gtu, !(x <= y))
SIMT_COMPARE(geu, !(x < y))
#undef SIMT_COMPARE

SIMT_INLINE bool __hisnan(SIMT_T a) {
    return (a.__x & 0x7fff) > Narrow<SIMT_EXPONENT>::INFINITE;
}
SIMT_INLINE SIMT_T2 __hisnan2(SIMT_T2 a) {
    return {float(__hisnan(a.x)), float(__hisnan(a.y))};
}
SIMT_INLINE int __hisinf(SIMT_T a) {
    const bool is = (a.__x & 0x7fff) == Narrow<SIMT_EXPONENT>::INFINITE;
    return !is ? 0 : a.__x & 0x8000 ? -1 : 1;
}

#define SIMT_OPERATOR(op, name)                             \
    SIMT_INLINE SIMT_T operator op(SIMT_T a, SIMT_T b) {    \
        return name(a, b);                                  \
    }                                                       \
    SIMT_INLINE SIMT_T &operator op##=(SIMT_T &a, SIMT_T b) {    \
        return a = name(a, b);                              \
    }
#define SIMT_OPERATOR2(op, name)                            \
    SIMT_INLINE SIMT_T2 operator op(SIMT_T2 a, SIMT_T2 b) { \
        return name(a, b);                                  \
    }                                                       \
    SIMT_INLINE SIMT_T2 &operator op##=(SIMT_T2 &a, SIMT_T2 b) { \
        return a = name(a, b);                              \
    }
SIMT_OPERATOR(+, __hadd)
SIMT_OPERATOR(-, __hsub)
SIMT_OPERATOR(*, __hmul)
SIMT_OPERATOR(/, __hdiv)
SIMT_OPERATOR2(+, __hadd2)
SIMT_OPERATOR2(-, __hsub2)
SIMT_OPERATOR2(*, __hmul2)
SIMT_OPERATOR2(/, __h2div)
#undef SIMT_OPERATOR
#undef SIMT_OPERATOR2

#define SIMT_OPERATOR(op, name)                             \
    SIMT_INLINE bool operator op(SIMT_T a, SIMT_T b) {      \
        return __h##name(a, b);                             \
    }                                                       \
    SIMT_INLINE bool operator op(SIMT_T2 a, SIMT_T2 b) {    \
        return __hb##name##2(a, b);                         \
    }
SIMT_OPERATOR(==, eq)
SIMT_OPERATOR(!=, neu)
SIMT_OPERATOR(<, lt)
SIMT_OPERATOR(<=, le)
SIMT_OPERATOR(>, gt)
SIMT_OPERATOR(>=, ge)
#undef SIMT_OPERATOR

SIMT_INLINE SIMT_T operator+(SIMT_T a) {
    return a;
}
SIMT_INLINE SIMT_T operator-(SIMT_T a) {
    return __hneg(a);
}
SIMT_INLINE SIMT_T2 operator-(SIMT_T2 a) {
    return __hneg2(a);
}
SIMT_INLINE SIMT_T &operator++(SIMT_T &a) {
    return a += SIMT_T(1);
}
SIMT_INLINE SIMT_T &operator--(SIMT_T &a) {
    return a -= SIMT_T(1);
}

// Between threads

SIMT_SHUFFLES(SIMT_T, SIMT_T)
SIMT_SHUFFLES(SIMT_T2, SIMT_T2)

SIMT_INLINE SIMT_T atomicAdd(SIMT_T *p, SIMT_T v) {
    return atomic_change(p, [=](SIMT_T old) { return old + v; });
}
SIMT_INLINE SIMT_T2 atomicAdd(SIMT_T2 *p, SIMT_T2 v) {
    return atomic_change(p, [=](SIMT_T2 old) { return old + v; });
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda
