// A block's output: batch norm, the shortcut, ReLU.
//
//   y[p,c] = act(scale[c] · x[p,c] + shift[c] [+ load(r)[p,c]])
//   load(r) = act_r(r_scale[c] · r[p,c] + r_shift[c]), each part optional, not rounded
//
//   x, r, y [P,C] bf16; scale, shift, r_scale, r_shift [C] f32; r null where there is no shortcut,
//   r_scale and r_shift null where it is read as it lies
//
// The one idea: a thread keeps its channels (see Walk in vector.cuh), so coefficients are loaded
// once and stay in registers, and memory sees nothing but whole 16-byte vectors of x, r and y.
//
// Bound: 4 bytes an element (x read, y written), 6 with a shortcut.
// Launch: bn_apply_8 (C a multiple of 8) or _1: see Walk, about 4000 blocks at most.

#include "vector.cuh"

namespace {

// Pixels at a time: 64 bytes in flight a thread with a shortcut.
constexpr int BATCH = 2;

// Not fmaxf, which would turn a NaN into 0.
DEVICE float relu_of(float x) {
    return x < 0 ? 0 : x;
}

template <int N> struct Affine {
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

template <int N>
DEVICE void apply(const bf16 *x, const float *scale, const float *shift, const bf16 *r,
                  const float *r_scale, const float *r_shift, int r_relu, int relu, bf16 *y,
                  int pixels, int channels, int across, int chunk) {
    const Walk<N> walk(pixels, channels, across, chunk);
    if (walk.idle())
        return;
    const Affine<N> norm(scale, shift, walk.channel, false);
    const Affine<N> shortcut(r_scale, r_shift, walk.channel, r_relu != 0);
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

}  // namespace

KERNEL(bn_apply_8, WALKERS)
(const bf16 *__restrict__ x, const float *__restrict__ scale, const float *__restrict__ shift,
 const bf16 *__restrict__ r, const float *__restrict__ r_scale, const float *__restrict__ r_shift,
 int r_relu, int relu, bf16 *__restrict__ y, int pixels, int channels, int across, int chunk) {
    apply<8>(x, scale, shift, r, r_scale, r_shift, r_relu, relu, y, pixels, channels, across,
             chunk);
}
EXPORT(bn_apply_8)

KERNEL(bn_apply_1, WALKERS)
(const bf16 *__restrict__ x, const float *__restrict__ scale, const float *__restrict__ shift,
 const bf16 *__restrict__ r, const float *__restrict__ r_scale, const float *__restrict__ r_shift,
 int r_relu, int relu, bf16 *__restrict__ y, int pixels, int channels, int across, int chunk) {
    apply<1>(x, scale, shift, r, r_scale, r_shift, r_relu, relu, y, pixels, channels, across,
             chunk);
}
EXPORT(bn_apply_1)
