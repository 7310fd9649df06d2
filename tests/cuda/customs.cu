// What many programs do and no standard promises, or only in passing: all of it is right, unless it is asked
// for one thing that is not.
#include "expect.h"

#include <cooperative_groups.h>
#include <curand_kernel.h>

// A struct that is copied as a whole, with padding that nobody writes.
struct Item {
    char kind;
    int value;
    double weight;
    char tag;
};

__global__ void fill(Item *items) {
    Item &item = items[threadIdx.x];
    item.kind = 1;
    item.value = threadIdx.x;
    item.weight = 0.5;
    item.tag = 2;
}

__global__ void use(const Item *items, Item *copies, double *out) {
    const Item item = items[threadIdx.x];
    copies[threadIdx.x] = item;
    out[threadIdx.x] = item.value * item.weight + item.tag;
}

// The state of random numbers, taken into registers and back.
template <class State> __global__ void seed(State *states) {
    curand_init(1234, threadIdx.x, 0, &states[threadIdx.x]);
}

template <class State> __global__ void draw(State *states, float *out) {
    State state = states[threadIdx.x];
    out[threadIdx.x] = curand_uniform(&state) + curand_normal(&state);
    states[threadIdx.x] = state;
}

// The last block that is done adds up what all have written: all threads fence, then one of them counts.
__device__ unsigned done;

__global__ void sum(const float *x, float *parts, float *out) {
    __shared__ bool last;
    const unsigned n = blockDim.x, i = blockIdx.x * n + threadIdx.x;
    parts[i] = 2 * x[i];
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0)
        last = atomicAdd(&done, 1u) == gridDim.x - 1;
    __syncthreads();
    if (!last)
        return;
    float all = 0;
    for (unsigned block = 0; block < gridDim.x; block++)
        all += parts[block * n + threadIdx.x];
    out[threadIdx.x] = all;
}

// A function that is to be inlined, through its address, and one that calls itself.
static __device__ __forceinline__ int next(int x) {
    return x + 1;
}
static __device__ __forceinline__ int factorial(int n) {
    return n <= 1 ? 1 : n * factorial(n - 1);
}
__device__ int (*const table[])(int) = {next, factorial};

__global__ void call(int *x, int which) {
    *x = table[which](*x);
}

// Placement, which <new> declares, and NVIDIA's headers bring along.
struct Pair {
    int a, b;
};

__global__ void place(Pair *pairs) {
    new (pairs + threadIdx.x) Pair{int(threadIdx.x), 1};
}

// As above, but what other threads have written nobody has fenced before the barrier.
__global__ void lonely(const float *x, float *parts, float *out) {
    __shared__ bool last;
    const unsigned n = blockDim.x, i = blockIdx.x * n + threadIdx.x;
    parts[i] = 2 * x[i];
    if (threadIdx.x == 0)
        __threadfence();
    __syncthreads();
    if (threadIdx.x == 0)
        last = atomicAdd(&done, 1u) % gridDim.x == gridDim.x - 1;
    __syncthreads();
    if (last)
        out[threadIdx.x] = parts[(threadIdx.x + 1) % (gridDim.x * n)];  // 1
}

// Nothing is in it, for which managed memory, which the host may write, will not do.
template <class T> T *fresh(int n) {
    T *p;
    CHECK(cudaMalloc(&p, n * sizeof *p));
    return p;
}

template <class T> T *managed(int n) {
    T *p;
    CHECK(cudaMallocManaged(&p, n * sizeof *p));
    return p;
}

int main(int argc, char **) {
    Item *items = fresh<Item>(32), *copies = fresh<Item>(32), copied[32];
    double *weights = managed<double>(32);
    fill<<<1, 32>>>(items);
    use<<<1, 32>>>(items, copies, weights);
    curandState *states = fresh<curandState>(32);
    curandStatePhilox4_32_10_t *others = fresh<curandStatePhilox4_32_10_t>(32);
    float *numbers = managed<float>(32);
    seed<<<1, 32>>>(states);
    draw<<<1, 32>>>(states, numbers);
    seed<<<1, 32>>>(others);
    draw<<<1, 32>>>(others, numbers);
    float *x = managed<float>(256), *parts = managed<float>(256), *out = managed<float>(64);
    for (int i = 0; i < 256; i++)
        x[i] = 1;
    sum<<<4, 64>>>(x, parts, out);
    int *n = managed<int>(1);
    *n = 3;
    call<<<1, 1>>>(n, 0);
    call<<<1, 1>>>(n, 1);
    Pair *pairs = managed<Pair>(32);
    place<<<1, 32>>>(pairs);
    if (argc > 1)
        lonely<<<4, 64>>>(x, parts, out);
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaMemcpy(copied, copies, sizeof copied, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 32; i++) {
        EXPECT(weights[i] == i * 0.5 + 2);
        EXPECT(copied[i].value == i && copied[i].tag == 2);
        EXPECT(pairs[i].a == i && pairs[i].b == 1);
    }
    EXPECT(numbers[0] == numbers[0]);
    for (int i = 0; i < 64; i++)
        EXPECT(argc > 1 || out[i] == 8);
    EXPECT(*n == 24);
    for (void *p : {(void *)items, (void *)copies, (void *)weights, (void *)states, (void *)others,
                    (void *)numbers, (void *)x, (void *)parts, (void *)out, (void *)n, (void *)pairs})
        CHECK(cudaFree(p));
    printf("right\n");
}
