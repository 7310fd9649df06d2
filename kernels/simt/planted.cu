// Mistakes, one a kernel, for the checker (check.h) to find: tests/check.rs says what is found, at
// which line and between whom. Lines that are part of one end in a mark. Blocks have 64 threads;
// where nothing else is said there is one block, and vectors have 64 elements.
#include "../include/bf16.cuh"
#include "../include/copy.cuh"
#include "../include/mma.cuh"

// Races

KERNEL(planted_missing_barrier, 64)(float *out) {
    SHARED(float, tile, [64]);
    const int i = int(threadIdx.x);
    tile[i] = 0;
    __syncthreads();
    tile[i] = float(i);     // MARK missing_barrier write
    out[i] = tile[63 - i];  // MARK missing_barrier read
}
EXPORT(planted_missing_barrier)

KERNEL(planted_two_writers, 64)(float *out) {
    SHARED(float, tile, [32]);
    const int i = int(threadIdx.x);
    tile[i % 32] = float(i);  // MARK two_writers
    __syncthreads();
    out[i] = tile[i % 32];
}
EXPORT(planted_two_writers)

// Two blocks, 128 elements.
KERNEL(planted_two_blocks, 64)(float *v) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    const float other = v[(i + 64) % 128];  // MARK two_blocks read
    v[i] = other + 1;                       // MARK two_blocks write
}
EXPORT(planted_two_blocks)

// A shuffle orders nothing.
KERNEL(planted_missing_syncwarp, 64)(int *out) {
    SHARED(int, tile, [64]);
    const int i = int(threadIdx.x);
    tile[i] = 0;
    __syncwarp();
    tile[i] = i;                                    // MARK missing_syncwarp write
    const int other = __shfl_xor_sync(~0u, i, 1);
    out[i] = tile[other];                           // MARK missing_syncwarp read
}
EXPORT(planted_missing_syncwarp)

KERNEL(planted_atomic_and_plain, 64)(unsigned *sum, unsigned *out) {
    atomicAdd(sum, 1u);          // MARK atomic_and_plain add
    if (threadIdx.x == 40)
        *out = *sum;             // MARK atomic_and_plain read
}
EXPORT(planted_atomic_and_plain)

// The halves of a word are different threads' own, but for one.
KERNEL(planted_half_words, 64)(bf16 *v) {
    const int i = int(threadIdx.x);
    v[i] = to_bf16(to_float(v[i]) + 1);  // MARK half_words owner
    if (i == 10)
        v[21] = to_bf16(0);  // MARK half_words stranger
}
EXPORT(planted_half_words)

// Memory that is not there

KERNEL(planted_read_beyond, 64)(const float *in, float *out) {
    const int i = int(threadIdx.x);
    out[i] = in[i + 1];  // MARK read_beyond
}
EXPORT(planted_read_beyond)

KERNEL(planted_write_past_end, 64)(float *out, int n) {
    const int i = int(threadIdx.x);
    if (i <= n)
        out[i] = 1;  // MARK write_past_end
}
EXPORT(planted_write_past_end)

KERNEL(planted_wild, 64)(const float *in, float *out) {
    const int i = int(threadIdx.x);
    out[i] = in[i + (1ll << 40)];  // MARK wild
}
EXPORT(planted_wild)

KERNEL(planted_beyond_shared, 64)(float *out) {
    SHARED(float, tile, [64]);
    const int i = int(threadIdx.x);
    tile[i] = 1;
    __syncthreads();
    const float *p = tile;
    out[i] = p[i + 1];  // MARK beyond_shared
}
EXPORT(planted_beyond_shared)

KERNEL(planted_beyond_dynamic, 64)(float *out) {
    DYNAMIC_SHARED(float, tile);
    const int i = int(threadIdx.x);
    tile[i] = 1;  // MARK beyond_dynamic
    out[i] = tile[i];
}
EXPORT(planted_beyond_dynamic)

// Within the variable, but not within its row.
KERNEL(planted_beyond_row, 64)(float *out) {
    SHARED(float, tile, [64][4]);
    const int i = int(threadIdx.x);
    for (int j = 0; j < 4; j++)
        tile[i][j] = 1;
    out[i] = tile[i][i];  // MARK beyond_row
}
EXPORT(planted_beyond_row)

// Bytes that nobody wrote

KERNEL(planted_uninitialised_shared, 64)(float *out) {
    SHARED(float, tile, [64]);
    const int i = int(threadIdx.x);
    if (i != 5)
        tile[i] = 1;
    out[i] = tile[i];  // MARK uninitialised_shared
}
EXPORT(planted_uninitialised_shared)

KERNEL(planted_uninitialised_scratch, 64)(float *scratch, float *out) {
    const int i = int(threadIdx.x);
    if (i != 6)
        scratch[i] = 1;
    out[i] = scratch[i];  // MARK uninitialised_scratch
}
EXPORT(planted_uninitialised_scratch)

// Arithmetic

KERNEL(planted_misaligned, 64)(const float *in, float *out) {
    const int i = int(threadIdx.x);
    auto *vectors = reinterpret_cast<float4 *>(out);
    if (i == 3)
        *vectors = *reinterpret_cast<const float4 *>(in + i);  // MARK misaligned
}
EXPORT(planted_misaligned)

