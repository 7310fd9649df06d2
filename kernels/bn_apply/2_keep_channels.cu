// A block's output: batch norm, the shortcut, ReLU (formula: 1_elements.cu).
//
// The idea: a thread keeps its channel and walks over pixels (Walk in vector.cuh). It divides once,
// and loads the coefficients once: they stay in registers.
//
// Bound: 4 bytes an element (x read, y written), 6 with a shortcut.
// Launch: see Walk, about 4000 blocks at most.

#include "relu.cuh"
#include "vector.cuh"

KERNEL(bn_apply_1, WALKERS)
(const bf16 *__restrict__ x, const float *__restrict__ scale, const float *__restrict__ shift,
 const bf16 *__restrict__ r, const float *__restrict__ r_scale, const float *__restrict__ r_shift,
 int r_relu, int relu, bf16 *__restrict__ y, int pixels, int channels, int across, int chunk) {
    const Walk<1> walk(pixels, channels, across, chunk);
    if (walk.idle())
        return;
    const int c = walk.channel;
    const float factor = scale[c], offset = shift[c];
    const float r_factor = r_scale ? r_scale[c] : 1, r_offset = r_scale ? r_shift[c] : 0;
    for (int p = walk.first; p < walk.end; p += walk.rows) {
        float v = factor * to_float(x[walk.at(p)]) + offset;
        if (r) {
            const float other = r_factor * to_float(r[walk.at(p)]) + r_offset;
            v += r_relu ? relu_of(other) : other;
        }
        y[walk.at(p)] = to_bf16(relu ? relu_of(v) : v);
    }
}
EXPORT(bn_apply_1)
