// cuBLAS on the host: vectors, and matrices with vectors.
#include "blas.h"

#include <algorithm>
#include <cmath>

using namespace simt::blas;

namespace {

// Every so many elements from `p` on; from the last one to the first if the step is negative.
template <class T> struct Vector {
    const T *p;
    int n, step;

    Matrix matrix() const {
        const cudaDataType type = sizeof(T) == 8 ? CUDA_R_64F : CUDA_R_32F;
        return {p, type, 1, std::max(n, 0), std::abs(step)};
    }
    bool fetch(std::vector<T> &to) const {
        if (step == 0 || !simt::blas::fetch(matrix(), to))
            return false;
        if (step < 0)
            std::reverse(to.begin(), to.end());
        return true;
    }
    bool store(std::vector<T> from) const {
        if (step < 0)
            std::reverse(from.begin(), from.end());
        return simt::blas::store(matrix(), from);
    }
};

template <class T> T scalar_of(cublasHandle_t handle, const T *p) {
    cublasPointerMode_t mode;
    cublasGetPointerMode(handle, &mode);
    return T(scalar(p, sizeof(T) == 8 ? CUDA_R_64F : CUDA_R_32F, mode));
}

template <class R> cublasStatus_t result(cublasHandle_t handle, R value, R *to) {
    cublasPointerMode_t mode;
    cublasGetPointerMode(handle, &mode);
    if (mode == CUBLAS_POINTER_MODE_HOST) {
        *to = value;
        return CUBLAS_STATUS_SUCCESS;
    }
    const cudaError_t error = cudaMemcpy(to, &value, sizeof value, cudaMemcpyHostToDevice);
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

cublasStatus_t status(bool good) {
    return good ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

template <class T>
cublasStatus_t gemv(cublasHandle_t handle, cublasOperation_t op, int m, int n, const T *alpha,
                    const T *a, int lda, Vector<T> x, const T *beta, Vector<T> y) {
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (m < 0 || n < 0 || lda < std::max(m, 1) || x.step == 0 || y.step == 0)
        return CUBLAS_STATUS_INVALID_VALUE;
    const bool turned = op != CUBLAS_OP_N;
    x.n = turned ? m : n;
    y.n = turned ? n : m;
    const T factor = scalar_of(handle, alpha), kept = scalar_of(handle, beta);
    std::vector<T> matrix, vector, sums(size_t(y.n)), before;
    if (!fetch(Matrix{a, sizeof(T) == 8 ? CUDA_R_64F : CUDA_R_32F, m, n, lda}, matrix) ||
        !x.fetch(vector) || (kept != 0 && !y.fetch(before)))
        return CUBLAS_STATUS_EXECUTION_FAILED;
    for (size_t column = 0; column < size_t(n); column++)
        for (size_t row = 0; row < size_t(m); row++) {
            const T element = matrix[column * size_t(m) + row];
            sums[turned ? column : row] += element * vector[turned ? row : column];
        }
    for (size_t i = 0; i < sums.size(); i++)
        sums[i] = factor * sums[i] + (kept != 0 ? kept * before[i] : T(0));
    return status(y.store(sums));
}

template <class T>
cublasStatus_t ger(cublasHandle_t handle, int m, int n, const T *alpha, Vector<T> x, Vector<T> y,
                   T *a, int lda) {
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (m < 0 || n < 0 || lda < std::max(m, 1))
        return CUBLAS_STATUS_INVALID_VALUE;
    const Matrix matrix = {a, sizeof(T) == 8 ? CUDA_R_64F : CUDA_R_32F, m, n, lda};
    const T factor = scalar_of(handle, alpha);
    std::vector<T> elements, rows, columns;
    if (!fetch(matrix, elements) || !x.fetch(rows) || !y.fetch(columns))
        return CUBLAS_STATUS_EXECUTION_FAILED;
    for (size_t column = 0; column < columns.size(); column++)
        for (size_t row = 0; row < rows.size(); row++)
            elements[column * rows.size() + row] += factor * rows[row] * columns[column];
    return status(store(matrix, elements));
}

template <class T>
cublasStatus_t axpy(cublasHandle_t handle, const T *alpha, Vector<T> x, Vector<T> y) {
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    const T factor = scalar_of(handle, alpha);
    std::vector<T> from, to;
    if (!x.fetch(from) || !y.fetch(to))
        return CUBLAS_STATUS_EXECUTION_FAILED;
    for (size_t i = 0; i < to.size(); i++)
        to[i] += factor * from[i];
    return status(y.store(to));
}

template <class T> cublasStatus_t scal(cublasHandle_t handle, const T *alpha, Vector<T> x) {
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    const T factor = scalar_of(handle, alpha);
    std::vector<T> elements;
    if (!x.fetch(elements))
        return CUBLAS_STATUS_EXECUTION_FAILED;
    for (T &element : elements)
        element *= factor;
    return status(x.store(elements));
}

template <class T> cublasStatus_t copy(cublasHandle_t handle, Vector<T> x, Vector<T> y) {
    std::vector<T> elements;
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    return status(x.fetch(elements) && y.store(elements));
}

template <class T>
cublasStatus_t dot(cublasHandle_t handle, Vector<T> x, Vector<T> y, T *to) {
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    std::vector<T> a, b;
    if (!x.fetch(a) || !y.fetch(b))
        return CUBLAS_STATUS_EXECUTION_FAILED;
    double sum = 0;
    for (size_t i = 0; i < a.size(); i++)
        sum += double(a[i]) * double(b[i]);
    return result(handle, T(sum), to);
}

template <class T> cublasStatus_t nrm2(cublasHandle_t handle, Vector<T> x, T *to) {
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    std::vector<T> elements;
    if (!x.fetch(elements))
        return CUBLAS_STATUS_EXECUTION_FAILED;
    return result(handle, T(simt::length(x.n, elements.data())), to);
}

template <class T> cublasStatus_t asum(cublasHandle_t handle, Vector<T> x, T *to) {
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    std::vector<T> elements;
    if (!x.fetch(elements))
        return CUBLAS_STATUS_EXECUTION_FAILED;
    double sum = 0;
    for (const T element : elements)
        sum += std::fabs(double(element));
    return result(handle, T(sum), to);
}

template <class T> cublasStatus_t amax(cublasHandle_t handle, Vector<T> x, int *to) {
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    std::vector<T> elements;
    if (!x.fetch(elements))
        return CUBLAS_STATUS_EXECUTION_FAILED;
    const auto smaller = [](T a, T b) { return std::fabs(a) < std::fabs(b); };
    const auto largest = std::max_element(elements.begin(), elements.end(), smaller);
    return result(handle, elements.empty() ? 0 : int(largest - elements.begin()) + 1, to);
}

}  // namespace

extern "C" {

#define VECTORS(letter, T)                                                                         \
    cublasStatus_t cublas##letter##gemv(cublasHandle_t handle, cublasOperation_t op, int m, int n, \
                                        const T *alpha, const T *a, int lda, const T *x,           \
                                        int x_step, const T *beta, T *y, int y_step) {             \
        return gemv<T>(handle, op, m, n, alpha, a, lda, {x, 0, x_step}, beta, {y, 0, y_step});     \
    }                                                                                              \
    cublasStatus_t cublas##letter##ger(cublasHandle_t handle, int m, int n, const T *alpha,        \
                                       const T *x, int x_step, const T *y, int y_step, T *a,       \
                                       int lda) {                                                  \
        return ger<T>(handle, m, n, alpha, {x, m, x_step}, {y, n, y_step}, a, lda);                \
    }                                                                                              \
    cublasStatus_t cublas##letter##axpy(cublasHandle_t handle, int n, const T *alpha, const T *x,  \
                                        int x_step, T *y, int y_step) {                            \
        return axpy<T>(handle, alpha, {x, n, x_step}, {y, n, y_step});                             \
    }                                                                                              \
    cublasStatus_t cublas##letter##scal(cublasHandle_t handle, int n, const T *alpha, T *x,        \
                                        int x_step) {                                              \
        return scal<T>(handle, alpha, {x, n, x_step});                                             \
    }                                                                                              \
    cublasStatus_t cublas##letter##copy(cublasHandle_t handle, int n, const T *x, int x_step,      \
                                        T *y, int y_step) {                                        \
        return copy<T>(handle, {x, n, x_step}, {y, n, y_step});                                    \
    }                                                                                              \
    cublasStatus_t cublas##letter##dot(cublasHandle_t handle, int n, const T *x, int x_step,       \
                                       const T *y, int y_step, T *to) {                            \
        return dot<T>(handle, {x, n, x_step}, {y, n, y_step}, to);                                 \
    }                                                                                              \
    cublasStatus_t cublas##letter##nrm2(cublasHandle_t handle, int n, const T *x, int x_step,      \
                                        T *to) {                                                   \
        return nrm2<T>(handle, {x, n, x_step}, to);                                                \
    }                                                                                              \
    cublasStatus_t cublas##letter##asum(cublasHandle_t handle, int n, const T *x, int x_step,      \
                                        T *to) {                                                   \
        return asum<T>(handle, {x, n, x_step}, to);                                                \
    }                                                                                              \
    cublasStatus_t cublasI##letter##amax(cublasHandle_t handle, int n, const T *x, int x_step,     \
                                         int *to) {                                                \
        return amax<T>(handle, {x, n, x_step}, to);                                                \
    }
VECTORS(S, float)
VECTORS(D, double)
#undef VECTORS

}  // extern "C"
