// Programs that end badly, by number: an exception that main() lets go, and a stack that is too small.
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

__device__ int deep(int n) {
    volatile char local[256];
    local[n & 255] = char(n);
    return n < 0 ? local[0] : deep(n + 1) + local[1];
}

__global__ void recur(int *out) {
    *out = deep(0);
}

int main(int, char **argv) {
    if (atoi(argv[1]) == 1)
        throw std::runtime_error("input.txt is not there");
    int *out;
    cudaMalloc(&out, sizeof *out);
    recur<<<1, 1>>>(out);
    const cudaError_t error = cudaDeviceSynchronize();
    printf("%s\n", cudaGetErrorString(error));
    return error != cudaSuccess;
}
