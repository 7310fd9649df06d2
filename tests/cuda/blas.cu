// cuBLAS and cuBLASLt: references on the host.
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_bf16.h>

#include <cmath>
#include <vector>

#include "expect.h"

// Small integers, so that sums are exact.
template <class T> struct Numbers {
    std::vector<T> host;
    T *device;

    explicit Numbers(size_t count, int seed) : host(count) {
        for (size_t i = 0; i < count; i++)
            host[i] = T(float(int((i * 37 + size_t(seed)) % 11) - 5));
        CHECK(cudaMalloc(&device, count * sizeof(T)));
        CHECK(cudaMemcpy(device, host.data(), count * sizeof(T), cudaMemcpyHostToDevice));
    }
    ~Numbers() {
        CHECK(cudaFree(device));
    }
    std::vector<T> now() const {
        std::vector<T> result(host.size());
        CHECK(cudaMemcpy(result.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost));
        return result;
    }
};

cublasHandle_t handle;

template <class T, class F> void product(cublasOperation_t op_a, cublasOperation_t op_b, F call) {
    const int m = 19, n = 9, k = 13, lda = 21, ldb = 20, ldc = 23;
    const bool turn_a = op_a != CUBLAS_OP_N, turn_b = op_b != CUBLAS_OP_N;
    const Numbers<T> a(size_t(lda) * 21, 1), b(size_t(ldb) * 20, 2), c(size_t(ldc) * n, 3);
    const T alpha = 2, beta = -1;
    CHECK(call(m, n, k, &alpha, a.device, lda, b.device, ldb, &beta, c.device, ldc));
    const std::vector<T> result = c.now();
    for (int column = 0; column < n; column++)
        for (int row = 0; row < ldc; row++) {
            const size_t at = size_t(column * ldc + row);
            double sum = 0;
            for (int i = 0; i < k; i++)
                sum += double(float(a.host[size_t(turn_a ? row * lda + i : i * lda + row)])) *
                       double(float(b.host[size_t(turn_b ? i * ldb + column : column * ldb + i)]));
            const double before = double(float(c.host[at]));
            EXPECT(double(float(result[at])) == (row < m ? 2 * sum - before : before));
        }
}

void products() {
    for (const auto op_a : {CUBLAS_OP_N, CUBLAS_OP_T})
        for (const auto op_b : {CUBLAS_OP_N, CUBLAS_OP_T}) {
            product<float>(op_a, op_b, [=](auto... rest) {
                return cublasSgemm(handle, op_a, op_b, rest...);
            });
            product<double>(op_a, op_b, [=](auto... rest) {
                return cublasDgemm(handle, op_a, op_b, rest...);
            });
            product<__half>(op_a, op_b, [=](auto... rest) {
                return cublasHgemm(handle, op_a, op_b, rest...);
            });
        }
    // Three at once: of bf16, sums of floats. What is not read may be NaN.
    const Numbers<__nv_bfloat16> a(3 * 64, 4), b(3 * 64, 5);
    const Numbers<float> c(3 * 64, 6);
    const std::vector<float> nan(3 * 64, NAN);
    CHECK(cudaMemcpy(c.device, nan.data(), nan.size() * sizeof(float), cudaMemcpyHostToDevice));
    const float one = 1, zero = 0;
    CHECK(cublasGemmStridedBatchedEx(handle, CUBLAS_OP_N, CUBLAS_OP_T, 8, 8, 8, &one, a.device,
                                     CUDA_R_16BF, 8, 64, b.device, CUDA_R_16BF, 8, 64, &zero,
                                     c.device, CUDA_R_32F, 8, 64, 3, CUBLAS_COMPUTE_32F,
                                     CUBLAS_GEMM_DEFAULT));
    const std::vector<float> result = c.now();
    for (size_t at = 0; at < 3 * 64; at++) {
        const size_t first = at / 64 * 64, column = at % 64 / 8, row = at % 8;
        float sum = 0;
        for (size_t i = 0; i < 8; i++)
            sum += float(a.host[first + i * 8 + row]) * float(b.host[first + i * 8 + column]);
        EXPECT(result[at] == sum);
    }
    EXPECT(cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 8, 8, 8, &one, c.device, 7, c.device, 8,
                       &zero, c.device, 8) == CUBLAS_STATUS_INVALID_VALUE);
    EXPECT(cublasSgemm(nullptr, CUBLAS_OP_N, CUBLAS_OP_N, 8, 8, 8, &one, c.device, 8, c.device, 8,
                       &zero, c.device, 8) == CUBLAS_STATUS_NOT_INITIALIZED);
}

