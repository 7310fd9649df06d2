// The runtime API's types, with NVIDIA's names and values. Part of cuda_runtime.h.
#pragma once

#define CUDA_ERRORS(each)                                                                        \
    each(cudaSuccess, 0, "no error")                                                             \
    each(cudaErrorInvalidValue, 1, "invalid argument")                                           \
    each(cudaErrorMemoryAllocation, 2, "out of memory")                                          \
    each(cudaErrorInitializationError, 3, "initialization error")                                \
    each(cudaErrorCudartUnloading, 4, "driver shutting down")                                    \
    each(cudaErrorInvalidConfiguration, 9, "invalid configuration argument")                     \
    each(cudaErrorInvalidPitchValue, 12, "invalid pitch argument")                               \
    each(cudaErrorInvalidSymbol, 13, "invalid device symbol")                                    \
    each(cudaErrorInvalidHostPointer, 16, "invalid host pointer")                                \
    each(cudaErrorInvalidDevicePointer, 17, "invalid device pointer")                            \
    each(cudaErrorInvalidTexture, 18, "invalid texture reference")                               \
    each(cudaErrorInvalidMemcpyDirection, 21, "invalid copy direction for memcpy")               \
    each(cudaErrorInsufficientDriver, 35,                                                        \
         "CUDA driver version is insufficient for CUDA runtime version")                         \
    each(cudaErrorMissingConfiguration, 52, "__global__ function call is not configured")        \
    each(cudaErrorInvalidDeviceFunction, 98, "invalid device function")                          \
    each(cudaErrorNoDevice, 100, "no CUDA-capable device is detected")                           \
    each(cudaErrorInvalidDevice, 101, "invalid device ordinal")                                  \
    each(cudaErrorInvalidKernelImage, 200, "device kernel image is invalid")                     \
    each(cudaErrorDeviceUninitialized, 201, "invalid device context")                            \
    each(cudaErrorNoKernelImageForDevice, 209,                                                   \
         "no kernel image is available for execution on the device")                             \
    each(cudaErrorECCUncorrectable, 214, "uncorrectable ECC error encountered")                  \
    each(cudaErrorUnsupportedLimit, 215, "limit is not supported on this architecture")          \
    each(cudaErrorPeerAccessUnsupported, 217,                                                    \
         "peer access is not supported between these two devices")                               \
    each(cudaErrorInvalidResourceHandle, 400, "invalid resource handle")                         \
    each(cudaErrorIllegalState, 401,                                                             \
         "the operation cannot be performed in the present state")                               \
    each(cudaErrorSymbolNotFound, 500, "named symbol not found")                                 \
    each(cudaErrorNotReady, 600, "device not ready")                                             \
    each(cudaErrorIllegalAddress, 700, "an illegal memory access was encountered")               \
    each(cudaErrorLaunchOutOfResources, 701, "too many resources requested for launch")          \
    each(cudaErrorLaunchTimeout, 702, "the launch timed out and was terminated")                 \
    each(cudaErrorPeerAccessAlreadyEnabled, 704, "peer access is already enabled")               \
    each(cudaErrorPeerAccessNotEnabled, 705, "peer access has not been enabled")                 \
    each(cudaErrorSetOnActiveProcess, 708, "cannot set while device is active in this process")  \
    each(cudaErrorContextIsDestroyed, 709, "context is destroyed")                               \
    each(cudaErrorAssert, 710, "device-side assert triggered")                                   \
    each(cudaErrorHostMemoryAlreadyRegistered, 712,                                              \
         "part or all of the requested memory range is already mapped")                          \
    each(cudaErrorHostMemoryNotRegistered, 713,                                                  \
         "pointer does not correspond to a registered memory region")                            \
    each(cudaErrorIllegalInstruction, 715, "an illegal instruction was encountered")             \
    each(cudaErrorMisalignedAddress, 716, "misaligned address")                                  \
    each(cudaErrorLaunchFailure, 719, "unspecified launch failure")                              \
    each(cudaErrorCooperativeLaunchTooLarge, 720, "too many blocks in cooperative launch")       \
    each(cudaErrorNotPermitted, 800, "operation not permitted")                                  \
    each(cudaErrorNotSupported, 801, "operation not supported")                                  \
    each(cudaErrorStreamCaptureUnsupported, 900,                                                 \
         "operation not permitted when stream is capturing")                                     \
    each(cudaErrorStreamCaptureInvalidated, 901,                                                 \
         "operation failed due to a previous error during capture")                              \
    each(cudaErrorStreamCaptureUnmatched, 903,                                                   \
         "the capture was not initiated in this stream")                                         \
    each(cudaErrorStreamCaptureImplicit, 906,                                                    \
         "operation would make the legacy stream depend on a capturing blocking stream")         \
    each(cudaErrorCapturedEvent, 907,                                                            \
         "operation not permitted on an event last recorded in a capturing stream")              \
    each(cudaErrorGraphExecUpdateFailure, 910,                                                   \
         "the graph update was not performed because it included changes which violated "       \
         "constraints specific to instantiated graph update")                                    \
    each(cudaErrorUnknown, 999, "unknown error")

