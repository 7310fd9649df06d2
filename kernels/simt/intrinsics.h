// CUDA's arithmetic intrinsics, atomics and fences. Part of simt.h. The rest of the mathematics
// (expf, fmaf, ...) is <math.h>'s, which CUDA follows.
#pragma once

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

// Bits

inline unsigned __float_as_uint(float x) {
    unsigned u;
    __builtin_memcpy(&u, &x, sizeof u);
    return u;
}

inline float __uint_as_float(unsigned u) {
    float x;
    __builtin_memcpy(&x, &u, sizeof x);
    return x;
}

inline int __float_as_int(float x) {
    return int(__float_as_uint(x));
}

inline float __int_as_float(int i) {
    return __uint_as_float(unsigned(i));
}

inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}

inline int __popcll(unsigned long long x) {
    return __builtin_popcountll(x);
}

inline int __ffs(int x) {
    return __builtin_ffs(x);
}

inline int __clz(int x) {
    return x == 0 ? 32 : __builtin_clz(unsigned(x));
}

inline unsigned __brev(unsigned x) {
    x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
    x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
    return __builtin_bswap32(x);
}

// Arithmetic

inline unsigned __umulhi(unsigned a, unsigned b) {
    return unsigned(uint64_t(a) * b >> 32);
}

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    __extension__ using Wide = unsigned __int128;
    return (unsigned long long)(Wide(a) * b >> 64);
}

inline long long __mul64hi(long long a, long long b) {
    __extension__ using Wide = __int128;
    return (long long)(Wide(a) * b >> 64);
}

// A macro, because newer C libraries declare the name too, and results must not depend on that.
inline float reciprocal_sqrt(float x) {
    return 1.0f / sqrtf(x);
}
#define rsqrtf simt::cuda::reciprocal_sqrt

// Integers of mixed types compare as C++ compares them: signed with unsigned as unsigned.
template <class A, class B>
using CommonInteger = std::enable_if_t<std::is_integral_v<A> && std::is_integral_v<B>,
                                       decltype(A() + B())>;

template <class A, class B> constexpr CommonInteger<A, B> min(A a, B b) {
    const CommonInteger<A, B> x = a, y = b;
    return x < y ? x : y;
}

template <class A, class B> constexpr CommonInteger<A, B> max(A a, B b) {
    const CommonInteger<A, B> x = a, y = b;
    return x < y ? y : x;
}

inline float min(float a, float b) {
    return fminf(a, b);
}

inline float max(float a, float b) {
    return fmaxf(a, b);
}

// Memory

template <class T> SIMT_INLINE T __ldg(const T *p) {
    return *p;
}

// Blocks run on several OS threads, so atomics are real ones, relaxed as on the device. They return
// the value before.
#define SIMT_ATOMIC(name, builtin, type)                 \
    SIMT_INLINE type name(type *p, type v) {             \
        return builtin(p, v, __ATOMIC_RELAXED);          \
    }
#define SIMT_ATOMICS(name, builtin)                      \
    SIMT_ATOMIC(name, builtin, int)                      \
    SIMT_ATOMIC(name, builtin, unsigned)                 \
    SIMT_ATOMIC(name, builtin, unsigned long long)

SIMT_ATOMICS(atomicAdd, __atomic_fetch_add)
SIMT_ATOMICS(atomicAnd, __atomic_fetch_and)
SIMT_ATOMICS(atomicOr, __atomic_fetch_or)
SIMT_ATOMICS(atomicExch, __atomic_exchange_n)

#undef SIMT_ATOMICS
#undef SIMT_ATOMIC

// Replaces *p by change(*p). (The checker knows atomicCAS by its order, which is another.)
template <class T, class Change> SIMT_INLINE T atomic_change(T *p, Change change) {
    T old, wanted;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do {
        wanted = change(old);
    } while (!__atomic_compare_exchange(p, &old, &wanted, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED));
    return old;
}

SIMT_INLINE float atomicAdd(float *p, float v) {
    return atomic_change(p, [=](float old) { return old + v; });
}

SIMT_INLINE float atomicExch(float *p, float v) {
    return atomic_change(p, [=](float) { return v; });
}

// Up to a limit, then from 0 again.
SIMT_INLINE unsigned atomicInc(unsigned *p, unsigned limit) {
    return atomic_change(p, [=](unsigned old) { return old >= limit ? 0 : old + 1; });
}

#define SIMT_ATOMICS(type)                                                                   \
    SIMT_INLINE type atomicMin(type *p, type v) {                                            \
        return atomic_change(p, [=](type old) { return old < v ? old : v; });                \
    }                                                                                        \
    SIMT_INLINE type atomicMax(type *p, type v) {                                            \
        return atomic_change(p, [=](type old) { return old < v ? v : old; });                \
    }                                                                                        \
    SIMT_INLINE type atomicCAS(type *p, type expected, type v) {                             \
        __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_ACQUIRE,                \
                                    __ATOMIC_RELAXED);                                       \
        return expected;                                                                     \
    }

SIMT_ATOMICS(int)
SIMT_ATOMICS(unsigned)
SIMT_ATOMICS(unsigned long long)

#undef SIMT_ATOMICS

// For a block, all of which is on one OS thread, less will do. The checker tells the fences apart
// by that: this one orders nothing for other blocks.
inline void __threadfence_block() {
    __atomic_thread_fence(__ATOMIC_ACQ_REL);
}

inline void __threadfence() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

inline void __threadfence_system() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda
