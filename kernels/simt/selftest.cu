// Kernels for the tests of the SIMT executor (tests/simt.rs): one for each primitive, one for each
// mistake. They are CUDA like all others; some of them are wrong on purpose.

#include "kernel.cuh"

namespace {

using u64 = unsigned long long;

DEVICE int linear_thread() {
    return int((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x);
}

DEVICE int linear_block() {
    return int((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
}

DEVICE int global_thread() {
    return linear_block() * int(blockDim.x * blockDim.y * blockDim.z) + linear_thread();
}

DEVICE bool in_mask(unsigned mask) {
    return (mask >> (threadIdx.x % 32) & 1) != 0;
}

template <class T>
DEVICE void shuffle(unsigned mask, int mode, int operand, int width, const T *in, T *out) {
    if (!in_mask(mask))
        return;
    const int i = linear_thread();
    switch (mode) {
    case 0:
        out[i] = __shfl_sync(mask, in[i], operand, width);
        break;
    case 1:
        out[i] = __shfl_up_sync(mask, in[i], unsigned(operand), width);
        break;
    case 2:
        out[i] = __shfl_down_sync(mask, in[i], unsigned(operand), width);
        break;
    default:
        out[i] = __shfl_xor_sync(mask, in[i], operand, width);
    }
}

DEVICE float block_sum(float v) {
    SHARED(float, sums, [32]);
    for (int offset = 16; offset > 0; offset /= 2)
        v += __shfl_xor_sync(~0u, v, offset);
    __syncthreads();  // whoever called before has read its result
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = v;
    __syncthreads();
    const int warps = int(blockDim.x) / 32, lane = int(threadIdx.x) % 32;
    v = lane < warps ? sums[lane] : 0;
    for (int offset = 16; offset > 0; offset /= 2)
        v += __shfl_xor_sync(~0u, v, offset);
    return v;
}

}  // namespace

// Position, for each thread: twelve words.
KERNEL(selftest_position, 1024)(unsigned *out) {
    out += 12 * global_thread();
    out[0] = threadIdx.x, out[1] = threadIdx.y, out[2] = threadIdx.z;
    out[3] = blockIdx.x, out[4] = blockIdx.y, out[5] = blockIdx.z;
    __syncthreads();  // they survive it
    out[6] = blockDim.x, out[7] = blockDim.y, out[8] = blockDim.z;
    out[9] = gridDim.x, out[10] = gridDim.y, out[11] = gridDim.z;
    if (threadIdx.x != out[0] || threadIdx.y != out[1] || threadIdx.z != out[2])
        __trap();
}
EXPORT(selftest_position)

// Every kind of argument.
KERNEL(selftest_arguments, 1)
(u64 *out, const int *__restrict__ p, int i, unsigned u, float f, uint64_t l) {
    out[0] = u64(*p);
    out[1] = u64(i);
    out[2] = u;
    out[3] = __float_as_uint(f);
    out[4] = l;
}
EXPORT(selftest_arguments)

KERNEL(selftest_nothing, 1024)() {}
EXPORT(selftest_nothing)

// One number for each thread, in the order in which they run: before the barrier and after it.
KERNEL(selftest_order, 256)(unsigned *counter, unsigned *out) {
    const int i = global_thread(), all = int(gridDim.x * blockDim.x);
    out[i] = atomicAdd(counter, 1u);
    __syncthreads();
    out[all + i] = atomicAdd(counter, 1u);
}
EXPORT(selftest_order)

KERNEL(selftest_shuffle_i32, 64)
(unsigned mask, int mode, int operand, int width, const int *in, int *out) {
    shuffle(mask, mode, operand, width, in, out);
}
EXPORT(selftest_shuffle_i32)

KERNEL(selftest_shuffle_f32, 64)
(unsigned mask, int mode, int operand, int width, const float *in, float *out) {
    shuffle(mask, mode, operand, width, in, out);
}
EXPORT(selftest_shuffle_f32)

KERNEL(selftest_shuffle_u64, 64)
(unsigned mask, int mode, int operand, int width, const u64 *in, u64 *out) {
    shuffle(mask, mode, operand, width, in, out);
}
EXPORT(selftest_shuffle_u64)

// ballot, any, all, for each thread.
KERNEL(selftest_vote, 64)(unsigned mask, const int *predicate, unsigned *out) {
    if (!in_mask(mask))
        return;
    const int i = linear_thread();
    out[3 * i] = __ballot_sync(mask, predicate[i]);
    out[3 * i + 1] = unsigned(__any_sync(mask, predicate[i]));
    out[3 * i + 2] = unsigned(__all_sync(mask, predicate[i]));
}
EXPORT(selftest_vote)

// Sum, minimum and maximum as int, then as unsigned, for each thread.
KERNEL(selftest_reduce, 64)(unsigned mask, const int *in, int *out) {
    if (!in_mask(mask))
        return;
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    const int i = linear_thread();
    out[6 * i] = __reduce_add_sync(mask, in[i]);
    out[6 * i + 1] = __reduce_min_sync(mask, in[i]);
    out[6 * i + 2] = __reduce_max_sync(mask, in[i]);
    out[6 * i + 3] = int(__reduce_add_sync(mask, unsigned(in[i])));
    out[6 * i + 4] = int(__reduce_min_sync(mask, unsigned(in[i])));
    out[6 * i + 5] = int(__reduce_max_sync(mask, unsigned(in[i])));
#endif
}
EXPORT(selftest_reduce)

// or, and, count over the first `alive` threads of each block; the others return at once.
KERNEL(selftest_barrier_votes, 1024)(int alive, const int *predicate, int *out) {
    const int i = int(threadIdx.x);
    if (i >= alive)
        return;
    out[3 * i] = __syncthreads_or(predicate[i]);
    out[3 * i + 1] = __syncthreads_and(predicate[i]);
    out[3 * i + 2] = __syncthreads_count(predicate[i]);
}
EXPORT(selftest_barrier_votes)

// The sums of x and of -2x over each block: a device function with shared memory, called twice.
KERNEL(selftest_block_sum, 1024)(const float *x, float *out) {
    const float v = x[global_thread()];
    const float a = block_sum(v);
    const float b = block_sum(-2 * v);
    if (threadIdx.x == 0) {
        out[2 * blockIdx.x] = a;
        out[2 * blockIdx.x + 1] = b;
    }
}
EXPORT(selftest_block_sum)

// out[c][r] = in[r][c], 32 x 32 tiles, 32 x 8 threads.
KERNEL(selftest_transpose, 256)(const float *in, float *out, int rows, int cols) {
    SHARED(float, tile, [32][33]);
    const int x = int(threadIdx.x), y = int(threadIdx.y);
    int row = int(blockIdx.y) * 32 + y, col = int(blockIdx.x) * 32 + x;
    for (int i = 0; i < 32; i += 8)
        if (row + i < rows && col < cols)
            tile[y + i][x] = in[(row + i) * cols + col];
    __syncthreads();
    row = int(blockIdx.x) * 32 + y, col = int(blockIdx.y) * 32 + x;
    for (int i = 0; i < 32; i += 8)
        if (row + i < cols && col < rows)
            out[(row + i) * rows + col] = tile[x][y + i];
}
EXPORT(selftest_transpose)

// c [m,n] = a [m,k] b [k,n]: 64 x 64 tiles, 256 threads with 4 x 4 sums each. m and n are multiples
// of 64, k of 16.
KERNEL(selftest_sgemm, 256)(int n, int k, const float *a, const float *b, float *c) {
    SHARED(float4, a_slice, [16][16]);  // [k][row / 4]
    SHARED(float4, b_slice, [16][16]);  // [k][col / 4]
    const int t = int(threadIdx.x), row = t / 16, col = t % 16;
    a += size_t(blockIdx.y) * 64 * k;
    b += blockIdx.x * 64;
    float acc[4][4] = {};
    for (int first = 0; first < k; first += 16) {
        const float4 v = *reinterpret_cast<const float4 *>(a + (t / 4) * k + first + t % 4 * 4);
        float *to = reinterpret_cast<float *>(&a_slice[t % 4 * 4][0]) + t / 4;
        to[0] = v.x, to[64] = v.y, to[128] = v.z, to[192] = v.w;
        b_slice[row][col] = *reinterpret_cast<const float4 *>(b + (first + row) * n + 4 * col);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const float4 x = a_slice[i][row], y = b_slice[i][col];
            const float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int s = 0; s < 4; s++)
                    acc[r][s] += xs[r] * ys[s];
        }
        __syncthreads();
    }
    c += (size_t(blockIdx.y) * 64 + 4 * row) * n + blockIdx.x * 64 + 4 * col;
#pragma unroll
    for (int r = 0; r < 4; r++)
        *reinterpret_cast<float4 *>(c + r * n) =
            make_float4(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
}
EXPORT(selftest_sgemm)

// Counters over many blocks, in global and shared memory.
KERNEL(selftest_atomics, 256)
(int *ints, unsigned *unsigneds, u64 *longs, float *floats, unsigned *cas, int *shared_sums) {
    SHARED(int, sum, [1]);
    const int i = global_thread();
    atomicAdd(&ints[0], i);
    atomicMin(&ints[1], -i);
    atomicMax(&ints[2], i);
    atomicAdd(&unsigneds[0], 1u);
    atomicMin(&unsigneds[1], unsigned(i));
    atomicMax(&unsigneds[2], unsigned(i));
    atomicAnd(&unsigneds[3], ~(1u << i % 16));
    atomicOr(&unsigneds[4], 1u << i % 32);
    atomicInc(&unsigneds[5], 9u);
    atomicAdd(&longs[0], u64(i) << 20);
    atomicMax(&longs[1], u64(i) << 40);
    atomicAdd(&floats[0], 1.0f);
    if (atomicExch(&unsigneds[6], 1u) == 0)
        atomicAdd(&unsigneds[7], 1u);  // one thread of all comes first
    // Counts to the number of threads by compare and swap.
    for (unsigned old = *cas, seen;; old = seen) {
        seen = atomicCAS(cas, old, old + 1);
        if (seen == old)
            break;
    }
    if (threadIdx.x == 0)
        sum[0] = 0;
    __syncthreads();
    atomicAdd(&sum[0], int(threadIdx.x));
    __threadfence_block();
    __threadfence();
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x == 0)
        shared_sums[blockIdx.x] = sum[0];
}
EXPORT(selftest_atomics)

// Static and dynamic shared memory hold different things at the same time. out: one number of each
// of the three for each thread, from its neighbour; then alignments.
KERNEL(selftest_shared, 128)(unsigned *out) {
    SHARED(unsigned char, bytes, [131]);
    SHARED(double, doubles, [128]);
    DYNAMIC_SHARED(unsigned, words);
    const unsigned t = threadIdx.x, next = (t + 1) % blockDim.x, base = blockIdx.x * 1000;
    bytes[t] = (unsigned char)(t + blockIdx.x);
    doubles[t] = base + t;
    words[t] = base + 2 * t;
    __syncthreads();
    out += (blockIdx.x * blockDim.x + t) * 4;
    out[0] = bytes[next];
    out[1] = unsigned(doubles[next]);
    out[2] = words[next];
    out[3] = unsigned(size_t(doubles) % alignof(double) + size_t(words) % 16);
}
EXPORT(selftest_shared)

// Reads shared memory before it writes: the words of both kinds for each block, combined by and.
KERNEL(selftest_poison, 64)(unsigned *out) {
    SHARED(unsigned, fixed, [256]);
    DYNAMIC_SHARED(unsigned, dynamic);
    unsigned all = ~0u;
    for (unsigned i = threadIdx.x; i < 256; i += blockDim.x)
        all &= fixed[i] & dynamic[i];
    atomicAnd(&out[blockIdx.x], all);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < 256; i += blockDim.x)
        fixed[i] = dynamic[i] = i;
}
EXPORT(selftest_poison)

