// Accesses of every kind that CUDA C++ has, each of them a mistake. `kernels check` launches these
// first, and says "0 findings" only if it has seen them all: a compiler that moves, merges or
// forgets accesses before it calls the checker would hide what is wrong with other kernels, too.
// src/workbench/check/sight.rs has what is to be found.
//
// One block of 64 threads; `from` is memory without contents, `to` is zeros. So each read of `from`
// is one of uninitialised memory, and each write of `to` a race between all threads.
#include "../include/bf16.cuh"

#include <cstring>

// Read by all, used by one. Thread 0 has written it, and there is no barrier.
KERNEL(sight_read_for_one, 64)(const char *, float *to) {
    SHARED(float, shared, [1]);
    if (threadIdx.x == 0)
        shared[0] = 1;
    const float v = shared[0];
    if (threadIdx.x == 0)
        *to = v;
}
EXPORT(sight_read_for_one)

// The same as one of two values.
KERNEL(sight_read_to_choose, 64)(const char *, float *to) {
    SHARED(float, shared, [2]);
    if (threadIdx.x == 0)
        shared[0] = 1;
    const float v = shared[0], w = to[64];
    to[threadIdx.x] = threadIdx.x == 0 ? v : w;
}
EXPORT(sight_read_to_choose)

// The same by a function that all threads call.
static DEVICE float first_of(const float *shared) {
    return shared[0];
}

KERNEL(sight_read_by_function, 64)(const char *, float *to) {
    SHARED(float, shared, [1]);
    if (threadIdx.x == 0)
        shared[0] = 1;
    const float v = first_of(shared);
    if (threadIdx.x == 0)
        *to = v;
}
EXPORT(sight_read_by_function)

// What a sum reads before it writes.
KERNEL(sight_sum, 64)(float *from, float *) {
    from[0] += 1;
}
EXPORT(sight_sum)

// Assignments of scalars, vectors and structs.

template <class T> static DEVICE void assign(const char *from, float *to) {
    *reinterpret_cast<T *>(to) = *reinterpret_cast<const T *>(from);
}

template <int N> struct Words {
    float v[N];
};

struct alignas(32) Wide {
    double v[4];
};

#define ASSIGN(name, ...)                                    \
    KERNEL(sight_##name, 64)(const char *from, float *to) {  \
        assign<__VA_ARGS__>(from, to);                       \
    }
ASSIGN(byte, unsigned char)
EXPORT(sight_byte)
ASSIGN(half, bf16)
EXPORT(sight_half)
ASSIGN(word, float)
EXPORT(sight_word)
ASSIGN(double, double)
EXPORT(sight_double)
ASSIGN(vector, float4)
EXPORT(sight_vector)
ASSIGN(wide_vector, Wide)
EXPORT(sight_wide_vector)
ASSIGN(struct_12, Words<3>)
EXPORT(sight_struct_12)
ASSIGN(struct_64, Words<16>)
EXPORT(sight_struct_64)
ASSIGN(struct_4096, Words<1024>)
EXPORT(sight_struct_4096)

// Copies by name.

#define COPY(name, copy)                                     \
    KERNEL(sight_##name, 64)(const char *from, float *to) {  \
        copy;                                                \
    }
COPY(memcpy_8, memcpy(to, from, 8))
EXPORT(sight_memcpy_8)
COPY(memcpy_12, memcpy(to, from, 12))
EXPORT(sight_memcpy_12)
COPY(memcpy_64, std::memcpy(to, from, 64))
EXPORT(sight_memcpy_64)
COPY(memcpy_4096, memcpy(to, from, 4096))
EXPORT(sight_memcpy_4096)
COPY(memmove_64, memmove(to, from, 64))
EXPORT(sight_memmove_64)
COPY(memset_12, memset(to, 0, 12))
EXPORT(sight_memset_12)
COPY(memset_64, memset(to, 0, 64))
EXPORT(sight_memset_64)
COPY(memset_4096, std::memset(to, 1, 4096))
EXPORT(sight_memset_4096)
