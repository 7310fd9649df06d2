// The part of cuBLAS that ../simt/blas.cpp computes on the host: plain references, for programs that
// compare their kernels with them. Matrices are stored by columns.
#pragma once

#include "cuComplex.h"
#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "library_types.h"
#include "names_begin.h"

// Programs ask whether they were included.
#define CUBLAS_API_H_
#define CUBLAS_V2_H_

typedef struct cublasContext *cublasHandle_t;
typedef cudaDataType cublasDataType_t;

typedef enum {
    CUBLAS_STATUS_SUCCESS = 0,
    CUBLAS_STATUS_NOT_INITIALIZED = 1,
    CUBLAS_STATUS_ALLOC_FAILED = 3,
    CUBLAS_STATUS_INVALID_VALUE = 7,
    CUBLAS_STATUS_ARCH_MISMATCH = 8,
    CUBLAS_STATUS_MAPPING_ERROR = 11,
    CUBLAS_STATUS_EXECUTION_FAILED = 13,
    CUBLAS_STATUS_INTERNAL_ERROR = 14,
    CUBLAS_STATUS_NOT_SUPPORTED = 15,
    CUBLAS_STATUS_LICENSE_ERROR = 16,
} cublasStatus_t;

typedef enum { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1, CUBLAS_OP_C = 2 } cublasOperation_t;

typedef enum { CUBLAS_POINTER_MODE_HOST = 0, CUBLAS_POINTER_MODE_DEVICE = 1 } cublasPointerMode_t;

typedef enum {
    CUBLAS_DEFAULT_MATH = 0,
    CUBLAS_TENSOR_OP_MATH = 1,
    CUBLAS_PEDANTIC_MATH = 2,
    CUBLAS_TF32_TENSOR_OP_MATH = 3,
    CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16,
} cublasMath_t;

typedef enum {
    CUBLAS_COMPUTE_16F = 64,
    CUBLAS_COMPUTE_16F_PEDANTIC = 65,
    CUBLAS_COMPUTE_32F = 68,
    CUBLAS_COMPUTE_32F_PEDANTIC = 69,
    CUBLAS_COMPUTE_64F = 70,
    CUBLAS_COMPUTE_64F_PEDANTIC = 71,
    CUBLAS_COMPUTE_32I = 72,
    CUBLAS_COMPUTE_32I_PEDANTIC = 73,
    CUBLAS_COMPUTE_32F_FAST_16F = 74,
    CUBLAS_COMPUTE_32F_FAST_16BF = 75,
    CUBLAS_COMPUTE_32F_FAST_TF32 = 77,
} cublasComputeType_t;

typedef enum {
    CUBLAS_GEMM_DFALT = -1,
    CUBLAS_GEMM_DEFAULT = -1,
    CUBLAS_GEMM_DEFAULT_TENSOR_OP = 99,
    CUBLAS_GEMM_DFALT_TENSOR_OP = 99,
} cublasGemmAlgo_t;


extern "C" {

cublasStatus_t cublasCreate(cublasHandle_t *handle);
cublasStatus_t cublasDestroy(cublasHandle_t handle);
cublasStatus_t cublasGetVersion(cublasHandle_t handle, int *version);
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream);
cublasStatus_t cublasGetStream(cublasHandle_t handle, cudaStream_t *stream);
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode);
cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t *mode);
cublasStatus_t cublasSetPointerMode(cublasHandle_t handle, cublasPointerMode_t mode);
cublasStatus_t cublasGetPointerMode(cublasHandle_t handle, cublasPointerMode_t *mode);
cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void *workspace, size_t size);
const char *cublasGetStatusName(cublasStatus_t status);
const char *cublasGetStatusString(cublasStatus_t status);
cublasStatus_t cublasSetVector(int n, int size, const void *from, int from_step, void *to,
                               int to_step);
cublasStatus_t cublasGetVector(int n, int size, const void *from, int from_step, void *to,
                               int to_step);
cublasStatus_t cublasSetMatrix(int rows, int columns, int size, const void *from, int from_leading,
                               void *to, int to_leading);