typedef enum cudaError {
#define CUDA_ERROR(name, code, text) name = code,
    CUDA_ERRORS(CUDA_ERROR)
#undef CUDA_ERROR
} cudaError_t;

enum cudaMemcpyKind {
    cudaMemcpyHostToHost = 0,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4,
};

enum cudaMemoryType {
    cudaMemoryTypeUnregistered = 0,
    cudaMemoryTypeHost = 1,
    cudaMemoryTypeDevice = 2,
    cudaMemoryTypeManaged = 3,
};

enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9,
    cudaFuncAttributeClusterDimMustBeSet = 10,
    cudaFuncAttributeNonPortableClusterSizeAllowed = 14,
};

enum cudaFuncCache {
    cudaFuncCachePreferNone = 0,
    cudaFuncCachePreferShared = 1,
    cudaFuncCachePreferL1 = 2,
    cudaFuncCachePreferEqual = 3,
};

enum cudaSharedMemConfig {
    cudaSharedMemBankSizeDefault = 0,
    cudaSharedMemBankSizeFourByte = 1,
    cudaSharedMemBankSizeEightByte = 2,
};

enum cudaSharedCarveout {
    cudaSharedmemCarveoutDefault = -1,
    cudaSharedmemCarveoutMaxShared = 100,
    cudaSharedmemCarveoutMaxL1 = 0,
};

enum cudaLimit {
    cudaLimitStackSize = 0,
    cudaLimitPrintfFifoSize = 1,
    cudaLimitMallocHeapSize = 2,
    cudaLimitDevRuntimeSyncDepth = 3,
    cudaLimitDevRuntimePendingLaunchCount = 4,
    cudaLimitMaxL2FetchGranularity = 5,
    cudaLimitPersistingL2CacheSize = 6,
};

enum cudaComputeMode {
    cudaComputeModeDefault = 0,
    cudaComputeModeExclusive = 1,
    cudaComputeModeProhibited = 2,
    cudaComputeModeExclusiveProcess = 3,
};

