// Adam and AdamW (formulas: adam.cuh).
//
// The idea: blocks stay, and take four parameters a thread at once. What all parameters share is
// computed some hundred times instead of once for each 256 parameters, and every access is 16
// bytes.
//
// Bound: 7 transfers of 4 bytes a parameter (p, grad, m, v read; p, m, v written).
// Launch: ceil(n / 1024) blocks of 256 threads, but no more than eight a multiprocessor.
//
// Source: Kingma, Ba: Adam: A Method for Stochastic Optimization, 2014, arXiv 1412.6980.
// Source: Loshchilov, Hutter: Decoupled Weight Decay Regularization, 2017, arXiv 1711.05101.
// Source: Luitjens: CUDA Pro Tip: Increase Performance with Vectorized Memory Access, NVIDIA
//   developer blog, 2013.

#include "adam.cuh"

KERNEL(adam, 256)
(const StepState *state, float beta1, float beta2, float fresh1, float fresh2, float eps,
 float weight_decay, int decoupled, const float *scale, uint32_t n, float *__restrict__ params,
 const float *__restrict__ grads, float *__restrict__ m, float *__restrict__ v) {
    SHARED(AdamFactors, factors, );
    const AdamConfig config = {{beta1, beta2}, {fresh1, fresh2}, eps, weight_decay,
                               decoupled != 0};
    if (threadIdx.x == 0)
        factors.set(state, config, scale);
    __syncthreads();
    const AdamFactors f = factors;
    const uint32_t threads = gridDim.x * blockDim.x;
    const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
    for (uint32_t quad = thread; quad < n / 4; quad += threads) {
        float4 p4 = reinterpret_cast<float4 *>(params)[quad];
        float4 m4 = reinterpret_cast<float4 *>(m)[quad], v4 = reinterpret_cast<float4 *>(v)[quad];
        const float4 g4 = reinterpret_cast<const float4 *>(grads)[quad];
        f.update(config, p4.x, g4.x, m4.x, v4.x);
        f.update(config, p4.y, g4.y, m4.y, v4.y);
        f.update(config, p4.z, g4.z, m4.z, v4.z);
        f.update(config, p4.w, g4.w, m4.w, v4.w);
        reinterpret_cast<float4 *>(params)[quad] = p4;
        reinterpret_cast<float4 *>(m)[quad] = m4;
        reinterpret_cast<float4 *>(v)[quad] = v4;
    }
    const uint32_t rest = n / 4 * 4 + thread;
    if (rest < n)
        f.update(config, params[rest], grads[rest], m[rest], v[rest]);
}
EXPORT(adam)
