// The C interface of the SIMT executor: what the host program calls. Kernels use simt.h.
//
//   const SimtKernel *const *all = simt_kernels(&count);     every kernel of the build
//   void *args[] = {&x, &n};                                 as for cuLaunchKernel
//   if (simt_launch(all[i], &launch, args, error, sizeof error)) puts(error);
//
// A launch is synchronous: when simt_launch returns, every thread of the grid has returned, or the
// launch has failed. Any OS thread may launch; launches run one after the other. The calling thread
// runs blocks too, together with a pool that is started by the first launch and lives as long as
// the process: one OS thread a processor, or AUTOASSIST_SIMT_THREADS of them (1..256, the caller
// included). A kernel that is deterministic on a GPU gives the same bits for every number of them.
//
// "Device memory" is memory of this process: pointers are passed on as they are.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// A kernel, described by EXPORT(name) in its source.
typedef struct SimtKernel {
    const char *name;            // as in the source
    const char *file;            // relative to the repository: kernels/sgd/2_vectors.cu
    uint32_t max_threads;        // of KERNEL(name, max_threads)
    uint32_t argc;               // number of parameters
    const uint32_t *arg_sizes;   // their sizes in bytes
    void (*call)(void **args);   // one CUDA thread's whole run; for the executor only
} SimtKernel;

// In which order the threads of a block run between barriers, and the blocks of a grid. A right
// kernel gives the same under all.
enum {
    SIMT_LOW_FIRST = 0,   // low blocks, warps and lanes first
    SIMT_HIGH_FIRST = 1,  // high ones first
    SIMT_RANDOM = 2,      // drawn from the launch's seed and the block's number
    // Besides: all blocks are there at the same time and may wait for one another. Checked and
    // profiled launches have them one after the other all the same.
    SIMT_TOGETHER = 4,
};

// When the bytes of an asynchronous copy, or the sums of a wgmma, land. A right kernel gives the
// same under all.
enum {
    SIMT_LAND_LATE = 0,      // when they are waited for
    SIMT_LAND_AT_ONCE = 1,
    SIMT_LAND_RANDOMLY = 2,  // one or the other, drawn for each copy
};

typedef struct SimtLaunch {
    uint32_t grid[3];         // blocks; x, y, z
    uint32_t block[3];        // threads of a block; x, y, z
    uint32_t dynamic_shared;  // bytes
    uint32_t schedule;        // SIMT_LOW_FIRST, ...
    uint32_t landing;         // SIMT_LAND_LATE, ...
    uint32_t shared_limit;    // bytes that a block may have of it, 227 KiB at most
    uint64_t seed;            // of what is random
} SimtLaunch;

// The kernels of the build: a table that build.rs generates. Every EXPORT(name) is a global
// `extern "C" const SimtKernel simt_kernel_name`.
const SimtKernel *const *simt_kernels(size_t *count);

// Runs a grid to its end. args[i] points to the kernel's i-th argument; arguments and array are
// copied before anything runs. Returns 0, or 1 with a message of one or several lines in `error`
// (cut to error_size, always terminated), when
// - the launch is impossible: no or too many threads, blocks, bytes of shared memory or arguments;
// - a thread calls __trap(), or accesses memory that is not there, or divides an integer by 0;
// - threads wait for one another in a way that CUDA does not define (block.cpp has the rules).
// A failed launch leaves memory as its threads left it, and later launches work. If several blocks
// fail the message is of the first of them in the schedule's order.
int simt_launch(const SimtKernel *kernel, const SimtLaunch *launch, void **args, char *error,
                size_t error_size);

// How many launches of the kernel were begun in this process.
uint64_t simt_launches(const SimtKernel *kernel);

// Checked launches (check.h): of kernels that were compiled a second time with the compiler's hooks
// on every memory access, and with memory whose every byte is accounted for. Their blocks run one
// after the other on the calling thread.
typedef struct SimtChecker SimtChecker;

enum {
    SIMT_RACE = 0,           // two accesses with nothing in between that orders them
    SIMT_COPY = 1,           // an access to bytes that an asynchronous copy may still be writing
    SIMT_BOUNDS = 2,         // an access that leaves its allocation or shared variable
    SIMT_UNINITIALISED = 3,  // a read of bytes that nothing has written
    SIMT_MISALIGNED = 4,
    SIMT_UNDEFINED = 5,      // arithmetic that C++ does not define
};

