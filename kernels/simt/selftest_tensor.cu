// Kernels for the tests of the executor's tensor cores and asynchronous copies (tests/simt).

#include "copy.cuh"
#include "mma.cuh"

namespace {

using Tile = bf16[16][16];

// A 16x16 tile as it lies in memory, 16 bytes a lane.
DEVICE void fetch(Tile &to, const bf16 *from) {
    const int lane = int(threadIdx.x) % 32;
    copy_async(&to[lane / 2][lane % 2 * 8], from + lane * 8);
}

DEVICE void store(float *to, const float (&d)[1][2][4]) {
    const int lane = int(threadIdx.x) % 32;
    for (int n = 0; n < 2; n++)
        for (int i = 0; i < 4; i++)
            to[(lane / 4 + i / 2 * 8) * 16 + n * 8 + lane % 4 * 2 + i % 2] = d[0][n][i];
}

// d += a b, where b lies with k innermost (a row a column), or outermost.
DEVICE void multiply(float (&d)[1][2][4], const Tile &a, const Tile &b, bool k_innermost) {
    const int lane = int(threadIdx.x) % 32;
    uint32_t fa[1][4], fb[4];
    ldmatrix(fa[0], &a[lane % 16][lane / 16 * 8]);
    if (k_innermost)
        ldmatrix(fb, &b[lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8]);
    else
        ldmatrix_trans(fb, &b[lane % 16][lane / 16 * 8]);
    const uint32_t halves[2][2] = {{fb[0], fb[1]}, {fb[2], fb[3]}};
    mma(d, fa, halves);
}

}  // namespace

// d[16][16] = sum over `tiles` of a[i] b[i], through three buffers in turn, two tiles ahead.
// `mistake` 1 waits for one copy too few, 2 fills a buffer that is still being read.
KERNEL(selftest_pipeline, 64)
(const bf16 *a, const bf16 *b, int tiles, int k_innermost, int mistake, float *out) {
    SHARED(Tile, as, [3]);
    SHARED(Tile, bs, [3]);
    const int warp = int(threadIdx.x) / 32;
    // One warp copies, both multiply.
    const auto issue = [&](int i) {
        if (warp == 0 && i < tiles) {
            fetch(as[i % 3], a + i * 256);
            fetch(bs[i % 3], b + i * 256);
        }
        copy_commit();
    };
    float d[1][2][4] = {};
    issue(0);
    issue(1);
    for (int i = 0; i < tiles; i++) {
        if (mistake == 1)
            copy_wait<2>();
        else
            copy_wait<1>();
        __syncthreads();
        if (mistake == 2)
            issue(i + 3);
        else
            issue(i + 2);
        multiply(d, as[i % 3], bs[i % 3], k_innermost != 0);
    }
    store(out + warp * 256, d);
}
EXPORT(selftest_pipeline)

// Half of the warp has left before the other asks for a tensor core.
KERNEL(selftest_half_a_warp, 32)(float *out) {
    if (threadIdx.x >= 16)
        return;
    float d[1][1][4] = {};
    const uint32_t a[1][4] = {}, b[1][2] = {};
    mma(d, a, b);
    out[threadIdx.x] = d[0][0][0];
}
EXPORT(selftest_half_a_warp)

// `what` 0 loads a row that is not in shared memory, 1 one that is not aligned; 2 copies to global
// memory, 3 from an address that is not aligned.
KERNEL(selftest_bad_rows, 32)(bf16 *memory, int what) {
    SHARED(Tile, tile);
    uint32_t r[4];
    if (what < 2)
        ldmatrix(r, what == 0 ? memory : &tile[0][1]);
    else
        copy_async(what == 2 ? memory : &tile[0][0], what == 2 ? memory + 8 : memory + 1);
    if (threadIdx.x == 0)
        memory[0] = {uint16_t(r[0])};
}
EXPORT(selftest_bad_rows)
