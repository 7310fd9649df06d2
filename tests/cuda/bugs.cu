// Three bugs out of textbooks, by number.
#include <cstdio>
#include <cstdlib>
#include <cuda_runtime.h>

// 1: the tail. The last block writes past the end.
__global__ void twice(const float *x, float *y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n)
        y[i] = 2 * x[i]; // 1
}

// 2: shared memory that nobody has written: the halo's right end.
__global__ void blur(const float *x, float *y, int n) {
    __shared__ float near[130];
    const int i = blockIdx.x * 128 + threadIdx.x;
    near[threadIdx.x + 1] = i < n ? x[i] : 0;
    if (threadIdx.x == 0)
        near[0] = i > 0 ? x[i - 1] : 0;
    __syncthreads();
    if (i < n)
        y[i] = (near[threadIdx.x] + near[threadIdx.x + 1] + near[threadIdx.x + 2]) / 3; // 2
}

// 3: a reduction within a warp that has no barrier between its steps.
__global__ void largest(const float *x, float *y) {
    __shared__ float part[32];
    part[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    for (int half = 16; half > 0; half /= 2)
        if (threadIdx.x < half)
            part[threadIdx.x] = fmaxf(part[threadIdx.x], part[threadIdx.x + half]); // 3
    if (threadIdx.x == 0)
        *y = part[0];
}

int main(int argc, char **argv) {
    const int n = 1000;
    float host[n], *x, *y;
    for (int i = 0; i < n; i++)
        host[i] = float(i % 13);
    cudaMalloc(&x, sizeof host);
    cudaMalloc(&y, sizeof host);
    cudaMemcpy(x, host, sizeof host, cudaMemcpyHostToDevice);
    switch (argc > 1 ? atoi(argv[1]) : 0) {
    case 1:
        twice<<<8, 128>>>(x, y, n);
        break;
    case 2:
        blur<<<8, 128>>>(x, y, n);
        break;
    case 3:
        largest<<<1, 32>>>(x, y);
        break;
    }
    const cudaError_t error = cudaDeviceSynchronize();
    printf("%s\n", cudaGetErrorString(error));
    cudaFree(x);
    cudaFree(y);
}
