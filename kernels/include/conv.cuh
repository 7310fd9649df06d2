// What the three convolution passes share. Each is a matrix product whose operands are never laid
// out in memory (implicit GEMM): a block walks along K in steps of DEPTH, copies a step's slice of
// both operands into shared memory as f32, looking elements up where they lie in the images, and
// every thread adds outer products of short columns of the slices to its micro-tile in registers.
// The next slices are on their way from memory meanwhile.
//
//   x, and the window of output p     A [PIXELS, KH KW Ci], of which nothing but a slice exists:
//
//     . . . . . .            K =     tap 0       tap 1      tap 2     ...    tap 8
//     . 0 1 2 . .            p      x[r-1,c-1]  x[r-1,c]  x[r-1,c+1]  ...  x[r+1,c+1]   Ci numbers
//     . 3 p 5 . .            p + 1  x[r-1,c]    x[r-1,c+1]            ...               each, side
//     . 6 7 8 . .            ...    :         :                                         by side
//     . . . . . .                   DEPTH of K: a step
//
// times w [KH KW Ci, Co]. Element (p, k) of A is looked up in x when its slice is copied
// (Image::find), and is zero outside. Each pixel of x is in up to KH KW rows of A, so it is fetched
// as often, mostly from L1.
//
// Elements pass a transform when they are copied (Activation, Gradient) and are rounded to bf16, as
// a tensor core would want them, so that a faster kernel computes the same.
//
// Source: Chetlur et al.: cuDNN: Efficient Primitives for Deep Learning, 2014, arXiv 1410.0759.
#pragma once

#include "bf16.cuh"

// K in a step.
constexpr int DEPTH = 16;
// Rows of the output tile of a forward or input-gradient block: pixels.
constexpr int PIXELS = 128;
// Of a weight-gradient block: weights of one output channel.
constexpr int WEIGHTS = 64;
// The tile's width is a template parameter: 16, 32 or 64 channels. Each micro-tile is COLS channels
// wide and has THREADS_PER_COLUMN above one another, in all three passes.
constexpr int COLS = 4;
constexpr int THREADS_PER_COLUMN = 16;
template <int WIDTH> constexpr int THREADS = WIDTH / COLS * THREADS_PER_COLUMN;

// A step's slice of an operand, K outermost. PAD separates neighbours in K by some banks.
template <int SIZE, int PAD = 0> struct alignas(16) Slice {
    float v[DEPTH][SIZE + PAD];
};

// A counter of three digits, most significant first: (row, column, channel) and the like. The first
// has no limit.
struct Digits {
    int a, b, c;
};

DEVICE Digits digits(int i, int nb, int nc) {
    int rest = i / nc;
    return {rest / nb, rest % nb, i - rest * nc};
}

DEVICE void advance(Digits &d, Digits step, int nb, int nc) {
    d.c += step.c;
    int carry = d.c >= nc;
    d.c -= carry ? nc : 0;
    d.b += step.b + carry;
    carry = d.b >= nb;
    d.b -= carry ? nb : 0;
    d.a += step.a + carry;
}

DEVICE float4 load4(const float *p) {
    return *reinterpret_cast<const float4 *>(p);
}

DEVICE bf16x8 load8(const bf16 *p) {
    return *reinterpret_cast<const bf16x8 *>(p);
}

