// The sum of n numbers, a block 256 of them, with a barrier missing.
#include <cstdio>
#include <cuda_runtime.h>

__global__ void sum(const int *x, int *total, int n) {
    __shared__ int part[256];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    part[threadIdx.x] = i < n ? x[i] : 0;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half)
            part[threadIdx.x] += part[threadIdx.x + half];
    }
    if (threadIdx.x == 0)
        atomicAdd(total, part[0]);
}

int main() {
    const int n = 10000;
    int *x, *total;
    cudaMallocManaged(&x, n * sizeof(int));
    cudaMallocManaged(&total, sizeof(int));
    for (int i = 0; i < n; i++)
        x[i] = i % 7;
    *total = 0;
    sum<<<(n + 255) / 256, 256>>>(x, total, n);
    cudaDeviceSynchronize();
    printf("%d\n", *total);
    cudaFree(x);
    cudaFree(total);
}
