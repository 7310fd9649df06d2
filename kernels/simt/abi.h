/* What the SIMT executor offers to its callers: the table of kernels and their launch. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct SimtKernel {
    const char *name;
    const char *file;
    /* Of KERNEL(name, max_threads): no launch may have more. */
    uint32_t max_threads;
    /* Parameters and their sizes in bytes. */
    uint32_t argc;
    const uint32_t *arg_sizes;
    /* Runs the kernel as the CUDA thread whose fiber calls it. */
    void (*call)(void **args);
} SimtKernel;

/* Every kernel of the build: a table that build.rs generates. */
const SimtKernel *const *simt_kernels(size_t *count);

typedef struct SimtLaunch {
    uint32_t grid[3];
    uint32_t block[3];
    /* Bytes. */
    uint32_t dynamic_shared;
    /* Which of the threads that can run does: 0 that of the lowest warp and lane, 1 the highest, 2 a
       random one, drawn from `seed` and the block's number. */
    uint32_t schedule;
    uint64_t seed;
} SimtLaunch;

/* Runs a grid to its end. `args` as for cuLaunchKernel; it and what it points to are copied first.
   Returns 0, or 1 with a message of one or more lines in `error`. */
int simt_launch(const SimtKernel *kernel, const SimtLaunch *launch, void **args, char *error,
                size_t error_size);

/* How often the kernel has been launched in this process. */
uint64_t simt_launches(const SimtKernel *kernel);

#ifdef __cplusplus
}
#endif