DEVICE void unpack(float4 v, float *to) {
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

struct alignas(8) bf16x4 {
    bf16 v[4];
};

// An activation as the next layer reads it: relu(scale x + shift), each part optional.
struct Activation {
    const bf16 *x;
    // [C], or both null.
    const float *scale, *shift;
    int relu;

    struct Raw {
        bf16x8 x;
    };

    DEVICE Raw load(size_t at) const {
        return {load8(x + at)};
    }

    DEVICE bf16 finish(float v, float scale, float shift) const {
        v = scale * v + shift;
        // Not fmaxf, which would turn a NaN into 0.
        return to_bf16(relu && v <= 0 ? 0 : v);
    }

    // Eight channels from c on; c is a multiple of 8.
    DEVICE bf16x8 finish(Raw raw, int c) const {
        bf16x8 v = raw.x;
        if (!scale && !relu) return v;
#pragma unroll
        for (int i = 0; i < 8; i += 4) {
            float s[4] = {1, 1, 1, 1}, t[4] = {};
            if (scale) {
                unpack(load4(scale + c + i), s);
                unpack(load4(shift + c + i), t);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) v.v[i + j] = finish(to_float(v.v[i + j]), s[j], t[j]);
        }
        return v;
    }

    DEVICE bf16 one(size_t at, int c) const {
        return scale ? finish(to_float(x[at]), scale[c], shift[c]) : finish(to_float(x[at]), 1, 0);
    }

    // A pixel's channels where they are too few for a vector; zeros after them.
    DEVICE bf16x8 few(size_t at, int channels) const {
        bf16x8 v = {};
#pragma unroll
        for (int c = 0; c < 7; c++)
            if (c < channels) v.v[c] = x[at + c];
        if (!scale && !relu) return v;
#pragma unroll
        for (int c = 0; c < 7; c++)
            if (c < channels)
                v.v[c] = finish(to_float(v.v[c]), scale ? scale[c] : 1, scale ? shift[c] : 0);
        return v;
    }
};

// A gradient as it lies in memory, or through the backward pass of the batch norm whose output's
// gradient it is: scale (g - dbeta / M - xhat dgamma / M), xhat = (y - mean) invstd.
struct Gradient {
    const bf16 *g;
    // The batch norm's input; null where there is none, and so are the others ([C]).
    const bf16 *y;
    const float *mean, *invstd, *scale, *dgamma, *dbeta;
    // 1 / M
    float inverse;

    struct Raw {
        bf16x8 x, y;
    };

    DEVICE Raw load(size_t at) const {
        Raw raw;
        raw.x = load8(g + at);
        if (y) raw.y = load8(y + at);
        return raw;
    }

    DEVICE bf16 finish(bf16 g, bf16 y, float mean, float invstd, float scale, float dgamma,
                       float dbeta) const {
        float xhat = (to_float(y) - mean) * invstd;
        return to_bf16(scale * (to_float(g) - dbeta * inverse - xhat * (dgamma * inverse)));
    }

    // Eight channels from c on; c is a multiple of 8.
    DEVICE bf16x8 finish(Raw raw, int c) const {
        if (!y) return raw.x;
        bf16x8 r;
#pragma unroll
        for (int i = 0; i < 8; i += 4) {
            float m[4], s[4], a[4], dg[4], db[4];
            unpack(load4(mean + c + i), m);
            unpack(load4(invstd + c + i), s);
            unpack(load4(scale + c + i), a);
            unpack(load4(dgamma + c + i), dg);
            unpack(load4(dbeta + c + i), db);
#pragma unroll
            for (int j = 0; j < 4; j++)
                r.v[i + j] = finish(raw.x.v[i + j], raw.y.v[i + j], m[j], s[j], a[j], dg[j], db[j]);
        }
        return r;
    }

    DEVICE bf16 one(size_t at, int c) const {
        if (!y) return g[at];
        return finish(g[at], y[at], mean[c], invstd[c], scale[c], dgamma[c], dbeta[c]);
    }
};

// An image's sizes, and those of the kernel that walks over it.
struct Image {
    int h, w, c;
    int kh, kw;

    // Offset of the i-th image.
    DEVICE size_t start(int i) const {
        return size_t(i) * h * w * c;
    }

    // Whether elements of eight neighbouring channels can be loaded at once.
    DEVICE bool aligned() const {
        return c % 8 == 0;
    }

    // Offset of channel `tap.c` of the pixel that tap (a, b) of the window at (top, left) meets,
    // counted from the image's start. False outside of image or kernel, where there is zero.
    DEVICE bool find(int top, int left, Digits tap, size_t &at) const {
        int row = top + tap.a, col = left + tap.b;
        at = (size_t(row) * w + col) * c + tap.c;
        return tap.a < kh && unsigned(row) < unsigned(h) && unsigned(col) < unsigned(w);
    }
};

// A class of input pixels of a strided convolution (conv_dgrad/2_tiles.cu has the idea): the pixels
// (row + i s, col + j s) with i < h, j < w, and the taps (a + i s, b + j s) with
// i < kh, j < kw that they meet.
struct Class {
    int row, col, h, w;
    int a, b, kh, kw;

    // There are no more classes than pixels, however large the stride.
    DEVICE static int count(int stride, int h, int w) {
        return min(stride, h) * min(stride, w);
    }

    DEVICE Class(int i, int height, int width, int kernel, int stride, int pad) {
        int cols = min(stride, width);
        row = i / cols;
        col = i % cols;
        h = (height - row + stride - 1) / stride;
        w = (width - col + stride - 1) / stride;
        a = (row + pad) % stride;
        b = (col + pad) % stride;
        kh = max(kernel - a + stride - 1, 0) / stride;
        kw = max(kernel - b + stride - 1, 0) / stride;
    }
};

// Eight neighbours in K of one window, on their way from memory to a slice.
template <class Source> struct Vector {
    // Before the transform; after it where elements are loaded one by one.
    typename Source::Raw raw;
    bool inside;

    // `start` is the image's offset, `tap` the first of the eight.
    DEVICE void fetch(const Source &source, const Image &image, size_t start, int top, int left,
                      Digits tap) {
        if (image.aligned()) {
            size_t at;
            inside = image.find(top, left, tap, at);
            if (inside) raw = source.load(start + at);
            return;
        }
        // A loop that is one on the device too: unrolled, it would keep a place for each of the
        // eight elements in registers, which the case above would pay for.
        raw.x = {};
#pragma unroll 1
        for (int i = 0; i < 8; i++) {
            size_t at;
            bool there = image.find(top, left, tap, at);
#pragma unroll
            for (int j = 0; j < 7; j++) raw.x.v[j] = raw.x.v[j + 1];
            raw.x.v[7] = there ? source.one(start + at, tap.c) : bf16{0};
            advance(tap, {0, 0, 1}, image.kw, image.c);
        }
    }

    // `c` is the channel of the first of the eight.
    DEVICE bf16x8 get(const Source &source, const Image &image, int c) const {
        if (!image.aligned()) return raw.x;
        return inside ? source.finish(raw, c) : bf16x8{};
    }
};

// Copies slices [DEPTH][PIXELS] of windows of an image: row p of the tile is window p, K its taps
// in the order (row, column, channel). Neighbouring threads take neighbouring windows, so stores to
// shared memory are free of conflicts; the two halves of a 32-byte sector are fetched by one block
// one after the other and meet in L1.
template <class Source, int WIDTH> struct Windows {
    static constexpr int STRIDE = THREADS<WIDTH> < PIXELS ? THREADS<WIDTH> : PIXELS;
    static constexpr int ROWS = PIXELS / STRIDE;
    // Vectors of a row that one thread copies, and those between them.
    static constexpr int VECTORS = PIXELS * (DEPTH / 8) / (THREADS<WIDTH> * ROWS);

    Source source;
    Image image;
    size_t start[ROWS];
    int top[ROWS], left[ROWS];
    Digits tap[VECTORS], step;
    Vector<Source> vectors[ROWS][VECTORS];

    DEVICE static int row(int r) {
        return int(threadIdx.x) % STRIDE + r * STRIDE;
    }

    DEVICE static int k(int v) {
        return 8 * (int(threadIdx.x) / STRIDE + v * (THREADS<WIDTH> / STRIDE));
    }

    DEVICE Windows(Source source, Image image) : source(source), image(image) {
        for (int v = 0; v < VECTORS; v++) tap[v] = digits(k(v), max(image.kw, 1), image.c);
        step = digits(DEPTH, max(image.kw, 1), image.c);
    }

    // Window of row(r): its upper left corner in the image that starts at `first`.
    DEVICE void place(int r, size_t first, int row, int col) {
        start[r] = first;
        top[r] = row;
        left[r] = col;
    }

    // Row(r) is past the last window.
    DEVICE void skip(int r) {
        place(r, 0, -(1 << 30), 0);
    }

    DEVICE void fetch() {
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                vectors[r][v].fetch(source, image, start[r], top[r], left[r], tap[v]);
        }
    }

    // Puts what was fetched into a slice and moves on.
    DEVICE void put(Slice<PIXELS> &to) {
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                bf16x8 x = vectors[r][v].get(source, image, tap[v].c);
#pragma unroll
                for (int i = 0; i < 8; i++) to.v[k(v) + i][row(r)] = to_float(x.v[i]);
            }
            advance(tap[v], step, image.kw, image.c);
        }
    }
};

