// The C library's functions that a kernel may call. <math.h> declares them, too, but C++'s own
// <math.h> brings C++17's special functions along: half of what a small kernel takes to compile.
#pragma once

#define SIMT_FUNCTION(name)           \
    float name##f(float x) noexcept;  \
    double name(double x) noexcept;
#define SIMT_FUNCTION_OF_TWO(name)              \
    float name##f(float x, float y) noexcept;   \
    double name(double x, double y) noexcept;

extern "C" {
SIMT_FUNCTION(acos)
SIMT_FUNCTION(asin)
SIMT_FUNCTION(atan)
SIMT_FUNCTION(cbrt)
SIMT_FUNCTION(ceil)
SIMT_FUNCTION(cos)
SIMT_FUNCTION(cosh)
SIMT_FUNCTION(erf)
SIMT_FUNCTION(erfc)
SIMT_FUNCTION(exp)
SIMT_FUNCTION(exp2)
SIMT_FUNCTION(expm1)
SIMT_FUNCTION(fabs)
SIMT_FUNCTION(floor)
SIMT_FUNCTION(log)
SIMT_FUNCTION(log10)
SIMT_FUNCTION(log1p)
SIMT_FUNCTION(log2)
SIMT_FUNCTION(rint)
SIMT_FUNCTION(round)
SIMT_FUNCTION(sin)
SIMT_FUNCTION(sinh)
SIMT_FUNCTION(sqrt)
SIMT_FUNCTION(tan)
SIMT_FUNCTION(tanh)
SIMT_FUNCTION(trunc)
SIMT_FUNCTION_OF_TWO(atan2)
SIMT_FUNCTION_OF_TWO(copysign)
SIMT_FUNCTION_OF_TWO(fdim)
SIMT_FUNCTION_OF_TWO(fmax)
SIMT_FUNCTION_OF_TWO(fmin)
SIMT_FUNCTION_OF_TWO(fmod)
SIMT_FUNCTION_OF_TWO(hypot)
SIMT_FUNCTION_OF_TWO(pow)
float fmaf(float x, float y, float z) noexcept;
double fma(double x, double y, double z) noexcept;
float ldexpf(float x, int e) noexcept;
double ldexp(double x, int e) noexcept;
}

#undef SIMT_FUNCTION
#undef SIMT_FUNCTION_OF_TWO

// As <math.h> has them, should that be included as well.
#ifndef INFINITY
#define INFINITY (__builtin_inff ())
#endif
#ifndef NAN
#define NAN (__builtin_nanf (""))
#endif
