// Layer normalisation over rows (R, C) (Ba et al., arXiv 1607.06450; the variance is the biased one).
// A warp for each row, blocks of 8 warps.
#include "common.cuh"

// y = (x - mean) scale gain + shift with scale = 1 / sqrt(variance + eps).
// x (R, C), gain (C), shift (C) f32; y (R, C) T; mean (R), scale (R) f32
template <typename T, int V>
__device__ __forceinline__ void layer_norm(const float* x, const float* gain, const float* shift, void* to,
                                           float* mean, float* scale, float eps, int rows, int width) {
    const int row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    x += (size_t)row * width;
    T* y = (T*)to + (size_t)row * width;
    const int count = width / V;
    float sum = 0;
    for (int i = lane; i < count; i += 32) {
        const Few<V> a = load<V>(x, i);
        for (int j = 0; j < V; j++) sum += a.v[j];
    }
    const float centre = warp_sum(sum) / width;
    float squares = 0;
    for (int i = lane; i < count; i += 32) {
        const Few<V> a = load<V>(x, i);
        for (int j = 0; j < V; j++) squares += (a.v[j] - centre) * (a.v[j] - centre);
    }
    const float by = 1.0f / sqrtf(warp_sum(squares) / width + eps);
    for (int i = lane; i < count; i += 32) {
        const Few<V> a = load<V>(x, i), g = load<V>(gain, i), s = load<V>(shift, i);
        Few<V> out;
        for (int j = 0; j < V; j++) out.v[j] = (a.v[j] - centre) * by * g.v[j] + s.v[j];
        store<V>(y, i, out);
    }
    if (lane == 0) mean[row] = centre, scale[row] = by;
}
IN_BOTH_FORMATS(layer_norm,
                (const float* x, const float* gain, const float* shift, void* y, float* mean, float* scale,
                 float eps, int rows, int width),
                (x, gain, shift, y, mean, scale, eps, rows, width))

// With n = (x - mean) scale and g = dy gain: dx = scale (g - mean(g) - n mean(g n)), plus `base`
// where it is not null.
// x (R, C), gain (C) f32; dy (R, C) T; mean (R), scale (R), base (R, C), dx (R, C) f32
template <typename T, int V>
__device__ __forceinline__ void layer_norm_backward(const float* x, const float* gain, const void* from,
                                                    const float* mean, const float* scale,
                                                    const float* base, float* dx, int rows, int width) {
    const int row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const size_t first = (size_t)row * width;
    x += first, dx += first;
    const T* dy = (const T*)from + first;
    const float centre = mean[row], by = scale[row];
    const int count = width / V;
    float sum = 0, sum_n = 0;
    for (int i = lane; i < count; i += 32) {
        const Few<V> a = load<V>(x, i), d = load<V>(dy, i), w = load<V>(gain, i);
        for (int j = 0; j < V; j++) {
            const float g = d.v[j] * w.v[j];
            sum += g;
            sum_n += g * ((a.v[j] - centre) * by);
        }
    }
    const float mean_g = warp_sum(sum) / width, mean_gn = warp_sum(sum_n) / width;
    for (int i = lane; i < count; i += 32) {
        const Few<V> a = load<V>(x, i), d = load<V>(dy, i), w = load<V>(gain, i);
        Few<V> out;
        for (int j = 0; j < V; j++)
            out.v[j] = by * (d.v[j] * w.v[j] - mean_g - (a.v[j] - centre) * by * mean_gn);
        if (base) {
            const Few<V> b = load<V>(base + first, i);
            for (int j = 0; j < V; j++) out.v[j] += b.v[j];
        }
        store<V>(dx, i, out);
    }
}
IN_BOTH_FORMATS(layer_norm_backward,
                (const float* x, const float* gain, const void* dy, const float* mean, const float* scale,
                 const float* base, float* dx, int rows, int width),
                (x, gain, dy, mean, scale, base, dx, rows, width))
