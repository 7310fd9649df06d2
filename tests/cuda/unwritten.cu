// Calls of the host's that read what nothing has written, by number; and some that do nothing wrong.
#include "expect.h"

#include <cublas_v2.h>

__global__ void half_of(float *x, int n) {
    if (threadIdx.x < n)
        x[threadIdx.x] = 1;
}

int main(int argc, char **argv) {
    const int n = 64;
    float *a, *b, *c, *d, host[n];
    for (float **p : {&a, &b, &c, &d})
        CHECK(cudaMalloc(p, sizeof host));
    // Parts of a buffer that are not used, there and back.
    half_of<<<1, n>>>(a, n / 2);
    CHECK(cudaMemcpy(b, a, sizeof host, cudaMemcpyDeviceToDevice));
    CHECK(cudaMemcpy(host, b, sizeof host, cudaMemcpyDeviceToHost));
    cublasHandle_t handle;
    CHECK(cublasCreate(&handle));
    const float one = 1, zero = 0;
    // A matrix of the half that is written: 4 x 8.
    CHECK(cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_T, 4, 4, 8, &one, b, 4, b, 4, &zero, c, 4));
    CHECK(cudaMemcpy(host, c, 16 * sizeof *c, cudaMemcpyDeviceToHost));
    EXPECT(host[0] == 8);
    switch (argc > 1 ? atoi(argv[1]) : 0) {
    case 1:
        CHECK(cudaMemcpy(host, d, sizeof host, cudaMemcpyDeviceToHost));  // 1
        break;
    case 2:
        CHECK(cudaMemcpy(host, b + n / 2, sizeof *b, cudaMemcpyDeviceToHost));  // 2
        break;
    case 3:
        CHECK(cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_T, 8, 8, 8, &one, b, 8, b, 8, &zero, c, 8));  // 3
        break;
    }
    CHECK(cublasDestroy(handle));
    for (float *p : {a, b, c, d})
        CHECK(cudaFree(p));
    printf("right\n");
}
