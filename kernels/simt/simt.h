// What kernel sources see in place of CUDA when the host's C++ compiler compiles them:
// kernels/include/kernel.cuh includes this. It declares what CUDA has built in, under CUDA's names
// and with CUDA's types, so that the sources need no change. How it all runs: block.cpp.
//
// What is not modelled: threads run one at a time and give way only at barriers and warp
// collectives, so a thread that spins until another has stored something spins for ever, and so
// does a block that waits for another block.
#pragma once

#include "abi.h"
#include "functions.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

// Inline functions are emitted into every object that uses them, and the linker keeps any one of
// them. An instrumented build of the same kernels sets another name, so that its own survive.
#ifndef SIMT_FLAVOUR
#define SIMT_FLAVOUR plain
#endif
// What a kernel's description is called.
#ifndef SIMT_KERNEL
#define SIMT_KERNEL(name) simt_kernel_##name
#endif

#define __host__
#define __device__
#define __grid_constant__
// For whatever accesses a program's memory: of a function by itself the access would have no line of the
// program's.
#define SIMT_INLINE inline __attribute__((always_inline))
#define __forceinline__ SIMT_INLINE
#define __align__(n) __attribute__((aligned(n)))
#define DEVICE __forceinline__
// What the executor does in a kernel's object. A checked launch need not look at it.
#define SIMT_UNCHECKED __attribute__((no_sanitize("thread", "undefined")))

#define KERNEL(name, threads)                              \
    static constexpr uint32_t name##_max_threads_ = threads; \
    static void name

#define KERNEL_BLOCKS(name, threads, blocks) KERNEL(name, threads)

