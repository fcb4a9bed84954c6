// Sums over the rows of (R, C), in two stages and always in one order: blocks of 32 x 8 threads take
// 32 V columns of a chunk of rows and leave its sums in `partial` (chunks, C); the same kernel with
// one chunk then sums those. What makes the numbers that are summed is done on the way.
#include "common.cuh"
#include "gelu.cuh"

const int LANES = 32, DEEP = 8;

// Sums over the 8 rows of threads and leaves them in row blockIdx.y of `partial`.
template <int V> __device__ __forceinline__ void leave(Few<V> sum, float* partial, int column, int width) {
    __shared__ float shared[DEEP][LANES * V];
    for (int j = 0; j < V; j++) shared[threadIdx.y][threadIdx.x * V + j] = sum.v[j];
    __syncthreads();
    if (threadIdx.y == 0 && column < width / V) {
        Few<V> total;
        for (int j = 0; j < V; j++) {
            total.v[j] = 0;
            for (int y = 0; y < DEEP; y++) total.v[j] += shared[y][threadIdx.x * V + j];
        }
        store<V>(partial + (size_t)blockIdx.y * width, column, total);
    }
    __syncthreads();
}

// The V columns of this thread, and its rows: begin + threadIdx.y, every 8th, before end.
#define CHUNK                                                      \
    const int column = blockIdx.x * LANES + threadIdx.x;           \
    const bool inside = column < width / V;                        \
    const int begin = blockIdx.y * chunk + threadIdx.y;            \
    const int end = min(rows, (int)(blockIdx.y + 1) * chunk);      \
    const size_t stride = width / V;                               \
    Few<V> sum;                                                    \
    for (int j = 0; j < V; j++) sum.v[j] = 0;

// x (R, C) T → partial (chunks, C) f32
template <typename T, int V>
__device__ __forceinline__ void column_sums(const void* from, float* partial, int rows, int width, int chunk) {
    CHUNK
    const T* x = (const T*)from;
    if (inside) {
#pragma unroll 4
        for (int row = begin; row < end; row += DEEP) {
            const Few<V> a = load<V>(x, row * stride + column);
            for (int j = 0; j < V; j++) sum.v[j] += a.v[j];
        }
    }
    leave<V>(sum, partial, column, width);
}
IN_BOTH_FORMATS(column_sums, (const void* x, float* partial, int rows, int width, int chunk),
                (x, partial, rows, width, chunk))

// x (R, C) f32 → the same in T, and partial sums of x
template <typename T, int V>
__device__ __forceinline__ void rounded_sums(const float* x, void* to, float* partial, int rows, int width,
                                             int chunk) {
    CHUNK
    T* y = (T*)to;
    if (inside) {
#pragma unroll 4
        for (int row = begin; row < end; row += DEEP) {
            const Few<V> a = load<V>(x, row * stride + column);
            store<V>(y, row * stride + column, a);
            for (int j = 0; j < V; j++) sum.v[j] += a.v[j];
        }
    }
    leave<V>(sum, partial, column, width);
}
IN_BOTH_FORMATS(rounded_sums, (const float* x, void* y, float* partial, int rows, int width, int chunk),
                (x, y, partial, rows, width, chunk))

// The gradients of LayerNorm's gain, Σ dy (x - mean) scale, and of its shift, Σ dy.
// x (R, C) f32, dy (R, C) T, mean (R), scale (R) → two partials
template <typename T, int V>
__device__ __forceinline__ void norm_sums(const float* x, const void* from, const float* mean,
                                          const float* scale, float* gains, float* shifts, int rows,
                                          int width, int chunk) {
    CHUNK
    Few<V> gain = sum;
    const T* dy = (const T*)from;
    if (inside) {
#pragma unroll 4
        for (int row = begin; row < end; row += DEEP) {
            const Few<V> a = load<V>(x, row * stride + column), d = load<V>(dy, row * stride + column);
            const float centre = mean[row], by = scale[row];
            for (int j = 0; j < V; j++) {
                sum.v[j] += d.v[j];
                gain.v[j] += d.v[j] * ((a.v[j] - centre) * by);
            }
        }
    }
    leave<V>(sum, shifts, column, width);
    leave<V>(gain, gains, column, width);
}
IN_BOTH_FORMATS(norm_sums,
                (const float* x, const void* dy, const float* mean, const float* scale, float* gains,
                 float* shifts, int rows, int width, int chunk),
                (x, dy, mean, scale, gains, shifts, rows, width, chunk))

// dx = dy gelu'(x + bias), and partial sums of dx: the gradient of the bias. No bias where it is null.
// x (R, C) T, bias (C) f32, dy (R, C) T → dx (R, C) T
template <typename T, int V>
__device__ __forceinline__ void gelu_backward(const void* x_, const float* bias, const void* dy_, void* dx_,
                                              float* partial, int rows, int width, int chunk, int quick) {
    CHUNK
    const T *x = (const T*)x_, *dy = (const T*)dy_;
    T* dx = (T*)dx_;
    if (inside) {
        Few<V> b = sum;
        if (bias) b = load<V>(bias, column);
#pragma unroll 2
        for (int row = begin; row < end; row += DEEP) {
            const size_t at = row * stride + column;
            const Few<V> a = load<V>(x, at), d = load<V>(dy, at);
            Few<V> out;
            for (int j = 0; j < V; j++) {
                out.v[j] = d.v[j] * gelu_slope(a.v[j] + b.v[j], quick);
                sum.v[j] += out.v[j];
            }
            store<V>(dx, at, out);
        }
    }
    leave<V>(sum, partial, column, width);
}
IN_BOTH_FORMATS(gelu_backward,
                (const void* x, const float* bias, const void* dy, void* dx, float* partial, int rows,
                 int width, int chunk, int quick),
                (x, bias, dy, dx, partial, rows, width, chunk, quick))