KERNEL(planted_shift, 64)(unsigned *out) {
    const int i = int(threadIdx.x);
    if (i <= 32)
        out[i] = 1u << i;  // MARK shift
}
EXPORT(planted_shift)

KERNEL(planted_overflow, 64)(int *out, int start) {
    const int i = int(threadIdx.x);
    out[i] = start + i;  // MARK overflow
}
EXPORT(planted_overflow)

KERNEL(planted_division, 64)(int *out) {
    const int i = int(threadIdx.x);
    out[i] = 100 / (i - 7);  // MARK division
}
EXPORT(planted_division)

// Asynchronous copies. 16 threads copy 16 bytes each.

KERNEL(planted_missing_wait, 64)(const float *in, float *out) {
    SHARED(float, tile, [64]);
    const int i = int(threadIdx.x);
    if (i < 16)
        copy_async(tile + 4 * i, in + 4 * i);  // MARK missing_wait copy
    copy_commit();
    __syncthreads();
    out[i] = tile[i];  // MARK missing_wait read
}
EXPORT(planted_missing_wait)

// Waits for all groups but one where it must wait for all.
KERNEL(planted_wait_off_by_one, 64)(const float *in, float *out) {
    SHARED(float, tiles, [2][64]);
    const int i = int(threadIdx.x);
    for (int step = 0; step < 2; step++) {
        if (i < 16)
            copy_async(tiles[step] + 4 * i, in + 4 * i);  // MARK wait_off_by_one copy
        copy_commit();
    }
    float sum = 0;
    for (int step = 0; step < 2; step++) {
        copy_wait<1>();
        __syncthreads();
        sum += tiles[step][i];  // MARK wait_off_by_one read
    }
    out[i] = sum;
}
EXPORT(planted_wait_off_by_one)

// The wait is there, and the barrier after it is not.
KERNEL(planted_barrier_after_wait, 64)(const float *in, float *out) {
    SHARED(float, tile, [64]);
    const int i = int(threadIdx.x);
    if (i < 16)
        copy_async(tile + 4 * i, in + 4 * i);  // MARK barrier_after_wait copy
    copy_commit();
    __syncthreads();
    copy_wait<0>();
    __syncwarp();
    out[i] = tile[63 - i];  // MARK barrier_after_wait read
}
EXPORT(planted_barrier_after_wait)

// The buffer is filled again while others may still read it.
KERNEL(planted_reuse, 64)(const float *in, float *out) {
    SHARED(float, tile, [64]);
    const int i = int(threadIdx.x);
    float sum = 0;
    for (int step = 0; step < 2; step++) {
        if (i < 16)
            copy_async(tile + 4 * i, in + 4 * i);  // MARK reuse copy
        copy_commit();
        copy_wait<0>();
        __syncthreads();
        sum += tile[63 - i];  // MARK reuse read
    }
    out[i] = sum;
}
EXPORT(planted_reuse)

// What ldmatrix reads for a lane is that lane's access. One warp.
KERNEL(planted_ldmatrix, 32)(unsigned *out) {
    SHARED(bf16, tile, [32][8]);
    const int i = int(threadIdx.x);
    for (int j = 0; j < 8; j++)
        tile[i][j] = to_bf16(1);  // MARK ldmatrix write
    uint32_t r[4];
    ldmatrix(r, tile[31 - i]);  // MARK ldmatrix read
    out[i] = r[0] + r[1] + r[2] + r[3];
}
EXPORT(planted_ldmatrix)

// No mistake: everything that orders, and everything that needs no order. Two blocks, 128 elements.
KERNEL(planted_nothing, 64)(const float *in, bf16 *halves, unsigned *sum, float *out) {
    SHARED(float, tiles, [2][64]);
    SHARED(int, warps, [64]);
    DYNAMIC_SHARED(float, partial);
    const int i = int(threadIdx.x), at = int(blockIdx.x) * 64 + i;

    // Copies into two buffers, three times.
    float total = 0;
    for (int step = 0; step <= 3; step++) {
        if (step < 3) {
            if (i < 16)
                copy_async(tiles[step % 2] + 4 * i, in + 4 * i, step != 1);
            copy_commit();
        }
        if (step > 0) {
            if (step < 3)
                copy_wait<1>();
            else
                copy_wait<0>();
            __syncthreads();
            total += tiles[(step - 1) % 2][63 - i];
            __syncthreads();
        }
    }
    // Neighbours in a word.
    halves[at] = to_bf16(to_float(halves[at]) + 1);
    // Lanes of a warp, all of them and pairs.
    warps[i] = i;
    __syncwarp();
    int neighbour = warps[i ^ 31];
    __syncwarp();
    warps[i] = neighbour;
    __syncwarp(3u << (i % 32 & ~1));
    neighbour = warps[i ^ 1];
    __syncwarp(3u << (i % 32 & ~1));
    warps[i ^ 1] = neighbour;
    // Everybody at once.
    atomicAdd(sum, 1u);
    // A tree.
    partial[i] = total;
    for (int half = 32; half > 0; half /= 2) {
        __syncthreads();
        if (i < half)
            partial[i] += partial[i + half];
    }
    out[at] = i == 0 ? partial[0] : float(neighbour);
}
EXPORT(planted_nothing)