// acc[r][c] += sum over a slice's K of a[row + r] b[col + c].
template <int ROWS, class A, class B>
DEVICE void multiply(const A &a, int row, const B &b, int col, float (&acc)[ROWS][COLS]) {
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
        float x[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r += 4) unpack(load4(&a.v[k][row + r]), x + r);
        float y[COLS];
        unpack(load4(&b.v[k][col]), y);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < COLS; c++) acc[r][c] += x[r] * y[c];
        }
    }
}

// acc += A B over `steps` slices, in two buffers by turns: one barrier a step, the last at the end.
template <int ROWS, class SliceA, class SliceB, class LoadA, class LoadB>
DEVICE void accumulate(int steps, SliceA (&a)[2], LoadA &load_a, int row, SliceB (&b)[2],
                       LoadB &load_b, int col, float (&acc)[ROWS][COLS]) {
    for (int s = 0; s <= steps; s++) {
        bool more = s < steps;
        if (more) {
            load_a.fetch();
            load_b.fetch();
        }
        if (s > 0) multiply(a[(s - 1) & 1], row, b[(s - 1) & 1], col, acc);
        if (more) {
            load_a.put(a[s & 1]);
            load_b.put(b[s & 1]);
        }
        __syncthreads();
    }
}

// Loads the first `count` (at most 4) of four neighbours, and zeros; all at once if `aligned`.
DEVICE float4 load_first(const float *p, int count, bool aligned) {
    if (aligned && count > 0) return load4(p);
    float v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = i < count ? p[i] : 0;
    return {v[0], v[1], v[2], v[3]};
}

DEVICE bf16x4 load_first(const bf16 *p, int count, bool aligned) {
    if (aligned && count > 0) return *reinterpret_cast<const bf16x4 *>(p);
    bf16x4 v;
#pragma unroll
    for (int i = 0; i < 4; i++) v.v[i] = i < count ? p[i] : bf16{0};
    return v;
}

DEVICE void store_first(bf16 *p, bf16x4 v, int count, bool aligned) {
    if (aligned && count > 0) {
        *reinterpret_cast<bf16x4 *>(p) = v;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < count) p[i] = v.v[i];
}

DEVICE void store_first(float *p, float4 v, int count, bool aligned) {
    if (aligned && count > 0) {
        *reinterpret_cast<float4 *>(p) = v;
        return;
    }
    if (count > 0) p[0] = v.x;
    if (count > 1) p[1] = v.y;
    if (count > 2) p[2] = v.z;
    if (count > 3) p[3] = v.w;
}
