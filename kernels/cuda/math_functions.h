// Device functions that the kernels of this repository do not use: they are what programs of one's
// own find in CUDA. Part of cuda_runtime.h.
#pragma once

#include <math.h>

#include <cmath>

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

// Fast approximations are exact here.
inline float __expf(float x) {
    return expf(x);
}
inline float __exp10f(float x) {
    return powf(10.0f, x);
}
inline float __logf(float x) {
    return logf(x);
}
inline float __log2f(float x) {
    return log2f(x);
}
inline float __log10f(float x) {
    return log10f(x);
}
inline float __sinf(float x) {
    return sinf(x);
}
inline float __cosf(float x) {
    return cosf(x);
}
inline float __tanf(float x) {
    return tanf(x);
}
inline float __powf(float x, float y) {
    return powf(x, y);
}
inline float __fdividef(float x, float y) {
    return x / y;
}
inline float __saturatef(float x) {
    return x > 0.0f ? fminf(x, 1.0f) : 0.0f;
}
inline float __frcp_rn(float x) {
    return 1.0f / x;
}
inline float __fsqrt_rn(float x) {
    return sqrtf(x);
}
inline float __frsqrt_rn(float x) {
    return 1.0f / sqrtf(x);
}
inline float __fadd_rn(float x, float y) {
    return x + y;
}
inline float __fsub_rn(float x, float y) {
    return x - y;
}
inline float __fmul_rn(float x, float y) {
    return x * y;
}
inline float __fdiv_rn(float x, float y) {
    return x / y;
}
inline float __fmaf_rn(float x, float y, float z) {
    return fmaf(x, y, z);
}
inline double __dadd_rn(double x, double y) {
    return x + y;
}
inline double __dmul_rn(double x, double y) {
    return x * y;
}
inline int __mul24(int x, int y) {
    return (x << 8 >> 8) * (y << 8 >> 8);
}
inline unsigned __umul24(unsigned x, unsigned y) {
    return (x & 0xffffff) * (y & 0xffffff);
}
inline unsigned __sad(int x, int y, unsigned z) {
    return z + unsigned(x < y ? y - x : x - y);
}
inline int __float2int_rn(float x) {
    return int(rintf(x));
}
inline int __float2int_rz(float x) {
    return int(x);
}
inline int __float2int_rd(float x) {
    return int(floorf(x));
}
inline int __float2int_ru(float x) {
    return int(ceilf(x));
}
inline unsigned __float2uint_rn(float x) {
    return unsigned(rintf(x));
}
inline float __int2float_rn(int x) {
    return float(x);
}
inline float __uint2float_rn(unsigned x) {
    return float(x);
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
inline int __clzll(long long x) {
    return x == 0 ? 64 : __builtin_clzll((unsigned long long)(x));
}
inline int __ffsll(long long x) {
    return __builtin_ffsll(x);
}
inline int __mulhi(int a, int b) {
    return int((int64_t(a) * b) >> 32);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return unsigned(((uint64_t(high) << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}

// Loads and stores with hints to the caches.
#define SIMT_LOAD(name)                         \
    template <class T> T name(const T *p) {     \
        return *p;                              \
    }
#define SIMT_STORE(name)                        \
    template <class T> void name(T *p, T v) {   \
        *p = v;                                 \
    }
SIMT_LOAD(__ldca)
SIMT_LOAD(__ldcg)
SIMT_LOAD(__ldcs)
SIMT_LOAD(__ldcv)
SIMT_LOAD(__ldlu)
SIMT_STORE(__stcg)
SIMT_STORE(__stcs)
SIMT_STORE(__stwb)
SIMT_STORE(__stwt)
#undef SIMT_LOAD
#undef SIMT_STORE

inline double atomicAdd(double *p, double v) {
    return atomic_change(p, [=](double old) { return old + v; });
}
inline int atomicSub(int *p, int v) {
    return __atomic_fetch_sub(p, v, __ATOMIC_RELAXED);
}
inline unsigned atomicSub(unsigned *p, unsigned v) {
    return __atomic_fetch_sub(p, v, __ATOMIC_RELAXED);
}
inline unsigned atomicDec(unsigned *p, unsigned limit) {
    return atomic_change(p,
                         [=](unsigned old) { return old == 0 || old > limit ? limit : old - 1; });
}
inline int atomicXor(int *p, int v) {
    return __atomic_fetch_xor(p, v, __ATOMIC_RELAXED);
}
inline unsigned atomicXor(unsigned *p, unsigned v) {
    return __atomic_fetch_xor(p, v, __ATOMIC_RELAXED);
}

// The processor's clock, which says nothing about a GPU's.
inline long long clock64() {
    return (long long)(__builtin_ia32_rdtsc());
}
inline void __nanosleep(unsigned) {}

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda
