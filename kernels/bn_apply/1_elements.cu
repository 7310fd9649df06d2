// A block's output: batch norm, the shortcut, ReLU.
//
//   y[p,c] = act(scale[c] · x[p,c] + shift[c] [+ load(r)[p,c]])
//   load(r) = act_r(r_scale[c] · r[p,c] + r_shift[c]), each part optional, not rounded
//
//   x, r, y [P,C] bf16; scale, shift, r_scale, r_shift [C] f32; r null where there is no shortcut,
//   r_scale and r_shift null where it is read as it lies
//
// The idea: none yet; a thread an element, which divides to find its channel and loads the
// channel's coefficients, 16 bytes for an element's 6.
//
// Bound: 4 bytes an element (x read, y written), 6 with a shortcut; in truth the division and the
// loads from cache.
// Launch: ceil(P·C / 256) blocks of 256 threads.
//
// Source: Ioffe, Szegedy: Batch Normalization: Accelerating Deep Network Training by Reducing
//   Internal Covariate Shift, 2015, arXiv 1502.03167.

#include "bf16.cuh"
#include "relu.cuh"

KERNEL(bn_apply_elements, 256)
(const bf16 *x, const float *scale, const float *shift, const bf16 *r, const float *r_scale,
 const float *r_shift, int r_relu, int relu, bf16 *y, int pixels, int channels) {
    const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= size_t(pixels) * channels)
        return;
    const int c = int(i % channels);
    float v = scale[c] * to_float(x[i]) + shift[c];
    if (r) {
        float other = to_float(r[i]);
        if (r_scale)
            other = r_scale[c] * other + r_shift[c];
        v += r_relu ? relu_of(other) : other;
    }
    y[i] = to_bf16(relu ? relu_of(v) : v);
}
EXPORT(bn_apply_elements)
