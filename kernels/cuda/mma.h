// wmma: products of matrices that a warp holds in fragments.
//
// Which elements a lane holds is CUDA's secret, but for their number and that fragments of one type
// agree. Here a lane has, of a factor, neighbours in memory, up to 16 bytes of them at once; and of
// sums, as mma.sync has it, two neighbours in a row of each tile of 8x8.
#pragma once

#include "cuda_bf16.h"
#include "cuda_fp16.h"

#include <limits.h>
#include "names_begin.h"

namespace nvcuda {
namespace wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;

namespace precision {
struct tf32;
}

enum layout_t { mem_row_major, mem_col_major };

namespace details {

// What elements are stored as, and what they are added up in.
template <class T> struct Element {
    using Stored = T;
    using Sum = std::conditional_t<std::is_integral_v<T>, int, float>;
};
template <> struct Element<double> {
    using Stored = double;
    using Sum = double;
};
template <> struct Element<precision::tf32> {
    using Stored = float;
    using Sum = float;
};

template <int m, int n, int k, class T> constexpr bool is_shape() {
    if constexpr (std::is_same_v<T, double>)
        return m == 8 && n == 8 && k == 4;
    else if constexpr (std::is_same_v<T, precision::tf32>)
        return m == 16 && n == 16 && k == 8;
    else
        return m * n == 256 && (m == 8 || m == 16 || m == 32) &&
               (k == 16 || (k == 8 && std::is_same_v<T, float>));
}

template <class Use, int m, int n, int k> struct Extent {
    static constexpr int rows = std::is_same_v<Use, matrix_b> ? k : m;
    static constexpr int columns = std::is_same_v<Use, matrix_a> ? k : n;
};

}  // namespace details

template <class Use, int m, int n, int k, class T, class Layout = void>
class fragment : public details::Extent<Use, m, n, k> {
    static_assert(details::is_shape<m, n, k, T>(), "wmma has no fragments of this shape and type");
    static constexpr bool is_sum = std::is_same_v<Use, accumulator>;
    static_assert(is_sum == std::is_void_v<Layout>, "factors have a layout, accumulators none");

    using Extent = details::Extent<Use, m, n, k>;

public:
    using element_type = T;
    using storage_element_type = typename details::Element<T>::Stored;

    // Different elements of a lane. Factors of halves are said to have 16, some of them twice.
    static constexpr int held = Extent::rows * Extent::columns / 32;
    static constexpr int num_elements = !is_sum && std::is_same_v<T, __half> ? 16 : held;

    storage_element_type x[num_elements];

