// The runtime API, with NVIDIA's names. All device memory of a program is that of the process, and
// all work is done when a function returns, whatever its stream, unless a graph is captured. The
// functions are ../simt/runtime*.cpp's. Part of cuda_runtime.h.
#pragma once

#include "runtime_types.h"

#include "launch.h"

#include "ptx.h"

extern "C" {

// Memory

cudaError_t simt_malloc(void **p, size_t size, cudaMemoryType type, int line, const char *file);
cudaError_t cudaFree(void *p);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaHostRegister(void *p, size_t size, unsigned flags);
cudaError_t cudaHostUnregister(void *p);
cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned flags);
cudaError_t cudaHostGetFlags(unsigned *flags, void *host);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *p);
cudaError_t cudaMemcpy3DAsync(const cudaMemcpy3DParms *copy, cudaStream_t stream = nullptr);
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream = nullptr);
cudaError_t cudaMemset2DAsync(void *p, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream = nullptr);
cudaError_t cudaMemGetInfo(size_t *free, size_t *total);

// The device

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaDeviceReset(void);
cudaError_t cudaDeviceGetLimit(size_t *value, cudaLimit limit);
cudaError_t cudaDeviceSetLimit(cudaLimit limit, size_t value);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorString(cudaError_t error);
const char *cudaGetErrorName(cudaError_t error);

// Kernels, by what simt::function() has made known

cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **args,
                             size_t dynamic_shared = 0, cudaStream_t stream = nullptr);
cudaError_t cudaLaunchCooperativeKernel(const void *function, dim3 grid, dim3 block, void **args,
                                        size_t dynamic_shared = 0,
                                        cudaStream_t stream = nullptr);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *function);
cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attribute, int value);
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function,
                                                          int threads, size_t dynamic_shared);

// Streams and events

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned *flags);
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function, void *data,
                                  unsigned flags);
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to);

// Graphs

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status);
cudaError_t cudaGraphCreate(cudaGraph_t *graph, unsigned flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphClone(cudaGraph_t *clone, cudaGraph_t graph);
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count);
cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType *type);
cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t *node, cudaGraph_t graph,
                                   const cudaGraphNode_t *after, size_t count,
                                   const cudaKernelNodeParams *params);
cudaError_t cudaGraphAddMemcpyNode(cudaGraphNode_t *node, cudaGraph_t graph,
                                   const cudaGraphNode_t *after, size_t count,
                                   const cudaMemcpy3DParms *params);
cudaError_t cudaGraphAddMemcpyNode1D(cudaGraphNode_t *node, cudaGraph_t graph,
                                     const cudaGraphNode_t *after, size_t count, void *to,
                                     const void *from, size_t size, cudaMemcpyKind kind);
cudaError_t cudaGraphAddMemsetNode(cudaGraphNode_t *node, cudaGraph_t graph,
                                   const cudaGraphNode_t *after, size_t count,
                                   const cudaMemsetParams *params);
cudaError_t cudaGraphAddHostNode(cudaGraphNode_t *node, cudaGraph_t graph,
                                 const cudaGraphNode_t *after, size_t count,
                                 const cudaHostNodeParams *params);
cudaError_t cudaGraphAddEmptyNode(cudaGraphNode_t *node, cudaGraph_t graph,
                                  const cudaGraphNode_t *after, size_t count);
cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t *node, cudaGraph_t graph,
                                       const cudaGraphNode_t *after, size_t count,
                                       cudaGraph_t child);
cudaError_t cudaGraphAddDependencies(cudaGraph_t graph, const cudaGraphNode_t *from,
                                     const cudaGraphNode_t *to, size_t count);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph,
                                          unsigned long long flags);
cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaKernelNodeParams *params);
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo *result);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);

}  // extern "C"

// The same by other names, with fewer parameters, or with what makes no difference here.