// Half warps that go their own ways meet among themselves, then all together.
KERNEL(selftest_halves, 128)(int *out) {
    const int lane = int(threadIdx.x) % 32;
    int v = lane;
    if (lane < 16) {
        for (int i = 0; i < 5; i++)
            v += __shfl_xor_sync(0xffffu, v, 1 << i % 4);
    } else {
        for (int i = 0; i < 3; i++)
            v += __shfl_down_sync(0xffff0000u, v, 1, 16);
        __syncwarp(0xffff0000u);
    }
    __syncwarp();
    out[global_thread()] = v + __shfl_sync(~0u, v, 31 - lane);
}
EXPORT(selftest_halves)

// Lanes return one after the other while the others wait for them; the last sees who is left.
KERNEL(selftest_leaving, 96)(unsigned *out) {
    const int i = int(threadIdx.x), lane = i % 32;
    for (int round = 0; round < 32; round++) {
        if (round == lane)
            return;
        out[i] = __ballot_sync(~0u, 1);
        if (round == 20)
            __syncthreads();
    }
}
EXPORT(selftest_leaving)

KERNEL(selftest_intrinsics, 1)
(unsigned x, u64 y, float f, unsigned *out, u64 *longs, float *floats) {
    out[0] = unsigned(__popc(x));
    out[1] = unsigned(__popcll(y));
    out[2] = unsigned(__ffs(int(x)));
    out[3] = unsigned(__clz(int(x)));
    out[4] = __brev(x);
    out[5] = __umulhi(x, 0x9e3779b9u);
    out[6] = __float_as_uint(f);
    out[7] = unsigned(__float_as_int(-f));
    out[8] = min(x, 7u);
    out[9] = unsigned(max(-3, int(x % 5)));
    out[10] = __ldg(&x);
    out[11] = unsigned(__clz(0) + __ffs(0));
    longs[0] = __umul64hi(y, 0x9e3779b97f4a7c15ull);
    longs[1] = u64(__mul64hi(-(long long)(y >> 1), 0x1e3779b97f4a7c15ll));
    floats[0] = __uint_as_float(0x3f800000u);
    floats[1] = __int_as_float(0x40000000);
    floats[2] = rsqrtf(f);
    floats[3] = fmaf(f, f, 1.0f);
    floats[4] = log1pf(f) + expf(f) + exp2f(f) + logf(f) + log2f(f) + tanhf(f) + sqrtf(f);
    floats[5] = fmaxf(f, 2.0f) + fminf(f, 2.0f) + fabsf(-f) + floorf(f) + ceilf(f);
    floats[6] = min(f, 2.0f) + max(f, 2.0f);
    const uchar4 c = make_uchar4(1, 2, 3, 4);
    const int2 i = make_int2(-5, 6);
    const dim3 d(7);
    floats[7] = float(c.w + i.x) + float(d.x + d.z);
}
EXPORT(selftest_intrinsics)

