// cuBLASLt on the host (../cuda/cublasLt.h): products, and what is done to them on the way.
#include "../cuda/cublasLt.h"
#include "blas.h"

#include <algorithm>
#include <cmath>
#include <cstring>

using namespace simt::blas;

struct cublasLtContext {};

struct cublasLtMatmulDesc {
    int32_t compute, scale;
    int32_t mode = CUBLAS_POINTER_MODE_HOST;
    int32_t op_a = CUBLAS_OP_N, op_b = CUBLAS_OP_N, op_c = CUBLAS_OP_N, fill = 0;
    uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    void *bias = nullptr, *aux = nullptr;
    int32_t bias_type = -1;  // that of d
    int64_t bias_stride = 0, aux_leading = 0, aux_stride = 0;
};

struct cublasLtMatrixLayout {
    uint32_t type;
    int32_t order = CUBLASLT_ORDER_COL;
    uint64_t rows, columns;
    int64_t leading;
    int32_t batch = 1;
    int64_t stride = 0;

    Matrix matrix(const void *p, int64_t index) const {
        const Matrix first = {p, cudaDataType(type), int64_t(rows), int64_t(columns), leading};
        return first.at(index * stride);
    }
};

struct cublasLtMatmulPreference {
    uint64_t workspace = 0;
};