cublasStatus_t cublasGetMatrix(int rows, int columns, int size, const void *from, int from_leading,
                               void *to, int to_leading);

// c = alpha * op(a) * op(b) + beta * c, for each of a batch.
cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t op_a,
                                          cublasOperation_t op_b, int m, int n, int k,
                                          const void *alpha, const void *a, cudaDataType a_type,
                                          int lda, long long a_stride, const void *b,
                                          cudaDataType b_type, int ldb, long long b_stride,
                                          const void *beta, void *c, cudaDataType c_type, int ldc,
                                          long long c_stride, int batch,
                                          cublasComputeType_t compute, cublasGemmAlgo_t algorithm);
cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                            int m, int n, int k, const void *alpha, const void *a,
                            cudaDataType a_type, int lda, const void *b, cudaDataType b_type,
                            int ldb, const void *beta, void *c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm);

#define SIMT_GEMM(letter, type)                                                                    \
    cublasStatus_t cublas##letter##gemm(                                                           \
        cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n,       \
        int k, const type *alpha, const type *a, int lda, const type *b, int ldb,                  \
        const type *beta, type *c, int ldc);                                                       \
    cublasStatus_t cublas##letter##gemmStridedBatched(                                             \
        cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n,       \
        int k, const type *alpha, const type *a, int lda, long long a_stride, const type *b,       \
        int ldb, long long b_stride, const type *beta, type *c, int ldc, long long c_stride,       \
        int batch);                                                                                \
    cublasStatus_t cublas##letter##gemmBatched(                                                    \
        cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n,       \
        int k, const type *alpha, const type *const a[], int lda, const type *const b[], int ldb,  \
        const type *beta, type *const c[], int ldc, int batch);
SIMT_GEMM(S, float)
SIMT_GEMM(D, double)
SIMT_GEMM(H, __half)
#undef SIMT_GEMM

// Vectors are every so many elements.
#define SIMT_VECTORS(letter, type)                                                                 \
    /* y = alpha * op(a) * x + beta * y */                                                         \
    cublasStatus_t cublas##letter##gemv(cublasHandle_t handle, cublasOperation_t op, int m, int n, \
                                        const type *alpha, const type *a, int lda, const type *x,  \
                                        int x_step, const type *beta, type *y, int y_step);        \
    /* a += alpha * x * y^T */                                                                     \
    cublasStatus_t cublas##letter##ger(cublasHandle_t handle, int m, int n, const type *alpha,     \
                                       const type *x, int x_step, const type *y, int y_step,       \
                                       type *a, int lda);                                          \
    cublasStatus_t cublas##letter##axpy(cublasHandle_t handle, int n, const type *alpha,           \
                                        const type *x, int x_step, type *y, int y_step);           \
    cublasStatus_t cublas##letter##scal(cublasHandle_t handle, int n, const type *alpha, type *x,  \
                                        int x_step);                                               \
    cublasStatus_t cublas##letter##copy(cublasHandle_t handle, int n, const type *x, int x_step,   \
                                        type *y, int y_step);                                      \
    cublasStatus_t cublas##letter##dot(cublasHandle_t handle, int n, const type *x, int x_step,    \
                                       const type *y, int y_step, type *result);                   \
    cublasStatus_t cublas##letter##nrm2(cublasHandle_t handle, int n, const type *x, int x_step,   \
                                        type *result);                                             \
    cublasStatus_t cublas##letter##asum(cublasHandle_t handle, int n, const type *x, int x_step,   \
                                        type *result);                                             \
    /* Counted from 1. */                                                                          \
    cublasStatus_t cublasI##letter##amax(cublasHandle_t handle, int n, const type *x, int x_step,  \
                                         int *result);
#define cublasIsamax cublasISamax
#define cublasIdamax cublasIDamax
SIMT_VECTORS(S, float)
SIMT_VECTORS(D, double)
#undef SIMT_VECTORS

}  // extern "C"

#include "names_end.h"
