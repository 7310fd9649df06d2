// Mistakes in what orders blocks, and in what orders threads and Hopper's units, as planted.cu has
// them. Blocks have 64 threads.
#include "../include/hopper.cuh"

// Order between blocks: the last of three blocks adds up what all of them have left, as in CUDA's
// sample threadFenceReduction. This one has no mistake.
KERNEL(planted_last_block, 64)(float *partial, unsigned *counter, float *out) {
    SHARED(bool, last);
    const int i = int(threadIdx.x);
    partial[blockIdx.x * 64 + threadIdx.x] = 1;
    __syncthreads();
    if (i == 0) {
        __threadfence();
        last = atomicAdd(counter, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last)
        return;
    out[i] = 0;
    for (unsigned block = 0; block < gridDim.x; block++)
        out[i] += partial[block * 64 + 63 - threadIdx.x];
    if (i == 0)
        *counter = 0;
}
EXPORT(planted_last_block)

KERNEL(planted_missing_fence, 64)(float *partial, unsigned *counter, float *out) {
    SHARED(bool, last);
    const int i = int(threadIdx.x);
    partial[blockIdx.x * 64 + threadIdx.x] = 1;  // MARK missing_fence write
    __syncthreads();
    if (i == 0)
        last = atomicAdd(counter, 1u) == gridDim.x - 1;
    __syncthreads();
    if (!last)
        return;
    out[i] = 0;
    for (unsigned block = 0; block < gridDim.x; block++)
        out[i] += partial[block * 64 + 63 - threadIdx.x];  // MARK missing_fence read
    if (i == 0)
        *counter = 0;
}
EXPORT(planted_missing_fence)

// The fence is too early by one line.
KERNEL(planted_early_fence, 64)(float *partial, unsigned *counter, float *out) {
    if (threadIdx.x != 0)
        return;
    __threadfence();
    partial[blockIdx.x] = 1;  // MARK early_fence write
    if (atomicAdd(counter, 1u) != gridDim.x - 1)
        return;
    *out = 0;
    for (unsigned block = 0; block < gridDim.x; block++)
        *out += partial[block];  // MARK early_fence read
}
EXPORT(planted_early_fence)

// Thread 0's fence is for its own writes, and for the others' before a barrier.
KERNEL(planted_barrier_before_fence, 64)(float *partial, unsigned *counter, float *out) {
    SHARED(bool, last);
    const int i = int(threadIdx.x);
    partial[blockIdx.x * 64 + threadIdx.x] = 1;  // MARK barrier_before_fence write
    if (i == 0) {
        __threadfence();
        last = atomicAdd(counter, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last)
        return;
    out[i] = 0;
    for (unsigned block = 0; block < gridDim.x; block++)
        out[i] += partial[block * 64 + 63 - threadIdx.x];  // MARK barrier_before_fence read
}
EXPORT(planted_barrier_before_fence)

// Others than thread 0 hear of the last atomic access by a shuffle, which orders nothing.
KERNEL(planted_shuffled_last, 64)(float *partial, unsigned *counter, float *out) {
    const int i = int(threadIdx.x);
    partial[blockIdx.x * 64 + threadIdx.x] = 1;  // MARK shuffled_last write
    __syncthreads();
    if (i >= 32)
        return;
    int last = 0;
    if (i == 0) {
        __threadfence();
        last = atomicAdd(counter, 1u) == gridDim.x - 1;
    }
    if (!__shfl_sync(~0u, last, 0))
        return;
    out[i] = 0;
    for (unsigned block = 0; block < gridDim.x; block++)
        out[i] += partial[block * 64 + threadIdx.x];  // MARK shuffled_last read
}
EXPORT(planted_shuffled_last)

// The flag is read too early, and so is what it stands for.
KERNEL(planted_barrier_after_flag, 64)(float *partial, unsigned *counter, float *out) {
    SHARED(bool, last);
    const int i = int(threadIdx.x);
    partial[blockIdx.x * 64 + threadIdx.x] = 1;  // MARK barrier_after_flag partial write
    if (i == 0)
        last = false;
    __syncthreads();
    if (i == 0) {
        __threadfence();
        last = atomicAdd(counter, 1u) == gridDim.x - 1;  // MARK barrier_after_flag write
    }
    if (!last)  // MARK barrier_after_flag read
        return;
    out[i] = 0;
    for (unsigned block = 0; block < gridDim.x; block++)
        out[i] += partial[block * 64 + threadIdx.x];  // MARK barrier_after_flag partial read
}
EXPORT(planted_barrier_after_flag)

// Hopper's units: thread 32 has TMA copy two tiles to one place, the second when warp 0 has read
// the first. (On a GPU wgmma would want three more warps.)

namespace {

using Tile = bf16[128][TMA_COLUMNS];

DEVICE bf16 (*tile_in(unsigned char *memory))[TMA_COLUMNS] {
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory);
    return reinterpret_cast<bf16(*)[TMA_COLUMNS]>(memory + (-address & 1023));
}

// Of one arrival each.
DEVICE void make_barriers(uint64_t *first, uint64_t *second) {
    if (threadIdx.x == 0) {
        mbarrier_init(first, 1);
        mbarrier_init(second, 1);
        mbarrier_publish();
    }
}

}  // namespace

// This one has no mistake.
KERNEL(planted_tiles, 64)(const __grid_constant__ TensorMap map, float *out) {
    SHARED(uint64_t, full);
    SHARED(uint64_t, empty);
    DYNAMIC_SHARED(unsigned char, memory);
    bf16(*tile)[TMA_COLUMNS] = tile_in(memory);
    const int i = int(threadIdx.x);
    make_barriers(&full, &empty);
    __syncthreads();
    float d[1][16][4];
    for (unsigned step = 0; step < 2; step++) {
        if (i == 32) {
            mbarrier_wait(&empty, step ^ 1);
            mbarrier_arrive_expect(&full, sizeof(Tile));
            tma_load(tile, &map, int(step) * TMA_COLUMNS, 0, &full);
        } else if (i < 32) {
            mbarrier_wait(&full, step);
            wgmma_begin();
            wgmma(d, wgmma_matrix(tile[0]), wgmma_matrix(tile[0]), step > 0);
            wgmma_commit();
            out[i] = to_float(tile[i][0]);
            wgmma_wait<0>(d);
            __syncwarp();
            if (i == 0)
                mbarrier_arrive(&empty);
        }
    }
    // And once more, with barriers of the block.
    __syncthreads();
    if (i == 40) {
        mbarrier_arrive_expect(&full, sizeof(Tile));
        tma_load(tile, &map, 0, 0, &full);
        mbarrier_wait(&full, 0);
    }
    __syncthreads();
    if (i < 32)
        out[i] += to_float(tile[i][0]) + d[0][0][0];
}
EXPORT(planted_tiles)

KERNEL(planted_unwaited_tile, 64)(const __grid_constant__ TensorMap map, float *out) {
    SHARED(uint64_t, full);
    SHARED(uint64_t, empty);
    DYNAMIC_SHARED(unsigned char, memory);
    bf16(*tile)[TMA_COLUMNS] = tile_in(memory);
    const int i = int(threadIdx.x);
    make_barriers(&full, &empty);
    for (int row = i; row < 128; row += 64)
        for (int column = 0; column < TMA_COLUMNS; column++)
            tile[row][column] = to_bf16(0);
    __syncthreads();
    if (i == 32) {
        mbarrier_arrive_expect(&full, sizeof(Tile));
        tma_load(tile, &map, 0, 0, &full);  // MARK unwaited_tile copy
        mbarrier_wait(&full, 0);
    } else if (i < 32) {
        float d[1][16][4];
        wgmma_begin();
        wgmma(d, wgmma_matrix(tile[0]), wgmma_matrix(tile[0]), false);  // MARK unwaited_tile read
        wgmma_commit();
        wgmma_wait<0>(d);
        out[i] = d[0][0][0];
    }
}
EXPORT(planted_unwaited_tile)

// Nobody says that the first tile has been read.
KERNEL(planted_full_tile, 64)(const __grid_constant__ TensorMap map, float *out) {
    SHARED(uint64_t, first);
    SHARED(uint64_t, second);
    DYNAMIC_SHARED(unsigned char, memory);
    bf16(*tile)[TMA_COLUMNS] = tile_in(memory);
    const int i = int(threadIdx.x);
    make_barriers(&first, &second);
    __syncthreads();
    if (i == 32) {
        for (int step = 0; step < 2; step++) {
            uint64_t *full = step == 0 ? &first : &second;
            mbarrier_arrive_expect(full, sizeof(Tile));
            tma_load(tile, &map, step * TMA_COLUMNS, 0, full);  // MARK full_tile copy
            mbarrier_wait(full, 0);
        }
    } else if (i == 7) {
        mbarrier_wait(&first, 0);
        out[i] = to_float(tile[i][0]);  // MARK full_tile read
    }
}
EXPORT(planted_full_tile)

// "Empty" is said before wgmma has read.
KERNEL(planted_early_empty, 64)(const __grid_constant__ TensorMap map, float *out) {
    SHARED(uint64_t, full);
    SHARED(uint64_t, empty);
    DYNAMIC_SHARED(unsigned char, memory);
    bf16(*tile)[TMA_COLUMNS] = tile_in(memory);
    const int i = int(threadIdx.x);
    make_barriers(&full, &empty);
    __syncthreads();
    float d[1][16][4];
    for (unsigned step = 0; step < 2; step++) {
        if (i == 32) {
            mbarrier_wait(&empty, step ^ 1);
            mbarrier_arrive_expect(&full, sizeof(Tile));
            tma_load(tile, &map, int(step) * TMA_COLUMNS, 0, &full);  // MARK early_empty copy
        } else if (i < 32) {
            mbarrier_wait(&full, step);
            wgmma_begin();
            wgmma(d, wgmma_matrix(tile[0]), wgmma_matrix(tile[0]), true);  // MARK early_empty read
            wgmma_commit();
            if (i == 0)
                mbarrier_arrive(&empty);
            wgmma_wait<0>(d);
        }
    }
    if (i < 32)
        out[i] = d[0][0][0];
}
EXPORT(planted_early_empty)

// Thread 0 says "empty" for thread 7, which may still be reading.
KERNEL(planted_empty_for_others, 64)(const __grid_constant__ TensorMap map, float *out) {
    SHARED(uint64_t, full);
    SHARED(uint64_t, empty);
    DYNAMIC_SHARED(unsigned char, memory);
    bf16(*tile)[TMA_COLUMNS] = tile_in(memory);
    const int i = int(threadIdx.x);
    make_barriers(&full, &empty);
    __syncthreads();
    for (unsigned step = 0; step < 2; step++) {
        if (i == 32) {
            mbarrier_wait(&empty, step ^ 1);
            mbarrier_arrive_expect(&full, sizeof(Tile));
            tma_load(tile, &map, int(step) * TMA_COLUMNS, 0, &full);  // MARK empty_for_others copy
            mbarrier_wait(&full, step);
        } else if ((i == 0 || i == 7) && step == 0) {
            mbarrier_wait(&full, 0);
            out[i] = to_float(tile[i][0]);  // MARK empty_for_others read
            if (i == 0)
                mbarrier_arrive(&empty);
        }
    }
}
EXPORT(planted_empty_for_others)
