// Address space and addresses of code, for those who look at what kernels do.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

// Where the program, or the library that the executor is in, starts.
extern "C" const char __ehdr_start[] __attribute__((visibility("hidden")));

namespace simt {

// Zeros, which are no memory until they are used.
template <class T> inline T *reserve(size_t count) {
    void *p = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        throw std::bad_alloc();
    return static_cast<T *>(p);
}

inline uint64_t site_of(uintptr_t code) {
    return code - 1 - uintptr_t(__ehdr_start);  // within the call, not behind it
}

}  // namespace simt
