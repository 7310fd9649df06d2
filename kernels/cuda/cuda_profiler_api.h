// Where NVIDIA's profilers begin and end. `kernels profile` looks at everything.
#pragma once

#include "cuda_runtime.h"

inline cudaError_t cudaProfilerStart() {
    return cudaSuccess;
}
inline cudaError_t cudaProfilerStop() {
    return cudaSuccess;
}
