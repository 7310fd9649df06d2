// Linear layer and its gradients:
//
//   pre[r,o] = Σ_i x[r,i] · w[o,i] + b[o],  y = act(pre)               (linear_naive)
//   dx[r,i]  = Σ_o dz[r,o] · w[o,i] · act'(input[r,i])                 (linear_naive_dx)
//   dw[o,i]  = Σ_r dz[r,o] · x[r,i],        db[o] = Σ_r dz[r,o]        (linear_naive_dw)
//
//   x, dx, input [R,I], y, pre, dz [R,O] bf16; w, dw [O,I], b, db [O] f32; products and sums in
//   f32, w is not rounded. b, pre, input and db may be missing; dx, dw and db are added to what is
//   there if `accumulate`. R, I, O are any positive numbers. What becomes of a sum is in linear.cuh.
//
// The idea: none yet; a thread computes a result as the formula says.
//
// Bound: loads, two for each multiply-add, as in gemm/1_naive.cu. In linear_naive the lanes of a
// warp have a row of w each; in the others what they read is neighbouring.
//
// Launch: blocks of 256 threads, 8 rows by 32 columns of the result, which for linear_naive_dw has
// a column more: db.
#include "gemm.cuh"
#include "linear.cuh"

namespace {

constexpr int ROWS = 8, COLUMNS = 32;

// The thread's element of a result with so many columns.
DEVICE TilePlace own(int columns) {
    const TilePlace tile = tile_in_rows(int(blockIdx.x), columns, ROWS, COLUMNS);
    const int thread = int(threadIdx.x);
    return {tile.row + thread / COLUMNS, tile.column + thread % COLUMNS};
}

}  // namespace

KERNEL(linear_naive, ROWS * COLUMNS)
(const bf16 *x, const float *w, const float *bias, bf16 *pre, bf16 *y, int act, int rows,
 int inputs, int outputs) {
    const auto [r, o] = own(outputs);
    if (r >= rows || o >= outputs)
        return;
    float sum[1] = {};
    for (int i = 0; i < inputs; i++)
        sum[0] += to_float(x[size_t(r) * inputs + i]) * w[size_t(o) * inputs + i];
    const Forward out = {bias, pre, y, act, rows, outputs, false};
    out(r, o, sum);
}
EXPORT(linear_naive)

KERNEL(linear_naive_dx, ROWS * COLUMNS)
(const bf16 *dz, const float *w, const bf16 *input, bf16 *dx, int act, int accumulate, int rows,
 int inputs, int outputs) {
    const auto [r, i] = own(inputs);
    if (r >= rows || i >= inputs)
        return;
    float sum[1] = {};
    for (int o = 0; o < outputs; o++)
        sum[0] += to_float(dz[size_t(r) * outputs + o]) * w[size_t(o) * inputs + i];
    const InputGrad out = {input, dx, act, accumulate, rows, inputs, false};
    out(r, i, sum);
}
EXPORT(linear_naive_dx)

KERNEL(linear_naive_dw, ROWS * COLUMNS)
(const bf16 *dz, const bf16 *x, float *dw, float *db, int accumulate, int rows, int inputs,
 int outputs) {
    const auto [o, i] = own(inputs + 1);
    if (o >= outputs || i > inputs)
        return;
    float sum[1] = {};
    for (int r = 0; r < rows; r++) {
        const float factor = i < inputs ? to_float(x[size_t(r) * inputs + i]) : 1;
        sum[0] += to_float(dz[size_t(r) * outputs + o]) * factor;
    }
    const WeightGrad out = {dw, accumulate, outputs, inputs, false};
    if (i < inputs)
        out(o, i, sum);
    else if (db)
        put_sum(db + o, accumulate, sum[0]);
}
EXPORT(linear_naive_dw)