void vectors() {
    const Numbers<float> x(30, 1), y(10, 2), a(50, 3);
    const float two = 2, one = 1;
    float number;
    CHECK(cublasSaxpy(handle, 10, &two, x.device, 3, y.device, 1));
    std::vector<float> now = y.now();
    for (size_t i = 0; i < 10; i++)
        EXPECT(now[i] == y.host[i] + 2 * x.host[3 * i]);
    CHECK(cublasSdot(handle, 10, x.device, 1, x.device, 1, &number));
    float squares = 0, sizes = 0;
    for (size_t i = 0; i < 10; i++) {
        squares += x.host[i] * x.host[i];
        sizes += std::fabs(x.host[i]);
    }
    EXPECT(number == squares);
    CHECK(cublasSnrm2(handle, 10, x.device, 1, &number));
    EXPECT(std::fabs(number - std::sqrt(squares)) < 1e-6f * number);
    CHECK(cublasSasum(handle, 10, x.device, 1, &number));
    EXPECT(number == sizes);
    int place;
    CHECK(cublasIsamax(handle, 10, x.device, 1, &place));
    EXPECT(place == 2 || std::fabs(x.host[size_t(place) - 1]) == 5);
    CHECK(cublasSgemv(handle, CUBLAS_OP_T, 5, 10, &one, a.device, 5, x.device, 2, &one, y.device,
                      1));
    const std::vector<float> then = y.now();
    for (size_t i = 0; i < 10; i++) {
        float sum = now[i];
        for (size_t j = 0; j < 5; j++)
            sum += a.host[i * 5 + j] * x.host[2 * j];
        EXPECT(then[i] == sum);
    }
    CHECK(cublasSscal(handle, 10, &two, y.device, 1));
    EXPECT(y.now()[3] == 2 * then[3]);
}

void epilogues() {
    cublasLtHandle_t light;
    CHECK(cublasLtCreate(&light));
    const uint64_t m = 6, n = 5, k = 7;
    const Numbers<float> a(m * k, 1), b(k * n, 2), bias(m, 3), d(m * n, 4), aux(m * n, 5);
    cublasLtMatmulDesc_t how;
    cublasLtMatrixLayout_t la, lb, ld;
    CHECK(cublasLtMatmulDescCreate(&how, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t turned = CUBLAS_OP_T;
    CHECK(cublasLtMatmulDescSetAttribute(how, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned));
    const auto what = CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    CHECK(cublasLtMatmulDescSetAttribute(how, CUBLASLT_MATMUL_DESC_EPILOGUE, &what, sizeof what));
    CHECK(cublasLtMatmulDescSetAttribute(how, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.device,
                                         sizeof bias.device));
    CHECK(cublasLtMatmulDescSetAttribute(how, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER,
                                         &aux.device, sizeof aux.device));
    const int64_t leading = int64_t(m);
    CHECK(cublasLtMatmulDescSetAttribute(how, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &leading,
                                         sizeof leading));
    CHECK(cublasLtMatrixLayoutCreate(&la, CUDA_R_32F, k, m, k));
    CHECK(cublasLtMatrixLayoutCreate(&lb, CUDA_R_32F, k, n, k));
    CHECK(cublasLtMatrixLayoutCreate(&ld, CUDA_R_32F, m, n, m));
    cublasLtMatmulPreference_t preference;
    CHECK(cublasLtMatmulPreferenceCreate(&preference));
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    CHECK(cublasLtMatmulAlgoGetHeuristic(light, how, la, lb, ld, ld, preference, 1, &found,
                                         &count));
    EXPECT(count == 1);
    const float tenth = 0.0625f, zero = 0;
    CHECK(cublasLtMatmul(light, how, &tenth, a.device, la, b.device, lb, &zero, d.device, ld,
                         d.device, ld, &found.algo, nullptr, 0, nullptr));
    const std::vector<float> after = d.now(), before = aux.now();
    for (size_t at = 0; at < m * n; at++) {
        const size_t row = at % m, column = at / m;
        float sum = 0;
        for (size_t i = 0; i < k; i++)
            sum += a.host[row * k + i] * b.host[column * k + i];
        const float x = sum * tenth + bias.host[row];
        const float inner = std::sqrt(2 / 3.14159265f) * (x + 0.044715f * x * x * x);
        const float gelu = 0.5f * x * (1 + std::tanh(inner));
        EXPECT(before[at] == x && std::fabs(after[at] - gelu) <= 1e-5f * (1 + std::fabs(x)));
    }
    CHECK(cublasLtMatmulPreferenceDestroy(preference));
    CHECK(cublasLtMatrixLayoutDestroy(la));
    CHECK(cublasLtMatrixLayoutDestroy(lb));
    CHECK(cublasLtMatrixLayoutDestroy(ld));
    CHECK(cublasLtMatmulDescDestroy(how));
    CHECK(cublasLtDestroy(light));
}

int main() {
    CHECK(cublasCreate(&handle));
    CHECK(cublasSetMathMode(handle, CUBLAS_TF32_TENSOR_OP_MATH));
    products();
    vectors();
    epilogues();
    CHECK(cublasDestroy(handle));
    puts("right");
}
