// What a program is given besides its kernels' code: an architecture, arguments of 32 KB, OpenMP.
#include <omp.h>

#include "expect.h"

struct Large {
    int numbers[8000];
};

__global__ void last(Large large, int *arch, int *sum) {
#if __CUDA_ARCH__ >= 800
    *arch = __CUDA_ARCH__;
#endif
    *sum = large.numbers[0] + large.numbers[7999];
}

int main() {
    int *arch, *sum, all = 0;
    CHECK(cudaMallocManaged(&arch, sizeof(int)));
    CHECK(cudaMallocManaged(&sum, sizeof(int)));
    Large large = {};
    large.numbers[0] = 40;
    large.numbers[7999] = 2;
    last<<<1, 1>>>(large, arch, sum);
    CHECK(cudaDeviceSynchronize());
    EXPECT(*arch == 900);
    EXPECT(*sum == 42);
    omp_set_num_threads(2);
#pragma omp parallel reduction(+ : all)
    all += omp_get_num_threads();
    EXPECT(all == 4);
    CHECK(cudaFree(arch));
    CHECK(cudaFree(sum));
    puts("right");
}
