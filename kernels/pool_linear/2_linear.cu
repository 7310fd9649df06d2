// A linear layer's three matrix products, for the network's last layer.
//
//   y[n,o]  = Σ_c a[n,c] · w[o,c] + b[o]                              (linear)
//   da[n,c] = Σ_o dy[n,o] · w[o,c] / pixels                           (linear_da)
//   dw[o,c] = Σ_n dy[n,o] · a[n,c],   db[o] = Σ_n dy[n,o]             (linear_dw, linear_add)
//
//   a, da [N,C], y, dy [N,O] bf16; w, dw [O,C], b, db [O] f32; products and sums in f32, w is not
//   rounded. `pixels` is what the average pooling before the layer divides by.
//
// The idea: one tile of TILE x TILE outputs a block for all three, told apart by how an operand's
// element (i, k) is looked up. Slices of DEPTH go through shared memory, the next ones being on
// their way meanwhile; a thread adds outer products to its 4 x 4 outputs, k in order. dw sums over
// the batch, which is long where its tiles are few: chunks of the batch are added up apart and then
// together, in order. db is one more column of dw, for an input that is 1 everywhere.
//
// Bound: latency. Each product is 2·N·O·C FLOPs, a thousandth of the network's.
// Launch: grid (rows / 32, columns / 32, chunks), 64 threads; linear_add ceil((C + 1)·O / 256)
// blocks of 256 threads, an element of dw or db each.
//
// Source: Volkov, Demmel: Benchmarking GPUs to Tune Dense Linear Algebra, SC 2008.

#include "bf16.cuh"

