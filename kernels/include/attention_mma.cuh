// What attention's steps on tensor cores share: rows of heads in shared memory, and a warp's
// products of 16 queries or keys with others.
//
// Scores never leave registers on their way from one product to the next: who holds what of mma's
// result (mma.cuh) is who holds what of its first factor, in pairs (Dao, 2023).
#pragma once

#include "attention.cuh"
#include "copy.cuh"
#include "mma.cuh"

// What kernels begin and end with.
struct Inputs {
    const bf16 *q;
    int q_width;
    const bf16 *k;
    int k_width;
    const bf16 *v;
    int v_width;
    const int *key_len;
    int causal;
    float scale;
};

struct Sizes {
    int batch, heads, lq, lk, depth;

    template <class T> DEVICE HeadRows<T> queries(T *t, int width, int pair) const {
        return {t, width, lq, pair, heads, depth};
    }
    template <class T> DEVICE HeadRows<T> keys(T *t, int width, int pair) const {
        return {t, width, lk, pair, heads, depth};
    }
};

DEVICE int lane() {
    return int(threadIdx.x) % 32;
}

DEVICE int warp() {
    return int(threadIdx.x) / 32;
}

// The same value, of which the compiler does not know that: what it computes from it within a loop
// it does not keep in registers from turn to turn.
DEVICE int opaque(int v) {
#ifdef __CUDACC__
    asm volatile("" : "+r"(v));
#endif
    return v;
}

// Up to whole tiles of mma.
DEVICE int whole(int rows) {
    return (rows + 15) / 16 * 16;
}

// A matrix of bf16 in shared memory, in chunks of eight (16 bytes). Rows are an odd number of
// chunks apart: the same chunk of eight rows, which ldmatrix reads at once, then lies on different
// banks.
struct Tile {
    bf16x8 *chunks;
    int stride;

    DEVICE Tile(bf16x8 *chunks, int columns) : chunks(chunks), stride(columns / 8 + 1) {}

    DEVICE bf16x8 *at(int row, int chunk) const {
        return chunks + row * stride + chunk;
    }
    // Where the next one may start.
    DEVICE bf16x8 *end(int rows) const {
        return chunks + rows * stride;
    }
};

// Asks for rows first.. of a head, as many as `rows`, of which those before `end` are there; past
// them, and past `depth`, it is zeros. By all threads of the block.
template <int DEPTH>
DEVICE void copy_rows(const Tile &to, const HeadRows<const bf16> &from, int first, int rows,
                      int end, int depth) {
    constexpr int CHUNKS = DEPTH / 8;
    for (int i = int(threadIdx.x); i < rows * CHUNKS; i += int(blockDim.x)) {
        const int row = i / CHUNKS, chunk = i % CHUNKS;
        const bool there = first + row < end && 8 * chunk < depth;
        copy_async(to.at(row, chunk), there ? from.row(first + row) + 8 * chunk : from.first,
                   there);
    }
}

// Fragments for mma from a tile whose rows are those of A, with k along them.
DEVICE void load_a(uint32_t (&a)[4], const Tile &tile, int row, int chunk) {
    ldmatrix(a, tile.at(row + lane() % 16, chunk + lane() / 16));
}

// From one whose rows are k, with those of A along them.
DEVICE void load_a_trans(uint32_t (&a)[4], const Tile &tile, int k, int chunk) {
    ldmatrix_trans(a, tile.at(k + lane() % 8 + lane() / 16 * 8, chunk + lane() / 8 % 2));
}

// Sixteen columns of B from a tile whose rows are columns of B, with k along them.
DEVICE void load_b(uint32_t (&b)[2][2], const Tile &tile, int row, int chunk) {
    uint32_t r[4];
    ldmatrix(r, tile.at(row + lane() % 8 + lane() / 16 * 8, chunk + lane() / 8 % 2));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}

// From one whose rows are k.
DEVICE void load_b_trans(uint32_t (&b)[2][2], const Tile &tile, int k, int chunk) {
    uint32_t r[4];
    ldmatrix_trans(r, tile.at(k + lane() % 16, chunk + lane() / 16));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}

