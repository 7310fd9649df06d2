// Kernels whose counts tests/profile.rs knows from arithmetic. Compiled for profiled launches only.
#include "mma.cuh"

// Every thread reads and writes a float of its own sector.
KERNEL(profiled_strided, 256)(const float *x, float *y) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    y[8 * i] = x[8 * i];
}
EXPORT(profiled_strided)

// Neighbouring threads, neighbouring floats.
KERNEL(profiled_neighbours, 256)(const float *x, float *y) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    y[i] = x[i];
}
EXPORT(profiled_neighbours)

// 16 bytes a thread, through shared memory.
KERNEL(profiled_vectors, 256)(const float4 *x, float4 *y) {
    SHARED(float4, tile, [256]);
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}
EXPORT(profiled_vectors)

// One warp; `pitch` floats from row to row.
template <int PITCH> DEVICE void transpose(const float *x, float *y, float (&tile)[32][PITCH]) {
    const int lane = int(threadIdx.x);
    for (int row = 0; row < 32; row++)
        tile[row][lane] = x[32 * row + lane];
    __syncthreads();
    for (int row = 0; row < 32; row++)
        y[32 * row + lane] = tile[lane][row];
}

KERNEL(profiled_transpose, 32)(const float *x, float *y) {
    SHARED(float, tile, [32][32]);
    transpose(x, y, tile);
}
EXPORT(profiled_transpose)

KERNEL(profiled_padded, 32)(const float *x, float *y) {
    SHARED(float, tile, [32][33]);
    transpose(x, y, tile);
}
EXPORT(profiled_padded)

// Every lane wants the same word, and then its warp's.
KERNEL(profiled_broadcast, 64)(float *y) {
    SHARED(float, words, [2]);
    if (threadIdx.x < 2)
        words[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = words[0] + words[threadIdx.x / 32];
}
EXPORT(profiled_broadcast)

// `turns` multiply-adds, then a fused one, a division, a root and an exponential.
KERNEL(profiled_arithmetic, 64)(float *x, int turns) {
    const float own = x[threadIdx.x];
    float sum = 0;
    for (int i = 0; i < turns; i++)
        sum += own * float(i);
    sum = fmaf(sum, own, own);
    sum = sum / (own - 1.0f);
    sum = sqrtf(sum);
    x[threadIdx.x] = expf(sum);
}
EXPORT(profiled_arithmetic)

// One warp: ldmatrix of rows that are 64 and 80 bytes apart, and three mma.
KERNEL(profiled_ldmatrix, 32)(uint32_t *y) {
    SHARED(uint4, close, [32 * 4]);
    SHARED(uint4, apart, [32 * 5]);
    const int lane = int(threadIdx.x);
    for (int i = lane; i < 32 * 4; i += 32)
        close[i] = {0, 0, 0, 0};
    for (int i = lane; i < 32 * 5; i += 32)
        apart[i] = {0, 0, 0, 0};
    __syncthreads();
    uint32_t a[1][4], b[4], pairs[3][2];
    ldmatrix(a[0], close + 4 * lane);
    ldmatrix(b, apart + 5 * lane);
    for (int i = 0; i < 3; i++)
        pairs[i][0] = b[i], pairs[i][1] = b[i + 1];
    float d[1][3][4] = {};
    mma(d, a, pairs);
    y[lane] = uint32_t(d[0][0][0]) + a[0][1] + b[2];
}
EXPORT(profiled_ldmatrix)

// Lanes that turn more often than others, and some that do not come along.
KERNEL(profiled_uneven, 32)(const float *x, float *y) {
    const int lane = int(threadIdx.x);
    if (lane % 2)
        return;
    float sum = 0;
    for (int i = 0; i <= lane / 16; i++)
        sum += x[32 * i + lane];
    atomicAdd(y, sum);
}
EXPORT(profiled_uneven)
