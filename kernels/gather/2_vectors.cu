// The batch from instance numbers (formulas: view.cuh), where 8 divides an image's elements.
//
// The idea: threads are laid over the *output*, eight neighbouring elements each, so that every
// store is 16 aligned bytes whatever the view. An image is a whole number of such vectors: a thread
// has one image, draws its view once, and divides once. The reads follow the same order but for the
// mirror, and so hit cache lines that a neighbour has fetched.
//
// Bound: 3 bytes an element (1 read, 2 written).
// Launch: ceil(max(N·H·W·C / 8, N) / 256) blocks of 256 threads.
//
// Source: Luitjens: CUDA Pro Tip: Increase Performance with Vectorized Memory Access, NVIDIA
//   developer blog, 2013.

#include "gather_vector.cuh"

KERNEL(gather_vectors, 256)
(const StepState *state_in, const uint32_t *ids, const float *row_weights, const uint8_t *pixels,
 const uint32_t *data_labels, const float *mean_std, uint32_t count, int height, int width,
 int channels, int crop, int flip, uint32_t n, bf16 *x, int *labels, float *weights) {
    const StepState state = *state_in;
    if (state.rows > n)
        __trap();  // more instances than the batch has rows
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        gather_row(state, ids, row_weights, data_labels, count, i, labels, weights);

    const Images images = {pixels, mean_std, count, height, width, channels};
    const uint32_t vectors = images.size() / 8, row = i / vectors;
    if (row >= n)
        return;
    const View view = draw_view(images, state, ids, row, crop, flip);
    gather_vector(images, view, i % vectors, x + size_t(row) * images.size());
}
EXPORT(gather_vectors)
