// Copy of floats: to[i] = from[i] for i < n, wherever in a buffer of floats they start.
//
// The idea: none yet; a thread copies a run of 8 neighbours, as a thread of a CPU would.
//
//   sectors of 32 bytes   |0.......|1.......|2.......|     |31......|   32 sectors for 128 bytes:
//   first load of lanes    0        1        2        ...   31          here
//
//                         |01234567|89......|........|..31|             4 sectors: neighbours' loads
//   of the same lanes      all of them                                  are side by side (step 2)
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
