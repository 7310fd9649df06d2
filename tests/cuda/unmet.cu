// A tile whose threads read what its others wrote, and do not wait for them.
#include <cooperative_groups.h>

#include "expect.h"

namespace cg = cooperative_groups;

__global__ void turned(int *to) {
    const auto tile = cg::tiled_partition<16>(cg::this_thread_block());
    __shared__ int values[64];
    values[threadIdx.x] = int(threadIdx.x);
    const int first = threadIdx.x / 16 * 16;
    to[threadIdx.x] = values[first + 15 - tile.thread_rank()];
}

__global__ void turned_rightly(int *to) {
    const auto tile = cg::tiled_partition<16>(cg::this_thread_block());
    __shared__ int values[64];
    values[threadIdx.x] = int(threadIdx.x);
    tile.sync();
    const int first = threadIdx.x / 16 * 16;
    to[threadIdx.x] = values[first + 15 - tile.thread_rank()];
}

int main() {
    int *to;
    CHECK(cudaMalloc(&to, 64 * sizeof *to));
    turned_rightly<<<1, 64>>>(to);
    turned<<<1, 64>>>(to);
    CHECK(cudaFree(to));
}
