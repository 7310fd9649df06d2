// CUDA's built-in functions on the host. Part of simt.h.
#pragma once

// ---- barriers ----

inline void __syncthreads(SIMT_SITE) {
    simt::block_barrier(simt::Vote::None, 0, SIMT_HERE);
}
inline int __syncthreads_or(int predicate, SIMT_SITE) {
    return simt::block_barrier(simt::Vote::Or, predicate, SIMT_HERE);
}
inline int __syncthreads_and(int predicate, SIMT_SITE) {
    return simt::block_barrier(simt::Vote::And, predicate, SIMT_HERE);
}
inline int __syncthreads_count(int predicate, SIMT_SITE) {
    return simt::block_barrier(simt::Vote::Count, predicate, SIMT_HERE);
}

// ---- warp collectives ----

namespace simt {

inline constexpr Collective SYNCWARP = {"__syncwarp", [](void *const *, uint32_t) {}};

// A lane's part in a shuffle: what it gives, whose it wants, what it gets.
template <class T> struct Shuffle {
    T value;
    int source;
    T result;

    static void run(void *const *args, uint32_t mask) {
        for (int lane = 0; lane < 32; lane++) {
            if (!(mask >> lane & 1)) continue;
            auto *mine = static_cast<Shuffle *>(args[lane]);
            // What a lane outside of the mask holds is undefined: NaN, or another eyesore.
            if (mask >> mine->source & 1) {
                mine->result = static_cast<Shuffle *>(args[mine->source])->value;
            } else {
                memset(&mine->result, 0xff, sizeof(T));
            }
        }
    }
};

template <class T>
T shuffle(const Collective &kind, uint32_t mask, T value, int source, Site site) {
    Shuffle<T> arg = {value, source, value};
    warp_collective(mask, kind, &arg, site);
    return arg.result;
}

// A lane's part in a reduction of 32-bit words over the mask.
template <class T> struct Reduce {
    T value;

    template <class F> static void run(void *const *args, uint32_t mask, F combine) {
        bool first = true;
        T total = {};
        for (int lane = 0; lane < 32; lane++) {
            if (!(mask >> lane & 1)) continue;
            T value = static_cast<Reduce *>(args[lane])->value;
            total = first ? value : combine(total, value);
            first = false;
        }
        for (int lane = 0; lane < 32; lane++) {
            if (mask >> lane & 1) static_cast<Reduce *>(args[lane])->value = total;
        }
    }
};

// Bits of the lanes whose predicate is true.
inline constexpr Collective BALLOT = {"__ballot_sync", [](void *const *args, uint32_t mask) {
    uint32_t bits = 0;
    for (int lane = 0; lane < 32; lane++) {
        if (mask >> lane & 1 && *static_cast<uint32_t *>(args[lane])) bits |= 1u << lane;
    }
    for (int lane = 0; lane < 32; lane++) {
        if (mask >> lane & 1) *static_cast<uint32_t *>(args[lane]) = bits;
    }
}};

inline uint32_t ballot(uint32_t mask, int predicate, Site site) {
    uint32_t word = predicate != 0;
    warp_collective(mask, BALLOT, &word, site);
    return word;
}

inline int lane() {
    const Builtins &b = builtins;
    unsigned thread = b.thread.x + b.block_dim.x * (b.thread.y + b.block_dim.y * b.thread.z);
    return int(thread % 32);
}

}  // namespace simt

inline void __syncwarp(unsigned mask = ~0u, SIMT_SITE) {
    simt::warp_collective(mask, simt::SYNCWARP, nullptr, SIMT_HERE);
}

// Lanes are counted within segments of `width`, a power of two.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_SITE) {
    static constexpr simt::Collective kind = {"__shfl_sync", simt::Shuffle<T>::run};
    int first = simt::lane() & ~(width - 1);
    return simt::shuffle(kind, mask, value, first + (source & (width - 1)), SIMT_HERE);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SIMT_SITE) {
    static constexpr simt::Collective kind = {"__shfl_xor_sync", simt::Shuffle<T>::run};
    int lane = simt::lane(), source = lane ^ bits, last = lane | (width - 1);
    return simt::shuffle(kind, mask, value, source > last ? lane : source, SIMT_HERE);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
    static constexpr simt::Collective kind = {"__shfl_up_sync", simt::Shuffle<T>::run};
    int lane = simt::lane(), first = lane & ~(width - 1), source = lane - int(delta);
    return simt::shuffle(kind, mask, value, source < first ? lane : source, SIMT_HERE);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
    static constexpr simt::Collective kind = {"__shfl_down_sync", simt::Shuffle<T>::run};
    int lane = simt::lane(), last = lane | (width - 1), source = lane + int(delta);
    return simt::shuffle(kind, mask, value, source > last ? lane : source, SIMT_HERE);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_SITE) {
    return simt::ballot(mask, predicate, SIMT_HERE);
}
inline int __any_sync(unsigned mask, int predicate, SIMT_SITE) {
    return simt::ballot(mask, predicate, SIMT_HERE) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SIMT_SITE) {
    return simt::ballot(mask, predicate, SIMT_HERE) == mask;
}

