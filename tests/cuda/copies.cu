// Asynchronous copies, by each of the ways to write them; barriers; pipelines.
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cuda/pipeline>
#include <cuda_pipeline.h>

#include "expect.h"

namespace cg = cooperative_groups;

constexpr int THREADS = 64;

__global__ void by_functions(const float *from, float *to) {
    __shared__ alignas(16) float buffer[2][THREADS * 4];
    const int thread = int(threadIdx.x);
    for (int half = 0; half < 2; half++) {
        __pipeline_memcpy_async(&buffer[half][4 * thread], &from[4 * (half * THREADS + thread)],
                                16);
        __pipeline_commit();
    }
    for (int half = 0; half < 2; half++) {
        __pipeline_wait_prior(1 - half);
        __syncthreads();
        to[half * THREADS + thread] = buffer[half][4 * THREADS - 1 - 4 * thread];
    }
    __syncthreads();
    // The last four of eight bytes are zeros.
    __pipeline_memcpy_async(&buffer[0][2 * thread], &from[2 * thread], 8, 4);
    __pipeline_memcpy_async(&buffer[1][thread], &from[thread], 4);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    EXPECT(buffer[0][2 * thread] == 2 * thread && buffer[0][2 * thread + 1] == 0);
    EXPECT(buffer[1][thread] == thread);
}

__global__ void by_groups(const float *from, float *to) {
    __shared__ alignas(16) float buffer[99];
    const auto block = cg::this_thread_block();
    cg::memcpy_async(block, buffer, from, 99 * sizeof(float));
    cg::wait(block);
    to[threadIdx.x] = buffer[98 - threadIdx.x];
}

__global__ void by_barriers(const float *from, float *to) {
    __shared__ alignas(16) float buffer[THREADS];
    __shared__ cuda::barrier<cuda::thread_scope_block> barrier;
    const auto block = cg::this_thread_block();
    if (threadIdx.x == 0)
        init(&barrier, block.size());
    block.sync();
    for (int round = 0; round < 3; round++) {
        cuda::memcpy_async(&buffer[threadIdx.x], &from[round * THREADS + threadIdx.x],
                           sizeof(float), barrier);
        barrier.arrive_and_wait();
        to[round * THREADS + threadIdx.x] = buffer[THREADS - 1 - threadIdx.x];
        barrier.wait(barrier.arrive());
    }
}

// Two stages: one is added up while the next one comes.
__global__ void by_pipelines(const float *from, float *to, int rounds) {
    __shared__ alignas(16) float buffer[2][THREADS];
    __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, 2> state;
    const auto block = cg::this_thread_block();
    auto pipe = cuda::make_pipeline(block, &state);
    float sum = 0;
    for (int round = 0, fetched = 0; round < rounds; round++) {
        for (; fetched < rounds && fetched < round + 2; fetched++) {
            pipe.producer_acquire();
            cuda::memcpy_async(block, buffer[fetched % 2], from + fetched * THREADS,
                               cuda::aligned_size_t<16>(sizeof buffer[0]), pipe);
            pipe.producer_commit();
        }
        pipe.consumer_wait();
        sum += buffer[round % 2][THREADS - 1 - threadIdx.x];
        pipe.consumer_release();
    }
    to[threadIdx.x] = sum;
}

__global__ void by_threads(const float *from, float *to) {
    __shared__ float buffer[3][THREADS];
    auto pipe = cuda::make_pipeline();
    for (int i = 0; i < 3; i++) {
        pipe.producer_acquire();
        cuda::memcpy_async(&buffer[i][threadIdx.x], &from[i * THREADS + threadIdx.x],
                           sizeof(float), pipe);
        pipe.producer_commit();
    }
    for (int i = 0; i < 3; i++) {
        pipe.consumer_wait();
        to[i * THREADS + threadIdx.x] = buffer[i][threadIdx.x] + 1;
        pipe.consumer_release();
    }
}

int main() {
    constexpr int COUNT = 8 * THREADS;
    float numbers[COUNT], *from, *to;
    for (int i = 0; i < COUNT; i++)
        numbers[i] = i;
    CHECK(cudaMalloc(&from, sizeof numbers));
    CHECK(cudaMalloc(&to, sizeof numbers));
    CHECK(cudaMemcpy(from, numbers, sizeof numbers, cudaMemcpyHostToDevice));
    const auto result = [&](int i) {
        float number;
        CHECK(cudaMemcpy(&number, to + i, sizeof number, cudaMemcpyDeviceToHost));
        return number;
    };
    by_functions<<<1, THREADS>>>(from, to);
    for (int i = 0; i < 2 * THREADS; i++)
        EXPECT(result(i) == i / THREADS * 4 * THREADS + 4 * THREADS - 1 - i % THREADS * 4);
    by_groups<<<1, THREADS>>>(from, to);
    for (int i = 0; i < THREADS; i++)
        EXPECT(result(i) == 98 - i);
    by_barriers<<<1, THREADS>>>(from, to);
    for (int i = 0; i < 3 * THREADS; i++)
        EXPECT(result(i) == i / THREADS * THREADS + THREADS - 1 - i % THREADS);
    by_pipelines<<<1, THREADS>>>(from, to, 5);
    for (int i = 0; i < THREADS; i++)
        EXPECT(result(i) == 5 * (THREADS - 1 - i) + 10 * THREADS);
    by_threads<<<1, THREADS>>>(from, to);
    for (int i = 0; i < 3 * THREADS; i++)
        EXPECT(result(i) == i + 1);
    CHECK(cudaFree(from));
    CHECK(cudaFree(to));
    puts("right");
}
