// Gradient of a convolution's input (see conv_fprop/1_naive.cu for its shapes), with a shortcut's
// gradient and a ReLU's mask:
//
//   d[n,h,w,c] = sum over a,b,o of dy[n, (h + p - a) / s, (w + p - b) / s, o] w[o,a,b,c]
//                where both quotients are whole and inside the image
//   dx = (d + add) [load(x) > 0], rounded to bf16; add and mask are optional
//
//   dy is read through Gradient (batch norm's backward pass) and rounded to bf16.
//
// The idea: none yet; the formula as a loop, a thread an input. With a stride most taps meet no dy.
//
// Bound: loads, as in the forward pass; w is read in steps of KH KW Ci.
//
// Launch: ceil(N H W Ci / 256) blocks of 256 threads.
#include "conv.cuh"

// add may be dx.
KERNEL(conv_dgrad_naive, 256)
(const bf16 *__restrict__ g, const bf16 *__restrict__ y, const float *__restrict__ mean,
 const float *__restrict__ invstd, const float *__restrict__ gain,
 const float *__restrict__ dgamma, const float *__restrict__ dbeta, float inverse,
 const float *__restrict__ w, const bf16 *__restrict__ x, const float *__restrict__ scale,
 const float *__restrict__ shift, int relu, int mask, const bf16 *add, bf16 *dx, int n, int h,
 int width, int ci, int co, int ho, int wo, int kernel, int stride, int pad) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= size_t(n) * h * width * ci) return;
    int c = int(i % ci), pixel = int(i / ci);
    Digits at = digits(pixel, h, width);
    Gradient dy = {g, y, mean, invstd, gain, dgamma, dbeta, inverse};
    float sum = 0;
    for (int a = 0; a < kernel; a++) {
        for (int b = 0; b < kernel; b++) {
            int row = at.b + pad - a, col = at.c + pad - b;
            if (row < 0 || col < 0 || row % stride || col % stride) continue;
            row /= stride;
            col /= stride;
            if (row >= ho || col >= wo) continue;
            size_t first = ((size_t(at.a) * ho + row) * wo + col) * co;
            for (int o = 0; o < co; o++) {
                float weight = rounded(w[((size_t(o) * kernel + a) * kernel + b) * ci + c]);
                sum += to_float(dy.one(first + o, o)) * weight;
            }
        }
    }
    if (add) sum += to_float(add[i]);
    Activation load = {x, scale, shift, relu};
    bool off = mask && to_float(load.one(i, c)) <= 0;
    dx[i] = to_bf16(off ? 0 : sum);
}
EXPORT(conv_dgrad_naive)