// Mistakes

KERNEL(selftest_two_barriers, 1024)(int first) {
    if (int(threadIdx.x) < first)
        __syncthreads();  // MARK two_barriers 1
    else if (threadIdx.x + 1 < blockDim.x)
        __syncthreads();  // MARK two_barriers 2
}
EXPORT(selftest_two_barriers)

KERNEL(selftest_barrier_and_shuffle, 64)(int *out) {
    if (threadIdx.x < 40)
        __syncthreads();  // MARK barrier_and_shuffle 1
    else
        out[0] = __shfl_sync(~0u, 1, 0);  // MARK barrier_and_shuffle 2
}
EXPORT(selftest_barrier_and_shuffle)

KERNEL(selftest_two_shuffles, 64)(int *out) {
    const int lane = int(threadIdx.x) % 32;
    if (lane < 8 || lane == 20)
        out[0] = __shfl_sync(~0u, 1, 0);  // MARK two_shuffles 1
    else
        out[0] = __shfl_sync(~0u, 1, 0);  // MARK two_shuffles 2
}
EXPORT(selftest_two_shuffles)

KERNEL(selftest_two_masks, 32)() {
    __syncwarp(threadIdx.x < 4 ? 0xffu : ~0u);  // MARK two_masks
}
EXPORT(selftest_two_masks)

