// Forward convolution, NHWC:
//
//   y[n,i,j,o] = sum over a,b,c of load(x)[n, i s + a - p, j s + b - p, c] w[o,a,b,c]
//
//   x [N,H,W,Ci] bf16, read through load = optional scale, shift ([Ci]) and ReLU, then rounded to
//   bf16; zero padding after it. w [Co,KH,KW,Ci] f32, rounded to bf16. y [N,Ho,Wo,Co] bf16.
//
// The idea: none yet; the formula as a loop, a thread an output, and nothing kept on chip but what
// the caches keep.
//
// Bound: loads. Two of them for each multiplication; neighbouring threads share x, and w only in
// rows that are Ci apart.
//
// Launch: ceil(N Ho Wo Co / 256) blocks of 256 threads.
#include "conv.cuh"

KERNEL_BLOCKS(conv_fprop_naive, 256, 4)
(const bf16 *__restrict__ x, const float *__restrict__ scale, const float *__restrict__ shift,
 int relu, const float *__restrict__ w, bf16 *__restrict__ y, int n, int h, int width, int ci,
 int co, int ho, int wo, int kernel, int stride, int pad) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= size_t(n) * ho * wo * co) return;
    int o = int(i % co), pixel = int(i / co);
    Digits at = digits(pixel, ho, wo);
    Activation load = {x, scale, shift, relu};
    const float *weights = w + size_t(o) * kernel * kernel * ci;
    float sum = 0;
    for (int a = 0; a < kernel; a++) {
        for (int b = 0; b < kernel; b++, weights += ci) {
            int row = at.b * stride + a - pad, col = at.c * stride + b - pad;
            if (unsigned(row) >= unsigned(h) || unsigned(col) >= unsigned(width)) continue;
            size_t first = ((size_t(at.a) * h + row) * width + col) * ci;
            for (int c = 0; c < ci; c++)
                sum += to_float(load.one(first + c, c)) * rounded(weights[c]);
        }
    }
    y[i] = to_bf16(sum);
}
EXPORT(conv_fprop_naive)

// Try: two images of 16 x 16 pixels and 16 channels: how many threads has `kernels profile conv
// --step 1 --shape 2x16x16x16x16x3x1`?
// Answer: `32 blocks of 256 threads`, 8192, one for each of 2 · 16 · 16 · 16 outputs.
