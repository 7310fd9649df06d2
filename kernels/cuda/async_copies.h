// Asynchronous copies into shared memory, of 4, 8 or 16 bytes each, and copies of more made of them.
#pragma once

#include "cuda_runtime.h"

// As NVIDIA's headers for groups, barriers and pipelines do; programs count on it.
#include <new>
#include "names_begin.h"

extern "C" {

// Copies `there` bytes, and zeros up to `size`.
void simt_copy_part(void *shared, const void *global, size_t size, size_t there, int line,
                    const char *file);
// The parity of the phase of an mbarrier that is under way.
uint32_t simt_mbarrier_parity(const uint64_t *barrier, int line, const char *file);

}  // extern "C"

namespace simt {

// One thread's copy. What cannot be asynchronous on a GPU, by place or alignment, is not.
SIMT_INLINE void copy_any(void *to, const void *from, size_t size, int line, const char *file) {
    auto *target = static_cast<unsigned char *>(to);
    auto *source = static_cast<const unsigned char *>(from);
    const bool inwards = simt_shared_holds(to, size) && !simt_shared_holds(from, 1);
    const uintptr_t places = uintptr_t(to) | uintptr_t(from);
    while (size > 0) {
        size_t piece = 16;
        while (piece > size || places % piece != 0)
            piece /= 2;
        if (inwards && piece >= 4) {
            simt_copy_part(target, source, piece, piece, line, file);
        } else {
            piece = 1;
            *target = *source;
        }
        target += piece, source += piece, size -= piece;
    }
}

// What threads copy together: each takes every so many pieces of 16 bytes.
template <class Group>
SIMT_INLINE void copy_any(const Group &group, void *to, const void *from, size_t size, int line,
                          const char *file) {
    for (size_t at = group.thread_rank() * size_t(16); at < size; at += group.size() * size_t(16))
        copy_any(static_cast<char *>(to) + at, static_cast<const char *>(from) + at,
                 size - at < 16 ? size - at : 16, line, file);
}

}  // namespace simt

#include "names_end.h"
