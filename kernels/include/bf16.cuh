// bfloat16 as storage: the upper half of an f32. Arithmetic is done in f32; a value is rounded once,
// to nearest even, when it is stored.
#pragma once

#include "kernel.cuh"

struct alignas(2) bf16 {
    uint16_t bits;
};

// Eight of them, what one thread loads or stores at once (16 bytes).
struct alignas(16) bf16x8 {
    bf16 v[8];
};

DEVICE float to_float(bf16 x) {
    return __uint_as_float(uint32_t(x.bits) << 16);
}

DEVICE bf16 to_bf16(float x) {
#ifdef __CUDACC__
    bf16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(x));
    return r;
#else
    uint32_t u = __float_as_uint(x);
    if (x != x) return {0x7fff};  // as the instruction does
    return {uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16)};
#endif
}

// The value that storing and loading x gives.
DEVICE float rounded(float x) {
    return to_float(to_bf16(x));
}
