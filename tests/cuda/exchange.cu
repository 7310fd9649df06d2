// Comparisons and exchanges, as the CUDA C++ Programming Guide has them, and a read without one.
#include "expect.h"

__device__ double add(double *address, double v) {
    unsigned long long *word = (unsigned long long *)address;
    unsigned long long old = *word, assumed;
    do {
        assumed = old;
        old = atomicCAS(word, assumed, __double_as_longlong(v + __longlong_as_double(assumed)));
    } while (assumed != old);
    return __longlong_as_double(old);
}

__global__ void sums(double *all, double *each, int *lock) {
    add(all, threadIdx.x + 1);
    // By words: neighbours change those of neighbours.
    add(&each[threadIdx.x % 2], threadIdx.x + 1);
    int old;
    do
        old = *lock;
    while (atomicCAS(lock, old, old | 1) != old);
}

// Whether somebody has been there is not certain.
__global__ void looks(int *count, int *seen) {
    if (threadIdx.x < 32) {
        atomicAdd(count, 1);
        return;
    }
    seen[threadIdx.x] = *count;
}

int main() {
    double *sum;
    int *lock;
    CHECK(cudaMalloc(&sum, 3 * sizeof(double)));
    CHECK(cudaMalloc(&lock, 65 * sizeof(int)));
    CHECK(cudaMemset(sum, 0, 3 * sizeof(double)));
    CHECK(cudaMemset(lock, 0, 65 * sizeof(int)));
    sums<<<2, 64>>>(sum, sum + 1, lock);
    double sums[3];
    int locked;
    CHECK(cudaMemcpy(sums, sum, sizeof sums, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(&locked, lock, sizeof locked, cudaMemcpyDeviceToHost));
    printf("%g %g %d\n", sums[0], sums[1] + sums[2], locked);
    CHECK(cudaMemset(lock, 0, sizeof(int)));
    looks<<<1, 64>>>(lock, lock + 1);
    CHECK(cudaFree(sum));
    CHECK(cudaFree(lock));
}
