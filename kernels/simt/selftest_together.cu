// Blocks that wait for one another, for tests/simt/together.rs.
#include "kernel.cuh"

#ifndef __CUDACC__  // the executor's own function
extern "C" void simt_grid_barrier(int line, const char *file);

// In every round a block takes what the one before it had, and adds 1.
KERNEL(selftest_together, 64)(int *values, int rounds) {
    const unsigned before = (blockIdx.x + gridDim.x - 1) % gridDim.x;
    for (int round = 0; round < rounds; round++) {
        const int value = values[before];
        simt_grid_barrier(__LINE__, __FILE__);
        if (threadIdx.x == 0)
            values[blockIdx.x] = value + 1;
        simt_grid_barrier(__LINE__, __FILE__);
    }
}
EXPORT(selftest_together)

KERNEL(selftest_leaves_the_grid, 64)(unsigned block) {
    if (blockIdx.x != block)
        simt_grid_barrier(__LINE__, __FILE__);
}
EXPORT(selftest_leaves_the_grid)

KERNEL(selftest_fails_alone, 64)(unsigned block) {
    if (blockIdx.x == block && threadIdx.x == 3)
        __trap();
    simt_grid_barrier(__LINE__, __FILE__);
}
EXPORT(selftest_fails_alone)
#endif
