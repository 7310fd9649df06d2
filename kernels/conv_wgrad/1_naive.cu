// Gradient of a convolution's weights (see conv_fprop/1_naive.cu for its shapes):
//
//   dw[o,a,b,c] = sum over n,i,j of dy[n,i,j,o] load(x)[n, i s + a - p, j s + b - p, c]
//
//   dy is read through Gradient (batch norm's backward pass), x through Activation; both are
//   rounded to bf16. dw [Co,KH,KW,Ci] f32.
//
// The idea: none yet; the formula as a loop, a thread a weight. There are few weights and each adds
// up all pixels, so most of a GPU has nothing to do.
//
// Bound: the latency of 2 N Ho Wo loads one after the other.
//
// Launch: ceil(Co KH KW Ci / 256) blocks of 256 threads.
#include "conv.cuh"

KERNEL(conv_wgrad_naive, 256)
(const bf16 *__restrict__ g, const bf16 *__restrict__ y, const float *__restrict__ mean,
 const float *__restrict__ invstd, const float *__restrict__ gain,
 const float *__restrict__ dgamma, const float *__restrict__ dbeta, float inverse,
 const bf16 *__restrict__ x, const float *__restrict__ scale, const float *__restrict__ shift,
 int relu, float *__restrict__ dw, int n, int h, int width, int ci, int co, int ho, int wo,
 int kernel, int stride, int pad) {
    int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= co * kernel * kernel * ci) return;
    Digits tap = digits(i / ci, kernel, kernel);
    int c = i % ci, o = tap.a;
    Gradient dy = {g, y, mean, invstd, gain, dgamma, dbeta, inverse};
    Activation load = {x, scale, shift, relu};
    float sum = 0;
    for (int image = 0; image < n; image++) {
        for (int out_row = 0; out_row < ho; out_row++) {
            int row = out_row * stride + tap.b - pad;
            if (unsigned(row) >= unsigned(h)) continue;
            for (int out_col = 0; out_col < wo; out_col++) {
                int col = out_col * stride + tap.c - pad;
                if (unsigned(col) >= unsigned(width)) continue;
                size_t out = ((size_t(image) * ho + out_row) * wo + out_col) * co + o;
                size_t in = ((size_t(image) * h + row) * width + col) * ci + c;
                sum += to_float(dy.one(out, o)) * to_float(load.one(in, c));
            }
        }
    }
    dw[i] = sum;
}
EXPORT(conv_wgrad_naive)