namespace {

constexpr int TILE = 32;
constexpr int DEPTH = 16;
constexpr int MICRO = 4;
constexpr int THREADS = (TILE / MICRO) * (TILE / MICRO);
constexpr int ADDERS = 256;

// A step's slice of an operand, K outermost; rows start at multiples of 16 bytes.
struct alignas(16) Slice {
    float v[DEPTH][TILE + MICRO];
};

DEVICE float to_float(float x) {
    return x;
}

// A matrix with rows of `width` elements: element (i, k) is that of row i and column k if K is
// along the rows, else of row k and column i. 0 outside.
template <class T, bool K_ALONG> struct Operand {
    const T *p;
    int size, width;

    DEVICE float at(int i, int k, int end) const {
        if (i >= size || k >= end)
            return 0;
        return to_float(K_ALONG ? p[size_t(i) * width + k] : p[size_t(k) * width + i]);
    }

    // Which element of a slice a thread copies in round j: neighbours in memory for neighbours.
    DEVICE static int slot_i(int j) {
        const int slot = j * THREADS + int(threadIdx.x);
        return K_ALONG ? slot / DEPTH : slot % TILE;
    }

    DEVICE static int slot_k(int j) {
        const int slot = j * THREADS + int(threadIdx.x);
        return K_ALONG ? slot % DEPTH : slot / TILE;
    }
};

// The inputs, and a last column of ones.
struct WithOnes : Operand<bf16, false> {
    DEVICE float at(int i, int k, int end) const {
        return i == size && k < end ? 1 : Operand::at(i, k, end);
    }
};

// What a thread copies of a slice.
template <class T> struct Copy {
    static constexpr int ROUNDS = TILE * DEPTH / THREADS;
    float v[ROUNDS];

    DEVICE void fetch(const T &operand, int first, int k, int end) {
#pragma unroll
        for (int j = 0; j < ROUNDS; j++)
            v[j] = operand.at(first + T::slot_i(j), k + T::slot_k(j), end);
    }

    DEVICE void put(Slice &to) const {
#pragma unroll
        for (int j = 0; j < ROUNDS; j++)
            to.v[T::slot_k(j)][T::slot_i(j)] = v[j];
    }
};

DEVICE void load4(const float *p, float (&to)[MICRO]) {
    const float4 v = *reinterpret_cast<const float4 *>(p);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

// Calls out(i, j, Σ_{k in start..end} a(i, k) · b(j, k)) for the block's tile.
template <class A, class B, class Out>
DEVICE void product(const A &a, const B &b, int start, int end, Out out) {
    SHARED(Slice, slices, [2]);
    const int thread = int(threadIdx.x);
    const int i0 = int(blockIdx.x) * TILE, j0 = int(blockIdx.y) * TILE;
    const int row = thread / (TILE / MICRO) * MICRO, col = thread % (TILE / MICRO) * MICRO;
    Copy<A> a_copy;
    Copy<B> b_copy;
    a_copy.fetch(a, i0, start, end);
    b_copy.fetch(b, j0, start, end);
    float sums[MICRO][MICRO] = {};
    for (int k = start; k < end; k += DEPTH) {
        a_copy.put(slices[0]);
        b_copy.put(slices[1]);
        __syncthreads();
        a_copy.fetch(a, i0, k + DEPTH, end);
        b_copy.fetch(b, j0, k + DEPTH, end);
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            float x[MICRO], y[MICRO];
            load4(&slices[0].v[d][row], x);
            load4(&slices[1].v[d][col], y);
#pragma unroll
            for (int i = 0; i < MICRO; i++) {
#pragma unroll
                for (int j = 0; j < MICRO; j++)
                    sums[i][j] += x[i] * y[j];
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < MICRO; i++) {
#pragma unroll
        for (int j = 0; j < MICRO; j++)
            out(i0 + row + i, j0 + col + j, sums[i][j]);
    }
}

}  // namespace

KERNEL(linear, THREADS)
(const bf16 *__restrict__ a, const float *__restrict__ w, const float *__restrict__ b, int n, int c,
 int o, bf16 *__restrict__ y) {
    const Operand<bf16, true> inputs = {a, n, c};
    const Operand<float, true> weights = {w, o, c};
    product(inputs, weights, 0, c, [&](int i, int j, float sum) {
        if (i < n && j < o)
            y[size_t(i) * o + j] = to_bf16(sum + b[j]);
    });
}
EXPORT(linear)

KERNEL(linear_da, THREADS)
(const bf16 *__restrict__ dy, const float *__restrict__ w, int n, int c, int o, int pixels,
 bf16 *__restrict__ da) {
    const Operand<bf16, true> grads = {dy, n, o};
    const Operand<float, false> weights = {w, c, c};
    product(grads, weights, 0, o, [&](int i, int j, float sum) {
        if (i < n && j < c)
            da[size_t(i) * c + j] = to_bf16(sum / float(pixels));
    });
}
EXPORT(linear_da)

// A block sums over `chunk` rows of the batch and leaves the result in dw [chunks,O,C] and db
// [chunks,O].
KERNEL(linear_dw, THREADS)
(const bf16 *__restrict__ dy, const bf16 *__restrict__ a, int n, int c, int o, int chunk,
 float *__restrict__ dw, float *__restrict__ db) {
    const Operand<bf16, false> grads = {dy, o, o};
    const WithOnes inputs = {{a, c, c}};
    const int start = int(blockIdx.z) * chunk;
    product(grads, inputs, start, min(n, start + chunk), [&](int i, int j, float sum) {
        const size_t row = size_t(blockIdx.z) * o + i;
        if (i < o && j < c)
            dw[row * c + j] = sum;
        if (i < o && j == c)
            db[row] = sum;
    });
}
EXPORT(linear_dw)

// Adds up the chunks of dw and db.
KERNEL(linear_add, ADDERS)
(const float *__restrict__ dw_parts, const float *__restrict__ db_parts, int chunks, int c, int o,
 float *__restrict__ dw, float *__restrict__ db) {
    const size_t weights = size_t(o) * c;
    const size_t i = size_t(blockIdx.x) * ADDERS + threadIdx.x;
    if (i >= weights + o)
        return;
    const bool weight = i < weights;
    const float *part = weight ? dw_parts + i : db_parts + (i - weights);
    const size_t stride = weight ? weights : o;
    float sum = 0;
#pragma unroll 8
    for (int k = 0; k < chunks; k++)
        sum += part[k * stride];
    (weight ? dw[i] : db[i - weights]) = sum;
}
EXPORT(linear_add)
