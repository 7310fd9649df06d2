// The CUDA runtime for programs of one's own (../cuda/cuda_runtime.h): device memory is memory of
// this process, everything is done when a call returns, and whoever runs the program has its kernels
// checked or profiled or neither.
#include "../cuda/cuda_runtime.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

namespace {

using Clock = std::chrono::steady_clock;

struct Runtime {
    std::mutex mutex;
    SimtProgram program = {};
    std::map<uintptr_t, size_t> allocations;
    // By call, file and name: templates are one name and many functions.
    std::map<std::tuple<void (*)(void **), std::string, std::string>, SimtKernel> kernels;
    cudaError_t last = cudaSuccess;
    bool faulted = false;  // nothing more is done

    cudaError_t fail(cudaError_t error) {
        return last = error;
    }
    // The allocation that has all of these bytes.
    bool holds(const void *p, size_t size) const {
        auto after = allocations.upper_bound(uintptr_t(p));
        if (after == allocations.begin())
            return false;
        const auto [start, length] = *--after;
        const size_t at = uintptr_t(p) - start;
        return at <= length && size <= length - at;
    }
};

Runtime &runtime() {
    static Runtime &runtime = *new Runtime;
    return runtime;
}

// What a stream or an event is a pointer to.
struct Moment {
    Clock::time_point time;
};

}  // namespace

// Of what is launched here.
struct CUstream_st {};
struct CUevent_st : Moment {};