#define SIMT_REDUCE(name, expression)                                                       \
    template <class T> T name(unsigned mask, T value, SIMT_SITE) {                          \
        static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned>);               \
        static constexpr simt::Collective kind = {#name, [](void *const *args, uint32_t m) { \
            simt::Reduce<T>::run(args, m, [](T a, T b) -> T { return expression; });        \
        }};                                                                                 \
        simt::Reduce<T> arg = {value};                                                      \
        simt::warp_collective(mask, kind, &arg, SIMT_HERE);                                 \
        return arg.value;                                                                   \
    }
SIMT_REDUCE(__reduce_add_sync, T(unsigned(a) + unsigned(b)))
SIMT_REDUCE(__reduce_min_sync, std::min(a, b))
SIMT_REDUCE(__reduce_max_sync, std::max(a, b))
#undef SIMT_REDUCE

// ---- atomics: blocks run at the same time on several OS threads ----

template <class T> T simt_atomic(T *p, T (*change)(T, T), T value) {
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (true) {
        T now = change(old, value);
        if (__atomic_compare_exchange(p, &old, &now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            return old;
        }
    }
}
inline float atomicAdd(float *p, float v) {
    auto *word = reinterpret_cast<uint32_t *>(p);
    uint32_t old = __atomic_load_n(word, __ATOMIC_RELAXED), now;
    float f;
    do {
        memcpy(&f, &old, 4);
        float sum = f + v;
        memcpy(&now, &sum, 4);
    } while (!__atomic_compare_exchange_n(word, &old, now, false, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    return f;
}
inline int atomicAdd(int *p, int v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
inline unsigned atomicAdd(unsigned *p, unsigned v) {
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
inline unsigned long long atomicAdd(unsigned long long *p, unsigned long long v) {
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
template <class T> T atomicMin(T *p, T v) {
    return simt_atomic<T>(p, [](T a, T b) { return std::min(a, b); }, v);
}
template <class T> T atomicMax(T *p, T v) {
    return simt_atomic<T>(p, [](T a, T b) { return std::max(a, b); }, v);
}
template <class T> T atomicExch(T *p, T v) {
    T old;
    __atomic_exchange(p, &v, &old, __ATOMIC_RELAXED);
    return old;
}
template <class T> T atomicCAS(T *p, T expected, T v) {
    __atomic_compare_exchange(p, &expected, &v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
template <class T> T atomicAnd(T *p, T v) { return __atomic_fetch_and(p, v, __ATOMIC_RELAXED); }
template <class T> T atomicOr(T *p, T v) { return __atomic_fetch_or(p, v, __ATOMIC_RELAXED); }
inline unsigned atomicInc(unsigned *p, unsigned limit) {
    return simt_atomic<unsigned>(p, [](unsigned a, unsigned b) { return a >= b ? 0 : a + 1; },
                                 limit);
}
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_system() { std::atomic_thread_fence(std::memory_order_seq_cst); }
template <class T> T __ldg(const T *p) { return *p; }

// ---- bits and integers ----

template <class To, class From> To simt_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline uint32_t __float_as_uint(float x) { return simt_bits<uint32_t>(x); }
inline float __uint_as_float(uint32_t x) { return simt_bits<float>(x); }
inline int __float_as_int(float x) { return simt_bits<int>(x); }
inline float __int_as_float(int x) { return simt_bits<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline unsigned __brev(unsigned x) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i);
    return r;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
    return uint64_t((unsigned __int128)a * b >> 64);
}
inline int64_t __mul64hi(int64_t a, int64_t b) { return int64_t((__int128)a * b >> 64); }

// ---- mathematics that CUDA has and <cmath> has not, or not at global scope ----

inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
using std::max;
using std::min;
