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
struct Numbers {
    float factor, one_minus_beta1, beta2, one_minus_beta2, correction2, eps, step_size;
};

__device__ __forceinline__ void move(float& p, float& m, float& v, float g, float keep, const Numbers& n) {
    m = m + (g - m) * n.one_minus_beta1;
    v = v * n.beta2 + n.one_minus_beta2 * g * g;
    p = p * keep - n.step_size * (m / (sqrtf(v) / n.correction2 + n.eps));
}

extern "C" __global__ void adamw(Table table, float factor, float one_minus_beta1, float beta2,
                                 float one_minus_beta2, float correction2, float eps, float step_size) {
    const int t = blockIdx.y;
    float *p = table.parameters[t], *m = table.first[t], *v = table.second[t];
    const float *g = table.gradients[t], keep = table.keep[t];
    const unsigned long long length = table.lengths[t];
    const Numbers numbers = {factor, one_minus_beta1, beta2, one_minus_beta2, correction2, eps, step_size};
    const unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;
    // Four numbers at a time, then what is left; new memory begins at multiples of 256 bytes.
    const unsigned long long fours = (((size_t)p | (size_t)m | (size_t)v | (size_t)g) & 15) == 0 ? length / 4 : 0;
    for (unsigned long long i = place(); i < fours; i += stride) {
        Few<4> parameter = load<4>(p, i), first = load<4>(m, i), second = load<4>(v, i);
        const Few<4> gradient = load<4>(g, i);
        for (int j = 0; j < 4; j++) move(parameter.v[j], first.v[j], second.v[j], gradient.v[j] * numbers.factor, keep, numbers);
        store<4>(m, i, first);
        store<4>(v, i, second);
        store<4>(p, i, parameter);
    }
    for (unsigned long long i = 4 * fours + place(); i < length; i += stride)
        move(p[i], m[i], v[i], g[i] * numbers.factor, keep, numbers);
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
