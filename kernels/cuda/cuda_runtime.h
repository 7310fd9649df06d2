// What a CUDA C++ program of one's own includes in place of NVIDIA's header of that name: the
// executor's device side (../simt/simt.h), launches, and the part of the runtime API that runs here.
// The functions are runtime.cpp's.
#pragma once

// Before the profiler's macros for functions that <math.h> declares.
#include <math.h>

#include "../simt/simt.h"

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tuple>

// Those are for the kernels of this repository.
#undef KERNEL
#undef KERNEL_BLOCKS
#undef EXPORT
#undef SHARED
#undef DYNAMIC_SHARED
#undef DEVICE
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

#define __constant__
#define __managed__
#define __CUDACC__ 1
#define __NVCC__ 1
#define CUDART_VERSION 13000
#define CUDART_CB
// Programs ask whether headers were included.
#define __CUDA_RUNTIME_H__
#define __CUDA_RUNTIME_API_H__
#define __DRIVER_TYPES_H__
#define __VECTOR_TYPES_H__

// Objects, and no macros: programs have variables of these names.
#define SIMT_BUILT_IN(type, name, symbol) \
    extern __thread const type name __asm__(symbol) __attribute__((tls_model("initial-exec")))
SIMT_BUILT_IN(uint3, threadIdx, "simt_position");
SIMT_BUILT_IN(uint3, blockIdx, "simt_block_index");
SIMT_BUILT_IN(dim3, blockDim, "simt_block_dim");
SIMT_BUILT_IN(dim3, gridDim, "simt_grid_dim");
#undef SIMT_BUILT_IN

#include "runtime_api.h"

#include "launch.h"

#include "math_functions.h"

#include "integer_functions.h"

#include "rounding_functions.h"

#include "memory_functions.h"

#include "warp_functions.h"

#include "vector_functions.h"

// Of programs it is a wish: such a function may call itself, or be called through its address.
#undef __forceinline__
#define __forceinline__ inline
