// Integer intrinsics, and those of two or four narrow integers in a word. Part of cuda_runtime.h.
#pragma once

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

inline int __clzll(long long x) {
    return x == 0 ? 64 : __builtin_clzll((unsigned long long)(x));
}
inline int __ffsll(long long x) {
    return __builtin_ffsll(x);
}
inline unsigned long long __brevll(unsigned long long x) {
    return (unsigned long long)(__brev(unsigned(x))) << 32 | __brev(unsigned(x >> 32));
}
inline int __mulhi(int a, int b) {
    return int((int64_t(a) * b) >> 32);
}
// The low 24 bits of each.
inline int __mul24(int x, int y) {
    const int64_t a = int(unsigned(x) << 8) >> 8, b = int(unsigned(y) << 8) >> 8;
    return int(a * b);
}
inline unsigned __umul24(unsigned x, unsigned y) {
    return (x & 0xffffff) * (y & 0xffffff);
}
inline unsigned __sad(int x, int y, unsigned z) {
    return z + (x < y ? unsigned(y) - unsigned(x) : unsigned(x) - unsigned(y));
}
inline unsigned __usad(unsigned x, unsigned y, unsigned z) {
    return z + (x < y ? y - x : x - y);
}
inline int __hadd(int x, int y) {
    return int((int64_t(x) + y) >> 1);
}
inline int __rhadd(int x, int y) {
    return int((int64_t(x) + y + 1) >> 1);
}
inline unsigned __uhadd(unsigned x, unsigned y) {
    return unsigned((uint64_t(x) + y) >> 1);
}
inline unsigned __urhadd(unsigned x, unsigned y) {
    return unsigned((uint64_t(x) + y + 1) >> 1);
}
// The high word of high:low, shifted; `c` shifts by 32 at most.
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return unsigned(((uint64_t(high) << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned shift) {
    return shift >= 32 ? low : __funnelshift_l(low, high, shift);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned shift) {
    return shift >= 32 ? high : __funnelshift_r(low, high, shift);
}
// Each nibble of the selector takes one of the eight bytes, or, with its highest bit, that byte's
// sign.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const uint64_t bytes = uint64_t(y) << 32 | x;
    unsigned result = 0;
    for (unsigned i = 0; i < 4; i++) {
        const unsigned pick = selector >> 4 * i;
        const unsigned byte = unsigned(bytes >> 8 * (pick & 7)) & 0xff;
        result |= (pick & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << 8 * i;
    }
    return result;
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda

namespace simt {
inline namespace SIMT_FLAVOUR {

// Calls f(a, b) for the parts of two words, each of type T, and puts the results together.
template <class T, class F> unsigned each_part(unsigned a, unsigned b, F f) {
    constexpr unsigned bits = sizeof(T) * 8, mask = (1u << bits) - 1;
    unsigned result = 0;
    for (unsigned at = 0; at < 32; at += bits)
        result |= (unsigned(f(T(a >> at), T(b >> at))) & mask) << at;
    return result;
}

template <class T> int saturated(int x) {
    constexpr int low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
    return x < low ? low : x > high ? high : x;
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

// Signed and unsigned, of halves and of bytes.
#define SIMT_PARTS(name, S, U)                                                               \
    inline unsigned __vadd##name(unsigned a, unsigned b) {                                   \
        return each_part<U>(a, b, [](int x, int y) { return x + y; });                       \
    }                                                                                        \
    inline unsigned __vsub##name(unsigned a, unsigned b) {                                   \
        return each_part<U>(a, b, [](int x, int y) { return x - y; });                       \
    }                                                                                        \
    inline unsigned __vaddss##name(unsigned a, unsigned b) {                                 \
        return each_part<S>(a, b, [](int x, int y) { return saturated<S>(x + y); });         \
    }                                                                                        \
    inline unsigned __vsubss##name(unsigned a, unsigned b) {                                 \
        return each_part<S>(a, b, [](int x, int y) { return saturated<S>(x - y); });         \
    }                                                                                        \
    inline unsigned __vaddus##name(unsigned a, unsigned b) {                                 \
        return each_part<U>(a, b, [](int x, int y) { return saturated<U>(x + y); });         \
    }                                                                                        \
    inline unsigned __vsubus##name(unsigned a, unsigned b) {                                 \
        return each_part<U>(a, b, [](int x, int y) { return saturated<U>(x - y); });         \
    }                                                                                        \
    inline unsigned __vmins##name(unsigned a, unsigned b) {                                  \
        return each_part<S>(a, b, [](int x, int y) { return x < y ? x : y; });               \
    }                                                                                        \
    inline unsigned __vmaxs##name(unsigned a, unsigned b) {                                  \
        return each_part<S>(a, b, [](int x, int y) { return x < y ? y : x; });               \
    }                                                                                        \
    inline unsigned __vminu##name(unsigned a, unsigned b) {                                  \
        return each_part<U>(a, b, [](int x, int y) { return x < y ? x : y; });               \
    }                                                                                        \
    inline unsigned __vmaxu##name(unsigned a, unsigned b) {                                  \
        return each_part<U>(a, b, [](int x, int y) { return x < y ? y : x; });               \
    }                                                                                        \
    inline unsigned __vavgs##name(unsigned a, unsigned b) {                                  \
        return each_part<S>(a, b, [](int x, int y) { return (x + y + (x + y >= 0)) >> 1; }); \
    }                                                                                        \
    inline unsigned __vavgu##name(unsigned a, unsigned b) {                                  \
        return each_part<U>(a, b, [](int x, int y) { return (x + y + 1) >> 1; });            \
    }                                                                                        \
    inline unsigned __vhaddu##name(unsigned a, unsigned b) {                                 \
        return each_part<U>(a, b, [](int x, int y) { return (x + y) >> 1; });                \
    }                                                                                        \
    inline unsigned __vabsdiffs##name(unsigned a, unsigned b) {                              \
        return each_part<S>(a, b, [](int x, int y) { return x < y ? y - x : x - y; });       \
    }                                                                                        \
    inline unsigned __vabsdiffu##name(unsigned a, unsigned b) {                              \
        return each_part<U>(a, b, [](int x, int y) { return x < y ? y - x : x - y; });       \
    }                                                                                        \
    inline unsigned __vabs##name(unsigned a) {                                               \
        return each_part<S>(a, 0, [](int x, int) { return x < 0 ? -x : x; });                \
    }                                                                                        \
    inline unsigned __vneg##name(unsigned a) {                                               \
        return each_part<S>(a, 0, [](int x, int) { return -x; });                            \
    }                                                                                        \
    inline unsigned __vcmpeq##name(unsigned a, unsigned b) {                                 \
        return each_part<U>(a, b, [](int x, int y) { return x == y ? -1 : 0; });             \
    }                                                                                        \
    inline unsigned __vcmpne##name(unsigned a, unsigned b) {                                 \
        return each_part<U>(a, b, [](int x, int y) { return x != y ? -1 : 0; });             \
    }                                                                                        \
    inline unsigned __vcmpgts##name(unsigned a, unsigned b) {                                \
        return each_part<S>(a, b, [](int x, int y) { return x > y ? -1 : 0; });              \
    }                                                                                        \
    inline unsigned __vcmpgtu##name(unsigned a, unsigned b) {                                \
        return each_part<U>(a, b, [](int x, int y) { return x > y ? -1 : 0; });              \
    }                                                                                        \
    inline unsigned __vcmpges##name(unsigned a, unsigned b) {                                \
        return each_part<S>(a, b, [](int x, int y) { return x >= y ? -1 : 0; });             \
    }                                                                                        \
    inline unsigned __vcmpgeu##name(unsigned a, unsigned b) {                                \
        return each_part<U>(a, b, [](int x, int y) { return x >= y ? -1 : 0; });             \
    }                                                                                        \
    inline unsigned __vsads##name(unsigned a, unsigned b) {                                  \
        unsigned sum = 0;                                                                    \
        each_part<S>(a, b, [&](int x, int y) { return sum += x < y ? y - x : x - y, 0; });   \
        return sum;                                                                          \
    }                                                                                        \
    inline unsigned __vsadu##name(unsigned a, unsigned b) {                                  \
        unsigned sum = 0;                                                                    \
        each_part<U>(a, b, [&](int x, int y) { return sum += x < y ? y - x : x - y, 0; });   \
        return sum;                                                                          \
    }