extern "C" {

void simt_program(const SimtProgram *program) {
    runtime().program = *program;
}

void simt_program_launch(const char *name, const char *file, void (*call)(void **), uint32_t argc,
                         const uint32_t *sizes, void **args, const uint32_t *grid,
                         const uint32_t *block, size_t dynamic_shared) {
    Runtime &all = runtime();
    std::lock_guard<std::mutex> lock(all.mutex);
    if (all.faulted)
        return;
    const SimtKernel described = {name, file, 1024, argc, sizes, call};
    const auto [at, _] = all.kernels.try_emplace({call, file, name}, described);
    const SimtKernel &kernel = at->second;
    const SimtProgram &program = all.program;
    SimtLaunch launch = {};
    std::copy(grid, grid + 3, launch.grid);
    std::copy(block, block + 3, launch.block);
    const uint64_t threads = uint64_t(block[0]) * block[1] * block[2];
    const bool possible = threads >= 1 && threads <= 1024 && block[2] <= 64 && grid[0] >= 1 &&
                          grid[1] >= 1 && grid[2] >= 1 && grid[0] <= 0x7fffffff &&
                          grid[1] <= 65535 && grid[2] <= 65535;
    if (!possible) {
        all.last = cudaErrorInvalidConfiguration;
        return;
    }
    if (dynamic_shared > program.device.block_shared) {
        all.last = cudaErrorInvalidValue;
        return;
    }
    launch.dynamic_shared = uint32_t(dynamic_shared);
    launch.shared_limit = program.device.block_shared;
    if (program.launch(&kernel, &launch, args) != 0) {
        all.faulted = true;
        all.last = cudaErrorLaunchFailure;
    }
}

cudaError_t cudaMalloc(void **p, size_t size) {
    Runtime &all = runtime();
    std::lock_guard<std::mutex> lock(all.mutex);
    if (!p)
        return all.fail(cudaErrorInvalidValue);
    const SimtProgram &program = all.program;
    *p = nullptr;
    if (size == 0)
        return cudaSuccess;
    *p = program.alloc(size);
    if (!*p)
        return all.fail(cudaErrorMemoryAllocation);
    all.allocations[uintptr_t(*p)] = size;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    Runtime &all = runtime();
    std::lock_guard<std::mutex> lock(all.mutex);
    if (!p)
        return cudaSuccess;
    if (all.allocations.erase(uintptr_t(p)) == 0)
        return all.fail(cudaErrorInvalidValue);
    all.program.release(p);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t size) {
    *p = malloc(size);
    return *p || size == 0 ? cudaSuccess : runtime().fail(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *p) {
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                         size_t width, size_t height, cudaMemcpyKind kind) {
    Runtime &all = runtime();
    std::lock_guard<std::mutex> lock(all.mutex);
    if (all.faulted)
        return all.fail(cudaErrorLaunchFailure);
    if (width == 0 || height == 0)
        return cudaSuccess;
    if (unsigned(kind) > cudaMemcpyDefault)
        return all.fail(cudaErrorInvalidMemcpyDirection);
    if (width > to_pitch || width > from_pitch)
        return all.fail(cudaErrorInvalidPitchValue);
    const size_t to_size = to_pitch * (height - 1) + width;
    const size_t from_size = from_pitch * (height - 1) + width;
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    // Device variables are no allocations.
    if ((to_device && !all.holds(to, to_size) && all.holds(to, 0)) ||
        (from_device && !all.holds(from, from_size) && all.holds(from, 0)) || !to || !from)
        return all.fail(cudaErrorInvalidValue);
    for (size_t row = 0; row < height; row++) {
        char *const at = static_cast<char *>(to) + row * to_pitch;
        memmove(at, static_cast<const char *>(from) + row * from_pitch, width);
        if (all.holds(at, width))
            all.program.define(at, width);
    }
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, cudaMemcpyKind kind) {
    return cudaMemcpy2D(to, size, from, size, size, 1, kind);
}

cudaError_t cudaMemset(void *p, int value, size_t size) {
    Runtime &all = runtime();
    std::lock_guard<std::mutex> lock(all.mutex);
    if (all.faulted)
        return all.fail(cudaErrorLaunchFailure);
    if (size == 0)
        return cudaSuccess;
    if (!all.holds(p, size))
        return all.fail(cudaErrorInvalidValue);
    memset(p, value, size);
    all.program.define(p, size);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    Runtime &all = runtime();
    std::lock_guard<std::mutex> lock(all.mutex);
    size_t used = 0;
    for (const auto &[_, size] : all.allocations)
        used += size;
    *total = all.program.device.memory;
    *free = *total - std::min(*total, used);
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    return device == 0 ? cudaSuccess : runtime().fail(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device) {
    if (device != 0)
        return runtime().fail(cudaErrorInvalidDevice);
    const SimtDevice &gpu = runtime().program.device;
    *properties = {};
    cudaDeviceProp &p = *properties;
    snprintf(p.name, sizeof p.name, "%s (SIMT executor)", gpu.name);
    p.totalGlobalMem = gpu.memory;
    p.sharedMemPerBlock = 48 << 10;
    p.sharedMemPerBlockOptin = gpu.block_shared;
    p.sharedMemPerMultiprocessor = gpu.shared;
    p.regsPerBlock = p.regsPerMultiprocessor = 64 << 10;
    p.warpSize = 32;
    p.memPitch = 0x7fffffff;
    p.maxThreadsPerBlock = p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024;
    p.maxThreadsDim[2] = 64;
    p.maxGridSize[0] = 0x7fffffff;
    p.maxGridSize[1] = p.maxGridSize[2] = 65535;
    p.clockRate = int(gpu.clock_khz);
    p.totalConstMem = 64 << 10;
    p.major = int(gpu.major);
    p.minor = int(gpu.minor);
    p.textureAlignment = 512;
    p.multiProcessorCount = int(gpu.multiprocessors);
    p.canMapHostMemory = p.concurrentKernels = p.unifiedAddressing = p.managedMemory = 1;
    p.l2CacheSize = int(gpu.l2);
    p.maxThreadsPerMultiProcessor = int(gpu.threads);
    p.maxBlocksPerMultiProcessor = int(gpu.blocks);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    cudaDeviceProp p;
    if (const cudaError_t error = cudaGetDeviceProperties(&p, device))
        return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = p.maxThreadsPerBlock;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = int(p.sharedMemPerBlock);
        return cudaSuccess;
    case cudaDevAttrWarpSize:
        *value = p.warpSize;
        return cudaSuccess;
    case cudaDevAttrMaxRegistersPerBlock:
        *value = p.regsPerBlock;
        return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
        *value = p.multiProcessorCount;
        return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = p.maxThreadsPerMultiProcessor;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
        *value = p.major;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *value = p.minor;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = int(p.sharedMemPerMultiprocessor);
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = int(p.sharedMemPerBlockOptin);
        return cudaSuccess;
    case cudaDevAttrCooperativeLaunch:
        *value = 0;
        return cudaSuccess;
    }
    return runtime().fail(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceSynchronize() {
    Runtime &all = runtime();
    return all.faulted ? all.fail(cudaErrorLaunchFailure) : cudaSuccess;
}

cudaError_t cudaDeviceReset() {
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    *stream = new CUstream_st;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    *event = new CUevent_st;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
    if (!event)
        return runtime().fail(cudaErrorInvalidResourceHandle);
    event->time = Clock::now();
    return cudaSuccess;
}

// Of this processor's.
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    if (!from || !to || from->time == Clock::time_point() || to->time == Clock::time_point())
        return runtime().fail(cudaErrorInvalidResourceHandle);
    *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
    return cudaSuccess;
}

cudaError_t cudaGetLastError() {
    Runtime &all = runtime();
    const cudaError_t error = all.last;
    // What a fault leaves stays.
    all.last = all.faulted ? cudaErrorLaunchFailure : cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError() {
    return runtime().last;
}

#define ERRORS(each)                                                              \
    each(cudaSuccess, "no error")                                                 \
    each(cudaErrorInvalidValue, "invalid argument")                               \
    each(cudaErrorMemoryAllocation, "out of memory")                              \
    each(cudaErrorInvalidConfiguration, "invalid configuration argument")         \
    each(cudaErrorInvalidPitchValue, "invalid pitch argument")                    \
    each(cudaErrorInvalidSymbol, "invalid device symbol")                         \
    each(cudaErrorInvalidDevicePointer, "invalid device pointer")                 \
    each(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy")    \
    each(cudaErrorInvalidDeviceFunction, "invalid device function")               \
    each(cudaErrorNoDevice, "no CUDA-capable device is detected")                 \
    each(cudaErrorInvalidDevice, "invalid device ordinal")                        \
    each(cudaErrorInvalidResourceHandle, "invalid resource handle")               \
    each(cudaErrorNotReady, "device not ready")                                   \
    each(cudaErrorLaunchFailure, "unspecified launch failure")                    \
    each(cudaErrorNotSupported, "operation not supported")                        \
    each(cudaErrorUnknown, "unknown error")

const char *cudaGetErrorString(cudaError_t error) {
#define CASE(name, text) \
    case name:           \
        return text;
    switch (error) { ERRORS(CASE) }
#undef CASE
    return "unrecognized error code";
}

const char *cudaGetErrorName(cudaError_t error) {
#define CASE(name, text) \
    case name:           \
        return #name;
    switch (error) { ERRORS(CASE) }
#undef CASE
    return "unrecognized error code";
}

}  // extern "C"
