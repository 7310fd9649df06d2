// cuBLAS on the host (../cuda/cublas_v2.h): handles, matrix products, and matrices with vectors.
#include "blas.h"

#include "runtime.h"

#include "../cuda/cuda_bf16.h"
#include "../cuda/cuda_fp16.h"

#include <algorithm>
#include <cmath>
#include <cstring>

struct cublasContext {
    cudaStream_t stream = nullptr;
    cublasMath_t math = CUBLAS_DEFAULT_MATH;
    cublasPointerMode_t mode = CUBLAS_POINTER_MODE_HOST;
};

namespace simt::blas {

size_t size_of(cudaDataType type) {
    switch (type) {
    case CUDA_R_64F:
        return 8;
    case CUDA_R_32F:
        return 4;
    case CUDA_R_16F:
    case CUDA_R_16BF:
        return 2;
    default:
        return 0;
    }
}

Matrix Matrix::at(int64_t offset) const {
    Matrix moved = *this;
    moved.p = static_cast<const char *>(p) + offset * int64_t(size_of(type));
    return moved;
}

namespace {

// Calls f with an element of the type, which is one that `size_of` knows.
template <class F> void with_type(cudaDataType type, F f) {
    switch (type) {
    case CUDA_R_64F:
        return f(double());
    case CUDA_R_16F:
        return f(__half());
    case CUDA_R_16BF:
        return f(__nv_bfloat16());
    default:
        return f(float());
    }
}

// An element that nothing has written, of a program under the checker.
const void *unwritten(const Matrix &matrix, size_t size) {
    if (!runtime().program.guard)
        return nullptr;
    for (int64_t column = 0; column < matrix.columns; column++)
        for (int64_t row = 0; row < matrix.rows; row++) {
            const void *const p = matrix.at(column * matrix.leading + row).p;
            if (!runtime().program.written(p, size))
                return p;
        }
    return nullptr;
}

}  // namespace

template <class T> bool fetch(const Matrix &matrix, std::vector<T> &to) {
    const size_t size = size_of(matrix.type), count = size_t(matrix.rows * matrix.columns);
    to.resize(count);
    if (size == 0 || count == 0)
        return size != 0;
    std::vector<unsigned char> bytes(count * size);
    const size_t width = size_t(matrix.rows) * size;
    if (cudaMemcpy2D(bytes.data(), width, matrix.p, size_t(matrix.leading) * size, width,
                     size_t(matrix.columns), cudaMemcpyDeviceToHost) != cudaSuccess)
        return false;
    if (const void *const missing = unwritten(matrix, size))
        read_unwritten(missing);
    with_type(matrix.type, [&](auto element) {
        for (size_t i = 0; i < count; i++) {
            memcpy(&element, &bytes[i * size], sizeof element);
            to[i] = T(element);
        }
    });
    return true;
}

template <class T> bool store(const Matrix &matrix, const std::vector<T> &from) {
    const size_t size = size_of(matrix.type);
    if (size == 0 || from.empty())
        return size != 0;
    std::vector<unsigned char> bytes(from.size() * size);
    with_type(matrix.type, [&](auto element) {
        for (size_t i = 0; i < from.size(); i++) {
            element = decltype(element)(from[i]);
            memcpy(&bytes[i * size], &element, sizeof element);
        }
    });
    const size_t width = size_t(matrix.rows) * size;
    return cudaMemcpy2D(const_cast<void *>(matrix.p), size_t(matrix.leading) * size, bytes.data(),
                        width, width, size_t(matrix.columns),
                        cudaMemcpyHostToDevice) == cudaSuccess;
}

double scalar(const void *p, cudaDataType type, cublasPointerMode_t mode) {
    unsigned char bytes[8] = {};
    if (mode == CUBLAS_POINTER_MODE_DEVICE)
        cudaMemcpy(bytes, p, size_of(type), cudaMemcpyDeviceToHost);
    else
        memcpy(bytes, p, size_of(type));
    double value = 0;
    with_type(type, [&](auto element) {
        memcpy(&element, bytes, sizeof element);
        value = double(element);
    });
    return value;
}

namespace {

// Rows of a and columns of b that are multiplied at a time: their sums stay in registers.
constexpr int64_t ROWS = 8, COLUMNS = 4;

// Elements (part * size + i, k) one after the other for i, then for k; zeros beyond the last.
template <class T>
std::vector<T> packed(const std::vector<T> &matrix, bool across, int64_t count, int64_t k,
                      int64_t size) {
    const int64_t parts = (count + size - 1) / size;
    std::vector<T> to(size_t(parts * size * k));
    for (int64_t at = 0; at < count; at++) {
        T *first = &to[size_t(at / size * size * k + at % size)];
        for (int64_t i = 0; i < k; i++)
            first[i * size] = matrix[size_t(across ? at * k + i : i * count + at)];
    }
    return to;
}

template <class T> void add_tile(const T *a, const T *b, int64_t k, T (&sums)[COLUMNS][ROWS]) {
    typedef T Vector __attribute__((vector_size(16)));
    constexpr int64_t WIDTH = sizeof(Vector) / sizeof(T), VECTORS = ROWS / WIDTH;
    Vector all[COLUMNS][VECTORS] = {};
    for (int64_t i = 0; i < k; i++) {
        Vector rows[VECTORS];
        memcpy(rows, a + i * ROWS, sizeof rows);
        for (int64_t column = 0; column < COLUMNS; column++)
            for (int64_t v = 0; v < VECTORS; v++)
                all[column][v] += rows[v] * b[i * COLUMNS + column];
    }
    memcpy(sums, all, sizeof sums);
}

}  // namespace

template <class T>
std::vector<T> multiply(const std::vector<T> &a, bool a_transposed, const std::vector<T> &b,
                        bool b_transposed, int64_t m, int64_t n, int64_t k) {
    std::vector<T> c(size_t(m * n));
    const std::vector<T> rows = packed(a, a_transposed, m, k, ROWS);
    const std::vector<T> columns = packed(b, !b_transposed, n, k, COLUMNS);
    if (k == 0)
        return c;
    for (int64_t column = 0; column < n; column += COLUMNS)
        for (int64_t row = 0; row < m; row += ROWS) {
            T sums[COLUMNS][ROWS];
            add_tile(&rows[size_t(row * k)], &columns[size_t(column * k)], k, sums);
            for (int64_t j = 0; j < std::min(COLUMNS, n - column); j++)
                for (int64_t i = 0; i < std::min(ROWS, m - row); i++)
                    c[size_t((column + j) * m + row + i)] = sums[j][i];
        }
    return c;
}

namespace {

template <class T> cublasStatus_t run_gemm(const Gemm &g) {
    std::vector<T> a, b, c;
    const bool reads = g.beta != 0;
    if (!fetch(g.a, a) || !fetch(g.b, b) || (reads && !fetch(g.c, c)))
        return CUBLAS_STATUS_EXECUTION_FAILED;
    std::vector<T> sums =
        multiply(a, g.op_a != CUBLAS_OP_N, b, g.op_b != CUBLAS_OP_N, g.m, g.n, g.k);
    for (size_t i = 0; i < sums.size(); i++)
        sums[i] = T(g.alpha) * sums[i] + (reads ? T(g.beta) * c[i] : T(0));
    return store(g.c, sums) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // namespace

cublasStatus_t Gemm::run() const {
    if (size_of(a.type) == 0 || size_of(b.type) == 0 || size_of(c.type) == 0)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (m < 0 || n < 0 || k < 0 || a.leading < std::max<int64_t>(a.rows, 1) ||
        b.leading < std::max<int64_t>(b.rows, 1) || c.leading < std::max<int64_t>(m, 1))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (m == 0 || n == 0)
        return CUBLAS_STATUS_SUCCESS;
    return c.type == CUDA_R_64F ? run_gemm<double>(*this) : run_gemm<float>(*this);
}

template bool fetch(const Matrix &, std::vector<float> &);
template bool fetch(const Matrix &, std::vector<double> &);
template bool store(const Matrix &, const std::vector<float> &);
template bool store(const Matrix &, const std::vector<double> &);
template std::vector<float> multiply(const std::vector<float> &, bool, const std::vector<float> &,
                                     bool, int64_t, int64_t, int64_t);

}  // namespace simt::blas

using namespace simt::blas;

extern "C" {

cublasStatus_t cublasCreate(cublasHandle_t *handle) {
    *handle = new cublasContext;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetVersion(cublasHandle_t, int *version) {
    *version = 130000;
    return CUBLAS_STATUS_SUCCESS;
}

#define PROPERTY(name, type, member)                                            \
    cublasStatus_t cublasSet##name(cublasHandle_t handle, type value) {         \
        if (!handle)                                                            \
            return CUBLAS_STATUS_NOT_INITIALIZED;                               \
        handle->member = value;                                                 \
        return CUBLAS_STATUS_SUCCESS;                                           \
    }                                                                           \
    cublasStatus_t cublasGet##name(cublasHandle_t handle, type *value) {        \
        if (!handle)                                                            \
            return CUBLAS_STATUS_NOT_INITIALIZED;                               \
        *value = handle->member;                                                \
        return CUBLAS_STATUS_SUCCESS;                                           \
    }
PROPERTY(Stream, cudaStream_t, stream)
PROPERTY(MathMode, cublasMath_t, math)
PROPERTY(PointerMode, cublasPointerMode_t, mode)
#undef PROPERTY

cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void *, size_t) {
    return handle ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

#define STATUSES(each)                                                           \
    each(CUBLAS_STATUS_SUCCESS, "success")                                       \
    each(CUBLAS_STATUS_NOT_INITIALIZED, "the library was not initialized")       \
    each(CUBLAS_STATUS_ALLOC_FAILED, "the resource allocation failed")           \
    each(CUBLAS_STATUS_INVALID_VALUE, "an invalid value was used")               \
    each(CUBLAS_STATUS_ARCH_MISMATCH, "the architecture lacks a feature")        \
    each(CUBLAS_STATUS_MAPPING_ERROR, "memory could not be accessed")            \
    each(CUBLAS_STATUS_EXECUTION_FAILED, "the function failed to run")           \
    each(CUBLAS_STATUS_INTERNAL_ERROR, "an internal operation failed")           \
    each(CUBLAS_STATUS_NOT_SUPPORTED, "the functionality is not supported")      \
    each(CUBLAS_STATUS_LICENSE_ERROR, "the license could not be checked")

const char *cublasGetStatusName(cublasStatus_t status) {
#define CASE(name, text) \
    case name:           \
        return #name;
    switch (status) { STATUSES(CASE) }
#undef CASE
    return "CUBLAS_STATUS_UNKNOWN";
}

const char *cublasGetStatusString(cublasStatus_t status) {
#define CASE(name, text) \
    case name:           \
        return text;
    switch (status) { STATUSES(CASE) }
#undef CASE
    return "unknown status";
}

namespace {

cublasStatus_t copy_matrix(int64_t rows, int64_t columns, int size, const void *from,
                           int64_t from_leading, void *to, int64_t to_leading,
                           cudaMemcpyKind kind) {
    if (rows < 0 || columns < 0 || size <= 0 || from_leading < rows || to_leading < rows)
        return CUBLAS_STATUS_INVALID_VALUE;
    const cudaError_t error =
        cudaMemcpy2D(to, size_t(to_leading * size), from, size_t(from_leading * size),
                     size_t(rows * size), size_t(columns), kind);
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_MAPPING_ERROR;
}

}  // namespace

cublasStatus_t cublasSetVector(int n, int size, const void *from, int from_step, void *to,
                               int to_step) {
    return copy_matrix(1, n, size, from, from_step, to, to_step, cudaMemcpyHostToDevice);
}
cublasStatus_t cublasGetVector(int n, int size, const void *from, int from_step, void *to,
                               int to_step) {
    return copy_matrix(1, n, size, from, from_step, to, to_step, cudaMemcpyDeviceToHost);
}
cublasStatus_t cublasSetMatrix(int rows, int columns, int size, const void *from, int from_leading,
                               void *to, int to_leading) {
    return copy_matrix(rows, columns, size, from, from_leading, to, to_leading,
                       cudaMemcpyHostToDevice);
}
cublasStatus_t cublasGetMatrix(int rows, int columns, int size, const void *from, int from_leading,
                               void *to, int to_leading) {
    return copy_matrix(rows, columns, size, from, from_leading, to, to_leading,
                       cudaMemcpyDeviceToHost);
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t op_a,
                                          cublasOperation_t op_b, int m, int n, int k,
                                          const void *alpha, const void *a, cudaDataType a_type,
                                          int lda, long long a_stride, const void *b,
                                          cudaDataType b_type, int ldb, long long b_stride,
                                          const void *beta, void *c, cudaDataType c_type, int ldc,
                                          long long c_stride, int batch,
                                          cublasComputeType_t compute, cublasGemmAlgo_t) {
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    cudaDataType scale = CUDA_R_32F;
    if (compute == CUBLAS_COMPUTE_16F || compute == CUBLAS_COMPUTE_16F_PEDANTIC)
        scale = CUDA_R_16F;
    else if (compute == CUBLAS_COMPUTE_64F || compute == CUBLAS_COMPUTE_64F_PEDANTIC)
        scale = CUDA_R_64F;
    else if (compute == CUBLAS_COMPUTE_32I || compute == CUBLAS_COMPUTE_32I_PEDANTIC)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const bool turn_a = op_a != CUBLAS_OP_N, turn_b = op_b != CUBLAS_OP_N;
    const Gemm whole = {op_a,
                        op_b,
                        {a, a_type, turn_a ? k : m, turn_a ? m : k, lda},
                        {b, b_type, turn_b ? n : k, turn_b ? k : n, ldb},
                        {c, c_type, m, n, ldc},
                        m,
                        n,
                        k,
                        scalar(alpha, scale, handle->mode),
                        scalar(beta, scale, handle->mode)};
    for (int64_t i = 0; i < batch; i++) {
        Gemm one = whole;
        one.a = whole.a.at(i * a_stride);
        one.b = whole.b.at(i * b_stride);
        one.c = whole.c.at(i * c_stride);
        if (const cublasStatus_t status = one.run())
            return status;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                            int m, int n, int k, const void *alpha, const void *a,
                            cudaDataType a_type, int lda, const void *b, cudaDataType b_type,
                            int ldb, const void *beta, void *c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
    return cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a, a_type, lda, 0, b,
                                      b_type, ldb, 0, beta, c, c_type, ldc, 0, 1, compute,
                                      algorithm);
}

#define GEMM(letter, T, type, compute)                                                             \
    cublasStatus_t cublas##letter##gemmStridedBatched(                                             \
        cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n,       \
        int k, const T *alpha, const T *a, int lda, long long a_stride, const T *b, int ldb,       \
        long long b_stride, const T *beta, T *c, int ldc, long long c_stride, int batch) {         \
        return cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a, type, lda,        \
                                          a_stride, b, type, ldb, b_stride, beta, c, type, ldc,    \
                                          c_stride, batch, compute, CUBLAS_GEMM_DEFAULT);          \
    }                                                                                              \
    cublasStatus_t cublas##letter##gemm(                                                           \
        cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n,       \
        int k, const T *alpha, const T *a, int lda, const T *b, int ldb, const T *beta, T *c,      \
        int ldc) {                                                                                 \
        return cublas##letter##gemmStridedBatched(handle, op_a, op_b, m, n, k, alpha, a, lda, 0,   \
                                                  b, ldb, 0, beta, c, ldc, 0, 1);                  \
    }                                                                                              \
    cublasStatus_t cublas##letter##gemmBatched(                                                    \
        cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n,       \
        int k, const T *alpha, const T *const a[], int lda, const T *const b[], int ldb,           \
        const T *beta, T *const c[], int ldc, int batch) {                                         \
        /* The pointers are in device memory. */                                                   \
        const size_t count = size_t(std::max(batch, 0)), size = count * sizeof(void *);            \
        std::vector<const T *> as(count), bs(count);                                               \
        std::vector<T *> cs(count);                                                                \
        if (cudaMemcpy(as.data(), a, size, cudaMemcpyDeviceToHost) != cudaSuccess ||               \
            cudaMemcpy(bs.data(), b, size, cudaMemcpyDeviceToHost) != cudaSuccess ||               \
            cudaMemcpy(cs.data(), c, size, cudaMemcpyDeviceToHost) != cudaSuccess)                 \
            return CUBLAS_STATUS_EXECUTION_FAILED;                                                 \
        for (size_t i = 0; i < count; i++) {                                                       \
            const cublasStatus_t status = cublas##letter##gemm(                                    \
                handle, op_a, op_b, m, n, k, alpha, as[i], lda, bs[i], ldb, beta, cs[i], ldc);     \
            if (status)                                                                            \
                return status;                                                                     \
        }                                                                                          \
        return CUBLAS_STATUS_SUCCESS;                                                              \
    }
GEMM(S, float, CUDA_R_32F, CUBLAS_COMPUTE_32F)
GEMM(D, double, CUDA_R_64F, CUBLAS_COMPUTE_64F)
GEMM(H, __half, CUDA_R_16F, CUBLAS_COMPUTE_16F)
#undef GEMM

}  // extern "C"
