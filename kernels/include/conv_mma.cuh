// What the tensor-core convolutions share. They are implicit GEMMs as in conv.cuh, with slices of
// both operands in shared memory as bf16, which is what tensor cores read, a K of 32 in a step, and
// outputs that leave through shared memory, so that all traffic is in vectors of eight channels.
#pragma once

#include "conv.cuh"
#include "mma.cuh"

// K in a step: two of mma's.
constexpr int STEP = 32;
// Four warps, each of which takes 32 rows (pixels) of a tile of PIXELS.
constexpr int MMA_THREADS = 128;

// Divisions by constants are of unsigned numbers: those of signed ones, which round towards 0, are
// several instructions where a shift or a mask is enough.
DEVICE int lane() {
    return int(threadIdx.x % 32);
}

DEVICE int warp() {
    return int(threadIdx.x / 32);
}

// Matrices of bf16 lie in shared memory in chunks of eight (16 bytes). Where chunk `chunk` of a row
// of `CHUNKS` is: eight neighbouring rows' chunk c, which ldmatrix reads at once, shall lie on
// different banks, so a row's chunks are permuted by XOR with some bits of the row's number (a
// "swizzle").
template <int CHUNKS> DEVICE int swizzled(int row, int chunk) {
    // Rows that fill the 128 bytes of all banks meet the same banks again.
    constexpr int GROUP = CHUNKS % 8 == 0 ? 8 : CHUNKS % 4 == 0 ? 4 : CHUNKS % 2 == 0 ? 2 : 1;
    return row * CHUNKS + (chunk ^ int(unsigned(row) / (8 / GROUP) % GROUP));
}

template <int ROWS, int COLS> struct Tile {
    static constexpr int CHUNKS = COLS / 8;

    bf16x8 v[ROWS * CHUNKS];

    DEVICE bf16x8 &at(int row, int chunk) {
        return v[swizzled<CHUNKS>(row, chunk)];
    }
};

// Fragments for mma (see mma.cuh) from a tile whose rows are those of A, with k along them.
template <class T> DEVICE void load_a(uint32_t (&a)[4], T &tile, int row, int chunk) {
    ldmatrix(a, &tile.at(row + lane() % 16, chunk + lane() / 16));
}

// From one whose rows are k, with those of A along them.
template <class T> DEVICE void load_a_trans(uint32_t (&a)[4], T &tile, int k, int chunk) {
    ldmatrix_trans(a, &tile.at(k + lane() % 8 + lane() / 16 * 8, chunk + lane() / 8 % 2));
}

// Sixteen columns of B from a tile whose rows are columns of B, with k along them.
template <class T> DEVICE void load_b(uint32_t (*b)[2], T &tile, int row, int chunk) {
    uint32_t r[4];
    ldmatrix(r, &tile.at(row + lane() % 8 + lane() / 16 * 8, chunk + lane() / 8 % 2));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}

// From one whose rows are k.
template <class T> DEVICE void load_b_trans(uint32_t (*b)[2], T &tile, int k, int chunk) {
    uint32_t r[4];
    ldmatrix_trans(r, &tile.at(k + lane() % 16, chunk + lane() / 16));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}

// The same value, of which the compiler does not know that. Where the channels of a thread do not
// change from step to step, it would keep all their coefficients in registers; they are in L1.
DEVICE int opaque(int v) {
#ifdef __CUDACC__
    asm volatile("" : "+r"(v));
#endif
    return v;
}

DEVICE bf16x8 rounded8(const float (&v)[8]) {
    bf16x8 r;
#pragma unroll
    for (int i = 0; i < 8; i++) r.v[i] = to_bf16(v[i]);
    return r;
}

// The first `count` (any number) of eight neighbours; zeros after them. All at once if `aligned`,
// which says that every row starts at a multiple of eight elements and holds a multiple of them.
DEVICE bf16x8 load_first8(const float *p, int count, bool aligned) {
    float v[8] = {};
    if (aligned && count > 0) {
        unpack(load4(p), v);
        unpack(load4(p + 4), v + 4);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = i < count ? p[i] : 0;
    }
    return rounded8(v);
}

DEVICE bf16x8 load_first8(const bf16 *p, int count, bool aligned) {
    if (aligned && count > 0) return load8(p);
    bf16x8 v;
#pragma unroll
    for (int i = 0; i < 8; i++) v.v[i] = i < count ? p[i] : bf16{0};
    return v;
}

DEVICE void store_first8(bf16 *p, bf16x8 v, int count, bool aligned) {
    if (aligned && count > 0) {
        *reinterpret_cast<bf16x8 *>(p) = v;
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < count) p[i] = v.v[i];
}

