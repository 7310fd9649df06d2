// What kernels have by new and malloc; and, by number, what is wrong with the use of it.
#include "expect.h"

#include <new>

struct Node {
    int value;
    Node *next;
    __device__ Node(int value, Node *next) : value(value), next(next) {}
};

__global__ void build(Node **lists, int *sums) {
    Node *list = nullptr;
    for (int i = 1; i <= 10; i++)
        list = new Node(i, list);
    lists[threadIdx.x] = list;
    int *const doubled = (int *)malloc(10 * sizeof(int));
    for (int i = 0; i < 10; i++)
        doubled[i] = 2 * (i + 1);
    sums[threadIdx.x] = doubled[9];
    free(doubled);
}

__global__ void sum(Node **lists, int *sums) {
    const int thread = threadIdx.x;
    for (Node *node = lists[thread]; node;) {
        Node *const next = node->next;
        sums[thread] += node->value;
        delete node;
        node = next;
    }
    int *const squares = new int[4];
    for (int i = 0; i < 4; i++)
        squares[i] = i * i;
    sums[thread] += squares[3];
    delete[] squares;
}

__global__ void beyond(int *sums) {
    int *const few = (int *)malloc(5 * sizeof(int));
    few[5 * sums[0]] = 1;  // 1
    sums[1] = few[5 * sums[0]];
    free(few);
}

__global__ void too_late(int *sums) {
    Node *const node = new Node(1, nullptr);
    sums[1] = node->value;
    delete node;
    if (sums[0] == 1)
        sums[1] += node->value;  // 2
}

struct alignas(64) Line {
    double x[8];
};

__global__ void aligned(int *sums) {
    Line *const line = new Line, *const lines = new Line[2];
    lines[1].x[7] = line->x[0] = threadIdx.x;
    sums[threadIdx.x] = int(lines[1].x[7]) + int(size_t(line) % 64);
    delete line;
    delete[] lines;
    int *const few = new (std::nothrow) int[3];
    few[2] = 1;
    sums[threadIdx.x] += few[2];
    delete[] few;
}

int main(int argc, char **argv) {
    Node **lists;
    int *sums, host[64];
    CHECK(cudaMalloc(&lists, 64 * sizeof(Node *)));
    CHECK(cudaMalloc(&sums, sizeof host));
    build<<<1, 64>>>(lists, sums);
    sum<<<1, 64>>>(lists, sums);
    CHECK(cudaMemcpy(host, sums, sizeof host, cudaMemcpyDeviceToHost));
    for (const int all : host)
        EXPECT(all == 20 + 55 + 9);
    aligned<<<1, 64>>>(sums);
    CHECK(cudaMemcpy(host, sums, sizeof host, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 64; i++)
        EXPECT(host[i] == i + 1);
    host[0] = 1;
    CHECK(cudaMemcpy(sums, host, sizeof(int), cudaMemcpyHostToDevice));
    switch (argc > 1 ? atoi(argv[1]) : 0) {
    case 1:
        beyond<<<1, 1>>>(sums);
        break;
    case 2:
        too_late<<<1, 1>>>(sums);
        break;
    }
    cudaDeviceSynchronize();
    CHECK(cudaFree(lists));
    CHECK(cudaFree(sums));
    printf("right\n");
}
