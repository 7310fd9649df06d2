// A cooperative launch: sums over all blocks, twice, with barriers of the grid between.
#include <cooperative_groups.h>

#include "expect.h"

namespace cg = cooperative_groups;

__global__ void sums(int *parts, int *totals, int turns) {
    const cg::grid_group grid = cg::this_grid();
    for (int turn = 0; turn < turns; turn++) {
        if (threadIdx.x == 0)
            parts[blockIdx.x] = int(blockIdx.x) + turn;
        grid.sync();
        if (grid.thread_rank() == 0) {
            totals[turn] = 0;
            for (unsigned i = 0; i < gridDim.x; i++)
                totals[turn] += parts[i];
        }
        grid.sync();
    }
}

int main() {
    int *parts, *totals, turns = 2, can = 0, each = 0;
    CHECK(cudaDeviceGetAttribute(&can, cudaDevAttrCooperativeLaunch, 0));
    EXPECT(can == 1);
    CHECK(cudaMallocManaged(&parts, 12 * sizeof(int)));
    CHECK(cudaMallocManaged(&totals, 2 * sizeof(int)));
    void *args[] = {&parts, &totals, &turns};
    CHECK(cudaLaunchCooperativeKernel((void *)sums, dim3(12), dim3(64), args, 0, 0));
    CHECK(cudaDeviceSynchronize());
    EXPECT(totals[0] == 66);
    EXPECT(totals[1] == 78);
    // More than there is room for at a time.
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, sums, 1024, 0));
    cudaDeviceProp gpu;
    CHECK(cudaGetDeviceProperties(&gpu, 0));
    const dim3 many(each * gpu.multiProcessorCount + 1);
    EXPECT(cudaLaunchCooperativeKernel((void *)sums, many, dim3(1024), args, 0, 0) ==
           cudaErrorCooperativeLaunchTooLarge);
    CHECK(cudaFree(parts));
    CHECK(cudaFree(totals));
    puts("right");
}
