// Rows of W bf16 change places, for keys and values that decoding keeps:
// to[target[i]] = from[source[i]][first ...]. Rows of `from` are `wide` long.
//
// The idea: neighbours copy neighbours, a warp a row, 16 bytes a lane where rows lie so.
//
// Bound: 4 bytes an element (2 read, 2 written).
// Launch: ceil(rows / 8) blocks of 256 threads.

#include "vector.cuh"

namespace {

// The lane's share of a row, N elements at a time.
template <int N> DEVICE void copy_row(const bf16 *from, bf16 *to, int width) {
    for (int c = N * (int(threadIdx.x) % 32); c < width; c += 32 * N)
        *reinterpret_cast<Pack<N> *>(to + c) = load<N>(from + c);
}

}  // namespace

KERNEL(move_rows, 256)
(const bf16 *from, const int *source, int wide, int first, bf16 *to, const int *target, int width,
 int rows) {
    const int i = int(blockIdx.x) * 8 + int(threadIdx.x) / 32;
    if (i >= rows)
        return;
    const bf16 *a = from + size_t(source[i]) * wide + first;
    bf16 *b = to + size_t(target[i]) * width;
    const auto at = reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b);
    if (at % 16 == 0 && width % 8 == 0)
        copy_row<8>(a, b, width);
    else
        copy_row<1>(a, b, width);
}
EXPORT(move_rows)
