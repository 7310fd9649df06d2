// Loads and stores with hints to the caches, atomics beyond those that the kernels of this repository
// use, clocks and address spaces. Part of cuda_runtime.h.
#pragma once

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

#define SIMT_LOAD(name)                                  \
    template <class T> SIMT_INLINE T name(const T *p) {     \
        return *p;                                       \
    }
#define SIMT_STORE(name)                                                                  \
    template <class T> SIMT_INLINE void name(T *p, std::common_type_t<T> v) {            \
        *p = v;                                                                           \
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

#define SIMT_ATOMIC(name, type, change)                                     \
    SIMT_INLINE type name(type *p, type v) {                                \
        return atomic_change(p, [=](type old) -> type { return change; });  \
    }

SIMT_ATOMIC(atomicAdd, double, old + v)
SIMT_ATOMIC(atomicSub, int, int(unsigned(old) - unsigned(v)))
SIMT_ATOMIC(atomicSub, unsigned, old - v)
SIMT_ATOMIC(atomicDec, unsigned, (old == 0 || old > v) ? v : old - 1)
SIMT_ATOMIC(atomicXor, int, old ^ v)
SIMT_ATOMIC(atomicXor, unsigned, old ^ v)
SIMT_ATOMIC(atomicXor, unsigned long long, old ^ v)
SIMT_ATOMIC(atomicMin, long long, old < v ? old : v)
SIMT_ATOMIC(atomicMax, long long, old < v ? v : old)
SIMT_ATOMIC(atomicAnd, long long, old & v)
SIMT_ATOMIC(atomicOr, long long, old | v)
SIMT_ATOMIC(atomicXor, long long, old ^ v)

#undef SIMT_ATOMIC

SIMT_INLINE unsigned short atomicCAS(unsigned short *p, unsigned short expected,
                                     unsigned short v) {
    __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
    return expected;
}

// All blocks and the host are threads of one process: scopes make no difference to what happens.
// The argument may be of another type than the variable, as in a call of one function of CUDA's.
#define SIMT_SCOPES(name)                                                           \
    template <class T, class V> SIMT_INLINE T name##_block(T *p, V v) {             \
        return name(p, T(v));                                                       \
    }                                                                               \
    template <class T, class V> SIMT_INLINE T name##_system(T *p, V v) {            \
        return name(p, T(v));                                                       \
    }
SIMT_SCOPES(atomicAdd)
SIMT_SCOPES(atomicSub)
SIMT_SCOPES(atomicExch)
SIMT_SCOPES(atomicMin)
SIMT_SCOPES(atomicMax)
SIMT_SCOPES(atomicInc)
SIMT_SCOPES(atomicDec)
SIMT_SCOPES(atomicAnd)
SIMT_SCOPES(atomicOr)
SIMT_SCOPES(atomicXor)
#undef SIMT_SCOPES

template <class T, class E, class V> SIMT_INLINE T atomicCAS_block(T *p, E expected, V v) {
    return atomicCAS(p, T(expected), T(v));
}
template <class T, class E, class V> SIMT_INLINE T atomicCAS_system(T *p, E expected, V v) {
    return atomicCAS(p, T(expected), T(v));
}

// The processor's clocks, which say nothing about a GPU's.
inline long long clock64() {
    return (long long)(__builtin_ia32_rdtsc());
}
// The C library's function of that name is the host's, and takes no part in overloading.
inline unsigned long long globaltimer() {
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (unsigned long long)(now.tv_sec) * 1000000000 + (unsigned long long)(now.tv_nsec);
}
inline unsigned long long __nv_globaltimer() {
    return globaltimer();
}
inline void __nanosleep(unsigned) {}

[[noreturn]] inline void __brkpt(SIMT_SITE) {
    simt_trap(line, file);
}

// There is one address space, of which shared memory is a part. An address "in" it is the address.
inline unsigned __isShared(const void *p) {
    return simt_shared_holds(p, 1);
}
inline unsigned __isGlobal(const void *p) {
    return !simt_shared_holds(p, 1);
}
inline unsigned __isConstant(const void *) {
    return 0;
}
inline unsigned __isLocal(const void *) {
    return 0;
}
inline size_t __cvta_generic_to_shared(const void *p) {
    return size_t(p);
}
inline size_t __cvta_generic_to_global(const void *p) {
    return size_t(p);
}
inline void *__cvta_shared_to_generic(size_t p) {
    return reinterpret_cast<void *>(p);
}
inline void *__cvta_global_to_generic(size_t p) {
    return reinterpret_cast<void *>(p);
}

inline void __prof_trigger(int) {}

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda

// Promises to the compiler.
#ifndef __clang__
#define __builtin_assume(condition) (void(0))
#endif
#define __assume(condition) __builtin_assume(condition)
