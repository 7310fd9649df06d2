// What becomes of a linear layer's sums, in every step of linear/: bias and activation, or the
// derivative of the one that made the input, or what is there already; and how they leave the
// fragments of tensor cores.
//
// Source: Hendrycks, Gimpel: Gaussian Error Linear Units (GELUs), 2016, arXiv 1606.08415.
#pragma once

#include "relu.cuh"
#include "vector.cuh"

// As src/backend/gpu/ops/linear_layer.rs numbers them.
enum Act { ACT_NONE, ACT_RELU, ACT_GELU_ERF, ACT_GELU_TANH };

// Of GELU's approximation by tanh: (1 + tanh(u)) / 2 is the sigmoid of 2 u.
constexpr float STEEP = 1.595769f;  // 2 √(2/π)
constexpr float CUBIC = 0.044715f;

DEVICE float sigmoid(float x) {
    return 1 / (1 + expf(-x));
}

DEVICE float steep(float x) {
    return STEEP * (x + CUBIC * x * x * x);
}

// P(X < x) for a standard normal X.
DEVICE float normal(float x) {
    return 0.5f * (1 + erff(x * 0.70710678f));
}

// act(x) in place of x. The act is the same for all threads.
template <int N> DEVICE void activate(int act, float (&x)[N]) {
    switch (act) {
        case ACT_RELU:
#pragma unroll
            for (int i = 0; i < N; i++)
                x[i] = relu_of(x[i]);
            break;
        case ACT_GELU_ERF:
#pragma unroll
            for (int i = 0; i < N; i++)
                x[i] *= normal(x[i]);
            break;
        case ACT_GELU_TANH:
#pragma unroll
            for (int i = 0; i < N; i++)
                x[i] *= sigmoid(steep(x[i]));
            break;
    }
}

// g · act'(x) in place of g. That of ReLU needs the sign of x only, which its output has, too.
template <int N> DEVICE void through(int act, const float (&x)[N], float (&g)[N]) {
    switch (act) {
        case ACT_RELU:
#pragma unroll
            for (int i = 0; i < N; i++)
                g[i] = x[i] <= 0 ? 0 : g[i];
            break;
        case ACT_GELU_ERF:
#pragma unroll
            for (int i = 0; i < N; i++) {
                const float density = 0.39894228f * expf(-0.5f * x[i] * x[i]);
                g[i] *= normal(x[i]) + x[i] * density;
            }
            break;
        case ACT_GELU_TANH:
#pragma unroll
            for (int i = 0; i < N; i++) {
                // Constant from 10 on, where the terms still are within range. NaN stays.
                float at = x[i] < -10 ? -10 : x[i];
                at = at > 10 ? 10 : at;
                const float s = sigmoid(steep(at));
                g[i] *= s + at * s * (1 - s) * STEEP * (1 + 3 * CUBIC * at * at);
            }
            break;
    }
}

// Neighbours in a row, of which the first `count` exist; all of them at once if `vectors`, which
// says that every row has a multiple of N elements and starts at a multiple of 16 bytes.
template <int N> DEVICE void take(const bf16 *p, int count, bool vectors, float (&v)[N]) {
    if (vectors) {
        const Pack<N> pack = load<N>(p);
#pragma unroll
        for (int i = 0; i < N; i++)
            v[i] = pack[i];
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            v[i] = i < count ? to_float(p[i]) : 0;
    }
}

template <int N> DEVICE void take(const float *p, int count, bool vectors, float (&v)[N]) {
    if (vectors) {
        load<N>(p, v);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            v[i] = i < count ? p[i] : 0;
    }
}

template <int N> DEVICE void put(bf16 *p, int count, bool vectors, const float (&v)[N]) {
    if (vectors) {
        store<N>(p, v);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            if (i < count)
                p[i] = to_bf16(v[i]);
    }
}

template <int N> DEVICE void put(float *p, int count, bool vectors, const float (&v)[N]) {
    if constexpr (N % 4 == 0) {
        if (vectors) {
#pragma unroll
            for (int i = 0; i < N; i += 4)
                *reinterpret_cast<float4 *>(p + i) = {v[i], v[i + 1], v[i + 2], v[i + 3]};
            return;
        }
    }
#pragma unroll
    for (int i = 0; i < N; i++)
        if (i < count)
            p[i] = v[i];
}

