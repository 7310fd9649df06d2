// wmma: products of small integers, which are exact in all types.
#include <mma.h>

#include <vector>

#include "expect.h"

using namespace nvcuda;

template <class T> using Stored = typename wmma::details::Element<T>::Stored;

// d = 2 * a * b + c, as one warp does it.
template <int m, int n, int k, class T, class S, class LayoutA, class LayoutB>
__global__ void product(const Stored<T> *a, int lda, const Stored<T> *b, int ldb, const S *c, S *d,
                        int ldc, wmma::layout_t layout) {
    wmma::fragment<wmma::matrix_a, m, n, k, T, LayoutA> a_part;
    wmma::fragment<wmma::matrix_b, m, n, k, T, LayoutB> b_part;
    wmma::fragment<wmma::accumulator, m, n, k, S> c_part, sums;
    wmma::fill_fragment(sums, S(0));
    wmma::load_matrix_sync(a_part, a, lda);
    wmma::load_matrix_sync(b_part, b, ldb);
    wmma::load_matrix_sync(c_part, c, ldc, layout);
    static_assert(sums.num_elements == c_part.num_elements, "of one type");
    wmma::mma_sync(sums, a_part, b_part, sums);
    for (int i = 0; i < sums.num_elements; i++)
        sums.x[i] = S(2) * sums.x[i] + c_part.x[i];
    wmma::store_matrix_sync(d, sums, ldc, layout);
}

int small(int i) {
    return i * 7 % 5 + (i % 11 == 0);
}

template <int m, int n, int k, class T, class S, bool a_rows, bool b_rows> void run(bool c_rows) {
    const int lda = (a_rows ? k : m) + 16, ldb = (b_rows ? n : k) + 16, ldc = (c_rows ? n : m) + 16;
    const size_t room = 64 * 64;
    Stored<T> *a, *b;
    S *c, *d;
    CHECK(cudaMallocManaged(&a, room * sizeof *a));
    CHECK(cudaMallocManaged(&b, room * sizeof *b));
    CHECK(cudaMallocManaged(&c, room * sizeof *c));
    CHECK(cudaMallocManaged(&d, room * sizeof *d));
    std::vector<Stored<T>> host_a(room), host_b(room);
    std::vector<S> host_c(room), host_d(room);
    for (size_t i = 0; i < room; i++) {
        host_a[i] = Stored<T>(float(small(int(i))));
        host_b[i] = Stored<T>(float(small(int(i) + 3)));
        host_c[i] = S(float(small(int(i) + 8)));
    }
    CHECK(cudaMemcpy(a, host_a.data(), room * sizeof *a, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(b, host_b.data(), room * sizeof *b, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(c, host_c.data(), room * sizeof *c, cudaMemcpyHostToDevice));
    CHECK(cudaMemset(d, 0, room * sizeof *d));
    using A = std::conditional_t<a_rows, wmma::row_major, wmma::col_major>;
    using B = std::conditional_t<b_rows, wmma::row_major, wmma::col_major>;
    const auto layout = c_rows ? wmma::mem_row_major : wmma::mem_col_major;
    product<m, n, k, T, S, A, B><<<1, 32>>>(a, lda, b, ldb, c, d, ldc, layout);
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaMemcpy(host_d.data(), d, room * sizeof *d, cudaMemcpyDeviceToHost));
    for (int row = 0; row < m; row++)
        for (int column = 0; column < n; column++) {
            const int at = c_rows ? row * ldc + column : column * ldc + row;
            int sum = 0;
            for (int i = 0; i < k; i++)
                sum += small(a_rows ? row * lda + i : i * lda + row) *
                       small((b_rows ? i * ldb + column : column * ldb + i) + 3);
            EXPECT(double(host_d[size_t(at)]) == 2 * sum + small(at + 8));
        }
    CHECK(cudaFree(a));
    CHECK(cudaFree(b));
    CHECK(cudaFree(c));
    CHECK(cudaFree(d));
}

template <class T, class S> void all_shapes() {
    run<16, 16, 16, T, S, true, false>(true);
    run<16, 16, 16, T, S, false, true>(false);
    run<32, 8, 16, T, S, true, true>(true);
    run<8, 32, 16, T, S, false, false>(false);
}

__global__ void saturated(int *to) {
    wmma::fragment<wmma::matrix_a, 16, 16, 16, signed char, wmma::row_major> a;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, signed char, wmma::col_major> b;
    wmma::fragment<wmma::accumulator, 16, 16, 16, int> c;
    wmma::fill_fragment(a, 100);
    wmma::fill_fragment(b, 100);
    wmma::fill_fragment(c, 2147483647);
    wmma::mma_sync(c, a, b, c, true);
    wmma::store_matrix_sync(to, c, 16, wmma::mem_row_major);
}

int main() {
    all_shapes<__half, float>();
    all_shapes<__half, __half>();
    all_shapes<__nv_bfloat16, float>();
    all_shapes<signed char, int>();
    all_shapes<unsigned char, int>();
    run<16, 16, 8, wmma::precision::tf32, float, true, false>(true);
    run<8, 8, 4, double, double, true, false>(false);
    EXPECT(wmma::__float_to_tf32(1 + 0x1p-11f) == 1 + 0x1p-10f);
    int *sums, last;
    CHECK(cudaMalloc(&sums, 256 * sizeof *sums));
    saturated<<<1, 32>>>(sums);
    CHECK(cudaMemcpy(&last, sums + 255, sizeof last, cudaMemcpyDeviceToHost));
    EXPECT(last == 2147483647);
    CHECK(cudaFree(sums));
    puts("right");
}
