// Stochastic gradient descent with momentum, as PyTorch's, on flat buffers of all parameters:
//
//   g   = scale · grad + weight_decay · p
//   buf = momentum · buf + g
//   p   = p − lr · (nesterov ? g + momentum · buf : buf)
//
//   params, grads, buf [n] f32, starts multiples of 16 bytes; scale [1] f32 or null, for 1; lr from
//   the step's state
//
// Source: Sutskever, Martens, Dahl, Hinton: On the importance of initialization and momentum in
//   deep learning, ICML 2013.
#pragma once

#include "step.cuh"

struct Sgd {
    float lr, momentum, weight_decay;
    bool nesterov;
    float scale;

    DEVICE void update(float &p, float grad, float &buf) const {
        const float g = scale * grad + weight_decay * p;
        buf = momentum * buf + g;
        p -= lr * (nesterov ? g + momentum * buf : buf);
    }
};
