// What changes from one training step to the next. A step is a captured graph whose arguments are
// frozen, so everything that varies comes from memory: the host fills a slot, the step's first
// kernel (step/1_begin.cu) copies it to the device, and the step's other kernels read the copy.
//
// A slot lies in pinned host memory that the device maps:
//
//   { SlotHeader; uint32_t ids[capacity]; float weights[capacity]; }    16 + 8·capacity bytes
//
// The host writes it by the same layout: src/backend/gpu/ has these structs in Rust.
#pragma once

#include "kernel.cuh"

#include <cstddef>

struct SlotHeader {
    uint64_t seed;  // of the augmentation
    uint32_t rows;  // instances of this step, <= capacity
    float lr;       // learning rate
};
static_assert(sizeof(SlotHeader) == 16, "the host writes 16 bytes");
static_assert(offsetof(SlotHeader, rows) == 8 && offsetof(SlotHeader, lr) == 12, "packed");

struct StepState {
    uint64_t step;  // from 0
    uint64_t seed;
    uint32_t rows;
    float lr;
};
static_assert(sizeof(StepState) == 24, "the host reads and writes 24 bytes");
static_assert(offsetof(StepState, seed) == 8, "packed");
static_assert(offsetof(StepState, rows) == 16 && offsetof(StepState, lr) == 20, "packed");