DEVICE bool aligned(const void *p) {
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

// ROWS x WIDTH results of a warp in shared memory, on their way from mma's fragments (mma.cuh),
// where a thread has pairs in many rows, to threads that have eight neighbours each. The float4 of
// a row change places such that four rows' pairs, which half a warp stores at once, are on all
// banks, and so are the float4 that a quarter of a warp loads at once: neighbours in a row, or every
// other of a row of 64 or of two rows of 32.
template <int ROWS, int WIDTH> struct alignas(16) WarpTile {
    static_assert(WIDTH == 32 || WIDTH == 64, "that the banks are made for");
    float v[ROWS * WIDTH];

    DEVICE float *place(int row, int i) {
        return v + row * WIDTH + 4 * (i ^ i / 8 ^ 2 * (row % 4) ^ row % 2);
    }

    // The fragments' columns from tile `first` on.
    template <int M, int N> DEVICE void put(const float (&d)[M][N][4], int first) {
        static_assert(ROWS == 16 * M, "all of their rows");
        const int lane = int(threadIdx.x) % 32;
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int j = 0; j < WIDTH / 8; j++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const float *pair = d[i][first + j] + 2 * half;
                    float *to = place(16 * i + 8 * half + lane / 4, 2 * j + lane % 4 / 2);
                    *reinterpret_cast<float2 *>(to + 2 * (lane % 2)) = {pair[0], pair[1]};
                }
            }
        }
    }

    // Hands them to out(row, column, float[Out::COUNT]), counted from the warp's first place.
    template <class Out> DEVICE void leave(int row, int column, const Out &out) {
        constexpr int COUNT = Out::COUNT, CHUNKS = WIDTH / COUNT;
#pragma unroll 1
        for (int i = int(threadIdx.x) % 32; i < ROWS * CHUNKS; i += 32) {
            const int r = i / CHUNKS, chunk = i % CHUNKS;
            float some[COUNT];
#pragma unroll
            for (int j = 0; j < COUNT; j += 4) {
                const float *at = place(r, (chunk * COUNT + j) / 4);
                const float4 four = *reinterpret_cast<const float4 *>(at);
                some[j] = four.x, some[j + 1] = four.y, some[j + 2] = four.z, some[j + 3] = four.w;
            }
            out(row + r, column + COUNT * chunk, some);
        }
    }
};

// Hands a warp's 16 x WIDTH sums of wgmma to `out`, 32 columns at a time, by way of its own 2 KiB.
template <int WIDTH, class Sums, class Out>
DEVICE void leave_in_turns(const Sums &sums, int row, int column, void *spare, const Out &out) {
    constexpr int COLUMNS = 32;
    auto &own = static_cast<WarpTile<16, COLUMNS> *>(spare)[threadIdx.x / 32];
#pragma unroll
    for (int first = 0; first < WIDTH; first += COLUMNS) {
        own.put(sums, first / 8);
        __syncwarp();
        own.leave(row, column + first, out);
        __syncwarp();
    }
}

// Where N neighbouring results go, of which the first is (row, column) of m x n. COUNT of them are
// 16 bytes: neighbouring threads then store side by side.

// pre = v + bias, y = act(pre); neither bias nor pre need be there.
struct Forward {
    static constexpr int COUNT = 8;
    const float *bias;
    bf16 *pre, *y;
    int act;
    int m, n;
    bool vectors = n % 8 == 0 && aligned(bias) && aligned(pre) && aligned(y);

    template <int N> DEVICE void operator()(int row, int column, float (&v)[N]) const {
        if (row >= m || column >= n)
            return;
        const size_t at = size_t(row) * n + column;
        if (bias) {
            float b[N];
            take(bias + column, n - column, vectors, b);
#pragma unroll
            for (int i = 0; i < N; i++)
                v[i] += b[i];
        }
        if (pre)
            put(pre + at, n - column, vectors, v);
        activate(act, v);
        put(y + at, n - column, vectors, v);
    }
};

// dx = v · act'(input), or v, or dx + v. `input` need not be there.
struct InputGrad {
    static constexpr int COUNT = 8;
    const bf16 *input;
    bf16 *dx;
    int act, accumulate;
    int m, n;
    bool vectors = n % 8 == 0 && aligned(input) && aligned(dx);

    template <int N> DEVICE void operator()(int row, int column, float (&v)[N]) const {
        if (row >= m || column >= n)
            return;
        const size_t at = size_t(row) * n + column;
        float other[N];
        if (input) {
            take(input + at, n - column, vectors, other);
            through(act, other, v);
        }
        if (accumulate) {
            take(dx + at, n - column, vectors, other);
#pragma unroll
            for (int i = 0; i < N; i++)
                v[i] += other[i];
        }
        put(dx + at, n - column, vectors, v);
    }
};

// dw = v, or dw + v.
struct WeightGrad {
    static constexpr int COUNT = 4;
    float *dw;
    int accumulate;
    int m, n;
    bool vectors = n % 4 == 0 && aligned(dw);

    template <int N> DEVICE void operator()(int row, int column, float (&v)[N]) const {
        if (row >= m || column >= n)
            return;
        float *to = dw + size_t(row) * n + column;
        if (accumulate) {
            float there[N];
            take(to, n - column, vectors, there);
#pragma unroll
            for (int i = 0; i < N; i++)
                v[i] += there[i];
        }
        put(to, n - column, vectors, v);
    }
};

// The same for the bias' gradient, one element.
DEVICE void put_sum(float *to, int accumulate, float sum) {
    *to = accumulate ? *to + sum : sum;
}