SIMT_PARTS(2, int16_t, uint16_t)
SIMT_PARTS(4, int8_t, uint8_t)

#undef SIMT_PARTS

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda

namespace simt {
inline namespace SIMT_FLAVOUR {

// c and the products of four bytes; signed if they are.
template <class A, class B, class C> C dot4(unsigned a, unsigned b, C c) {
    unsigned sum = unsigned(c);
    for (unsigned at = 0; at < 32; at += 8)
        sum += unsigned(int(A(a >> at)) * int(B(b >> at)));
    return C(sum);
}
// Of two halves and two bytes of b, the low ones or the high ones.
template <class A, class B, class C> C dot2(unsigned a, unsigned b, C c) {
    return C(unsigned(c) + unsigned(int(A(a)) * int(B(b))) +
             unsigned(int(A(a >> 16)) * int(B(b >> 8))));
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

inline int __dp4a(int a, int b, int c) {
    return dot4<int8_t, int8_t>(unsigned(a), unsigned(b), c);
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    return dot4<uint8_t, uint8_t>(a, b, c);
}
inline int __dp2a_lo(int a, int b, int c) {
    return dot2<int16_t, int8_t>(unsigned(a), unsigned(b), c);
}
inline int __dp2a_hi(int a, int b, int c) {
    return dot2<int16_t, int8_t>(unsigned(a), unsigned(b) >> 16, c);
}
inline unsigned __dp2a_lo(unsigned a, unsigned b, unsigned c) {
    return dot2<uint16_t, uint8_t>(a, b, c);
}
inline unsigned __dp2a_hi(unsigned a, unsigned b, unsigned c) {
    return dot2<uint16_t, uint8_t>(a, b >> 16, c);
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda
