// How a kernel tells the host an instance's loss: one 64-bit word in pinned host memory, written by
// one store while the step is still running.
//
//   bits 0..31    the loss, f32
//   bits 32..62   the tag (step + 1) & 0x7fffffff
//   bit  63       the network's top guess was right
//
// Aligned stores of 8 bytes are single-copy atomic at system scope, so the host sees either the
// word with this step's tag or not: the record validates itself, with no flag and no fence. It says
// nothing about other memory, which is why relaxed is enough. See src/assist/ring.rs.
#pragma once

#include "kernel.cuh"

DEVICE uint64_t record_word(float loss, bool right, uint64_t step) {
    uint32_t high = (uint32_t(step + 1) & 0x7fffffffu) | uint32_t(right) << 31;
    return uint64_t(high) << 32 | __float_as_uint(loss);
}

DEVICE void store_word(uint64_t *p, uint64_t word) {
#ifdef __CUDACC__
    asm volatile("st.relaxed.sys.global.b64 [%0], %1;"
                 :
                 : "l"(__cvta_generic_to_global(p)), "l"(word)
                 : "memory");
#else
    // Release, because here the host learns of everything before it through this word alone.
    __atomic_store_n(p, word, __ATOMIC_RELEASE);
#endif
}

DEVICE void store_record(uint64_t *p, float loss, bool right, uint64_t step) {
    store_word(p, record_word(loss, right, step));
}
