// What readers of a batch norm apply, by the kernel that merges a convolution's moments:
// conv_moments (conv_fprop/2_tiles.cu) and bn_train (1_separate.cu) in one launch.
//
// The idea: a launch that only waits for the one before is better a part of it. Who has merged a
// channel's moments has all that its coefficients need. In a training step's graph this kernel
// takes the place of the two wherever one follows the other (src/backend/gpu/join.rs).
//
// Bound: the launch, of which ResNet-20 has some 20 fewer a step.
// Launch: Co blocks of 128 threads. Its arguments are those of conv_moments, then those of bn_train,
// in which mean, var and the number of channels occur again.
//
// Source: Ioffe, Szegedy: Batch Normalization: Accelerating Deep Network Training by Reducing
//   Internal Covariate Shift, 2015, arXiv 1502.03167 (the formulas).

#include "bn.cuh"
#include "conv_moments.cuh"

KERNEL(conv_moments_train, MERGERS)
(const float *partial, int blocks, int pixels, int co, float *mean, float *var, const float *gamma,
 const float *beta, const float *, const float *, float epsilon, float momentum, float unbias, int,
 float *invstd, float *scale, float *shift, float *running_mean, float *running_var) {
    const int c = int(blockIdx.x);
    const Moments<1> all = merged_moments(partial, blocks, pixels, co);
    if (threadIdx.x != 0)
        return;
    const BatchNorm bn = {gamma,  beta,  epsilon, momentum,     unbias,
                          invstd, scale, shift,   running_mean, running_var};
    mean[c] = all.mean[0];
    var[c] = all.m2[0] / all.n;
    bn.train(c, mean[c], var[c]);
}
EXPORT(conv_moments_train)
