// What attention does beside its products: heads apart and together again, and the softmax of scores.
//
// Sequences lie one after the other in rows (ΣN, ..). Apart, each head of each sequence has `tokens`
// rows of its own, those behind the sequence's end zero. `starts` (B + 1) says where each sequence
// begins; null where all have `tokens` rows.
#include "common.cuh"

__device__ __forceinline__ void bounds(const unsigned* starts, int sequence, int tokens, size_t& start, int& length) {
    start = starts ? starts[sequence] : (size_t)sequence * tokens;
    length = starts ? starts[sequence + 1] - starts[sequence] : tokens;
}

// x (ΣN, parts, H, d) T, plus bias (parts, H, d) f32 where it is not null, the first part times
// `factor` → y (parts, B, H, tokens, d) T. A block for each (part, sequence, head).
template <typename T, int V>
__device__ __forceinline__ void heads_apart(const void* x, const float* bias, void* y, const unsigned* starts,
                                            int batch, int heads, int parts, int tokens, int head, float factor) {
    const int h = blockIdx.x % heads, b = blockIdx.x / heads % batch, part = blockIdx.x / heads / batch;
    size_t start;
    int length;
    bounds(starts, b, tokens, start, length);
    const int wide = head / V, count = tokens * wide;
    const float by = part == 0 ? factor : 1.0f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        const int t = i / wide, d = i % wide;
        Few<V> a;
        for (int j = 0; j < V; j++) a.v[j] = 0;
        if (t < length) {
            const size_t inside = (size_t)(part * heads + h) * wide + d;
            a = load<V>((const T*)x, (start + t) * parts * heads * wide + inside);
            if (bias) {
                const Few<V> c = load<V>(bias, inside);
                for (int j = 0; j < V; j++) a.v[j] += c.v[j];
            }
            for (int j = 0; j < V; j++) a.v[j] *= by;
        }
        store<V>((T*)y, (size_t)blockIdx.x * count + i, a);
    }
}
IN_BOTH_FORMATS(heads_apart,
                (const void* x, const float* bias, void* y, const unsigned* starts, int batch, int heads,
                 int parts, int tokens, int head, float factor),
                (x, bias, y, starts, batch, heads, parts, tokens, head, factor))

// The inverse: x (parts, B, H, tokens, d) T → y (ΣN, parts, H, d) T, the first part times `factor`.
template <typename T, int V>
__device__ __forceinline__ void heads_together(const void* x, void* y, const unsigned* starts, int batch,
                                               int heads, int parts, int tokens, int head, float factor) {
    const int h = blockIdx.x % heads, b = blockIdx.x / heads % batch, part = blockIdx.x / heads / batch;
    size_t start;
    int length;
    bounds(starts, b, tokens, start, length);
    const int wide = head / V, count = length * wide;
    const float by = part == 0 ? factor : 1.0f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        const int t = i / wide, d = i % wide;
        Few<V> a = load<V>((const T*)x, (size_t)blockIdx.x * tokens * wide + i);
        for (int j = 0; j < V; j++) a.v[j] *= by;
        store<V>((T*)y, (start + t) * parts * heads * wide + (size_t)(part * heads + h) * wide + d, a);
    }
}
IN_BOTH_FORMATS(heads_together,
                (const void* x, void* y, const unsigned* starts, int batch, int heads, int parts, int tokens,
                 int head, float factor),
                (x, y, starts, batch, heads, parts, tokens, head, factor))

// The softmax of each row of scores (B, H, tokens, stride) over the keys that its query sees: those of
// its sequence, and none behind it where `causal`. Zero elsewhere. A warp for each row.
// scores f32 → weights T
template <typename T, int V>
__device__ __forceinline__ void seen_softmax(const float* scores, void* weights, const unsigned* starts, int heads,
                                             int tokens, int stride, int causal, size_t rows) {
    const size_t row = (size_t)blockIdx.x * 8 + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (row >= rows) return;
    const int query = row % tokens;
    size_t start;
    int length;
    bounds(starts, row / tokens / heads, tokens, start, length);
    const int seen = query >= length ? 0 : causal ? query + 1 : length;
    scores += row * stride;
    T* to = (T*)weights + row * stride;
    float most = -INFINITY;
    for (int i = lane; i < seen; i += 32) most = fmaxf(most, scores[i]);
    most = warp_max(most);
    float sum = 0;
    for (int i = lane; i < seen; i += 32) sum += expf(scores[i] - most);
    const float share = 1.0f / warp_sum(sum);
    for (int i = lane; i < stride; i += 32) {
        Few<1> out;
        out.v[0] = i < seen ? expf(scores[i] - most) * share : 0.0f;
        store<1>(to, i, out);
    }
}
IN_BOTH_FORMATS(seen_softmax,
                (const float* scores, void* weights, const unsigned* starts, int heads, int tokens, int stride,
                 int causal, size_t rows),
                (scores, weights, starts, heads, tokens, stride, causal, rows))

// The gradient of the scores, p (dp - Σ dp p) in each row: p T, dp f32 → ds T, all (.., stride) of
// which the first `tokens` count.
template <typename T, int V>
__device__ __forceinline__ void softmax_backward(const void* weights, const float* dp, void* scores, int tokens,
                                                 int stride, size_t rows) {
    const size_t row = (size_t)blockIdx.x * 8 + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (row >= rows) return;
    const T* p = (const T*)weights + row * stride;
    T* ds = (T*)scores + row * stride;
    dp += row * stride;
    float sum = 0;
    for (int i = lane; i < tokens; i += 32) sum += load<1>(p, i).v[0] * dp[i];
    sum = warp_sum(sum);
    for (int i = lane; i < stride; i += 32) {
        Few<1> out;
        out.v[0] = i < tokens ? load<1>(p, i).v[0] * (dp[i] - sum) : 0.0f;
        store<1>(ds, i, out);
    }
}
IN_BOTH_FORMATS(softmax_backward,
                (const void* weights, const float* dp, void* scores, int tokens, int stride, size_t rows),
                (weights, dp, scores, tokens, stride, rows))
