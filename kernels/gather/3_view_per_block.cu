// The batch from instance numbers (formulas: view.cuh), where 8 divides an image's elements.
//
// The idea: a block stays within one image, and its first thread draws the view for all. Where
// every thread draws it for itself, a CIFAR image's is drawn 384 times, and that is more work than
// the image.
//
// Bound: 3 bytes an element (1 read, 2 written).
// Launch: (N, ceil(H·W·C / 1024)) blocks of 128 threads, eight elements a thread.
//
// Source: He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015, arXiv
//   1512.03385, section 4.2 (padded crop and flip).

#include "gather_vector.cuh"

KERNEL(gather, 128)
(const StepState *state_in, const uint32_t *ids, const float *row_weights, const uint8_t *pixels,
 const uint32_t *data_labels, const float *mean_std, uint32_t count, int height, int width,
 int channels, int crop, int flip, uint32_t n, bf16 *x, int *labels, float *weights) {
    SHARED(View, shared, [1]);
    const Images images = {pixels, mean_std, count, height, width, channels};
    const uint32_t row = blockIdx.x;
    if (threadIdx.x == 0) {
        const StepState state = *state_in;
        if (state.rows > n)
            __trap();  // more instances than the batch has rows
        shared[0] = draw_view(images, state, ids, row, crop, flip);
        if (blockIdx.y == 0)
            gather_row(state, ids, row_weights, data_labels, count, row, labels, weights);
    }
    __syncthreads();
    const View view = shared[0];
    const uint32_t vector = blockIdx.y * blockDim.x + threadIdx.x;
    if (vector < images.size() / 8)
        gather_vector(images, view, vector, x + size_t(row) * images.size());
}
EXPORT(gather)
