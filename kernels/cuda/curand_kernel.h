// Random numbers in kernels: Philox4x32-10 (Salmon et al., SC11) and XORWOW (Marsaglia, 2003), with
// cuRAND's seeding, subsequences and transformations.
#pragma once

#include "cuda_runtime.h"

#include <array>
#include "names_begin.h"

namespace simt::random {

// One after the other, in fours.
struct Philox {
    uint4 counter, output;
    uint2 key;
    unsigned used;  // of the output
    unsigned has_normal;
    float normal;
    unsigned unused[3];  // States are copied as a whole: without a byte that nobody has written.

    static uint4 rounds(uint4 c, uint2 k) {
        for (int round = 0; round < 10; round++) {
            const uint64_t a = uint64_t(0xd2511f53u) * c.x, b = uint64_t(0xcd9e8d57u) * c.z;
            c = {unsigned(b >> 32) ^ c.y ^ k.x, unsigned(b), unsigned(a >> 32) ^ c.w ^ k.y,
                 unsigned(a)};
            k.x += 0x9e3779b9u;
            k.y += 0xbb67ae85u;
        }
        return c;
    }
    SIMT_INLINE void seed(uint64_t seed, uint64_t subsequence, uint64_t offset) {
        key = {unsigned(seed), unsigned(seed >> 32)};
        const uint64_t blocks = offset / 4;
        counter = {unsigned(blocks), unsigned(blocks >> 32), unsigned(subsequence),
                   unsigned(subsequence >> 32)};
        used = unsigned(offset % 4);
        output = rounds(counter, key);
        has_normal = 0, normal = 0;
        unused[0] = unused[1] = unused[2] = 0;
    }
    SIMT_INLINE unsigned next() {
        const unsigned all[] = {output.x, output.y, output.z, output.w};
        const unsigned number = all[used++];
        if (used == 4) {
            used = 0;
            step();
            output = rounds(counter, key);
        }
        return number;
    }

private:
    SIMT_INLINE void step() {
        if (++counter.x == 0 && ++counter.y == 0 && ++counter.z == 0)
            ++counter.w;
    }
};

// The five words of XORWOW's shift register are changed by a matrix over GF(2): row i is what the
// register becomes of its bit i alone.
using Register = std::array<unsigned, 5>;
using Matrix = std::array<Register, 160>;

SIMT_INLINE void shift(Register &v) {
    const unsigned t = v[0] ^ v[0] >> 2;
    v = {v[1], v[2], v[3], v[4], v[4] ^ v[4] << 4 ^ t ^ t << 1};
}

SIMT_UNCHECKED inline Register times(const Register &v, const Matrix &matrix) {
    Register sum = {};
    for (unsigned i = 0; i < 160; i++)
        if (v[i / 32] >> i % 32 & 1)
            for (unsigned word = 0; word < 5; word++)
                sum[word] ^= matrix[i][word];
    return sum;
}

// Those of 2^i steps. Made when the program is loaded, since kernels have no memory for it.
struct Powers {
    static constexpr unsigned COUNT = 67 + 64, SUBSEQUENCE = 67;
    Matrix of_two[COUNT];

    SIMT_UNCHECKED Powers() {
        for (unsigned i = 0; i < 160; i++) {
            Register bit = {};
            bit[i / 32] = 1u << i % 32;
            shift(bit);
            of_two[0][i] = bit;
        }
        for (unsigned power = 1; power < COUNT; power++)
            for (unsigned i = 0; i < 160; i++)
                of_two[power][i] = times(of_two[power - 1][i], of_two[power - 1]);
    }
    // So many times 2^first steps.
    SIMT_INLINE void skip(Register &v, uint64_t count, unsigned first) const {
        for (; count != 0; count >>= 1, first++)
            if (count & 1)
                v = times(v, of_two[first]);
    }
};

inline const Powers POWERS;

struct Xorwow {
    unsigned weyl;
    Register v;
    unsigned has_normal;
    float normal;

