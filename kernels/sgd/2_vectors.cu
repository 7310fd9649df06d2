// Stochastic gradient descent with momentum (formulas: sgd.cuh).
//
// The idea: four parameters a thread, so that each access is 16 bytes: a quarter of the
// instructions, and four times the bytes in flight from as many threads.
//
// Bound: 5 transfers of 4 bytes a parameter (p, grad, buf read; p, buf written).
// Launch: ceil(n / 1024) blocks of 256 threads.
//
// Source: Luitjens: CUDA Pro Tip: Increase Performance with Vectorized Memory Access, NVIDIA
//   developer blog, 2013.

#include "sgd.cuh"

KERNEL(sgd, 256)
(const StepState *state, float momentum, float weight_decay, int nesterov, const float *scale,
 uint32_t n, float *__restrict__ params, const float *__restrict__ grads, float *__restrict__ buf) {
    const Sgd sgd = {state->lr, momentum, weight_decay, nesterov != 0, scale ? *scale : 1.0f};
    const uint32_t first = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (first + 4 <= n) {
        float4 *p_at = reinterpret_cast<float4 *>(params + first);
        float4 *buf_at = reinterpret_cast<float4 *>(buf + first);
        float4 p = *p_at, m = *buf_at;
        const float4 g = *reinterpret_cast<const float4 *>(grads + first);
        sgd.update(p.x, g.x, m.x);
        sgd.update(p.y, g.y, m.y);
        sgd.update(p.z, g.z, m.z);
        sgd.update(p.w, g.w, m.w);
        *p_at = p;
        *buf_at = m;
    } else {
        for (uint32_t i = first; i < n; i++)
            sgd.update(params[i], grads[i], buf[i]);
    }
}
EXPORT(sgd)