// Attributes of a device, and what of cudaDeviceProp they are.
#define CUDA_ATTRIBUTES(each)                                                         \
    each(cudaDevAttrMaxThreadsPerBlock, 1, maxThreadsPerBlock)                        \
    each(cudaDevAttrMaxBlockDimX, 2, maxThreadsDim[0])                                \
    each(cudaDevAttrMaxBlockDimY, 3, maxThreadsDim[1])                                \
    each(cudaDevAttrMaxBlockDimZ, 4, maxThreadsDim[2])                                \
    each(cudaDevAttrMaxGridDimX, 5, maxGridSize[0])                                   \
    each(cudaDevAttrMaxGridDimY, 6, maxGridSize[1])                                   \
    each(cudaDevAttrMaxGridDimZ, 7, maxGridSize[2])                                   \
    each(cudaDevAttrMaxSharedMemoryPerBlock, 8, sharedMemPerBlock)                    \
    each(cudaDevAttrTotalConstantMemory, 9, totalConstMem)                            \
    each(cudaDevAttrWarpSize, 10, warpSize)                                           \
    each(cudaDevAttrMaxPitch, 11, memPitch)                                           \
    each(cudaDevAttrMaxRegistersPerBlock, 12, regsPerBlock)                           \
    each(cudaDevAttrClockRate, 13, clockRate)                                         \
    each(cudaDevAttrTextureAlignment, 14, textureAlignment)                           \
    each(cudaDevAttrGpuOverlap, 15, deviceOverlap)                                    \
    each(cudaDevAttrMultiProcessorCount, 16, multiProcessorCount)                     \
    each(cudaDevAttrKernelExecTimeout, 17, kernelExecTimeoutEnabled)                  \
    each(cudaDevAttrIntegrated, 18, integrated)                                       \
    each(cudaDevAttrCanMapHostMemory, 19, canMapHostMemory)                           \
    each(cudaDevAttrComputeMode, 20, computeMode)                                     \
    each(cudaDevAttrSurfaceAlignment, 30, surfaceAlignment)                           \
    each(cudaDevAttrConcurrentKernels, 31, concurrentKernels)                         \
    each(cudaDevAttrEccEnabled, 32, ECCEnabled)                                       \
    each(cudaDevAttrPciBusId, 33, pciBusID)                                           \
    each(cudaDevAttrPciDeviceId, 34, pciDeviceID)                                     \
    each(cudaDevAttrTccDriver, 35, tccDriver)                                         \
    each(cudaDevAttrMemoryClockRate, 36, memoryClockRate)                             \
    each(cudaDevAttrGlobalMemoryBusWidth, 37, memoryBusWidth)                         \
    each(cudaDevAttrL2CacheSize, 38, l2CacheSize)                                     \
    each(cudaDevAttrMaxThreadsPerMultiProcessor, 39, maxThreadsPerMultiProcessor)     \
    each(cudaDevAttrAsyncEngineCount, 40, asyncEngineCount)                           \
    each(cudaDevAttrUnifiedAddressing, 41, unifiedAddressing)                         \
    each(cudaDevAttrPciDomainId, 50, pciDomainID)                                     \
    each(cudaDevAttrTexturePitchAlignment, 51, texturePitchAlignment)                 \
    each(cudaDevAttrComputeCapabilityMajor, 75, major)                                \
    each(cudaDevAttrComputeCapabilityMinor, 76, minor)                                \
    each(cudaDevAttrStreamPrioritiesSupported, 78, streamPrioritiesSupported)         \
    each(cudaDevAttrGlobalL1CacheSupported, 79, globalL1CacheSupported)               \
    each(cudaDevAttrLocalL1CacheSupported, 80, localL1CacheSupported)                 \
    each(cudaDevAttrMaxSharedMemoryPerMultiprocessor, 81, sharedMemPerMultiprocessor) \
    each(cudaDevAttrMaxRegistersPerMultiprocessor, 82, regsPerMultiprocessor)         \
    each(cudaDevAttrManagedMemory, 83, managedMemory)                                 \
    each(cudaDevAttrIsMultiGpuBoard, 84, isMultiGpuBoard)                             \
    each(cudaDevAttrMultiGpuBoardGroupID, 85, multiGpuBoardGroupID)                   \
    each(cudaDevAttrHostNativeAtomicSupported, 86, hostNativeAtomicSupported)         \
    each(cudaDevAttrSingleToDoublePrecisionPerfRatio, 87, singleToDoublePrecisionPerfRatio) \
    each(cudaDevAttrPageableMemoryAccess, 88, pageableMemoryAccess)                   \
    each(cudaDevAttrConcurrentManagedAccess, 89, concurrentManagedAccess)             \
    each(cudaDevAttrComputePreemptionSupported, 90, computePreemptionSupported)       \
    each(cudaDevAttrCanUseHostPointerForRegisteredMem, 91, canUseHostPointerForRegisteredMem) \
    each(cudaDevAttrCooperativeLaunch, 95, cooperativeLaunch)                         \
    each(cudaDevAttrMaxSharedMemoryPerBlockOptin, 97, sharedMemPerBlockOptin)         \
    each(cudaDevAttrHostRegisterSupported, 99, hostRegisterSupported)                 \
    each(cudaDevAttrPageableMemoryAccessUsesHostPageTables, 100, pageableMemoryAccessUsesHostPageTables) \
    each(cudaDevAttrDirectManagedMemAccessFromHost, 101, directManagedMemAccessFromHost) \
    each(cudaDevAttrMaxBlocksPerMultiprocessor, 106, maxBlocksPerMultiProcessor)      \
    each(cudaDevAttrMaxPersistingL2CacheSize, 108, persistingL2CacheMaxSize)          \
    each(cudaDevAttrMaxAccessPolicyWindowSize, 109, accessPolicyMaxWindowSize)        \
    each(cudaDevAttrReservedSharedMemoryPerBlock, 111, reservedSharedMemPerBlock)     \
    each(cudaDevAttrMemoryPoolsSupported, 115, memoryPoolsSupported)                  \
    each(cudaDevAttrClusterLaunch, 120, clusterLaunch)

enum cudaDeviceAttr {
#define CUDA_ATTRIBUTE(name, code, field) name = code,
    CUDA_ATTRIBUTES(CUDA_ATTRIBUTE)
#undef CUDA_ATTRIBUTE
};

typedef struct CUuuid_st {
    char bytes[16];
} cudaUUID_t;

