// What readers of a batch norm apply: y = scale · x + shift, with
//
//   invstd = 1/√(var + ε),  scale = γ · invstd,  shift = β − mean · scale
//
// In double: with a large mean, shift is a difference of two large numbers that its readers add to
// a third; every digit that the factors lack would be missing in y. A handful of channels costs
// nothing.
//
// Source: Ioffe, Szegedy: Batch Normalization: Accelerating Deep Network Training by Reducing
//   Internal Covariate Shift, 2015, arXiv 1502.03167.
#pragma once

#include "kernel.cuh"

struct Coefficients {
    double invstd, scale, shift;

    DEVICE Coefficients(float gamma, float beta, float mean, float var, float epsilon) {
        invstd = 1 / sqrt(double(var) + double(epsilon));
        scale = double(gamma) * invstd;
        shift = double(beta) - double(mean) * scale;
    }
};

// The vectors of a batch norm in training, [C] f32.
struct BatchNorm {
    const float *gamma, *beta;
    float epsilon, momentum;
    float unbias;  // count / (count − 1)
    float *invstd, *scale, *shift, *running_mean, *running_var;

    // From the batch's statistics of a channel, after which the running ones follow.
    DEVICE void train(int c, float mean, float var) const {
        const Coefficients now(gamma[c], beta[c], mean, var, epsilon);
        invstd[c] = float(now.invstd);
        scale[c] = float(now.scale);
        shift[c] = float(now.shift);
        follow(running_mean[c], mean);
        follow(running_var[c], var * unbias);
    }

  private:
    DEVICE void follow(float &running, float now) const {
        running = (1 - momentum) * running + momentum * now;
    }
};