// A warp's 16 x 16 numbers: rows g = lane / 4 and g + 8, columns 2t, 2t + 1, 2t + 8 and 2t + 9 for
// t = lane % 4.
struct Square {
    float v[1][2][4];

    DEVICE Square() : v() {}

    // Calls f(v, half, column): row g + 8 · half.
    template <class F> DEVICE void each(F f) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            f(v[0][i / 4][i % 4], i % 4 / 2, i / 4 * 8 + lane() % 4 * 2 + i % 2);
    }
    // The same for two of them: f(v, other v, half, column).
    template <class F> DEVICE void each(Square &other, F f) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            f(v[0][i / 4][i % 4], other.v[0][i / 4][i % 4], i % 4 / 2,
              i / 4 * 8 + lane() % 4 * 2 + i % 2);
    }

    // Rounded, as the first factor of the next product.
    DEVICE void factor(uint32_t (&a)[1][4]) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *pair = &v[0][i / 2][i % 2 * 2];
            a[0][i] = to_bf16_pair(pair[0], pair[1]);
        }
    }
};

// Sixteen rows of a tile as first factors.
template <int DEPTH> struct Rows {
    uint32_t v[DEPTH / 16][1][4];

    DEVICE Rows(const Tile &tile, int row) {
#pragma unroll
        for (int c = 0; c < DEPTH / 16; c++)
            load_a(v[c][0], tile, row, 2 * c);
    }

    // Their products with sixteen rows of another tile.
    DEVICE Square times(const Tile &tile, int row) const {
        Square d;
#pragma unroll
        for (int c = 0; c < DEPTH / 16; c++) {
            uint32_t b[2][2];
            load_b(b, tile, row, 2 * c);
            mma(d.v, v[c], b);
        }
        return d;
    }
};

// Products of sixteen rows of a tile with sixteen of another, for where registers cannot hold the
// first as Rows.
template <int DEPTH>
DEVICE Square products(const Tile &a, int a_row, const Tile &b, int b_row) {
    Square d;
#pragma unroll
    for (int c = 0; c < DEPTH / 16; c++) {
        uint32_t fa[1][4], fb[2][2];
        load_a(fa[0], a, a_row, 2 * c);
        load_b(fb, b, b_row, 2 * c);
        mma(d.v, fa, fb);
    }
    return d;
}

// Sixteen rows of results.
template <int DEPTH> struct Sums {
    Square v[DEPTH / 16];

    // Adds up a's 16 x 16 weights times sixteen rows of a tile.
    DEVICE void add(const uint32_t (&a)[1][4], const Tile &tile, int row) {
#pragma unroll
        for (int c = 0; c < DEPTH / 16; c++) {
            uint32_t b[2][2];
            load_b_trans(b, tile, row, 2 * c);
            mma(v[c].v, a, b);
        }
    }

    DEVICE void scale(float factor) {
#pragma unroll
        for (int c = 0; c < DEPTH / 16; c++)
            v[c].each([&](float &x, int, int) { x *= factor; });
    }

    // Rounds and stores them as rows first.. of a head, as far as there are `end`. On the way they
    // pass through 16 rows of shared memory, from `row` on, that no other warp uses any more, so
    // that they leave in vectors. `thread` of the warp: within a loop better opaque.
    DEVICE void store(const Tile &tile, int row, const HeadRows<bf16> &to, int first, int end,
                      int depth, int thread = lane()) {
        constexpr int CHUNKS = DEPTH / 8;
        __syncwarp();
#pragma unroll
        for (int c = 0; c < DEPTH / 16; c++) {
            uint32_t pairs[1][4];
            v[c].factor(pairs);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                bf16x8 *chunk = tile.at(row + thread / 4 + i % 2 * 8, 2 * c + i / 2);
                *reinterpret_cast<uint32_t *>(&chunk->v[thread % 4 * 2]) = pairs[0][i];
            }
        }
        __syncwarp();
#pragma unroll
        for (int i = thread; i < 16 * CHUNKS; i += 32) {
            const int r = i / CHUNKS, chunk = i % CHUNKS;
            if (first + r < end && 8 * chunk < depth)
                *reinterpret_cast<bf16x8 *>(to.row(first + r) + 8 * chunk) =
                    *tile.at(row + r, chunk);
        }
    }
};
