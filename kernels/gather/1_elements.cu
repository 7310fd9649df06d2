// The batch from instance numbers (formulas: view.cuh).
//
// The idea: none yet; a thread an element. It finds its row, line, column and channel by dividing,
// draws its image's view from random numbers, some hundred integer instructions that its neighbours
// execute, too, reads one byte and stores two.
//
// Bound: 3 bytes an element (1 read, 2 written); in truth its arithmetic.
// Launch: ceil(max(N·H·W·C, N) / 256) blocks of 256 threads.

#include "view.cuh"

KERNEL(gather_elements, 256)
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
    const uint32_t size = images.size();
    if (i >= n * size)
        return;
    const View view = draw_view(images, state, ids, i / size, crop, flip);
    const int pixel = int(i % size) / channels, c = int(i % size) % channels;
    x[i] = to_bf16(view.at(images, pixel / width, pixel % width, c));
}
EXPORT(gather_elements)