// `extern` twice, because a const object is not global by itself.
#define EXPORT(name)                                                                      \
    extern "C" {                                                                          \
    extern const SimtKernel SIMT_KERNEL(name);                                            \
    const SimtKernel SIMT_KERNEL(name) =                                                  \
        simt::Described<decltype(&name), &name>::kernel(#name, __FILE__, name##_max_threads_); \
    }

// One variable for all threads of the block. As on the device, a declaration is one place in memory
// however often and wherever it is passed.
#define SHARED(type, name, ...)                                    \
    static simt::SharedVariable name##_shared_ = {{0}, #name};     \
    auto &name = simt::shared<type __VA_ARGS__>(name##_shared_)

#define DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(simt_dynamic_shared())

// Every primitive ends in these parameters, which say where it stands in the source.
#define SIMT_SITE int line = __builtin_LINE(), const char *file = __builtin_FILE()

namespace simt {

// The lanes of a warp that have met in a collective operation.
struct Lanes {
    uint32_t mask;   // that take part: those of the mask that have not returned
    void *arg[32];   // what each of them brought; it lives until the operation is over
    // Ends the launch with an error that is the lane's fault.
    [[noreturn]] void fail(int lane, const char *format, ...) const
        __attribute__((format(printf, 3, 4)));
};

// An operation of a warp, or a barrier of the block (whose `run` is null). Objects are compared by
// address.
struct Collective {
    const char *name;
    void (*run)(const Lanes &);  // reads and writes what the lanes brought
    bool orders = false;         // the lanes' accesses to memory before it and after it
    uint64_t flops = 0;          // of all lanes
};

// wgmma, as a warp issues it.
struct Wgmma {
    float *d[32];                // of each lane, 4 for each of the tiles
    int tiles;                   // 8 columns each
    const unsigned char *a, *b;  // the first element
    bool outer_a, outer_b;       // whether K is outermost in them
    bool add;
};

// A declaration of static shared memory.
struct SharedVariable {
    std::atomic<uint64_t> place;  // launch and offset; see simt_shared
    const char *name;
};

}  // namespace simt

// The executor, as kernels call it.
extern "C" {
// Waits until all lanes of the mask that have not returned are at the same operation with the same
// mask; the last of them runs it. The place for tensor-core and asynchronous-copy instructions.
void simt_warp_collective(uint32_t mask, const simt::Collective *kind, void *arg, int line,
                          const char *file);
// Waits until all threads of the block that have not returned are at the same barrier.
void simt_block_barrier(const simt::Collective *kind, bool vote, int line, const char *file);
// How many threads brought `vote` to the barrier that the caller has just left.
int simt_block_votes();
void *simt_shared(simt::SharedVariable *variable, size_t size, size_t align, int line,
                  const char *file);
void *simt_dynamic_shared();
[[noreturn]] void simt_trap(int line, const char *file);
bool simt_shared_holds(const void *p, size_t size);
void simt_copy_async(void *shared, const void *global, bool there, int line, const char *file);
void simt_copy_commit();
void simt_copy_wait(uint64_t keep);
// In a checked launch: an operation is about to access memory on behalf of a lane.
void simt_check(int lane, const void *p, size_t size, bool write);
// mbarriers in shared memory, and copies that complete on them; see engines.h.
void simt_mbarrier_init(uint64_t *barrier, uint32_t arrivals, int line, const char *file);
void simt_mbarrier_arrive(uint64_t *barrier, uint32_t bytes, int line, const char *file);
// Waits until the phase of that parity is complete.
void simt_mbarrier_wait(uint64_t *barrier, uint32_t parity, int line, const char *file);
void simt_tma_load(void *shared, const void *map, int column, int row, uint64_t *barrier, int line,
                   const char *file);
// For the operations of wgmma.
void simt_wgmma_issue(const simt::Lanes &lanes, const simt::Wgmma &wgmma);
void simt_wgmma_commit();
void simt_wgmma_wait(uint64_t keep);
// Do nothing. In kernels for profiled launches they mark the places where functions are called of
// which the profiler cannot see what they do.
void simt_special();
void simt_fused();
}

#include "types.h"

#include "intrinsics.h"

#include "warp.h"

#include "tensor.h"

#include "hopper.h"

namespace simt {
inline namespace SIMT_FLAVOUR {

template <class T> T &shared(SharedVariable &variable, SIMT_SITE) {
    using Element = std::remove_all_extents_t<T>;
    static_assert(std::is_trivially_default_constructible_v<Element> &&
                      std::is_trivially_destructible_v<Element>,
                  "shared memory is not initialised");
    return *static_cast<T *>(simt_shared(&variable, sizeof(T), alignof(T), line, file));
}

template <class F, F kernel> struct Described;

// How a kernel is called with cuLaunchKernel's arguments.
template <class... A, void (*function)(A...)> struct Described<void (*)(A...), function> {
    static_assert((std::is_trivially_copyable_v<A> && ...), "arguments are copied as bytes");
    static constexpr uint32_t sizes[] = {uint32_t(sizeof(A))..., 0};

    template <size_t... I>
    SIMT_UNCHECKED static void unpack([[maybe_unused]] void **args, std::index_sequence<I...>) {
        function(*static_cast<std::remove_cv_t<A> *>(args[I])...);
    }
    SIMT_UNCHECKED static void call(void **args) {
        unpack(args, std::index_sequence_for<A...>{});
    }
    static constexpr SimtKernel kernel(const char *name, const char *file, uint32_t max_threads) {
        return {name, file, max_threads, uint32_t(sizeof...(A)), sizes, &call};
    }
};

// Where the thread is, written by the executor whenever it lets another thread run: threadIdx,
// blockIdx, blockDim, gridDim, four words each. Thread-local, symbol simt_position. For one CUDA
// thread they are constants, and an asm without inputs tells the compiler so: it may read them once
// and keep them over barriers.
template <int offset> DEVICE unsigned position_word() {
    uint64_t v;
    asm("movq simt_position@gottpoff(%%rip), %0\n\tmovl %%fs:%c1(%0), %k0" : "=r"(v) : "i"(offset));
    return unsigned(v);
}

template <int offset> DEVICE cuda::uint3 position() {
    return {position_word<offset>(), position_word<offset + 4>(), position_word<offset + 8>()};
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt

#define threadIdx (simt::position<0>())
#define blockIdx (simt::position<16>())
#define blockDim (simt::cuda::dim3(simt::position<32>()))
#define gridDim (simt::cuda::dim3(simt::position<48>()))

// CUDA has these at global scope.
using namespace simt::cuda;

#ifdef SIMT_MARKED
#define expf(x) (simt_special(), (expf)(x))
#define exp2f(x) (simt_special(), (exp2f)(x))
#define logf(x) (simt_special(), (logf)(x))
#define log2f(x) (simt_special(), (log2f)(x))
#define log1pf(x) (simt_special(), (log1pf)(x))
#define tanhf(x) (simt_special(), (tanhf)(x))
#define erff(x) (simt_special(), (erff)(x))
#define fmaf(x, y, z) (simt_fused(), (fmaf)(x, y, z))
#endif
