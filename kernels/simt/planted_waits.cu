// Kernels of the build that wait for too little, for the checker to notice (tests/check.rs): they are
// included once more with something else under the name of what they wait with.
#include "../include/copy.cuh"
#include "../include/gemm_mma.cuh"
#include "../include/hopper.cuh"

namespace {

template <int groups> DEVICE void copy_wait_less() {
    copy_wait<groups + 1>();
}

template <int groups, int TILES> DEVICE void wgmma_wait_less(float (&d)[1][TILES][4]) {
    wgmma_wait<groups + 1>(d);
}

}  // namespace

#pragma push_macro("EXPORT")
#undef EXPORT
#define EXPORT(name)

#define copy_wait copy_wait_less
namespace pipeline_wait {
#include "../gemm/6_pipeline.cu"
}
#undef copy_wait

#define wgmma_wait wgmma_wait_less
namespace hopper_wait {
#include "../gemm/7_hopper.cu"
}
#undef wgmma_wait

#pragma pop_macro("EXPORT")

KERNEL(mutant_pipeline_wait, 128)(const bf16 *a, const bf16 *b, bf16 *c, int m, int n, int k) {
    pipeline_wait::gemm_pipeline(a, b, c, m, n, k);
}
EXPORT(mutant_pipeline_wait)

KERNEL(mutant_hopper_wait, 384)
(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, bf16 *c, int m, int n,
 int k) {
    hopper_wait::gemm_hopper_128(a, b, c, m, n, k);
}
EXPORT(mutant_hopper_wait)