template <class T> cudaError_t cudaMalloc(T **p, size_t size, SIMT_SITE) {
    return simt_malloc((void **)p, size, cudaMemoryTypeDevice, line, file);
}
template <class T> cudaError_t cudaMallocAsync(T **p, size_t size, cudaStream_t, SIMT_SITE) {
    return simt_malloc((void **)p, size, cudaMemoryTypeDevice, line, file);
}
template <class T>
cudaError_t cudaMallocFromPoolAsync(T **p, size_t size, cudaMemPool_t, cudaStream_t, SIMT_SITE) {
    return simt_malloc((void **)p, size, cudaMemoryTypeDevice, line, file);
}
template <class T>
cudaError_t cudaMallocManaged(T **p, size_t size, unsigned = cudaMemAttachGlobal, SIMT_SITE) {
    return simt_malloc((void **)p, size, cudaMemoryTypeManaged, line, file);
}
template <class T> cudaError_t cudaMallocHost(T **p, size_t size, unsigned = 0, SIMT_SITE) {
    return simt_malloc((void **)p, size, cudaMemoryTypeHost, line, file);
}
template <class T> cudaError_t cudaHostAlloc(T **p, size_t size, unsigned, SIMT_SITE) {
    return simt_malloc((void **)p, size, cudaMemoryTypeHost, line, file);
}
template <class T>
cudaError_t cudaMallocPitch(T **p, size_t *pitch, size_t width, size_t height, SIMT_SITE) {
    *pitch = (width + 511) / 512 * 512;
    return simt_malloc((void **)p, *pitch * height, cudaMemoryTypeDevice, line, file);
}
inline cudaExtent make_cudaExtent(size_t width, size_t height, size_t depth) {
    return {width, height, depth};
}
inline cudaPos make_cudaPos(size_t x, size_t y, size_t z) {
    return {x, y, z};
}
inline cudaPitchedPtr make_cudaPitchedPtr(void *p, size_t pitch, size_t width, size_t height) {
    return {p, pitch, width, height};
}
inline cudaError_t cudaMalloc3D(cudaPitchedPtr *p, cudaExtent extent, SIMT_SITE) {
    const size_t pitch = (extent.width + 511) / 512 * 512;
    *p = {nullptr, pitch, extent.width, extent.height};
    return simt_malloc(&p->ptr, pitch * extent.height * extent.depth, cudaMemoryTypeDevice, line,
                       file);
}
inline cudaError_t cudaFreeAsync(void *p, cudaStream_t) {
    return cudaFree(p);
}
template <class T>
cudaError_t cudaHostGetDevicePointer(T **device, void *host, unsigned flags) {
    return cudaHostGetDevicePointer((void **)device, host, flags);
}
inline cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                                size_t width, size_t height, cudaMemcpyKind kind) {
    return cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, height, kind, nullptr);
}
inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind kind,
                                   cudaStream_t stream = nullptr) {
    return cudaMemcpy2DAsync(to, size, from, size, size, 1, kind, stream);
}
inline cudaError_t cudaMemcpy(void *to, const void *from, size_t size, cudaMemcpyKind kind) {
    return cudaMemcpy2DAsync(to, size, from, size, size, 1, kind, nullptr);
}
inline cudaError_t cudaMemcpy3D(const cudaMemcpy3DParms *copy) {
    return cudaMemcpy3DAsync(copy, nullptr);
}
inline cudaError_t cudaMemsetAsync(void *p, int value, size_t size, cudaStream_t stream = nullptr) {
    return cudaMemset2DAsync(p, size, value, size, 1, stream);
}
inline cudaError_t cudaMemset(void *p, int value, size_t size) {
    return cudaMemset2DAsync(p, size, value, size, 1, nullptr);
}
inline cudaError_t cudaMemset2D(void *p, size_t pitch, int value, size_t width, size_t height) {
    return cudaMemset2DAsync(p, pitch, value, width, height, nullptr);
}
template <class... A> cudaError_t cudaMemPrefetchAsync(const void *, size_t, A...) {
    return cudaSuccess;
}
template <class... A> cudaError_t cudaMemAdvise(const void *, size_t, cudaMemoryAdvise, A...) {
    return cudaSuccess;
}
inline cudaError_t cudaStreamAttachMemAsync(cudaStream_t, const void *, size_t = 0,
                                            unsigned = cudaMemAttachSingle) {
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device) {
    *pool = nullptr;
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}
inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void *) {
    return cudaSuccess;
}
inline cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) {
    return cudaSuccess;
}

