// A kernel of the build without its barrier, for the checker to notice (tests/check.rs): it is
// included once more with nothing under that name.
#include "../include/copy.cuh"
#include "../include/gemm_mma.cuh"

#pragma push_macro("EXPORT")
#undef EXPORT
#define EXPORT(name)

#define __syncthreads() static_cast<void>(0)
namespace pipeline_barrier {
#include "../gemm/6_pipeline.cu"
}
#undef __syncthreads

#pragma pop_macro("EXPORT")

KERNEL(mutant_pipeline_barrier, 128)(const bf16 *a, const bf16 *b, bf16 *c, int m, int n, int k) {
    pipeline_barrier::gemm_pipeline(a, b, c, m, n, k);
}
EXPORT(mutant_pipeline_barrier)
