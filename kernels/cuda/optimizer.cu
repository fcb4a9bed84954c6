// AdamW and the sum of squares over many tensors in a launch: column blockIdx.y of the table, of which
// the blocks with that y take the numbers in turn. f32.
#include "common.cuh"

const int TENSORS = 48;

struct Table {
    float* parameters[TENSORS];
    const float* gradients[TENSORS];
    float* first[TENSORS];
    float* second[TENSORS];
    unsigned long long lengths[TENSORS];
    float keep[TENSORS];
};

// The order of operations of torch's optim/adamw.py (`_single_tensor_adamw`), as on the CPU:
// g = factor gradient; m += (g - m) one_minus_beta1; v = beta2 v + one_minus_beta2 g²
// p = keep p - step_size m / (√v / correction2 + eps)
extern "C" __global__ void adamw(Table table, float factor, float one_minus_beta1, float beta2,
                                 float one_minus_beta2, float correction2, float eps, float step_size) {
    const int t = blockIdx.y;
    float *p = table.parameters[t], *m = table.first[t], *v = table.second[t];
    const float *g = table.gradients[t], keep = table.keep[t];
    const unsigned long long length = table.lengths[t];
    for (unsigned long long i = place(); i < length; i += (unsigned long long)gridDim.x * blockDim.x) {
        const float d = g[i] * factor;
        const float first = m[i] + (d - m[i]) * one_minus_beta1;
        const float second = v[i] * beta2 + one_minus_beta2 * d * d;
        m[i] = first;
        v[i] = second;
        p[i] = p[i] * keep - step_size * (first / (sqrtf(second) / correction2 + eps));
    }
}

// Σ over 256 threads, in one order; in thread 0.
__device__ __forceinline__ double block_sum(double sum) {
    __shared__ double shared[8];
    for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (int i = 0; i < 8; i++) sum += shared[i];
    return sum;
}

// partial (tensors, gridDim.x) f64: sums of squares of the gradients
extern "C" __global__ void squares(Table table, double* partial) {
    const float* g = table.gradients[blockIdx.y];
    const unsigned long long length = table.lengths[blockIdx.y];
    double sum = 0;
    for (unsigned long long i = place(); i < length; i += (unsigned long long)gridDim.x * blockDim.x)
        sum += (double)g[i] * g[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[(size_t)blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

// y () = Σ x (N), in f64; one block of 256 threads
extern "C" __global__ void total(const double* x, double* y, int count) {
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += 256) sum += x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) y[0] = sum;
}