// A symbol is the variable itself.
template <class T> cudaError_t cudaGetSymbolAddress(void **p, T &symbol) {
    *p = const_cast<std::remove_cv_t<T> *>(&symbol);
    return cudaSuccess;
}
template <class T, class S> cudaError_t cudaGetSymbolAddress(T **p, S &symbol) {
    return cudaGetSymbolAddress(reinterpret_cast<void **>(p), symbol);
}
template <class T> cudaError_t cudaGetSymbolSize(size_t *size, const T &) {
    *size = sizeof(T);
    return cudaSuccess;
}
template <class T>
cudaError_t cudaMemcpyToSymbolAsync(T &symbol, const void *from, size_t size, size_t offset,
                                    cudaMemcpyKind kind, cudaStream_t stream = nullptr) {
    if (offset > sizeof symbol || size > sizeof symbol - offset)
        return cudaErrorInvalidValue;
    void *to = const_cast<std::remove_cv_t<T> *>(&symbol);
    return cudaMemcpyAsync(static_cast<char *>(to) + offset, from, size, kind, stream);
}
template <class T>
cudaError_t cudaMemcpyToSymbol(T &symbol, const void *from, size_t size, size_t offset = 0,
                               cudaMemcpyKind kind = cudaMemcpyHostToDevice) {
    return cudaMemcpyToSymbolAsync(symbol, from, size, offset, kind);
}
template <class T>
cudaError_t cudaMemcpyFromSymbolAsync(void *to, const T &symbol, size_t size, size_t offset,
                                      cudaMemcpyKind kind, cudaStream_t stream = nullptr) {
    if (offset > sizeof symbol || size > sizeof symbol - offset)
        return cudaErrorInvalidValue;
    const void *from = const_cast<const std::remove_cv_t<T> *>(&symbol);
    return cudaMemcpyAsync(to, static_cast<const char *>(from) + offset, size, kind, stream);
}
template <class T>
cudaError_t cudaMemcpyFromSymbol(void *to, const T &symbol, size_t size, size_t offset = 0,
                                 cudaMemcpyKind kind = cudaMemcpyDeviceToHost) {
    return cudaMemcpyFromSymbolAsync(to, symbol, size, offset, kind);
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}
inline cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}
inline cudaError_t cudaStreamSetAttribute(cudaStream_t, cudaStreamAttrID,
                                          const cudaStreamAttrValue *) {
    return cudaSuccess;
}
inline cudaError_t cudaCtxResetPersistingL2Cache() {
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0, *greatest = -5;
    return cudaSuccess;
}
inline cudaError_t cudaEventCreate(cudaEvent_t *event, unsigned flags = cudaEventDefault) {
    return cudaEventCreateWithFlags(event, flags);
}
inline cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream = nullptr,
                                            unsigned = 0) {
    return cudaEventRecord(event, stream);
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                        unsigned long long flags = 0) {
    return cudaGraphInstantiateWithFlags(exec, graph, flags);
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                        cudaGraphNode_t *, char *, size_t) {
    return cudaGraphInstantiateWithFlags(exec, graph, 0);
}
inline cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
                                       cudaGraphNode_t *node, cudaGraphExecUpdateResult *result) {
    cudaGraphExecUpdateResultInfo info;
    const cudaError_t error = cudaGraphExecUpdate(exec, graph, &info);
    *result = info.result;
    if (node)
        *node = info.errorNode;
    return error;
}
inline cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
    return cudaSuccess;
}

