// Number by number over (R, C): a thread for V numbers.
#include "common.cuh"
#include "gelu.cuh"

// y = gelu(x + bias), without bias where it is null: x (R, C) T, bias (C) f32 → y (R, C) T
template <typename T, int V>
__device__ __forceinline__ void gelu(const void* x, const float* bias, void* y, size_t count, int width, int quick) {
    const size_t at = place();
    if (at >= count / V) return;
    Few<V> a = load<V>((const T*)x, at);
    if (bias) {
        const Few<V> b = load<V>(bias, (unsigned)at % (unsigned)(width / V));
        for (int j = 0; j < V; j++) a.v[j] += b.v[j];
    }
    for (int j = 0; j < V; j++) a.v[j] = gelu_value(a.v[j], quick);
    store<V>((T*)y, at, a);
}
IN_BOTH_FORMATS(gelu, (const void* x, const float* bias, void* y, size_t count, int width, int quick),
                (x, bias, y, count, width, quick))

// y = x + z + bias, without x or bias where they are null; y may be z where T is f32.
// x (R, C) f32, z (R, C) T, bias (C) f32 → y (R, C) f32
template <typename T, int V>
__device__ __forceinline__ void sum(const float* x, const void* z, const float* bias, float* y, size_t count,
                                    int width) {
    const size_t at = place();
    if (at >= count / V) return;
    Few<V> a = load<V>((const T*)z, at);
    if (bias) {
        const Few<V> b = load<V>(bias, (unsigned)at % (unsigned)(width / V));
        for (int j = 0; j < V; j++) a.v[j] += b.v[j];
    }
    if (x) {
        const Few<V> b = load<V>(x, at);
        for (int j = 0; j < V; j++) a.v[j] += b.v[j];
    }
    store<V>(y, at, a);
}
IN_BOTH_FORMATS(sum, (const float* x, const void* z, const float* bias, float* y, size_t count, int width),
                (x, z, bias, y, count, width))

// The same numbers in T: x f32 → y T
template <typename T, int V> __device__ __forceinline__ void rounded(const float* x, void* y, size_t count) {
    const size_t at = place();
    if (at < count / V) store<V>((T*)y, at, load<V>(x, at));
}
IN_BOTH_FORMATS(rounded, (const float* x, void* y, size_t count), (x, y, count))

// dx = dy gelu'(x) for f32 alone: standalone GELU has no bias to sum for.
template <typename T, int V>
__device__ __forceinline__ void gelu_slopes(const float* x, const float* dy, float* dx, size_t count, int quick) {
    const size_t at = place();
    if (at >= count / V) return;
    const Few<V> a = load<V>(x, at), d = load<V>(dy, at);
    Few<V> out;
    for (int j = 0; j < V; j++) out.v[j] = d.v[j] * gelu_slope(a.v[j], quick);
    store<V>(dx, at, out);
}
IN_ONE_FORMAT(gelu_slopes, (const float* x, const float* dy, float* dx, size_t count, int quick),
              (x, dy, dx, count, quick))

// y = gelu(gate) value
template <typename T, int V>
__device__ __forceinline__ void geglu(const float* gate, const float* value, float* y, size_t count) {
    const size_t at = place();
    if (at >= count / V) return;
    const Few<V> g = load<V>(gate, at), v = load<V>(value, at);
    Few<V> out;
    for (int j = 0; j < V; j++) out.v[j] = gelu_value(g.v[j], 0) * v.v[j];
    store<V>(y, at, out);
}
IN_ONE_FORMAT(geglu, (const float* gate, const float* value, float* y, size_t count), (gate, value, y, count))

template <typename T, int V>
__device__ __forceinline__ void geglu_backward(const float* gate, const float* value, const float* dy,
                                               float* dgate, float* dvalue, size_t count) {
    const size_t at = place();
    if (at >= count / V) return;
    const Few<V> g = load<V>(gate, at), v = load<V>(value, at), d = load<V>(dy, at);
    Few<V> dg, dv;
    for (int j = 0; j < V; j++) {
        dg.v[j] = d.v[j] * v.v[j] * gelu_slope(g.v[j], 0);
        dv.v[j] = d.v[j] * gelu_value(g.v[j], 0);
    }
    store<V>(dgate, at, dg);
    store<V>(dvalue, at, dv);
}
IN_ONE_FORMAT(geglu_backward,
              (const float* gate, const float* value, const float* dy, float* dgate, float* dvalue, size_t count),
              (gate, value, dy, dgate, dvalue, count))
