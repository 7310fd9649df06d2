// The CUDA runtime's device: what it is, and what fits on it.
#include "runtime.h"

#include <algorithm>
#include <cstdio>

using namespace simt;

namespace {

// A whole number of them, or none.
int fitting(size_t all, size_t each) {
    return each == 0 ? 1024 : int(all / each);
}

// Of every block, from 8.0 on.
constexpr size_t RESERVED_SHARED = 1 << 10;

size_t limits[] = {1024, 1 << 20, 8 << 20, 2, 2048, 64, 0};

}  // namespace

extern "C" {

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    return device == 0 ? cudaSuccess : fail(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device) {
    if (device != 0)
        return fail(cudaErrorInvalidDevice);
    const SimtDevice &gpu = runtime().program.device;
    *properties = {};
    cudaDeviceProp &p = *properties;
    snprintf(p.name, sizeof p.name, "%s (SIMT executor)", gpu.name);
    p.totalGlobalMem = gpu.memory;
    p.sharedMemPerBlock = 48 << 10;
    p.sharedMemPerBlockOptin = gpu.block_shared;
    p.sharedMemPerMultiprocessor = gpu.shared;
    p.reservedSharedMemPerBlock = RESERVED_SHARED;
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
    p.textureAlignment = p.surfaceAlignment = 512;
    p.texturePitchAlignment = 32;
    p.multiProcessorCount = int(gpu.multiprocessors);
    p.deviceOverlap = p.canMapHostMemory = p.concurrentKernels = p.unifiedAddressing = 1;
    p.managedMemory = p.concurrentManagedAccess = p.streamPrioritiesSupported = 1;
    p.cooperativeLaunch = 1;
    p.globalL1CacheSupported = p.localL1CacheSupported = p.computePreemptionSupported = 1;
    p.canUseHostPointerForRegisteredMem = p.hostRegisterSupported = p.memoryPoolsSupported = 1;
    p.asyncEngineCount = 2;
    p.pciBusID = 1;
    p.ECCEnabled = 0;
    // Two transfers a clock; 5120 or 384 wires, as there is HBM or not.
    p.memoryBusWidth = gpu.memory_rate > 1.9e12 ? 5120 : 384;
    p.memoryClockRate = int(gpu.memory_rate / 1e3 / 2 / (p.memoryBusWidth / 8));
    p.singleToDoublePrecisionPerfRatio = gpu.minor == 0 ? 2 : 64;
    p.l2CacheSize = int(gpu.l2);
    p.persistingL2CacheMaxSize = int(gpu.l2 / 4 * 3);
    p.accessPolicyMaxWindowSize = 128 << 20;
    p.maxThreadsPerMultiProcessor = int(gpu.threads);
    p.maxBlocksPerMultiProcessor = int(gpu.blocks);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    cudaDeviceProp properties;
    if (const cudaError_t error = cudaGetDeviceProperties(&properties, device))
        return error;
    switch (attribute) {
#define CUDA_ATTRIBUTE(name, code, field)  \
    case name:                             \
        *value = int(properties.field);    \
        return cudaSuccess;
        CUDA_ATTRIBUTES(CUDA_ATTRIBUTE)
#undef CUDA_ATTRIBUTE
    }
    return fail(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceSynchronize() {
    return faulted();
}

// As new, also after a fault.
cudaError_t cudaDeviceReset() {
    Runtime &all = runtime();
    std::lock_guard<std::recursive_mutex> lock(all.mutex);
    all.fault = cudaSuccess;
    std::vector<std::pair<void *, cudaMemoryType>> ours;
    for (const auto &[start, a] : all.allocations)
        if (!a.registered)
            ours.emplace_back(reinterpret_cast<void *>(start), a.type);
    for (const auto &[p, type] : ours)
        type == cudaMemoryTypeHost ? cudaFreeHost(p) : cudaFree(p);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetLimit(size_t *value, cudaLimit limit) {
    if (unsigned(limit) >= std::size(limits))
        return fail(cudaErrorUnsupportedLimit);
    *value = limits[limit];
    return cudaSuccess;
}

cudaError_t cudaDeviceSetLimit(cudaLimit limit, size_t value) {
    if (unsigned(limit) >= std::size(limits))
        return fail(cudaErrorUnsupportedLimit);
    limits[limit] = value;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *function) {
    std::lock_guard<std::recursive_mutex> lock(runtime().mutex);
    const ProgramKernel *const kernel = kernel_at(function);
    if (!kernel)
        return fail(cudaErrorInvalidDeviceFunction);
    static std::once_flag once;
    std::call_once(once, [] {
        fprintf(stderr, "kernels: cudaFuncGetAttributes does not know registers and static shared "
                        "memory of kernels here, and says 0\n");
    });
    const SimtDevice &gpu = runtime().program.device;
    const int arch = int(gpu.major * 10 + gpu.minor);
    *attributes = {};
    attributes->maxThreadsPerBlock = int(std::min(kernel->described.max_threads, 1024u));
    attributes->ptxVersion = attributes->binaryVersion = arch;
    attributes->maxDynamicSharedSizeBytes = int(kernel->dynamic_shared);
    attributes->preferredShmemCarveout = kernel->carveout;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attribute, int value) {
    std::lock_guard<std::recursive_mutex> lock(runtime().mutex);
    ProgramKernel *const kernel = kernel_at(function);
    if (!kernel)
        return fail(cudaErrorInvalidDeviceFunction);
    switch (attribute) {
    case cudaFuncAttributeMaxDynamicSharedMemorySize:
        if (value < 0 || uint32_t(value) > runtime().program.device.block_shared)
            return fail(cudaErrorInvalidValue);
        kernel->dynamic_shared = size_t(value);
        return cudaSuccess;
    case cudaFuncAttributePreferredSharedMemoryCarveout:
        if (value < -1 || value > 100)
            return fail(cudaErrorInvalidValue);
        kernel->carveout = value;
        return cudaSuccess;
    default:
        return fail(cudaErrorNotSupported);
    }
}

// By threads, blocks and dynamic shared memory; what else bounds it is not known.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function,
                                                          int threads, size_t dynamic_shared) {
    std::lock_guard<std::recursive_mutex> lock(runtime().mutex);
    const ProgramKernel *const kernel = kernel_at(function);
    if (!kernel)
        return fail(cudaErrorInvalidDeviceFunction);
    if (!blocks || threads < 1)
        return fail(cudaErrorInvalidValue);
    const SimtDevice &gpu = runtime().program.device;
    const bool possible = uint32_t(threads) <= std::min(kernel->described.max_threads, 1024u) &&
                          dynamic_shared <= gpu.block_shared;
    const size_t shared = (dynamic_shared + 127) / 128 * 128 + RESERVED_SHARED;
    *blocks = !possible ? 0
                        : std::min({int(gpu.blocks),
                                    fitting(gpu.threads, size_t(threads + 31) / 32 * 32),
                                    fitting(gpu.shared, shared)});
    return cudaSuccess;
}

#define CASE_TEXT(name, code, text) \
    case name:                      \
        return text;
#define CASE_NAME(name, code, text) \
    case name:                      \
        return #name;

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) { CUDA_ERRORS(CASE_TEXT) }
    return "unrecognized error code";
}

const char *cudaGetErrorName(cudaError_t error) {
    switch (error) { CUDA_ERRORS(CASE_NAME) }
    return "unrecognized error code";
}

}  // extern "C"
