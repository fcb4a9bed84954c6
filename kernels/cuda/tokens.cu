// From ids and pixels to tokens: rows of a table, patches, the class token. f32.
#include "common.cuh"

// y[i] = table[ids[i]]: table (.., C), ids (R) → y (R, C)
template <typename T, int V>
__device__ __forceinline__ void rows_of(const float* table, const unsigned* ids, float* y, int rows, int width) {
    const size_t at = place();
    const int wide = width / V;
    if (at >= (size_t)rows * wide) return;
    store<V>(y, at, load<V>(table, ids[at / wide] * (size_t)wide + at % wide));
}
IN_ONE_FORMAT(rows_of, (const float* table, const unsigned* ids, float* y, int rows, int width),
              (table, ids, y, rows, width))

// The gradient of the table: for the k-th id that occurs, the rows order[starts[k]..starts[k + 1]] of
// dy are summed, always in one order, into table[ids[k]], which they are added to if `add`.
// Blocks of 32 x 8 threads: one for each id and each 32 V columns.
template <typename T, int V>
__device__ __forceinline__ void rows_summed(const float* dy, const unsigned* order, const unsigned* starts,
                                            const unsigned* ids, float* table, int width, int add) {
    __shared__ float shared[8][32 * V];
    const int column = blockIdx.y * 32 + threadIdx.x, wide = width / V;
    Few<V> sum;
    for (int j = 0; j < V; j++) sum.v[j] = 0;
    const unsigned end = starts[blockIdx.x + 1];
    if (column < wide) {
#pragma unroll 4
        for (unsigned i = starts[blockIdx.x] + threadIdx.y; i < end; i += 8) {
            const Few<V> a = load<V>(dy, order[i] * (size_t)wide + column);
            for (int j = 0; j < V; j++) sum.v[j] += a.v[j];
        }
    }
    for (int j = 0; j < V; j++) shared[threadIdx.y][threadIdx.x * V + j] = sum.v[j];
    __syncthreads();
    if (threadIdx.y > 0 || column >= wide) return;
    const size_t at = ids[blockIdx.x] * (size_t)wide + column;
    for (int j = 0; j < V; j++)
        for (int y = 1; y < 8; y++) sum.v[j] += shared[y][threadIdx.x * V + j];
    if (add) {
        const Few<V> before = load<V>(table, at);
        for (int j = 0; j < V; j++) sum.v[j] += before.v[j];
    }
    store<V>(table, at, sum);
}
IN_ONE_FORMAT(rows_summed,
              (const float* dy, const unsigned* order, const unsigned* starts, const unsigned* ids, float* table,
               int width, int add),
              (dy, order, starts, ids, table, width, add))

// Images x (B, C, H, W) as patches y (B, H/p · W/p, C p p), or back if `back`: then y is read and x
// written. A thread for V pixels of a row.
template <typename T, int V>
__device__ __forceinline__ void patches(float* x, float* y, size_t count, int channels, int height, int width,
                                        int patch, int back) {
    const size_t at = place();
    if (at >= count / V) return;
    const int wide = patch / V, columns = width / patch, rows = height / patch;
    size_t rest = at / wide;
    const int left = at % wide, in_row = rest % patch;
    rest /= patch;
    const int channel = rest % channels;
    rest /= channels;
    const int column = rest % columns;
    rest /= columns;
    const int row = rest % rows;
    const size_t image = rest / rows;
    const size_t pixel = ((image * channels + channel) * height + row * patch + in_row) * (width / V) + column * wide + left;
    if (back)
        store<V>(x, pixel, load<V>(y, at));
    else
        store<V>(y, at, load<V>(x, pixel));
}
IN_ONE_FORMAT(patches,
              (float* x, float* y, size_t count, int channels, int height, int width, int patch, int back),
              (x, y, count, channels, height, width, patch, back))

// The class token before the others, and positions on all: cls (C), tokens (B, N - 1, C),
// positions (N, C) → y (B, N, C)
template <typename T, int V>
__device__ __forceinline__ void sequence(const float* cls, const float* tokens, const float* positions, float* y,
                                         size_t count, int length, int width) {
    const size_t at = place();
    if (at >= count / V) return;
    const int wide = width / V, column = at % wide, n = at / wide % length;
    const size_t image = at / wide / length;
    Few<V> a = n == 0 ? load<V>(cls, column) : load<V>(tokens, (image * (length - 1) + n - 1) * wide + column);
    const Few<V> b = load<V>(positions, (size_t)n * wide + column);
    for (int j = 0; j < V; j++) a.v[j] += b.v[j];
    store<V>(y, at, a);
}
IN_ONE_FORMAT(sequence,
              (const float* cls, const float* tokens, const float* positions, float* y, size_t count, int length,
               int width),
              (cls, tokens, positions, y, count, length, width))

// All but the first row of each sequence: x (B, N, C) → y (B, N - 1, C); `count` is of y.
template <typename T, int V>
__device__ __forceinline__ void without_first(const float* x, float* y, size_t count, int length, int width) {
    const size_t at = place();
    if (at >= count / V) return;
    const size_t inside = (size_t)(length - 1) * (width / V);
    store<V>(y, at, load<V>(x, at + (at / inside + 1) * (width / V)));
}
IN_ONE_FORMAT(without_first, (const float* x, float* y, size_t count, int length, int width),
              (x, y, count, length, width))
