// Stochastic gradient descent with momentum (formulas: sgd.cuh).
//
// The idea: none yet but this one, all parameters lie in one buffer, so that a network's update is
// one launch and not one for every tensor. A thread a parameter.
//
// Bound: 5 transfers of 4 bytes a parameter (p, grad, buf read; p, buf written).
// Launch: ceil(n / 256) blocks of 256 threads.
//
// Source: Sutskever, Martens, Dahl, Hinton: On the importance of initialization and momentum in
//   deep learning, ICML 2013.

#include "sgd.cuh"

KERNEL(sgd_elements, 256)
(const StepState *state, float momentum, float weight_decay, int nesterov, const float *scale,
 uint32_t n, float *__restrict__ params, const float *__restrict__ grads, float *__restrict__ buf) {
    const Sgd sgd = {state->lr, momentum, weight_decay, nesterov != 0, scale ? *scale : 1.0f};
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        sgd.update(params[i], grads[i], buf[i]);
}
EXPORT(sgd_elements)
