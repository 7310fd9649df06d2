// Copy of floats: to[i] = from[i] for i < n, wherever in a buffer of floats they start.
//
// The idea: none yet; a thread copies a run of 8 neighbours, as a thread of a CPU would.
//
//   lane       0        1        2              31
//   step 1   |x.......|x.......|x.......|  ..  |x.......|   32 sectors, of each one float
//
//   lanes     0 .. 7   8 .. 15  16 .. 23  24 .. 31          x  a float that a warp's first load
//   step 2   |xxxxxxxx|xxxxxxxx|xxxxxxxx|xxxxxxxx|             wants, | |  a sector of 32 bytes
//
// Bound: sectors. Memory moves in sectors of 32 bytes, and a run is one. A warp's 32 loads of the
// same instruction are in 32 different ones, of which each lane takes 4 bytes: 32 sectors a request
// instead of 4. The other 28 bytes wait in L1 for the loop's next turns, but stores do not: L2 gets
// a sector's write for every 4 bytes.
//
// Launch: ceil(n / 2048) blocks of 256 threads.
#include "kernel.cuh"

namespace {

constexpr uint32_t RUN = 8;

}  // namespace

KERNEL(copy_strided, 256)(const float *__restrict__ from, float *__restrict__ to, uint32_t n) {
    const uint32_t first = (blockIdx.x * blockDim.x + threadIdx.x) * RUN;
    for (uint32_t i = first; i < first + RUN && i < n; i++)
        to[i] = from[i];
}
EXPORT(copy_strided)

// Try: how many sectors does a request of `kernels profile copy --step 1 --shape 65536` touch?
// Answer: `32.00 sectors a request`: lanes start 32 bytes apart, so each is alone in its sector.