enum {
    SIMT_READ = 0,
    SIMT_WRITE = 1,
    SIMT_ATOMIC = 2,
    SIMT_COPIES = 3,  // the destination of an asynchronous copy
    SIMT_NOTHING = 4,  // computes
};

// What a thread did.
typedef struct SimtAct {
    uint32_t access;     // SIMT_READ, ...
    uint32_t block[3];
    uint32_t thread[3];
    uint64_t site;       // where in the code; see SimtCode
} SimtAct;

typedef struct SimtFinding {
    uint32_t kind;       // SIMT_RACE, ...
    uint32_t acts;       // how many of the next are there: of races and copies, the later one first
    SimtAct act[2];
    const SimtKernel *kernel;
    uint64_t count;      // how often it was seen at these sites
    char what[256];      // what was accessed, or computed
} SimtFinding;

// With room for so many bytes of device memory; null where the system refuses the address space.
SimtChecker *simt_checker_new(size_t capacity);
void simt_checker_delete(SimtChecker *checker);
// Zeroed device memory for checked launches, aligned to a power of two from 256 on, with unusable
// bytes behind it, as are those that align it. Null if no room is left.
void *simt_checker_alloc(SimtChecker *checker, size_t bytes, size_t align);
// Kernels may access so many bytes of other memory from now on; with 0 no more.
void simt_checker_share(SimtChecker *checker, const void *p, size_t bytes);
// From here on the contents of an allocation are undefined, and only so many bytes may be used.
void simt_checker_scratch(SimtChecker *checker, void *allocation, size_t bytes);
// The host has written these bytes of an allocation; an allocation is no more.
void simt_checker_define(SimtChecker *checker, void *p, size_t bytes);
void simt_checker_carry(SimtChecker *checker, void *to, const void *from, size_t bytes);
bool simt_checker_written(SimtChecker *checker, const void *p, size_t bytes);
void simt_checker_free(SimtChecker *checker, void *allocation);
// As simt_launch. A block that accesses what is not there ends, without an error.
int simt_launch_checked(SimtChecker *checker, const SimtKernel *kernel, const SimtLaunch *launch,
                        void **args, char *error, size_t error_size);
// What was found, each pair of sites once. Good until the next launch.
size_t simt_checker_findings(const SimtChecker *checker, const SimtFinding **findings);

// Profiled launches (profile.h), of the kernels as compiled for checked ones.
typedef struct SimtProfiler SimtProfiler;

// What is counted. Requests to memory first, in this order: the profiler counts on it.
enum {
    SIMT_GLOBAL_READ = 0,
    SIMT_GLOBAL_WRITE = 1,
    SIMT_GLOBAL_ATOMIC = 2,
    SIMT_SHARED_READ = 3,
    SIMT_SHARED_WRITE = 4,
    SIMT_SHARED_ATOMIC = 5,
    SIMT_TMA = 6,
    SIMT_MMA = 7,
    SIMT_WGMMA = 8,
    SIMT_BARRIER = 9,       // of a block
    SIMT_WARP_OP = 10,      // any other operation that a warp's lanes meet for
    SIMT_BASIC_BLOCK = 11,  // begun by a thread; in units, by a warp
};

typedef struct SimtTally {
    uint32_t kind;      // SIMT_GLOBAL_READ, ...
    uint32_t size;      // bytes of a lane's access, if it is one
    uint64_t site;      // where in the code; see SimtCode
    uint64_t requests;  // how often: by warps, unless the kind says otherwise
    uint64_t bytes;     // that their lanes asked for
    uint64_t units;     // sectors, wavefronts or FLOPs
    uint64_t ideal;     // sectors of the same bytes side by side; wavefronts without conflicts
} SimtTally;

// Of memory, in sectors; and of the launch.
typedef struct SimtFootprint {
    uint64_t read_by_blocks, written_by_blocks;  // by each block, each once
    uint64_t read, written;                      // by any
    uint64_t waits;          // of all warps, for what their block had not read before
    uint64_t run;            // blocks that were run; of all, the rest is estimated by them
    uint32_t static_shared;  // bytes of a block, which is no global memory
} SimtFootprint;

// What one instruction of a warp accessed, for who wants to see each.
typedef struct SimtRequest {
    uint32_t kind;         // SIMT_GLOBAL_READ to SIMT_SHARED_ATOMIC
    uint32_t block;        // of the launch, in the order in which they ran
    uint32_t warp;         // of the block
    uint32_t turn;         // barriers that the block had passed
    uint32_t lanes;        // a bit for each that took part
    uint32_t size;         // bytes of each lane
    uint64_t address[32];  // of each lane; of shared memory from its start
} SimtRequest;

