// CUDA for the host's compiler: what a kernel source sees in place of nvcc's built-ins when it is
// compiled for the SIMT executor. Threads are fibers; whatever makes a thread wait for others ends
// in one of two functions of block.cpp, block_barrier and warp_collective.
#pragma once

#include "abi.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define DEVICE inline
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define __grid_constant__

#define KERNEL(name, threads)                                \
    static constexpr uint32_t name##_max_threads = threads; \
    static void name
#define EXPORT(name)                                                         \
    extern "C" const SimtKernel simt_kernel_##name;                          \
    const SimtKernel simt_kernel_##name = {                                  \
        #name, __FILE__, name##_max_threads, simt::Parameters<name>::count, \
        simt::Parameters<name>::sizes, simt::Parameters<name>::call};

// Every thread of a block passes the same declarations in the same order, so that counting bytes
// gives them all the same place.
#define SHARED(type, name, ...) \
    auto &name = *static_cast<type(*) __VA_ARGS__>(simt::shared(sizeof(type __VA_ARGS__)))
#define DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(simt::dynamic_shared())

// Where in the source a primitive is called.
#define SIMT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define SIMT_HERE simt::Site{file, line}

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(4) uchar4 {
    unsigned char x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace simt {

struct Site {
    const char *file;
    int line;
    bool operator==(const Site &o) const { return line == o.line && !strcmp(file, o.file); }
};

// What a running thread can ask about itself without a call. Set at every switch of fibers, which
// are all of one OS thread while a block runs.
struct Builtins {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
};
extern thread_local Builtins builtins;

// The next `bytes` of the block's static shared memory, as this thread counts them.
void *shared(size_t bytes);
void *dynamic_shared();

// A kind of warp-wide operation. `run` is called once, when all lanes of `mask` are there, with each
// one's argument.
struct Collective {
    const char *name;
    void (*run)(void *const *args, uint32_t mask);
};
// Waits until all lanes of the mask have come with the same kind, and runs it.
void warp_collective(uint32_t mask, const Collective &kind, void *arg, Site site);

enum class Vote { None, Or, And, Count };
// Waits for all threads of the block that have not returned, and combines their predicates.
int block_barrier(Vote vote, int predicate, Site site);

// Ends the launch with this message about the calling thread.
[[noreturn]] void fail(const char *what, Site site);

// A kernel's parameters, and a call of it with the arguments that cuLaunchKernel takes.
template <auto Kernel> struct Parameters;
template <class... A, void (*Kernel)(A...)> struct Parameters<Kernel> {
    static constexpr uint32_t count = sizeof...(A);
    static constexpr uint32_t sizes[] = {uint32_t(sizeof(A))..., 0};

    template <size_t... I> static void unpack(void **args, std::index_sequence<I...>) {
        Kernel(*static_cast<std::remove_cv_t<A> *>(args[I])...);
    }
    static void call(void **args) { unpack(args, std::index_sequence_for<A...>{}); }
};

}  // namespace simt

#define threadIdx (simt::builtins.thread)
#define blockIdx (simt::builtins.block)
#define blockDim (simt::builtins.block_dim)
#define gridDim (simt::builtins.grid_dim)
constexpr int warpSize = 32;

[[noreturn]] inline void __trap(SIMT_SITE) { simt::fail("__trap", SIMT_HERE); }

#include "intrinsics.h"
