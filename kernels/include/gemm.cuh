// What the steps of gemm/ share: where a block's tile is, and how results leave.
#pragma once

#include "vector.cuh"

// A tile of c by its first element.
struct TilePlace {
    int row, column;
};

// Tile number `i` of a matrix with so many columns, row after row.
DEVICE TilePlace tile_in_rows(int i, int columns, int tile_rows, int tile_columns) {
    const int across = (columns + tile_columns - 1) / tile_columns;
    return {i / across * tile_rows, i % across * tile_columns};
}

// The same, but in bands of eight rows of tiles, column after column within a band. Blocks that run
// at the same time then have few rows and few columns between them, which stay in L2.
DEVICE TilePlace tile_in_bands(int i, int rows, int columns, int tile_rows, int tile_columns) {
    constexpr int BAND = 8;
    const int down = (rows + tile_rows - 1) / tile_rows;
    const int across = (columns + tile_columns - 1) / tile_columns;
    const int first = i / (BAND * across) * BAND, place = i % (BAND * across);
    const int band = min(BAND, down - first);  // the last one may be lower
    return {(first + place % band) * tile_rows, place / band * tile_columns};
}

// Rounds x and y and stores them as c[row][column] and c[row][column + 1], as far as c [m,n] has
// such elements.
DEVICE void store_pair(bf16 *c, int m, int n, int row, int column, float x, float y) {
    if (row >= m || column >= n)
        return;
    bf16 *to = c + size_t(row) * n + column;
    if (column + 1 < n && reinterpret_cast<uintptr_t>(to) % 4 == 0) {
        *reinterpret_cast<uint32_t *>(to) = to_bf16_pair(x, y);
    } else {
        to[0] = to_bf16(x);
        if (column + 1 < n)
            to[1] = to_bf16(y);
    }
}

// A warp's M x N results of mma (mma.cuh has who holds what), of which the first is c[row][column].
template <int M, int N>
DEVICE void store_fragments(bf16 *c, int m, int n, int row, int column,
                            const float (&d)[M][N][4]) {
    const int lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < M; i++) {
#pragma unroll
        for (int j = 0; j < N; j++) {
#pragma unroll
            for (int half = 0; half < 2; half++)
                store_pair(c, m, n, row + 16 * i + 8 * half + lane / 4,
                           column + 8 * j + 2 * (lane % 4), d[i][j][2 * half],
                           d[i][j][2 * half + 1]);
        }
    }
}
