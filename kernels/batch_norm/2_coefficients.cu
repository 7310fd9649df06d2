// What readers of a batch norm apply: y = scale · x + shift, with
//
//   invstd = 1/√(var + ε),  scale = γ · invstd,  shift = β − mean · scale
//
// from the batch's statistics (bn_train, which also moves the running ones along:
// running ← (1 − momentum) · running + momentum · new, of the unbiased variance), or from the
// running statistics (bn_eval). All are [C] f32.
//
// The one idea: double. With a large mean, shift is a difference of two large numbers that its
// readers add to a third: every digit that the factors lack would be missing in y. A handful of
// channels costs nothing.
//
// Bound: the launch.
// Launch: ceil(C / 128) blocks of 128 threads, a channel a thread.

#include "kernel.cuh"

#include <cmath>

namespace {

constexpr int THREADS = 128;

struct Coefficients {
    double invstd, scale, shift;

    DEVICE Coefficients(float gamma, float beta, float mean, float var, float epsilon) {
        invstd = 1 / sqrt(double(var) + double(epsilon));
        scale = double(gamma) * invstd;
        shift = double(beta) - double(mean) * scale;
    }
};

DEVICE void follow(float &running, float momentum, float now) {
    running = (1 - momentum) * running + momentum * now;
}

}  // namespace

// `unbias` is count / (count − 1).
KERNEL(bn_train, THREADS)
(const float *__restrict__ gamma, const float *__restrict__ beta, const float *__restrict__ mean,
 const float *__restrict__ var, float epsilon, float momentum, float unbias, int channels,
 float *__restrict__ invstd, float *__restrict__ scale, float *__restrict__ shift,
 float *__restrict__ running_mean, float *__restrict__ running_var) {
    const int c = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= channels)
        return;
    const Coefficients now(gamma[c], beta[c], mean[c], var[c], epsilon);
    invstd[c] = float(now.invstd);
    scale[c] = float(now.scale);
    shift[c] = float(now.shift);
    follow(running_mean[c], momentum, mean[c]);
    follow(running_var[c], momentum, var[c] * unbias);
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