// Of the GPU that the program is run as; also what later versions have left out.
typedef struct cudaDeviceProp {
    char name[256];
    cudaUUID_t uuid;
    size_t totalGlobalMem, sharedMemPerBlock;
    int regsPerBlock, warpSize;
    size_t memPitch;
    int maxThreadsPerBlock, maxThreadsDim[3], maxGridSize[3];
    int clockRate;  // kHz
    size_t totalConstMem;
    int major, minor;
    size_t textureAlignment, texturePitchAlignment;
    int deviceOverlap, multiProcessorCount, kernelExecTimeoutEnabled, integrated;
    int canMapHostMemory, computeMode;
    int maxTexture1D, maxTexture1DMipmap, maxTexture1DLinear, maxTexture2D[2];
    int maxTexture2DMipmap[2], maxTexture2DLinear[3], maxTexture2DGather[2], maxTexture3D[3];
    int maxTexture3DAlt[3], maxTextureCubemap, maxTexture1DLayered[2], maxTexture2DLayered[3];
    int maxTextureCubemapLayered[2];
    size_t surfaceAlignment;
    int concurrentKernels, ECCEnabled, pciBusID, pciDeviceID, pciDomainID, tccDriver;
    int asyncEngineCount, unifiedAddressing, memoryClockRate, memoryBusWidth;
    int l2CacheSize, persistingL2CacheMaxSize, maxThreadsPerMultiProcessor;
    int streamPrioritiesSupported, globalL1CacheSupported, localL1CacheSupported;
    size_t sharedMemPerMultiprocessor;
    int regsPerMultiprocessor, managedMemory, isMultiGpuBoard, multiGpuBoardGroupID;
    int hostNativeAtomicSupported, singleToDoublePrecisionPerfRatio, pageableMemoryAccess;
    int concurrentManagedAccess, computePreemptionSupported, canUseHostPointerForRegisteredMem;
    int cooperativeLaunch, cooperativeMultiDeviceLaunch;
    size_t sharedMemPerBlockOptin;
    int pageableMemoryAccessUsesHostPageTables, directManagedMemAccessFromHost;
    int maxBlocksPerMultiProcessor, accessPolicyMaxWindowSize;
    size_t reservedSharedMemPerBlock;
    int hostRegisterSupported, memoryPoolsSupported, clusterLaunch;
} cudaDeviceProp;

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphNode_st *cudaGraphNode_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;
typedef struct CUmemPoolHandle_st *cudaMemPool_t;

#define cudaStreamLegacy ((cudaStream_t)0x1)
#define cudaStreamPerThread ((cudaStream_t)0x2)
#define cudaCpuDeviceId (-1)
#define cudaInvalidDeviceId (-2)

enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum {
    cudaEventDefault = 0,
    cudaEventBlockingSync = 1,
    cudaEventDisableTiming = 2,
    cudaEventInterprocess = 4,
};
enum { cudaEventWaitDefault = 0, cudaEventWaitExternal = 1, cudaEventRecordDefault = 0 };
enum {
    cudaHostAllocDefault = 0,
    cudaHostAllocPortable = 1,
    cudaHostAllocMapped = 2,
    cudaHostAllocWriteCombined = 4,
};
enum {
    cudaHostRegisterDefault = 0,
    cudaHostRegisterPortable = 1,
    cudaHostRegisterMapped = 2,
    cudaHostRegisterIoMemory = 4,
    cudaHostRegisterReadOnly = 8,
};
enum { cudaMemAttachGlobal = 1, cudaMemAttachHost = 2, cudaMemAttachSingle = 4 };
enum {
    cudaDeviceScheduleAuto = 0,
    cudaDeviceScheduleSpin = 1,
    cudaDeviceScheduleYield = 2,
    cudaDeviceScheduleBlockingSync = 4,
    cudaDeviceBlockingSync = 4,
    cudaDeviceMapHost = 8,
    cudaDeviceLmemResizeToMax = 16,
};
enum { cudaOccupancyDefault = 0, cudaOccupancyDisableCachingOverride = 1 };

enum cudaMemoryAdvise {
    cudaMemAdviseSetReadMostly = 1,
    cudaMemAdviseUnsetReadMostly = 2,
    cudaMemAdviseSetPreferredLocation = 3,
    cudaMemAdviseUnsetPreferredLocation = 4,
    cudaMemAdviseSetAccessedBy = 5,
    cudaMemAdviseUnsetAccessedBy = 6,
};

enum cudaMemLocationType {
    cudaMemLocationTypeInvalid = 0,
    cudaMemLocationTypeDevice = 1,
    cudaMemLocationTypeHost = 2,
};
struct cudaMemLocation {
    cudaMemLocationType type;
    int id;
};