    SIMT_INLINE void seed(uint64_t seed, uint64_t subsequence, uint64_t offset) {
        const unsigned a = 1099087573u * (unsigned(seed) ^ 0xaad26b49u);
        const unsigned b = 2591861531u * (unsigned(seed >> 32) ^ 0xf7dcefddu);
        weyl = 6615241u + a + b;
        v = {123456789u + a, 362436069u ^ a, 521288629u + b, 88675123u ^ b, 5783321u + a};
        has_normal = 0, normal = 0;
        if (subsequence != 0)
            POWERS.skip(v, subsequence, Powers::SUBSEQUENCE);
        skip(offset);
    }
    SIMT_INLINE void skip(uint64_t count) {
        if (count != 0)
            POWERS.skip(v, count, 0);
        weyl += unsigned(count) * 362437u;
    }
    SIMT_INLINE unsigned next() {
        shift(v);
        weyl += 362437u;
        return v[4] + weyl;
    }
};

// Of (0, 1].
inline float uniform(unsigned x) {
    return float(x) * 0x1p-32f + 0x1p-33f;
}
inline double uniform(unsigned x, unsigned y) {
    const uint64_t z = uint64_t(x) ^ uint64_t(y) << (53 - 32);
    return double(z) * 0x1p-53 + 0x1p-54;
}
// Box and Muller's two.
inline float2 normals(unsigned x, unsigned y) {
    const float size = sqrtf(-2 * logf(uniform(x)));
    const float angle = float(y) * (0x1p-32f * 6.2831855f) + 0x1p-33f * 6.2831855f;
    float2 two;
    sincosf(angle, &two.x, &two.y);
    return {two.x * size, two.y * size};
}

}  // namespace simt::random

using curandStatePhilox4_32_10_t = simt::random::Philox;
using curandStatePhilox4_32_10 = simt::random::Philox;
using curandStateXORWOW_t = simt::random::Xorwow;
using curandStateXORWOW = simt::random::Xorwow;
using curandState_t = simt::random::Xorwow;
using curandState = simt::random::Xorwow;

template <class State>
SIMT_INLINE void curand_init(unsigned long long seed, unsigned long long subsequence,
                             unsigned long long offset, State *state) {
    state->seed(seed, subsequence, offset);
}

template <class State> SIMT_INLINE unsigned curand(State *state) {
    return state->next();
}

template <class State> SIMT_INLINE float curand_uniform(State *state) {
    return simt::random::uniform(state->next());
}

template <class State> SIMT_INLINE double curand_uniform_double(State *state) {
    const unsigned x = state->next();
    return simt::random::uniform(x, state->next());
}

template <class State> SIMT_INLINE float2 curand_normal2(State *state) {
    const unsigned x = state->next();
    return simt::random::normals(x, state->next());
}

// The second of two waits for the next call.
template <class State> SIMT_INLINE float curand_normal(State *state) {
    if (state->has_normal) {
        state->has_normal = 0;
        return state->normal;
    }
    const float2 two = curand_normal2(state);
    state->has_normal = 1;
    state->normal = two.y;
    return two.x;
}

template <class State>
SIMT_INLINE float curand_log_normal(State *state, float mean, float deviation) {
    return expf(mean + deviation * curand_normal(state));
}

SIMT_INLINE uint4 curand4(simt::random::Philox *state) {
    const unsigned x = state->next(), y = state->next(), z = state->next();
    return {x, y, z, state->next()};
}

SIMT_INLINE float4 curand_uniform4(simt::random::Philox *state) {
    const uint4 four = curand4(state);
    return {simt::random::uniform(four.x), simt::random::uniform(four.y),
            simt::random::uniform(four.z), simt::random::uniform(four.w)};
}

SIMT_INLINE float4 curand_normal4(simt::random::Philox *state) {
    const uint4 four = curand4(state);
    const float2 first = simt::random::normals(four.x, four.y);
    const float2 last = simt::random::normals(four.z, four.w);
    return {first.x, first.y, last.x, last.y};
}

SIMT_INLINE void skipahead(unsigned long long count, simt::random::Xorwow *state) {
    state->skip(count);
}

#include "names_end.h"
