// The ends of a CLIP step: rows of unit length and cross-entropy. f32.
#include "common.cuh"

// y = x / max(|x|, 1e-12): a warp for each row of (R, C)
extern "C" __global__ void unit_rows(const float* x, float* y, int rows, int width) {
    const int row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    x += (size_t)row * width, y += (size_t)row * width;
    float squares = 0;
    for (int i = lane; i < width; i += 32) squares += x[i] * x[i];
    const float length = fmaxf(sqrtf(warp_sum(squares)), 1e-12f);
    for (int i = lane; i < width; i += 32) y[i] = x[i] / length;
}

// dx = (dy - y Σ dy y) / |x|
extern "C" __global__ void unit_rows_backward(const float* x, const float* y, const float* dy, float* dx, int rows,
                                              int width) {
    const int row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const size_t first = (size_t)row * width;
    x += first, y += first, dy += first, dx += first;
    float squares = 0, dot = 0;
    for (int i = lane; i < width; i += 32) squares += x[i] * x[i], dot += dy[i] * y[i];
    const float length = fmaxf(sqrtf(warp_sum(squares)), 1e-12f);
    dot = warp_sum(dot);
    for (int i = lane; i < width; i += 32) dx[i] = (dy[i] - y[i] * dot) / length;
}

// For each row of logits (R, C): log Σ e^x and that minus the logit of its target. A block of 256
// threads for each row.
extern "C" __global__ void row_losses(const float* logits, const unsigned* targets, float* sums, float* losses,
                                      int classes) {
    __shared__ float shared[8];
    const float* x = logits + (size_t)blockIdx.x * classes;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float most = -INFINITY;
    for (int i = threadIdx.x; i < classes; i += 256) most = fmaxf(most, x[i]);
    most = warp_max(most);
    if (lane == 0) shared[warp] = most;
    __syncthreads();
    most = shared[0];
    for (int i = 1; i < 8; i++) most = fmaxf(most, shared[i]);
    __syncthreads();
    float sum = 0;
    for (int i = threadIdx.x; i < classes; i += 256) sum += expf(x[i] - most);
    sum = warp_sum(sum);
    if (lane == 0) shared[warp] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    sum = 0;
    for (int i = 0; i < 8; i++) sum += shared[i];
    sums[blockIdx.x] = logf(sum) + most;
    losses[blockIdx.x] = logf(sum) + (most - x[targets[blockIdx.x]]);
}

// The mean of (R) numbers, summed in f64 and in order: one warp, whose first lane writes.
extern "C" __global__ void mean(const float* x, float* y, int count) {
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += 32) sum += x[i];
    for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
    if (threadIdx.x == 0) y[0] = (float)(sum / count);
}

// dx = (softmax - target) dy / R: logits (R, C), sums (R) of row_losses, dy () → dx (R, C)
extern "C" __global__ void row_losses_backward(const float* logits, const unsigned* targets, const float* sums,
                                               const float* dy, float* dx, int rows, int classes) {
    const size_t at = place();
    if (at >= (size_t)rows * classes) return;
    const size_t row = at / classes;
    const float here = at % classes == targets[row] ? 1.0f : 0.0f;
    dx[at] = (expf(logits[at] - sums[row]) - here) * (dy[0] / rows);
}
