// What the parts of the CUDA runtime for programs of one's own (../cuda/runtime_api.h) share.
#pragma once

#include "../cuda/cuda_runtime.h"

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace simt {

struct Allocation {
    size_t size;
    cudaMemoryType type;
    bool registered;  // memory of the program's own
    int line;         // that asked for it
    const char *file;
};

// A function that is launched; of a template, one of its many.
struct ProgramKernel {
    SimtKernel described;
    std::string name;
    size_t dynamic_shared = 48 << 10;  // that a launch may ask for
    int carveout = -1;
};

// How a kernel's address is called.
struct Address {
    uint32_t argc;
    void (*call)(void *function, void **args);
};

// The shape of a launch, before it is known of what.
struct Configuration {
    uint32_t grid[3], block[3];
    size_t dynamic_shared;
    cudaStream_t stream;
    int line;
    const char *file;
    bool asks;      // only who it is
    bool together;  // cooperative: its blocks run side by side
};

using Work = std::function<cudaError_t()>;

struct Runtime {
    std::recursive_mutex mutex;  // for all of it
    SimtProgram program = {};
    std::map<uintptr_t, Allocation> allocations;
    std::map<void (*)(void **), std::unique_ptr<ProgramKernel>> kernels;
    std::map<const void *, Address> addresses;
    cudaError_t fault = cudaSuccess;  // nothing more is done
    bool heard = false;               // the program has been told of the last one
    std::vector<std::string> notes;   // of launches that failed, and nobody has asked

    // The allocation that has the byte, and where it starts.
    const std::pair<const uintptr_t, Allocation> *around(const void *p) const;
};

Runtime &runtime();
// Makes it the thread's last error.
cudaError_t fail(cudaError_t error);
void heard(cudaError_t error);
// The error that is there already, if one is.
cudaError_t faulted();
// The kernel that an address is of; null if it is none that is known.
ProgramKernel *kernel_at(const void *function);
// Has it called as a launch of that shape.
cudaError_t launch_at(const void *function, const Configuration &shape, void **args);
// What is to be done in a stream: now, or by the graph that is captured of it.
cudaError_t submit(cudaStream_t stream, cudaGraphNodeType type, Work work);
// Checked before anything is done: null if it is not possible.
cudaError_t copy(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                 size_t height, cudaMemcpyKind kind);
// Remembers where the host has read this byte, which nothing has written.
void read_unwritten(const void *p);
cudaError_t fill(void *p, size_t pitch, unsigned value, size_t element, size_t width,
                 size_t height);

// Device memory, which the host has no business in, while the runtime is at it.
class Reach {
public:
    Reach();
    ~Reach();
    Reach(const Reach &) = delete;
    Reach &operator=(const Reach &) = delete;
};

}  // namespace simt
