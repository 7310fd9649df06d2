// Matrices of a cuBLAS call, fetched from device memory into the host's and put back there. All access
// to device memory is by the runtime's copies, as from any other host code.
#pragma once

#include "../cuda/cublas_v2.h"

#include <vector>

namespace simt::blas {

// By columns, `leading` elements apart.
struct Matrix {
    const void *p;
    cudaDataType type;
    int64_t rows, columns, leading;

    // Of element (0, n * stride) after the first.
    Matrix at(int64_t offset) const;
};

// Bytes of an element; 0 of types that are not computed with.
size_t size_of(cudaDataType type);

// All elements, without gaps. False if memory cannot be read, or the type is unknown.
template <class T> bool fetch(const Matrix &matrix, std::vector<T> &to);
// Rounds, and writes.
template <class T> bool store(const Matrix &matrix, const std::vector<T> &from);
// One number of the type that sums are in, from the host's or the device's memory.
double scalar(const void *p, cudaDataType type, cublasPointerMode_t mode);

// op(a) * op(b), by columns. Sums are in the order of k.
template <class T>
std::vector<T> multiply(const std::vector<T> &a, bool a_transposed, const std::vector<T> &b,
                        bool b_transposed, int64_t m, int64_t n, int64_t k);

// c = alpha * op(a) * op(b) + beta * c
struct Gemm {
    cublasOperation_t op_a, op_b;
    Matrix a, b, c;
    int64_t m, n, k;
    double alpha, beta;

    cublasStatus_t run() const;
};

}  // namespace simt::blas
