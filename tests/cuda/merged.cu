// Kernels whose machine code differs from what a host's compiler makes of them: of neighbours nvcc reads and
// writes four at once. And names that compilers write in different ways.
#include <cstdio>

template <unsigned N, class T> __global__ void neighbours(const T *from, T *to) {
    __shared__ T all[32 * N];
    const unsigned t = threadIdx.x;
    for (unsigned i = 0; i < N; i++)
        all[N * t + i] = from[i * 32 + t];
    __syncthreads();
    T sum = 0;
    for (unsigned i = 0; i < N; i++)
        sum += all[N * t + i];
    to[t] = sum;
}

namespace apart {
static __global__ void one(float *to) { to[threadIdx.x] = 1; }
namespace {
__global__ void two(float *to) { to[threadIdx.x] = 2; }
}  // namespace
}  // namespace apart

int main() {
    float *p;
    cudaMalloc(&p, 160 * sizeof(float));
    neighbours<4, float><<<1, 32>>>(p, p + 128);
    apart::one<<<1, 32>>>(p);
    apart::two<<<1, 32>>>(p);
    // What has been told once is as true of the next.
    apart::two<<<1, 32>>>(p);
    cudaFree(p);
}
