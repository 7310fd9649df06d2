// max(x, 0), but NaN for NaN: fmaxf would make that a 0.
#pragma once

#include "kernel.cuh"

DEVICE float relu_of(float x) {
    return x < 0 ? 0 : x;
}