namespace {

// A part of an epilogue.
enum : uint32_t {
    RELU = 2,
    BIAS = 4,
    BIAS_GRADIENT = 16,
    GELU = 32,
    GELU_GRADIENT = 64,
    AUX = 128,
    SUMS_OF_A = 256,
    SUMS_OF_B = 512,
};

// Sets a member from bytes of its size.
template <class T> cublasStatus_t set(T &member, const void *value, size_t size) {
    if (size != sizeof member)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&member, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

// The approximation with tanh, as cuBLASLt has it, and its derivative.
constexpr float SLOPE = 0.79788456080286536f, CUBE = 0.044715f;

float gelu(float x) {
    return 0.5f * x * (1 + std::tanh(SLOPE * (x + CUBE * x * x * x)));
}
float gelu_gradient(float x) {
    const float t = std::tanh(SLOPE * (x + CUBE * x * x * x));
    return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * SLOPE * (1 + 3 * CUBE * x * x);
}

// Of each row of op(matrix).
std::vector<float> row_sums(const std::vector<float> &matrix, bool turned, size_t rows,
                            size_t columns) {
    std::vector<float> sums(rows);
    for (size_t row = 0; row < rows; row++) {
        double sum = 0;
        for (size_t column = 0; column < columns; column++)
            sum += double(matrix[turned ? row * columns + column : column * rows + row]);
        sums[row] = float(sum);
    }
    return sums;
}

// One product of a batch. False where memory is not there.
bool run(const cublasLtMatmulDesc &how, float alpha, const Matrix &a, const Matrix &b, float beta,
         const Matrix &c, const Matrix &d, int64_t index) {
    const bool turn_a = how.op_a != CUBLAS_OP_N, turn_b = how.op_b != CUBLAS_OP_N;
    const size_t m = size_t(d.rows), n = size_t(d.columns);
    const size_t k = size_t(turn_a ? a.rows : a.columns);
    const auto type = how.bias_type < 0 ? d.type : cudaDataType(how.bias_type);
    const auto vector = [&](size_t count) {
        return Matrix{how.bias, type, int64_t(count), 1, int64_t(count)}.at(index *
                                                                            how.bias_stride);
    };
    const Matrix aux = Matrix{how.aux, d.type, d.rows, d.columns, how.aux_leading}.at(
        index * how.aux_stride);
    std::vector<float> first, second, before, bias, seen;
    if (!fetch(a, first) || !fetch(b, second) || (beta != 0 && !fetch(c, before)))
        return false;
    if ((how.epilogue & BIAS) && !fetch(vector(m), bias))
        return false;
    if ((how.epilogue & GELU_GRADIENT) && !fetch(aux, seen))
        return false;
    std::vector<float> sums =
        multiply(first, turn_a, second, turn_b, int64_t(m), int64_t(n), int64_t(k));
    for (size_t i = 0; i < sums.size(); i++) {
        float &x = sums[i];
        x = alpha * x + (beta != 0 ? beta * before[i] : 0) + (bias.empty() ? 0 : bias[i % m]);
        if (how.epilogue & GELU_GRADIENT)
            x *= gelu_gradient(seen[i]);
    }
    if ((how.epilogue & (GELU | AUX)) == (GELU | AUX) && !store(aux, sums))
        return false;
    for (float &x : sums) {
        if (how.epilogue & RELU)
            x = x < 0 ? 0 : x;
        if (how.epilogue & GELU)
            x = gelu(x);
    }
    if ((how.epilogue & BIAS_GRADIENT) && !store(vector(m), row_sums(sums, false, m, n)))
        return false;
    if ((how.epilogue & SUMS_OF_A) && !store(vector(m), row_sums(first, turn_a, m, k)))
        return false;
    if ((how.epilogue & SUMS_OF_B) && !store(vector(n), row_sums(second, !turn_b, n, k)))
        return false;
    return store(d, sums);
}

constexpr uint32_t KNOWN = 1 | RELU | BIAS | BIAS_GRADIENT | GELU | GELU_GRADIENT | AUX |
                           SUMS_OF_A | SUMS_OF_B;

// Whether all of it is computed here.
bool is_supported(const cublasLtMatmulDesc &how, const cublasLtMatrixLayout *const (&layouts)[4]) {
    for (const cublasLtMatrixLayout *layout : layouts)
        if (size_of(cudaDataType(layout->type)) == 0 || layout->type == CUDA_R_64F ||
            layout->order != CUBLASLT_ORDER_COL)
            return false;
    const bool whole_numbers =
        how.compute == CUBLAS_COMPUTE_32I || how.compute == CUBLAS_COMPUTE_32I_PEDANTIC;
    return !whole_numbers && how.op_c == CUBLAS_OP_N && (how.epilogue & ~KNOWN) == 0 &&
           (how.epilogue & (RELU | AUX)) != (RELU | AUX);
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    *handle = new cublasLtContext;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *description,
                                        cublasComputeType_t compute, cudaDataType scale) {
    *description = new cublasLtMatmulDesc{int32_t(compute), int32_t(scale)};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
    delete description;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t size) {
    cublasLtMatmulDesc &d = *description;
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
        return set(d.compute, value, size);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
        return set(d.scale, value, size);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
        return set(d.mode, value, size);
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return set(d.op_a, value, size);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return set(d.op_b, value, size);
    case CUBLASLT_MATMUL_DESC_TRANSC:
        return set(d.op_c, value, size);
    case CUBLASLT_MATMUL_DESC_FILL_MODE:
        return set(d.fill, value, size);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return set(d.epilogue, value, size);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return set(d.bias, value, size);
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE:
        return set(d.bias_stride, value, size);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
        return set(d.aux, value, size);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
        return set(d.aux_leading, value, size);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE:
        return set(d.aux_stride, value, size);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return set(d.bias_type, value, size);
    }
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t leading) {
    *layout = new cublasLtMatrixLayout{uint32_t(type), CUBLASLT_ORDER_COL, rows, columns, leading};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t size) {
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
        return set(layout->type, value, size);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
        return set(layout->order, value, size);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        return set(layout->rows, value, size);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        return set(layout->columns, value, size);
    case CUBLASLT_MATRIX_LAYOUT_LD:
        return set(layout->leading, value, size);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        return set(layout->batch, value, size);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        return set(layout->stride, value, size);
    }
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    *preference = new cublasLtMatmulPreference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t size) {
    if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        return set(preference->workspace, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

// There is one algorithm, and it needs no memory.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t handle, cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a,
    cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
    cublasLtMatmulPreference_t, int wanted, cublasLtMatmulHeuristicResult_t *results, int *count) {
    *count = 0;
    if (!handle || wanted < 1)
        return handle ? CUBLAS_STATUS_INVALID_VALUE : CUBLAS_STATUS_NOT_INITIALIZED;
    if (!is_supported(*description, {a, b, c, d}))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    *results = {};
    results->wavesCount = 1;
    *count = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                              const void *alpha, const void *a, cublasLtMatrixLayout_t a_layout,
                              const void *b, cublasLtMatrixLayout_t b_layout, const void *beta,
                              const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *,
                              void *, size_t, cudaStream_t) {
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    const cublasLtMatmulDesc &how = *description;
    if (!is_supported(how, {a_layout, b_layout, c_layout, d_layout}))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const bool turn_a = how.op_a != CUBLAS_OP_N, turn_b = how.op_b != CUBLAS_OP_N;
    const uint64_t m = turn_a ? a_layout->columns : a_layout->rows;
    const uint64_t k = turn_a ? a_layout->rows : a_layout->columns;
    const uint64_t n = turn_b ? b_layout->rows : b_layout->columns;
    if (k != (turn_b ? b_layout->columns : b_layout->rows) || m != d_layout->rows ||
        n != d_layout->columns || m != c_layout->rows || n != c_layout->columns)
        return CUBLAS_STATUS_INVALID_VALUE;
    const auto mode = cublasPointerMode_t(how.mode);
    const auto factor = float(scalar(alpha, cudaDataType(how.scale), mode));
    const auto kept = float(scalar(beta, cudaDataType(how.scale), mode));
    for (int64_t i = 0; i < d_layout->batch; i++)
        if (!run(how, factor, a_layout->matrix(a, i), b_layout->matrix(b, i), kept,
                 c_layout->matrix(c, i), d_layout->matrix(d, i), i))
            return CUBLAS_STATUS_EXECUTION_FAILED;
    return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
