// Address space and addresses of code, for those who look at what kernels do.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

// Where the program starts, or the library that the executor is in.
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

// A library with kernels that was loaded after the program, if one was: where it starts.
inline uintptr_t library_start = 0;

// Sites of the program's code come first, then those of the library's: all fit into 32 bits.
constexpr uint64_t LIBRARY_SITES = uint64_t(1) << 31;

inline uint64_t site_of(uintptr_t code) {
    const uintptr_t call = code - 1;  // within the call, not behind it
    const uint64_t site = call - uintptr_t(__ehdr_start);
    return site < LIBRARY_SITES ? site : LIBRARY_SITES + (call - library_start);
}

}  // namespace simt