enum cudaMemPoolAttr {
    cudaMemPoolReuseFollowEventDependencies = 1,
    cudaMemPoolReuseAllowOpportunistic = 2,
    cudaMemPoolReuseAllowInternalDependencies = 3,
    cudaMemPoolAttrReleaseThreshold = 4,
};

struct cudaPointerAttributes {
    cudaMemoryType type;
    int device;
    void *devicePointer, *hostPointer;
};

struct cudaFuncAttributes {
    size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
    int maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion, cacheModeCA;
    int maxDynamicSharedSizeBytes, preferredShmemCarveout;
};

struct cudaExtent {
    size_t width, height, depth;
};
struct cudaPos {
    size_t x, y, z;
};
struct cudaPitchedPtr {
    void *ptr;
    size_t pitch, xsize, ysize;
};
typedef struct cudaArray *cudaArray_t;
// Of memory with a pitch; there are no arrays.
struct cudaMemcpy3DParms {
    cudaArray_t srcArray;
    cudaPos srcPos;
    cudaPitchedPtr srcPtr;
    cudaArray_t dstArray;
    cudaPos dstPos;
    cudaPitchedPtr dstPtr;
    cudaExtent extent;
    cudaMemcpyKind kind;
};

typedef void(CUDART_CB *cudaHostFn_t)(void *data);
typedef void(CUDART_CB *cudaStreamCallback_t)(cudaStream_t stream, cudaError_t status, void *data);

enum cudaLaunchAttributeID {
    cudaLaunchAttributeIgnore = 0,
    cudaLaunchAttributeAccessPolicyWindow = 1,
    cudaLaunchAttributeCooperative = 2,
    cudaLaunchAttributeSynchronizationPolicy = 3,
    cudaLaunchAttributeClusterDimension = 4,
    cudaLaunchAttributeProgrammaticStreamSerialization = 6,
    cudaLaunchAttributePriority = 8,
};
// What of memory to keep in L2.
enum cudaAccessProperty {
    cudaAccessPropertyNormal = 0,
    cudaAccessPropertyStreaming = 1,
    cudaAccessPropertyPersisting = 2,
};
struct cudaAccessPolicyWindow {
    void *base_ptr;
    size_t num_bytes;
    float hitRatio;
    cudaAccessProperty hitProp, missProp;
};
union cudaLaunchAttributeValue {
    char pad[64];
    cudaAccessPolicyWindow accessPolicyWindow;
    int cooperative, priority, programmaticStreamSerializationAllowed;
    struct {
        unsigned x, y, z;
    } clusterDim;
};
typedef cudaLaunchAttributeID cudaStreamAttrID;
typedef cudaLaunchAttributeValue cudaStreamAttrValue;
#define cudaStreamAttributeAccessPolicyWindow cudaLaunchAttributeAccessPolicyWindow
#define cudaStreamAttributeSynchronizationPolicy cudaLaunchAttributeSynchronizationPolicy
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal = 0,
    cudaStreamCaptureModeThreadLocal = 1,
    cudaStreamCaptureModeRelaxed = 2,
};
enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone = 0,
    cudaStreamCaptureStatusActive = 1,
    cudaStreamCaptureStatusInvalidated = 2,
};
enum cudaGraphNodeType {
    cudaGraphNodeTypeKernel = 0,
    cudaGraphNodeTypeMemcpy = 1,
    cudaGraphNodeTypeMemset = 2,
    cudaGraphNodeTypeHost = 3,
    cudaGraphNodeTypeGraph = 4,
    cudaGraphNodeTypeEmpty = 5,
};
struct cudaKernelNodeParams {
    void *func;
    dim3 gridDim, blockDim;
    unsigned sharedMemBytes;
    void **kernelParams, **extra;
};
struct cudaMemsetParams {
    void *dst;
    size_t pitch;
    unsigned value, elementSize;
    size_t width, height;
};
struct cudaHostNodeParams {
    cudaHostFn_t fn;
    void *userData;
};
enum cudaGraphExecUpdateResult {
    cudaGraphExecUpdateSuccess = 0,
    cudaGraphExecUpdateError = 1,
    cudaGraphExecUpdateErrorTopologyChanged = 2,
    cudaGraphExecUpdateErrorNodeTypeChanged = 3,
};
struct cudaGraphExecUpdateResultInfo {
    cudaGraphExecUpdateResult result;
    cudaGraphNode_t errorNode, errorFromNode;
};
