// Asynchronous copies by the functions that begin with __pipeline.
#pragma once

#include "async_copies.h"
#include "names_begin.h"

// The last `zeros` bytes are zeros.
SIMT_INLINE void __pipeline_memcpy_async(void *shared, const void *global, size_t size,
                                         size_t zeros = 0, SIMT_SITE) {
    simt_copy_part(shared, global, size, size - zeros, line, file);
}

inline void __pipeline_commit() {
    simt_copy_commit();
}

inline void __pipeline_wait_prior(size_t groups) {
    simt_copy_wait(groups);
}

#include "names_end.h"