KERNEL(selftest_missing_lanes, 32)() {
    if (threadIdx.x < 30)
        __syncwarp();  // MARK missing_lanes 1
    else
        __syncthreads();  // MARK missing_lanes 2
}
EXPORT(selftest_missing_lanes)

KERNEL(selftest_not_in_mask, 32)() {
    __syncwarp(0x0000ffffu);  // MARK not_in_mask
}
EXPORT(selftest_not_in_mask)

KERNEL(selftest_reads_returned_lane, 64)(int *out) {
    if (threadIdx.x == 39)
        return;
    out[0] = __shfl_xor_sync(~0u, 1, 1);  // MARK reads_returned_lane
}
EXPORT(selftest_reads_returned_lane)

KERNEL(selftest_reads_outside_mask, 32)(int *out) {
    if (threadIdx.x < 8)
        out[0] = __shfl_sync(0xffu, 1, 9);  // MARK reads_outside_mask
}
EXPORT(selftest_reads_outside_mask)

KERNEL(selftest_bad_width, 32)(int *out) {
    out[0] = __shfl_sync(~0u, 1, 0, 12);  // MARK bad_width
}
EXPORT(selftest_bad_width)

KERNEL(selftest_trap, 256)(int block, int thread) {
    __syncthreads();
    if (linear_block() == block && linear_thread() == thread)
        __trap();  // MARK trap
    __syncthreads();
}
EXPORT(selftest_trap)

