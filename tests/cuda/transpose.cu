// The transpose of a matrix by tiles of 32 x 32 in shared memory: right, with bank conflicts.
#include <cstdio>
#include <cuda_runtime.h>

constexpr int TILE = 32, ROWS = 8;

__global__ void transpose(const float *from, float *to, int n) {
    __shared__ float tile[TILE][TILE];
    const int x = blockIdx.x * TILE + threadIdx.x, y = blockIdx.y * TILE + threadIdx.y;
    for (int i = 0; i < TILE; i += ROWS)
        tile[threadIdx.y + i][threadIdx.x] = from[(y + i) * n + x];
    __syncthreads();
    const int u = blockIdx.y * TILE + threadIdx.x, v = blockIdx.x * TILE + threadIdx.y;
    for (int i = 0; i < TILE; i += ROWS)
        to[(v + i) * n + u] = tile[threadIdx.x][threadIdx.y + i];
}

int main() {
    const int n = 2048;
    float *from, *to;
    cudaMallocManaged(&from, n * n * sizeof(float));
    cudaMallocManaged(&to, n * n * sizeof(float));
    for (int i = 0; i < n * n; i++)
        from[i] = float(i);
    transpose<<<dim3(n / TILE, n / TILE), dim3(TILE, ROWS)>>>(from, to, n);
    cudaDeviceSynchronize();
    bool right = true;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            right &= to[j * n + i] == from[i * n + j];
    printf("%s\n", right ? "right" : "wrong");
    cudaFree(from);
    cudaFree(to);
    return right ? 0 : 1;
}
