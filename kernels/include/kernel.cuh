// What every kernel file includes first. The same source is compiled by nvcc for GPUs and, without
// __CUDACC__, by the host's C++ compiler for the SIMT executor (kernels/simt/), which supplies the
// CUDA built-ins.
//
//   KERNEL(name, threads)(arguments) { ... }   a kernel that is launched with at most so many threads
//   KERNEL_BLOCKS(name, threads, blocks)(...)  so many of whose blocks fit on a multiprocessor: what
//                                              the compiler may give a thread of registers
//   EXPORT(name)                               after it: makes the host executor know it by name
//   SHARED(float, tile, [32][33]);             static shared memory; before any divergent branch
//   DYNAMIC_SHARED(float, tile);               what the launch asked for, 16-byte aligned
#pragma once

#ifdef __CUDACC__

#include <cstdint>

#define KERNEL(name, threads) extern "C" __global__ void __launch_bounds__(threads) name
#define KERNEL_BLOCKS(name, threads, blocks)                                                       \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name
#define EXPORT(name)
#define SHARED(type, name, ...) __shared__ type name __VA_ARGS__
#define DYNAMIC_SHARED(type, name)                                      \
    extern __shared__ __align__(16) unsigned char dynamic_shared_[];    \
    type *name = reinterpret_cast<type *>(dynamic_shared_)
#define DEVICE __device__ __forceinline__

#else

#include "../simt/simt.h"

#endif
