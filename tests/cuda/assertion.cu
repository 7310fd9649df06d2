// An assertion that does not hold for one thread.
#include <cassert>

#include "expect.h"

__global__ void positive(const int *p) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    assert(p[i] > 0 && "a message, with a comma");
}

int main() {
    int numbers[64], *p;
    for (int i = 0; i < 64; i++)
        numbers[i] = i == 37 ? 0 : 1;
    CHECK(cudaMalloc(&p, sizeof numbers));
    CHECK(cudaMemcpy(p, numbers, sizeof numbers, cudaMemcpyHostToDevice));
    positive<<<2, 32>>>(p);
    if (cudaDeviceSynchronize() != cudaSuccess)
        puts("the launch failed");
}
