// A block's output: batch norm, the shortcut, ReLU (formula: 1_elements.cu), where 8 divides C.
//
// The idea: 8 channels a thread, so that memory sees nothing but whole 16-byte vectors of x, r and
// y, and two pixels of each are in flight.
//
// Bound: 4 bytes an element (x read, y written), 6 with a shortcut.
// Launch: see Walk in vector.cuh, about 4000 blocks at most.
//
// Source: Ioffe, Szegedy: Batch Normalization: Accelerating Deep Network Training by Reducing
//   Internal Covariate Shift, 2015, arXiv 1502.03167.
// Source: Luitjens: CUDA Pro Tip: Increase Performance with Vectorized Memory Access, NVIDIA
//   developer blog, 2013.

#include "relu.cuh"
#include "vector.cuh"

namespace {

// Pixels at a time: 64 bytes in flight a thread with a shortcut.
constexpr int BATCH = 2;

// Channels of a thread.
constexpr int N = 8;

struct Affine {
    float scale[N], shift[N];
    bool relu;

    DEVICE Affine(const float *scale_in, const float *shift_in, int channel, bool relu)
        : relu(relu) {
        if (scale_in) {
            load<N>(scale_in + channel, scale);
            load<N>(shift_in + channel, shift);
        } else {
#pragma unroll
            for (int c = 0; c < N; c++)
                scale[c] = 1, shift[c] = 0;
        }
    }

    DEVICE float at(int c, float x) const {
        const float y = scale[c] * x + shift[c];
        return relu ? relu_of(y) : y;
    }
};

}  // namespace

KERNEL(bn_apply_8, WALKERS)
(const bf16 *__restrict__ x, const float *__restrict__ scale, const float *__restrict__ shift,
 const bf16 *__restrict__ r, const float *__restrict__ r_scale, const float *__restrict__ r_shift,
 int r_relu, int relu, bf16 *__restrict__ y, int pixels, int channels, int across, int chunk) {
    const Walk<N> walk(pixels, channels, across, chunk);
    if (walk.idle())
        return;
    const Affine norm(scale, shift, walk.channel, false);
    const Affine shortcut(r_scale, r_shift, walk.channel, r_relu != 0);
    for (int p = walk.first; p < walk.end; p += BATCH * walk.rows) {
        Pack<N> main[BATCH] = {}, other[BATCH] = {};
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int pixel = p + i * walk.rows;
            if (pixel < walk.end) {
                main[i] = load<N>(x + walk.at(pixel));
                if (r)
                    other[i] = load<N>(r + walk.at(pixel));
            }
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int pixel = p + i * walk.rows;
            float out[N];
#pragma unroll
            for (int c = 0; c < N; c++) {
                float v = norm.at(c, main[i][c]);
                if (r)
                    v += shortcut.at(c, other[i][c]);
                out[c] = relu ? relu_of(v) : v;
            }
            if (pixel < walk.end)
                store<N>(y + walk.at(pixel), out);
        }
    }
}
EXPORT(bn_apply_8)