inline cudaError_t cudaDeviceSetCacheConfig(cudaFuncCache) {
    return cudaSuccess;
}
inline cudaError_t cudaDeviceSetSharedMemConfig(cudaSharedMemConfig) {
    return cudaSuccess;
}
inline cudaError_t cudaSetDeviceFlags(unsigned) {
    return cudaSuccess;
}
inline cudaError_t cudaThreadSynchronize() {
    return cudaDeviceSynchronize();
}
inline cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
inline cudaError_t cudaDeviceCanAccessPeer(int *can, int, int) {
    *can = 0;
    return cudaSuccess;
}
template <class... P>
cudaError_t cudaLaunchKernel(void (*kernel)(P...), dim3 grid, dim3 block, void **args,
                             size_t dynamic_shared = 0, cudaStream_t stream = nullptr) {
    const void *function = simt::function(kernel);
    return cudaLaunchKernel(function, grid, block, args, dynamic_shared, stream);
}
template <class... P>
cudaError_t cudaLaunchCooperativeKernel(void (*kernel)(P...), dim3 grid, dim3 block, void **args,
                                        size_t dynamic_shared = 0, cudaStream_t stream = nullptr) {
    const void *function = simt::function(kernel);
    return cudaLaunchCooperativeKernel(function, grid, block, args, dynamic_shared, stream);
}
// What a GPU can do without is left out of the attributes.
template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...),
                               A &&...arguments) {
    for (unsigned i = 0; i < config->numAttrs; i++) {
        const cudaLaunchAttribute &a = config->attrs[i];
        const bool clusters = a.id == cudaLaunchAttributeClusterDimension &&
                              a.val.clusterDim.x * a.val.clusterDim.y * a.val.clusterDim.z > 1;
        if (clusters || (a.id == cudaLaunchAttributeCooperative && a.val.cooperative))
            return cudaErrorNotSupported;
    }
    simt::configure(config->gridDim, config->blockDim, config->dynamicSmemBytes, config->stream);
    kernel(std::forward<A>(arguments)...);
    return simt_launched();
}
template <class... P>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, void (*kernel)(P...)) {
    return cudaFuncGetAttributes(attributes, static_cast<const void *>(simt::function(kernel)));
}
template <class... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute, int value) {
    const void *function = simt::function(kernel);
    return cudaFuncSetAttribute(function, attribute, value);
}
template <class F> cudaError_t cudaFuncSetCacheConfig(F *, cudaFuncCache) {
    return cudaSuccess;
}
template <class F> cudaError_t cudaFuncSetSharedMemConfig(F *, cudaSharedMemConfig) {
    return cudaSuccess;
}
template <class... P>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void (*kernel)(P...),
                                                          int threads, size_t dynamic_shared) {
    const void *function = simt::function(kernel);
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads,
                                                         dynamic_shared);
}
template <class F>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, F kernel,
                                                                   int threads,
                                                                   size_t dynamic_shared,
                                                                   unsigned) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, kernel, threads, dynamic_shared);
}
// The largest block of those with which most threads are on a multiprocessor.
template <class F, class Shared>
cudaError_t cudaOccupancyMaxPotentialBlockSizeVariableSMem(int *grid, int *block, F kernel,
                                                           Shared dynamic_shared, int limit = 0) {
    cudaFuncAttributes attributes;
    if (const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel))
        return error;
    int most = attributes.maxThreadsPerBlock, multiprocessors = 0, best = 0;
    most = limit > 0 && limit < most ? limit : most;
    cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0);
    for (int threads = most; threads > 0; threads = (threads - 1) / 32 * 32) {
        int blocks = 0;
        const cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
            &blocks, kernel, threads, size_t(dynamic_shared(threads)));
        if (error != cudaSuccess)
            return error;
        if (blocks * threads > best)
            best = blocks * threads, *block = threads, *grid = blocks * multiprocessors;
    }
    return best > 0 ? cudaSuccess : cudaErrorInvalidValue;
}
template <class F>
cudaError_t cudaOccupancyMaxPotentialBlockSize(int *grid, int *block, F kernel,
                                               size_t dynamic_shared = 0, int limit = 0) {
    const auto same = [=](int) { return dynamic_shared; };
    return cudaOccupancyMaxPotentialBlockSizeVariableSMem(grid, block, kernel, same, limit);
}
