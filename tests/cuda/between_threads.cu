// Shuffles, votes, matches, atomics.
#include <cuda/atomic>

#include "expect.h"

template <class T> __device__ void shuffles() {
    const int lane = int(threadIdx.x);
    EXPECT(__shfl_sync(~0u, T(lane), 5) == T(5));
    EXPECT(__shfl_sync(~0u, T(lane), 5, 8) == T(lane / 8 * 8 + 5));
    EXPECT(__shfl_up_sync(~0u, T(lane), 2) == T(lane < 2 ? lane : lane - 2));
    EXPECT(__shfl_down_sync(~0u, T(lane), 2, 4) == T(lane % 4 < 2 ? lane + 2 : lane));
    EXPECT(__shfl_xor_sync(~0u, T(lane), 16) == T(lane ^ 16));
}

__global__ void lanes() {
    const int lane = int(threadIdx.x);
    shuffles<int>();
    shuffles<unsigned>();
    shuffles<long>();
    shuffles<unsigned long long>();
    shuffles<float>();
    shuffles<double>();
    shuffles<short>();
    const double high = 1e300 * (lane + 1);
    EXPECT(__shfl_sync(~0u, high, 3) == 4e300);
    if (lane < 4)
        EXPECT(__shfl_down_sync(0xfu, lane + 1, 1) == (lane == 3 ? 0 : lane + 2));
    EXPECT(__ballot_sync(~0u, lane < 3) == 7 && __any_sync(~0u, lane == 31));
    EXPECT(!__all_sync(~0u, lane));
    EXPECT(__match_any_sync(~0u, lane % 4) == 0x11111111u << lane % 4);
    EXPECT(__match_any_sync(~0u, lane < 16 ? 1.5 : -1.5) == (lane < 16 ? 0xffffu : 0xffff0000u));
    int all;
    EXPECT(__match_all_sync(~0u, 7ll, &all) == ~0u && all);
    EXPECT(__match_all_sync(~0u, lane, &all) == 0 && !all);
    EXPECT(__reduce_add_sync(~0u, lane) == 496 && __reduce_max_sync(~0u, -lane) == 0);
    EXPECT(__reduce_and_sync(~0u, ~(1u << lane)) == 0 && __reduce_or_sync(~0u, 1u << lane) == ~0u);
    EXPECT(__reduce_xor_sync(~0u, unsigned(lane)) == 0);
    EXPECT(__syncthreads_count(lane < 5) == 5 && __syncthreads_or(lane == 9));
    EXPECT(!__syncthreads_and(lane));
}

struct Sums {
    int i;
    unsigned u;
    unsigned long long l;
    float f;
    double d;
    int least, most;
    unsigned wraps, falls, bits;
    long long signed_most;
    unsigned short narrow[2];
    int tickets;
};

__global__ void add(Sums *sums) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    atomicAdd(&sums->i, 1);
    atomicSub(&sums->i, 3);
    atomicAdd_block(&sums->u, 2);
    atomicAdd_system(&sums->l, 1ull << 33);
    atomicAdd(&sums->f, 0.5f);
    atomicAdd(&sums->d, 0.25);
    atomicMin(&sums->least, -i);
    atomicMax_system(&sums->most, i);
    atomicMax(&sums->signed_most, -5ll + i);
    atomicInc(&sums->wraps, 9);
    atomicDec(&sums->falls, 9);
    atomicOr(&sums->bits, 1u << i % 32);
    // A lock-free sum of 16 bits.
    unsigned short old = 0, seen;
    do {
        seen = old;
        old = atomicCAS(&sums->narrow[1], seen, (unsigned short)(seen + 1));
    } while (old != seen);
    cuda::atomic_ref<int, cuda::thread_scope_device> tickets(sums->tickets);
    EXPECT(tickets.fetch_add(1) < 128);
}

// The last block adds up what all have left, by a ticket that is a variable of the program.
__device__ unsigned taken;

__global__ void last_adds(int *parts, int *sum) {
    __shared__ bool is_last;
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = int(blockIdx.x);
        __threadfence();
        is_last = atomicInc(&taken, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (is_last && threadIdx.x == 0) {
        *sum = 0;
        for (unsigned i = 0; i < gridDim.x; i++)
            *sum += parts[i];
    }
}

__global__ void exchange(float *f, unsigned long long *l) {
    EXPECT(atomicExch(f, 2.0f) == 1.0f && atomicCAS(l, 5ull, 6ull) == 5);
    EXPECT(atomicCAS(l, 5ull, 7ull) == 6);
    EXPECT(atomicXor(l, 2ull) == 6 && atomicAnd(l, 4ull) == 4 && *l == 4);
    __threadfence();
    __threadfence_block();
    EXPECT(__ldg(f) == 2 && __ldcg(f) == 2 && __ldcs(f) == 2 && __ldca(f) == 2);
    __stcs(f, 3);
    __stwt(f, __ldcv(f) + 1);
    EXPECT(*f == 4);
    __shared__ int shared;
    shared = 1;
    EXPECT(__isShared(&shared) && __isGlobal(f) && !__isShared(f));
    const long long before = clock64();
    __nanosleep(10);
    EXPECT(clock64() >= before && clock() >= 0);
}

int main() {
    lanes<<<1, 32>>>();
    Sums *p, sums = {};
    sums.narrow[0] = 7;
    CHECK(cudaMalloc(&p, sizeof sums));
    CHECK(cudaMemcpy(p, &sums, sizeof sums, cudaMemcpyHostToDevice));
    add<<<4, 32>>>(p);
    CHECK(cudaMemcpy(&sums, p, sizeof sums, cudaMemcpyDeviceToHost));
    EXPECT(sums.i == -256 && sums.u == 256 && sums.l == 128ull << 33 && sums.f == 64);
    EXPECT(sums.d == 32);
    EXPECT(sums.least == -127 && sums.most == 127 && sums.signed_most == 122 && sums.bits == ~0u);
    EXPECT(sums.wraps == 8 && sums.falls == 2 && sums.narrow[0] == 7 && sums.narrow[1] == 128);
    EXPECT(sums.tickets == 128);

    float one = 1;
    unsigned long long five = 5;
    CHECK(cudaMemcpy(&p->f, &one, sizeof one, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(&p->l, &five, sizeof five, cudaMemcpyHostToDevice));
    int *parts, sum;
    CHECK(cudaMalloc(&parts, 9 * sizeof *parts));
    last_adds<<<8, 64>>>(parts, parts + 8);
    CHECK(cudaMemcpy(&sum, parts + 8, sizeof sum, cudaMemcpyDeviceToHost));
    EXPECT(sum == 28);
    CHECK(cudaFree(parts));
    exchange<<<1, 1>>>(&p->f, &p->l);
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaFree(p));
    puts("right");
}
