// What readers of a batch norm apply (formulas: bn.cuh), from the batch's statistics (bn_train,
// which also moves the running ones along: running ← (1 − momentum) · running + momentum · new, of
// the unbiased variance), or from the running statistics (bn_eval). All are [C] f32.
//
// The idea: none yet; a launch of its own, of a thread a channel.
//
// Bound: the launch.
// Launch: ceil(C / 128) blocks of 128 threads, a channel a thread.
//
// Source: Ioffe, Szegedy: Batch Normalization: Accelerating Deep Network Training by Reducing
//   Internal Covariate Shift, 2015, arXiv 1502.03167.

#include "bn.cuh"

namespace {

constexpr int THREADS = 128;

}  // namespace

KERNEL(bn_train, THREADS)
(const float *__restrict__ gamma, const float *__restrict__ beta, const float *__restrict__ mean,
 const float *__restrict__ var, float epsilon, float momentum, float unbias, int channels,
 float *__restrict__ invstd, float *__restrict__ scale, float *__restrict__ shift,
 float *__restrict__ running_mean, float *__restrict__ running_var) {
    const int c = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= channels)
        return;
    const BatchNorm bn = {gamma,  beta,  epsilon, momentum,     unbias,
                          invstd, scale, shift,   running_mean, running_var};
    bn.train(c, mean[c], var[c]);
}
EXPORT(bn_train)

KERNEL(bn_eval, THREADS)
(const float *__restrict__ gamma, const float *__restrict__ beta,
 const float *__restrict__ running_mean, const float *__restrict__ running_var, float epsilon,
 int channels, float *__restrict__ scale, float *__restrict__ shift) {
    const int c = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= channels)
        return;
    const Coefficients all(gamma[c], beta[c], running_mean[c], running_var[c], epsilon);
    scale[c] = float(all.scale);
    shift[c] = float(all.shift);
}
EXPORT(bn_eval)