// All blocks from `block` on.
KERNEL(selftest_traps, 32)(int block, unsigned *ran) {
    atomicAdd(ran, 1u);
    if (linear_block() >= block)
        __trap();
}
EXPORT(selftest_traps)

KERNEL(selftest_wild_pointer, 64)(volatile int *p) {
    __syncthreads();  // MARK wild_pointer
    if (blockIdx.x == 1 && threadIdx.x == 33)
        *p = 1;
}
EXPORT(selftest_wild_pointer)

KERNEL(selftest_divides, 32)(int divisor, int *out) {
    out[threadIdx.x] = 100 / (divisor - int(threadIdx.x));
}
EXPORT(selftest_divides)

KERNEL(selftest_stack_overflow, 32)(int n, volatile unsigned char *out) {
    volatile unsigned char big[80 << 10];
    for (int i = int(sizeof big) - 1; i >= 0; i -= n)
        big[i] = (unsigned char)i;
    out[0] = big[n];
}
EXPORT(selftest_stack_overflow)

KERNEL(selftest_dynamic_overrun, 32)(int words) {
    DYNAMIC_SHARED(volatile unsigned, dynamic);
    dynamic[words] = 1;
}
EXPORT(selftest_dynamic_overrun)

KERNEL(selftest_shared_sum_too_large, 32)(int *out) {
    SHARED(int, some, [256]);
    some[threadIdx.x] = 1;
    out[0] = some[0];
}
EXPORT(selftest_shared_sum_too_large)

#ifndef __CUDACC__  // nvcc refuses it
KERNEL(selftest_static_too_large, 32)(int *out) {
    SHARED(int, small, [16]);
    SHARED(int, large, [12 << 10]);
    small[0] = large[threadIdx.x] = 1;
    out[0] = small[0];
}
EXPORT(selftest_static_too_large)
#endif

// What the executor costs: `rounds` barriers or shuffles.
KERNEL(selftest_barriers, 1024)(int rounds) {
    for (int i = 0; i < rounds; i++)
        __syncthreads();
}
EXPORT(selftest_barriers)

KERNEL(selftest_shuffles, 1024)(int rounds, int *out) {
    int v = int(threadIdx.x);
    for (int i = 0; i < rounds; i++)
        v += __shfl_xor_sync(~0u, v, 1);
    out[global_thread()] = v;
}
EXPORT(selftest_shuffles)