    // Where element i of a lane is.
    static int row(int lane, int i) {
        if constexpr (is_sum)
            return i / 2 % (m / 8) * 8 + lane / 4;
        const int at = lane * held + i;
        return std::is_same_v<Layout, row_major> ? at / Extent::columns : at % Extent::rows;
    }
    static int column(int lane, int i) {
        if constexpr (is_sum)
            return i / 2 / (m / 8) * 8 + lane % 4 * 2 + i % 2;
        const int at = lane * held + i;
        return std::is_same_v<Layout, row_major> ? at % Extent::columns : at / Extent::rows;
    }
};

namespace details {

// So many elements at once.
template <class T, int count> struct alignas(sizeof(T) * count) Piece {
    T elements[count];
};

template <int count, class T> SIMT_INLINE void copy_piece(T *to, const T *from) {
    const auto piece = *reinterpret_cast<const Piece<T, count> *>(from);
    for (int i = 0; i < count; i++)
        to[i] = piece.elements[i];
}

template <int m, int n, int k, class T>
using Sums = fragment<accumulator, m, n, k, T>;

}  // namespace details

template <class Use, int m, int n, int k, class T, class Layout>
SIMT_INLINE void
load_matrix_sync(fragment<Use, m, n, k, T, Layout> &to,
                 const typename details::Element<T>::Stored *from, unsigned leading) {
    using Fragment = fragment<Use, m, n, k, T, Layout>;
    constexpr int size = sizeof(*from), most = 16 / size;
    constexpr int count = Fragment::held < most ? Fragment::held : most;
    const int lane = simt::lane_number();
    for (int i = 0; i < Fragment::held; i += count) {
        const unsigned row = unsigned(to.row(lane, i)), column = unsigned(to.column(lane, i));
        const bool in_rows = std::is_same_v<Layout, row_major>;
        const size_t at = in_rows ? size_t(row) * leading + column : size_t(column) * leading + row;
        details::copy_piece<count>(&to.x[i], from + at);
    }
    for (int i = Fragment::held; i < to.num_elements; i++)
        to.x[i] = to.x[i % Fragment::held];
}

template <int m, int n, int k, class T>
SIMT_INLINE void load_matrix_sync(details::Sums<m, n, k, T> &to, const T *from,
                                  unsigned leading, layout_t layout) {
    const int lane = simt::lane_number();
    for (int i = 0; i < to.num_elements; i += 2) {
        const size_t row = size_t(to.row(lane, i)), column = size_t(to.column(lane, i));
        if (layout == mem_row_major) {
            details::copy_piece<2>(&to.x[i], from + row * leading + column);
        } else {
            to.x[i] = from[column * leading + row];
            to.x[i + 1] = from[(column + 1) * leading + row];
        }
    }
}

template <int m, int n, int k, class T>
SIMT_INLINE void store_matrix_sync(T *to, const details::Sums<m, n, k, T> &from,
                                   unsigned leading, layout_t layout) {
    const int lane = simt::lane_number();
    for (int i = 0; i < from.num_elements; i += 2) {
        const size_t row = size_t(from.row(lane, i)), column = size_t(from.column(lane, i));
        if (layout == mem_row_major) {
            details::Piece<T, 2> piece = {{from.x[i], from.x[i + 1]}};
            *reinterpret_cast<details::Piece<T, 2> *>(to + row * leading + column) = piece;
        } else {
            to[column * leading + row] = from.x[i];
            to[(column + 1) * leading + row] = from.x[i + 1];
        }
    }
}

template <class Use, int m, int n, int k, class T, class Layout, class Value>
void fill_fragment(fragment<Use, m, n, k, T, Layout> &to, const Value &value) {
    for (auto &element : to.x)
        element = value;
}

namespace details {

template <class A, class B, class C, class D> struct Product {
    const A *a;
    const B *b;
    const C *c;
    D *d;
    bool saturate;
};

// Of tf32 a unit sees 10 bits of the fraction.
template <class T> auto as_factor(typename Element<T>::Stored x) {
    using Sum = typename Element<T>::Sum;
    if constexpr (std::is_same_v<T, precision::tf32>)
        return __uint_as_float(__float_as_uint(x) & 0xffffe000u);
    else
        return Sum(x);
}

template <int m, int n, int k, class A, class B, class C, class D>
SIMT_UNCHECKED void product_run(const simt::Lanes &lanes) {
    simt::cuda::want_all_lanes(lanes);
    using Arg = Product<A, B, C, D>;
    using Factor = typename A::element_type;
    using Sum = typename Element<Factor>::Sum;
    // Sums of integers wrap, or are cut off at the end.
    using Wide = std::conditional_t<std::is_same_v<Sum, int>, long long, Sum>;
    Sum a[m][k], b[k][n];
    Wide sums[m][n];
    bool saturate = false;
    simt::each_lane<Arg>(lanes, [&](int lane, Arg &arg) {
        for (int i = 0; i < A::held; i++)
            a[A::row(lane, i)][A::column(lane, i)] = as_factor<Factor>(arg.a->x[i]);
        for (int i = 0; i < B::held; i++)
            b[B::row(lane, i)][B::column(lane, i)] =
                as_factor<typename B::element_type>(arg.b->x[i]);
        for (int i = 0; i < C::held; i++)
            sums[C::row(lane, i)][C::column(lane, i)] = Wide(arg.c->x[i]);
        saturate = arg.saturate;
    });
    for (int row = 0; row < m; row++)
        for (int i = 0; i < k; i++)
            for (int column = 0; column < n; column++)
                sums[row][column] += Wide(a[row][i]) * Wide(b[i][column]);
    simt::each_lane<Arg>(lanes, [&](int lane, Arg &arg) {
        for (int i = 0; i < D::held; i++) {
            Wide sum = sums[D::row(lane, i)][D::column(lane, i)];
            if constexpr (std::is_same_v<Sum, int>)
                sum = saturate ? max(min(sum, (long long)(INT_MAX)), (long long)(INT_MIN)) : sum;
            arg.d->x[i] = typename D::element_type(sum);
        }
    });
}

template <int m, int n, int k, class... Fragments>
inline constexpr simt::Collective PRODUCT = {"wmma::mma_sync", product_run<m, n, k, Fragments...>,
                                             false, 2ull * m * n * k};

}  // namespace details

// d = a * b + c
template <int m, int n, int k, class TA, class LA, class TB, class LB, class TC, class TD>
SIMT_INLINE void mma_sync(details::Sums<m, n, k, TD> &d,
                          const fragment<matrix_a, m, n, k, TA, LA> &a,
                          const fragment<matrix_b, m, n, k, TB, LB> &b,
                          const details::Sums<m, n, k, TC> &c, bool saturate = false,
                          SIMT_SITE) {
    static_assert(std::is_same_v<TA, TB>, "factors of one type");
    using A = fragment<matrix_a, m, n, k, TA, LA>;
    using B = fragment<matrix_b, m, n, k, TB, LB>;
    using C = details::Sums<m, n, k, TC>;
    using D = details::Sums<m, n, k, TD>;
    details::Product<A, B, C, D> arg = {&a, &b, &c, &d, saturate};
    simt_warp_collective(~0u, &details::PRODUCT<m, n, k, A, B, C, D>, &arg, line, file);
}

// To 10 bits of fraction, ties away from zero.
inline float __float_to_tf32(float x) {
    const unsigned bits = __float_as_uint(x);
    return (bits & 0x7f800000) == 0x7f800000 ? x : __uint_as_float((bits + 0x1000) & 0xffffe000u);
}

}  // namespace wmma
}  // namespace nvcuda

#include "names_end.h"
