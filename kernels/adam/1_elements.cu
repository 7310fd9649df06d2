// Adam and AdamW (formulas: adam.cuh), a thread a parameter.
//
// The idea: one flat buffer of all parameters, one launch; what all parameters share one thread of
// each block computes, in double.
//
// Bound: 7 transfers of 4 bytes a parameter (p, grad, m, v read; p, m, v written).
// Launch: ceil(n / 256) blocks of 256 threads.
//
// Source: Kingma, Ba: Adam: A Method for Stochastic Optimization, 2014, arXiv 1412.6980.
// Source: Loshchilov, Hutter: Decoupled Weight Decay Regularization, 2017, arXiv 1711.05101.

#include "adam.cuh"

KERNEL(adam_elements, 256)
(const StepState *state, float beta1, float beta2, float fresh1, float fresh2, float eps,
 float weight_decay, int decoupled, const float *scale, uint32_t n, float *__restrict__ params,
 const float *__restrict__ grads, float *__restrict__ m, float *__restrict__ v) {
    SHARED(AdamFactors, factors, );
    const AdamConfig config = {{beta1, beta2}, {fresh1, fresh2}, eps, weight_decay,
                               decoupled != 0};
    if (threadIdx.x == 0)
        factors.set(state, config, scale);
    __syncthreads();
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        factors.update(config, params[i], grads[i], m[i], v[i]);
}
EXPORT(adam_elements)
