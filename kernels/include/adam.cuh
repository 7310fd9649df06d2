// Adam (Kingma, Ba, 2015) and AdamW (Loshchilov, Hutter, 2019), as PyTorch's, on flat buffers of
// all parameters. t = step + 1, g = scale · grad:
//
//   AdamW: p *= 1 − lr·wd      Adam: g += wd·p
//   m = β₁·m + (1−β₁)·g   v = β₂·v + (1−β₂)·g²
//   p −= lr · (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε)
//
//   params, grads, m, v [n] f32, starts multiples of 16 bytes; scale [1] f32 or null; lr from the
//   step's state
//
// Source: Kingma, Ba: Adam: A Method for Stochastic Optimization, 2014, arXiv 1412.6980.
// Source: Loshchilov, Hutter: Decoupled Weight Decay Regularization, 2017, arXiv 1711.05101.
#pragma once

#include "step.cuh"

// What the host knows.
struct AdamConfig {
    float beta[2], fresh[2];  // fresh = 1 − β
    float eps, weight_decay;
    bool decoupled;
};

// All that is the same for every parameter, taken in double and rounded once.
struct AdamFactors {
    float scale, rate, unbias, keep, pull;

    // b^t by squaring: no library's pow, so that host and device have the same bits.
    static DEVICE double power(double b, uint64_t t) {
        double result = 1.0;
        for (; t > 0; t /= 2) {
            if (t % 2)
                result *= b;
            b *= b;
        }
        return result;
    }

    DEVICE void set(const StepState *state, const AdamConfig &config, const float *scale_at) {
        const uint64_t t = state->step + 1;
        const double lr = state->lr, decay = config.weight_decay;
        scale = scale_at ? *scale_at : 1.0f;
        rate = float(lr / (1.0 - power(config.beta[0], t)));
        unbias = float(1.0 / sqrt(1.0 - power(config.beta[1], t)));
        keep = config.decoupled ? float(1.0 - lr * decay) : 1.0f;
        pull = config.decoupled ? 0.0f : config.weight_decay;
    }

    DEVICE void update(const AdamConfig &config, float &p, float grad, float &m, float &v) const {
        const float kept = p * keep;
        const float g = scale * grad + pull * p;
        m = config.beta[0] * m + config.fresh[0] * g;
        v = config.beta[1] * v + config.fresh[1] * (g * g);
        p = kept - rate * m / (sqrtf(v) * unbias + config.eps);
    }
};
