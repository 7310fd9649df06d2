// What changes from one training step to the next. A step is a captured graph whose arguments are
// frozen, so everything that varies comes from memory: the host fills a slot, the step's first
// kernel (step/1_begin.cu) copies it to the device, and the step's other kernels read the copy.
//
// A slot lies in pinned host memory that the device maps:
//
//   { SlotHeader; uint32_t ids[capacity]; float weights[capacity]; }    24 + 8·capacity bytes
//
// The host writes it by the same layout: src/backend/gpu/ has these structs in Rust.
#pragma once

#include "kernel.cuh"

#include <cstddef>

struct SlotHeader {
    uint64_t seed;   // of the augmentation
    uint32_t rows;   // instances of this step, <= capacity
    float lr;        // learning rate
    uint32_t total;  // instances on all ranks together, where there are several
    float vote;      // 1 where this rank wants to stop
};
static_assert(sizeof(SlotHeader) == 24, "the host writes 24 bytes");
static_assert(offsetof(SlotHeader, rows) == 8 && offsetof(SlotHeader, lr) == 12, "packed");
static_assert(offsetof(SlotHeader, total) == 16 && offsetof(SlotHeader, vote) == 20, "packed");

struct StepState {
    uint64_t step;  // from 0
    uint64_t seed;
    uint32_t rows;
    float lr;
    uint32_t total;
    uint32_t unused;  // fills up the last 8 bytes
};
static_assert(sizeof(StepState) == 32, "the host reads and writes 32 bytes");
static_assert(offsetof(StepState, seed) == 8, "packed");
static_assert(offsetof(StepState, rows) == 16 && offsetof(StepState, lr) == 20, "packed");
static_assert(offsetof(StepState, total) == 24, "packed");
