// Copy of floats; the formula is in 1_strided.cu. Both start at multiples of 16 bytes.
//
// The idea: four floats a thread as one access of 16 bytes: a quarter of the instructions, and four
// times the bytes in flight from as many threads. A request is 16 sectors, still side by side.
//
// Bound: memory, 8 bytes an element. No kernel that reads and writes its data once can be faster,
// so this is the roof of all that are bound by memory.
//
// Launch: ceil(n / 1024) blocks of 256 threads.
//
// Source: Luitjens: CUDA Pro Tip: Increase Performance with Vectorized Memory Access, NVIDIA
//   developer blog, 2013.
#include "kernel.cuh"

KERNEL(copy_vectors, 256)(const float *__restrict__ from, float *__restrict__ to, uint32_t n) {
    const uint32_t first = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (first + 4 <= n) {
        *reinterpret_cast<float4 *>(to + first) = *reinterpret_cast<const float4 *>(from + first);
    } else {
        for (uint32_t i = first; i < n; i++)
            to[i] = from[i];
    }
}
EXPORT(copy_vectors)

// Try: 16 sectors a request are four times those of step 2. Why is `kernels profile copy --step 3
// --shape 65536` no worse?
// Answer: there are `512 requests`, a quarter, and of each sector every byte is wanted: `16.00
// sectors a request, 100 % of them needed`.
