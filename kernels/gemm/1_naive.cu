// Matrix product, as a linear layer with weights b wants it:
//
//   c[m,n] = Σ_k a[m,k] · b[n,k]
//
//   a [M,K], b [N,K], c [M,N] bf16, all row-major: K is innermost in both factors. Products and
//   sums in f32, rounded once. M, N, K are any positive numbers.
//
// The idea: none yet; a thread computes an element of c as the formula says.
//
// Bound: loads. A multiply-add needs two of them, 4 bytes from the L1 cache, which are there 32
// times for the threads of a warp that share a row of a, but for 32 different rows of b. Each
// row of b is fetched by every row of c: 2 M N K bytes in all, from wherever they are.
//
// Launch: blocks of 256 threads, 8 rows by 32 columns of c; ceil(M / 8) · ceil(N / 32) of them.
#include "gemm.cuh"

namespace {

constexpr int ROWS = 8, COLUMNS = 32;

}  // namespace

KERNEL(gemm_naive, ROWS * COLUMNS)(const bf16 *a, const bf16 *b, bf16 *c, int m, int n, int k) {
    const TilePlace tile = tile_in_rows(int(blockIdx.x), n, ROWS, COLUMNS);
    const int row = tile.row + int(threadIdx.x) / COLUMNS;
    const int column = tile.column + int(threadIdx.x) % COLUMNS;
    if (row >= m || column >= n)
        return;
    const bf16 *x = a + size_t(row) * k, *y = b + size_t(column) * k;
    float sum = 0;
    for (int i = 0; i < k; i++)
        sum += to_float(x[i]) * to_float(y[i]);
    c[size_t(row) * n + column] = to_bf16(sum);
}
EXPORT(gemm_naive)

// Try: a warp has one row of c and 32 columns. How many sectors does a request of `kernels profile
// gemm --step 1 --shape 64x64x64` touch on average?
// Answer: `16.50 sectors a request`: one for a, the same element for all lanes, and 32 for b, a row
// for each.
