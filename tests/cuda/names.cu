// Macros of a program, called like what headers have for themselves.
#define A 0
#define B 1
#define BIAS 2
#define C 3
#define COUNT 4
#define D 5
#define DOWN 6
#define E 7
#define EXCHANGE 8
#define F 9
#define FRACTION 10
#define G 11
#define H 12
#define I 13
#define INFINITE 14
#define J 15
#define K 16
#define L 17
#define LA 18
#define LB 19
#define M 20
#define N 21
#define NEAREST 22
#define O 23
#define P 24
#define POWERS 25
#define PRODUCT 26
#define Q 27
#define R 28
#define REDUCE 29
#define S 30
#define SCAN 31
#define SUBSEQUENCE 32
#define SYNC 33
#define T 34
#define TA 35
#define TB 36
#define TC 37
#define TD 38
#define U 39
#define UP 40
#define V 41
#define W 42
#define X 43
#define Y 44
#define Z 45
#define ZERO 46
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
#include <cuComplex.h>
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <curand_kernel.h>
#include <mma.h>

#include <cstdio>
#include <cuda/atomic>
#include <cuda/barrier>
#include <cuda/pipeline>

namespace cg = cooperative_groups;

__global__ void sum(int *to) {
    const auto tile = cg::tiled_partition<32>(cg::this_thread_block());
    const int all = cg::reduce(tile, int(threadIdx.x), cg::plus<int>());
    if (threadIdx.x == 0)
        *to = max(all, T) + WIDTH;
}

int main() {
    int *to;
    cudaMallocManaged(&to, sizeof *to);
    sum<<<1, 32>>>(to);
    cudaDeviceSynchronize();
    puts(*to == 496 + 1000 && T == 34 && N + 1 == min(N + 1, 1000) ? "right" : "wrong");
    cudaFree(to);
}