// Copies slices of windows of an image: row p of the tile is window p, with K along it. Four
// neighbouring threads take the four chunks of a row, so that they read 64 bytes in a row.
template <class Source> struct Patches {
    static constexpr int ROWS = PIXELS / (MMA_THREADS / 4);

    Source source;
    Image image;
    int which[ROWS], top[ROWS], left[ROWS];
    Digits tap, step;
    Vector<Source> v[ROWS];

    DEVICE static int row(int r) {
        return int(threadIdx.x) / 4 + r * (MMA_THREADS / 4);
    }

    DEVICE static int chunk() {
        return int(threadIdx.x) % 4;
    }

    DEVICE Patches(Source source, Image image) : source(source), image(image) {
        tap = digits(8 * chunk(), max(image.kw, 1), image.c);
        step = digits(STEP, max(image.kw, 1), image.c);
    }

    // Window of row(r): its image, and its upper left corner there.
    DEVICE void place(int r, int image, int row, int col) {
        which[r] = image;
        top[r] = row;
        left[r] = col;
    }

    // Row(r) is past the last window.
    DEVICE void skip(int r) {
        place(r, 0, -(1 << 30), 0);
    }

    DEVICE void fetch() {
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            v[r].fetch(source, image, image.start(which[r]), top[r], left[r], tap);
    }

    // Puts what was fetched into a slice and moves on.
    DEVICE void put(Tile<PIXELS, STEP> &to) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) to.at(row(r), chunk()) = v[r].get(source, image, tap.c);
        advance(tap, step, image.kw, image.c);
    }
};

// Runs `steps` steps over two buffers in turn: the slices of the next step are on their way from
// memory while `multiply` works on the present ones. One barrier a step, the last at the end.
template <class A, class B, class LoadA, class LoadB, class Multiply>
DEVICE void pipeline(int steps, A (&a)[2], LoadA &load_a, B (&b)[2], LoadB &load_b,
                     Multiply multiply) {
    for (int s = 0; s <= steps; s++) {
        bool more = s < steps;
        if (more) {
            load_a.fetch();
            load_b.fetch();
        }
        if (s > 0) multiply(a[(s - 1) & 1], b[(s - 1) & 1]);
        if (more) {
            load_a.put(a[s & 1]);
            load_b.put(b[s & 1]);
        }
        __syncthreads();
    }
}

// A tile of outputs on its way from the fragments, where a thread has pairs of channels of many
// pixels, to memory, where it shall have eight channels of a pixel. The padding puts the pairs of
// half a warp on different banks. A quarter of a warp gets one half of eight chunks, and the same
// half of all would lie on every other four banks: so the halves are swapped in every other row,
// and, where a row has eight chunks, in its last four.
template <int WIDTH> struct alignas(16) Outputs {
    static constexpr int CHUNKS = WIDTH / 8;
    // Pixels between those of a thread.
    static constexpr int STRIDE = MMA_THREADS / CHUNKS;
    static_assert(STRIDE % 2 == 0, "a thread's rows have their halves alike");

    float v[PIXELS][WIDTH + 8];

    // This thread's first pixel and its chunk of channels.
    DEVICE static int row() {
        return int(threadIdx.x) / CHUNKS;
    }

    DEVICE static int chunk() {
        return int(threadIdx.x) % CHUNKS;
    }

    // Where a chunk's first half is, behind the chunk's place; the second is in the other one.
    DEVICE static int half(int row, int chunk) {
        return (row + chunk / 4) % 2 * 4;
    }

    DEVICE void put(const float (&acc)[2][WIDTH / 8][4]) {
#pragma unroll
        for (int m = 0; m < 2; m++) {
#pragma unroll
            for (int n = 0; n < WIDTH / 8; n++) {
                int row = warp() * 32 + m * 16 + lane() / 4;
                int col = n * 8 + (half(row, n) ^ lane() % 4 * 2);
                *reinterpret_cast<float2 *>(&v[row][col]) = {acc[m][n][0], acc[m][n][1]};
                *reinterpret_cast<float2 *>(&v[row + 8][col]) = {acc[m][n][2], acc[m][n][3]};
            }
        }
    }

    // The thread's `i`-th pixel: eight channels.
    DEVICE void get(int i, float (&to)[8]) const {
        const float *from = &v[row() + i * STRIDE][chunk() * 8];
        const int first = half(row(), chunk());
        unpack(load4(from + first), to);
        unpack(load4(from + (first ^ 4)), to + 4);
    }
};

// Sums of each thread's eight values over all threads with the same chunk of Outputs<WIDTH>, in a
// fixed order: lanes, then warps. Everybody gets them. `red` is shared.
template <int WIDTH>
DEVICE void column_sums(float (&v)[8], float (&red)[MMA_THREADS / 32][WIDTH]) {
    constexpr int CHUNKS = WIDTH / 8;
#pragma unroll
    for (int i = 0; i < 8; i++) {
#pragma unroll
        for (int d = CHUNKS; d < 32; d *= 2) v[i] += __shfl_xor_sync(~0u, v[i], d);
    }
    int col = Outputs<WIDTH>::chunk() * 8;
    __syncthreads();
    if (lane() < CHUNKS) {
#pragma unroll
        for (int i = 0; i < 8; i++) red[warp()][col + i] = v[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; i++) {
        v[i] = 0;
        for (int w = 0; w < MMA_THREADS / 32; w++) v[i] += red[w][col + i];
    }
}