// As simt_checker_new, simt_checker_alloc and simt_launch_checked. Of a launch whose blocks do more
// than `budget`, in accesses and basic blocks, only a sample is run (sample.h).
SimtProfiler *simt_profiler_new(size_t capacity, uint64_t budget, uint64_t most_blocks);
void simt_profiler_delete(SimtProfiler *profiler);
void *simt_profiler_alloc(SimtProfiler *profiler, size_t bytes);
int simt_launch_profiled(SimtProfiler *profiler, const SimtKernel *kernel,
                         const SimtLaunch *launch, void **args, char *error, size_t error_size);
// What the last launch did. Good until the next one.
size_t simt_profiler_tallies(const SimtProfiler *profiler, SimtFootprint *footprint,
                             const SimtTally **tallies);
// From here on all requests to memory are kept, too.
void simt_profiler_keep(SimtProfiler *profiler);
// Those of the last launch, a warp's in order. Good until the next one.
size_t simt_profiler_requests(const SimtProfiler *profiler, const SimtRequest **requests);
// The code that a function is part of, for who wants to read what basic blocks consist of.
typedef struct SimtCode {
    uint64_t origin;   // address that sites of this code are counted from
    uint64_t image;    // where the program starts, or the library
    uint64_t low;      // of the code
    uint64_t size;     // in bytes
    uint64_t block;    // what every basic block of a kernel calls first
    uint64_t special;  // what is called before every special function,
    uint64_t fused;    // and every fmaf
} SimtCode;

SimtCode simt_code(const void *function);
// The function is one of a library with kernels, which was loaded later and calls the program's
// executor. There may be one such library.
void simt_loaded(const void *function);

// The GPU that a program of one's own is run as.
typedef struct SimtDevice {
    const char *name;
    uint32_t major, minor, multiprocessors;
    uint32_t block_shared, shared;  // bytes that a block may have, and a multiprocessor has
    uint32_t threads, blocks;       // of a multiprocessor
    uint32_t clock_khz, l2;         // bytes
    uint64_t memory;                // bytes
    double memory_rate;             // bytes a second
} SimtDevice;

// How a program of one's own is run, which calls the runtime (../cuda/cuda_runtime.h).
typedef struct SimtProgram {
    SimtDevice device;
    // Whether the host may not access device memory.
    bool guard;
    // Device memory, aligned to 256 bytes; null if there is no more. What it holds is undefined. If
    // the host may access it, too, it is in pages of its own.
    void *(*alloc)(size_t bytes, bool host);
    // The host has written these bytes of it; or as many as are written of others.
    void (*define)(void *p, size_t bytes);
    void (*carry)(void *to, const void *from, size_t bytes);
    // Whether anything has written any of these.
    bool (*written)(const void *p, size_t bytes);
    void (*release)(void *p);
    // Kernels may access so many bytes of the program's own memory from now on.
    void (*share)(void *p, size_t bytes);
    // As simt_launch, and says by itself what went wrong, of which the result is cudaError_t.
    int (*launch)(const SimtKernel *kernel, const SimtLaunch *launch, void **args);
    // What an event records, in seconds.
    double (*clock)(void);
    // The program asks for the time between two events.
    void (*timed)(void);
    // See line_of in core.h.
    bool (*line)(const uint64_t *sites, char *text, size_t size);
} SimtProgram;

// An access of the host to device memory; or a read of it by a call of the host's, of what nothing has written.
typedef struct SimtTouch {
    bool writes, unwritten;
    size_t at, size;   // byte of an allocation, and its size
    int line;          // that has allocated it
    const char *file;
    uint64_t site[16];  // in the code, the innermost first; see SimtCode
} SimtTouch;

void simt_program(const SimtProgram *program);
// Once other handlers are there.
void simt_program_guard(void);
// Whether a call whose result it uses has told the program that a kernel has failed.
bool simt_program_heard(void);
size_t simt_program_touches(const SimtTouch **touches);
// Lines about launches that failed unseen, and perhaps memory that was not freed; as snprintf.
size_t simt_program_notes(bool leaks, char *text, size_t size);

#ifdef __cplusplus
}
#endif
