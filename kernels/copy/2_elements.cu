// Copy of floats; the formula is in 1_strided.cu.
//
// The idea: neighbouring threads copy neighbouring floats. A warp's request is 128 bytes side by
// side, 4 sectors, of which every byte is used (5 where they start within a sector): coalescing.
//
// Bound: memory, 8 bytes an element. A thread has 4 bytes on their way, all threads of an H100
// 1.1 MB: about what its latency of some 600 ns wants of the half of the traffic that is read.
//
// Launch: ceil(n / 256) blocks of 256 threads.
//
// Source: CUDA C++ Best Practices Guide, "Coalesced Access to Global Memory".
#include "kernel.cuh"

KERNEL(copy_elements, 256)(const float *__restrict__ from, float *__restrict__ to, uint32_t n) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        to[i] = from[i];
}
EXPORT(copy_elements)

// Try: step 1 makes 2048 requests to read 65,536 floats. How many does `kernels profile copy --step
// 2 --shape 65536` make, and of how many sectors?
// Answer: `2048 requests`, as many, since a lane still takes 4 bytes; but of `4.00 sectors a
// request`.
