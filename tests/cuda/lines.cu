// Mistakes in functions of CUDA's headers, by number: each is found at the line that calls them. All are
// called twice, so that no compiler moves them to where they are called because it costs nothing.
#include "expect.h"

#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cuda/atomic>
#include <cuda_fp16.h>

namespace cg = cooperative_groups;

__global__ void load(const float *x, float *y) {
    y[threadIdx.x] = __ldg(x + threadIdx.x);
    y[threadIdx.x] += __ldg(x + threadIdx.x + 1);  // 1
}

__global__ void sum(double *all, float *some) {
    atomicAdd(all + 1, 1.0);
    atomicAdd(some, 1.0f);
    if (threadIdx.x == 0)
        *all = 0;
    atomicAdd(all, 1.0);  // 2
    atomicAdd(some + 1, 1.0f);
}

__global__ void count(int *n) {
    cuda::atomic_ref<int, cuda::thread_scope_device> other(n[1]), first(*n);
    other.fetch_add(1);
    if (threadIdx.x == 0)
        *n = 0;
    first.fetch_add(1);  // 3
}

template <class T> __global__ void fetch(const T *x, float *y) {
    __shared__ T tile[64];
    cg::memcpy_async(cg::this_thread_block(), tile, x, sizeof tile / 2);
    cg::memcpy_async(cg::this_thread_block(), tile, x, 2 * sizeof tile);  // 4
    cg::wait(cg::this_thread_block());
    y[threadIdx.x] = float(tile[threadIdx.x]);
}

int main(int argc, char **argv) {
    float *x, *y;
    CHECK(cudaMalloc(&x, 32 * sizeof *x));
    CHECK(cudaMalloc(&y, 32 * sizeof *y));
    CHECK(cudaMemset(x, 0, 32 * sizeof *x));
    CHECK(cudaMemset(y, 0, 32 * sizeof *y));
    switch (argc > 1 ? atoi(argv[1]) : 0) {
    case 1:
        load<<<1, 32>>>(x, y);
        break;
    case 2:
        sum<<<1, 64>>>((double *)x, y);
        break;
    case 3:
        count<<<1, 64>>>((int *)x);
        break;
    case 4:
        fetch<<<1, 32>>>((half *)x, y);
        break;
    }
    cudaDeviceSynchronize();
    cudaFree(x);
    cudaFree(y);
}
