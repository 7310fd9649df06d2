// Random numbers in kernels.
#include <curand_kernel.h>

#include <cmath>
#include <vector>

#include "expect.h"

__global__ void known() {
    // Random123's known answers, of counters and keys that are all zeros and all ones.
    using simt::random::Philox;
    const uint4 zeros = Philox::rounds({0, 0, 0, 0}, {0, 0});
    EXPECT(zeros.x == 0x6627e8d5 && zeros.y == 0xe169c58d && zeros.z == 0xbc57ac4c);
    EXPECT(zeros.w == 0x9b00dbd8);
    const uint4 ones = Philox::rounds({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u});
    EXPECT(ones.x == 0x408f276d && ones.y == 0x41c83b0e && ones.z == 0xa20bc7c6);
    EXPECT(ones.w == 0x6d5451fd);
    // Offsets are numbers that were left out.
    curandStatePhilox4_32_10_t a, b;
    curand_init(7, 3, 0, &a);
    curand_init(7, 3, 6, &b);
    for (int i = 0; i < 6; i++)
        curand(&a);
    const uint4 four = curand4(&b);
    EXPECT(four.x == curand(&a) && four.y == curand(&a));
    curandState c, d;
    curand_init(7, 3, 0, &c);
    curand_init(7, 3, 1000, &d);
    for (int i = 0; i < 1000; i++)
        curand(&c);
    EXPECT(curand(&c) == curand(&d));
    skipahead(1ull << 40, &c);
    skipahead((1ull << 40) - 1, &d);
    curand(&d);
    EXPECT(curand(&c) == curand(&d));
}

template <class State> __global__ void fill(float *uniform, float *normal) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    State state;
    curand_init(1234, i, 0, &state);
    for (int j = 0; j < 8; j++) {
        uniform[8 * i + j] = curand_uniform(&state);
        normal[8 * i + j] = curand_normal(&state);
    }
}

template <class State> void moments() {
    const size_t count = 8 * 2048;
    float *uniform, *normal;
    CHECK(cudaMalloc(&uniform, count * sizeof(float)));
    CHECK(cudaMalloc(&normal, count * sizeof(float)));
    fill<State><<<16, 128>>>(uniform, normal);
    std::vector<float> u(count), n(count);
    CHECK(cudaMemcpy(u.data(), uniform, count * sizeof(float), cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(n.data(), normal, count * sizeof(float), cudaMemcpyDeviceToHost));
    double mean = 0, square = 0, normal_mean = 0, normal_square = 0;
    for (size_t i = 0; i < count; i++) {
        EXPECT(u[i] > 0 && u[i] <= 1);
        mean += double(u[i]) / count;
        square += double(u[i]) * double(u[i]) / count;
        normal_mean += double(n[i]) / count;
        normal_square += double(n[i]) * double(n[i]) / count;
    }
    // Within five standard errors.
    EXPECT(std::fabs(mean - 0.5) < 0.0113 && std::fabs(square - 1 / 3.0) < 0.0117);
    EXPECT(std::fabs(normal_mean) < 0.039 && std::fabs(normal_square - 1) < 0.055);
    CHECK(cudaFree(uniform));
    CHECK(cudaFree(normal));
}

int main() {
    known<<<1, 1>>>();
    moments<curandState>();
    moments<curandStatePhilox4_32_10_t>();
    CHECK(cudaDeviceSynchronize());
    puts("right");
}
