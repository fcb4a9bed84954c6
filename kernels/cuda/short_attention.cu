// Attention over short sequences in one kernel for each pass, in bf16 with f32 sums: a block for each
// head of each sequence, all of which lies in shared memory; a warp for each 16 queries. Products are
// those of the tensor cores, 16 x 16 x 16 at a time.
//
// qkv (ΣN, 3, H, d) bf16 without its bias (3, H, d) f32; `starts` (B + 1) or null, as in attention.cu;
// no sequence is longer than 16 `tiles`. D is d / 16.
//
// Tensor cores take bf16 from compute capability 8.0 on; compiled for less, this file is empty, and
// attention goes through the kernels of attention.cu and cuBLAS.
#include "common.cuh"
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#include <mma.h>
using namespace nvcuda;

typedef wmma::fragment<wmma::matrix_a, 16, 16, 16, bf16, wmma::row_major> Left;
typedef wmma::fragment<wmma::matrix_a, 16, 16, 16, bf16, wmma::col_major> LeftTurned;
typedef wmma::fragment<wmma::matrix_b, 16, 16, 16, bf16, wmma::row_major> Right;
typedef wmma::fragment<wmma::matrix_b, 16, 16, 16, bf16, wmma::col_major> RightTurned;
typedef wmma::fragment<wmma::accumulator, 16, 16, 16, float> Sum;

// Rows of d numbers begin 16 bytes further apart than they are long, rows of scores 16 bytes too: so
// the rows of a tile lie in different banks.
const int PAD = 8, SCORE_PAD = 4;

// Where this block's head of its sequence is.
struct Head {
    size_t start;      // its first row
    int length, heads, h;
};

__device__ __forceinline__ Head this_head(const unsigned* starts, int heads, int tokens) {
    Head head;
    const int sequence = blockIdx.x / heads;
    head.heads = heads;
    head.h = blockIdx.x % heads;
    head.start = starts ? starts[sequence] : (size_t)sequence * tokens;
    head.length = starts ? starts[sequence + 1] - starts[sequence] : tokens;
    return head;
}

// Copies the head's part of rows (ΣN, parts, H, d), plus bias, times factor, into shared rows of
// d + PAD; zero behind the sequence's end.
template <int D>
__device__ __forceinline__ void take(bf16* to, const bf16* from, const float* bias, Head head, int part,
                                     int parts, int rows, float factor) {
    const int wide = D * 4; // in fours
    for (int i = threadIdx.x; i < rows * wide; i += blockDim.x) {
        const int t = i / wide, d = i % wide;
        Few<4> a;
        for (int j = 0; j < 4; j++) a.v[j] = 0;
        if (t < head.length) {
            const size_t inside = (size_t)(part * head.heads + head.h) * wide + d;
            a = load<4>(from, (head.start + t) * parts * head.heads * wide + inside);
            if (bias) {
                const Few<4> b = load<4>(bias, inside);
                for (int j = 0; j < 4; j++) a.v[j] += b.v[j];
            }
            for (int j = 0; j < 4; j++) a.v[j] *= factor;
        }
        store<4>(to, t * ((D * 16 + PAD) / 4) + d, a);
    }
}

// Writes a tile of sums (16 rows from `row`, 16 columns from 16 `column`) into the head's part of rows
// (ΣN, parts, H, d), times factor, by way of `stage`: 256 numbers of this warp.
template <int D>
__device__ __forceinline__ void give(bf16* to, const Sum& sum, float* stage, Head head, int part, int parts,
                                     int row, int column, float factor) {
    wmma::store_matrix_sync(stage, sum, 16, wmma::mem_row_major);
    __syncwarp();
    const int lane = threadIdx.x % 32, t = row + lane / 2, at = lane % 2 * 8;
    if (t < head.length) {
        const size_t first =
            ((head.start + t) * parts * head.heads + part * head.heads + head.h) * (D * 4) + column * 4 + at / 4;
        for (int half = 0; half < 2; half++) {
            Few<4> a;
            for (int j = 0; j < 4; j++) a.v[j] = stage[lane / 2 * 16 + at + half * 4 + j] * factor;
            store<4>(to, first + half, a);
        }
    }
    __syncwarp();
}

// a bᵀ for this warp's 16 rows of a and the first `seen` tiles of rows of b, into 16 rows of scores.
template <int D>
__device__ __forceinline__ void scores_of(const bf16* a, const bf16* b, float* scores, int stride, int seen) {
    Left left[D];
#pragma unroll
    for (int i = 0; i < D; i++) wmma::load_matrix_sync(left[i], a + i * 16, D * 16 + PAD);
    for (int tile = 0; tile < seen; tile++) {
        Sum sum;
        wmma::fill_fragment(sum, 0.0f);
#pragma unroll
        for (int i = 0; i < D; i++) {
            RightTurned right;
            wmma::load_matrix_sync(right, b + tile * 16 * (D * 16 + PAD) + i * 16, D * 16 + PAD);
            wmma::mma_sync(sum, left[i], right, sum);
        }
        wmma::store_matrix_sync(scores + tile * 16, sum, stride, wmma::mem_row_major);
    }
    __syncwarp();
}

// p b for this warp's 16 rows of p, over the first `seen` tiles of its columns: b has rows of d.
template <int D>
__device__ __forceinline__ void rows_of(Sum (&sums)[D], const bf16* p, int stride, const bf16* b, int seen) {
#pragma unroll
    for (int i = 0; i < D; i++) wmma::fill_fragment(sums[i], 0.0f);
    for (int tile = 0; tile < seen; tile++) {
        Left left;
        wmma::load_matrix_sync(left, p + tile * 16, stride);
#pragma unroll
        for (int i = 0; i < D; i++) {
            Right right;
            wmma::load_matrix_sync(right, b + tile * 16 * (D * 16 + PAD) + i * 16, D * 16 + PAD);
            wmma::mma_sync(sums[i], left, right, sums[i]);
        }
    }
}

// pᵀ b for 16 columns of p, over the tiles of its rows from `first` on.
template <int D>
__device__ __forceinline__ void columns_of(Sum (&sums)[D], const bf16* p, int stride, const bf16* b, int first,
                                           int tiles) {
#pragma unroll
    for (int i = 0; i < D; i++) wmma::fill_fragment(sums[i], 0.0f);
    for (int tile = first; tile < tiles; tile++) {
        LeftTurned left;
        wmma::load_matrix_sync(left, p + tile * 16 * stride, stride);
#pragma unroll
        for (int i = 0; i < D; i++) {
            Right right;
            wmma::load_matrix_sync(right, b + tile * 16 * (D * 16 + PAD) + i * 16, D * 16 + PAD);
            wmma::mma_sync(sums[i], left, right, sums[i]);
        }
    }
}

// The most tiles that a block takes: 128 tokens, of which a lane has 4 of a row.
const int MOST = 4;

// Rows that a warp works on at once: what one waits for, another fills.
const int ROWS = 4;

__device__ __forceinline__ void warp_sums(float (&x)[ROWS]) {
#pragma unroll
    for (int by = 16; by > 0; by /= 2)
#pragma unroll
        for (int r = 0; r < ROWS; r++) x[r] += __shfl_xor_sync(0xffffffffu, x[r], by);
}

// The softmax of rows of scores over the first `seen` of each, in each lane those at lane + 32 j; 0
// elsewhere.
__device__ __forceinline__ void softmax_rows(float (&p)[ROWS][MOST], const float* scores, int stride,
                                             const int (&seen)[ROWS]) {
    const int lane = threadIdx.x % 32;
    float most[ROWS], sum[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        most[r] = -INFINITY;
#pragma unroll
        for (int j = 0; j < MOST; j++) {
            p[r][j] = lane + 32 * j < seen[r] ? scores[r * stride + lane + 32 * j] : -INFINITY;
            most[r] = fmaxf(most[r], p[r][j]);
        }
    }
#pragma unroll
    for (int by = 16; by > 0; by /= 2)
#pragma unroll
        for (int r = 0; r < ROWS; r++) most[r] = fmaxf(most[r], __shfl_xor_sync(0xffffffffu, most[r], by));
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        sum[r] = 0;
#pragma unroll
        for (int j = 0; j < MOST; j++) {
            p[r][j] = lane + 32 * j < seen[r] ? expf(p[r][j] - most[r]) : 0.0f;
            sum[r] += p[r][j];
        }
    }
    warp_sums(sum);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const float share = sum[r] > 0 ? 1.0f / sum[r] : 0.0f;
#pragma unroll
        for (int j = 0; j < MOST; j++) p[r][j] *= share;
    }
}

__device__ __forceinline__ int seen_by(int query, int length, int causal) {
    return query >= length ? 0 : causal ? query + 1 : length;
}

// → y (ΣN, H, d) bf16. Shared: q, k, v rows, then scores.
template <int D>
__device__ __forceinline__ void short_attention(const bf16* qkv, const float* bias, bf16* y, const unsigned* starts,
                                                int heads, int tokens, int tiles, int causal, float factor) {
    extern __shared__ __align__(128) unsigned char shared[];
    const int rows = tiles * 16, width = D * 16 + PAD, stride = rows + SCORE_PAD;
    bf16 *q = (bf16*)shared, *k = q + rows * width, *v = k + rows * width;
    float* scores = (float*)(v + rows * width);
    const Head head = this_head(starts, heads, tokens);
    take<D>(q, qkv, bias, head, 0, 3, rows, factor);
    take<D>(k, qkv, bias, head, 1, 3, rows, 1.0f);
    take<D>(v, qkv, bias, head, 2, 3, rows, 1.0f);
    __syncthreads();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = warp * 16;
    if (row >= head.length) return;
    const int seen_tiles = causal ? warp + 1 : tiles;
    scores += row * stride;
    scores_of<D>(q + row * width, k, scores, stride, seen_tiles);
    // Each row's softmax in bf16 in the place of the row itself, so in rows of twice the stride.
    for (int i = 0; i < 16; i += ROWS) {
        float p[ROWS][MOST];
        int seen[ROWS];
        for (int r = 0; r < ROWS; r++) seen[r] = seen_by(row + i + r, head.length, causal);
        softmax_rows(p, scores + i * stride, stride, seen);
        __syncwarp();
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            bf16* to = (bf16*)(scores + (i + r) * stride);
#pragma unroll
            for (int j = 0; j < MOST; j++)
                if (lane + 32 * j < rows) to[lane + 32 * j] = __float2bfloat16_rn(p[r][j]);
        }
    }
    __syncwarp();
    Sum sums[D];
    rows_of<D>(sums, (bf16*)scores, 2 * stride, v, seen_tiles);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < D; i++) give<D>(y, sums[i], scores, head, 0, 1, row, i, 1.0f);
}

// dy (ΣN, H, d) bf16 → dqkv (ΣN, 3, H, d) bf16. Shared: q, k, v, dy rows, scores, then the softmax.
template <int D>
__device__ __forceinline__ void short_attention_backward(const bf16* qkv, const float* bias, const bf16* dy_,
                                                         bf16* dqkv, const unsigned* starts, int heads, int tokens,
                                                         int tiles, int causal, float factor) {
    extern __shared__ __align__(128) unsigned char shared[];
    const int rows = tiles * 16, width = D * 16 + PAD, stride = rows + SCORE_PAD, narrow = rows + PAD;
    bf16 *q = (bf16*)shared, *k = q + rows * width, *v = k + rows * width, *dy = v + rows * width;
    float* scores = (float*)(dy + rows * width);
    bf16* weights = (bf16*)(scores + rows * stride);
    const Head head = this_head(starts, heads, tokens);
    take<D>(q, qkv, bias, head, 0, 3, rows, factor);
    take<D>(k, qkv, bias, head, 1, 3, rows, 1.0f);
    take<D>(v, qkv, bias, head, 2, 3, rows, 1.0f);
    take<D>(dy, dy_, nullptr, head, 0, 1, rows, 1.0f);
    __syncthreads();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = warp * 16;
    const int seen_tiles = causal ? warp + 1 : tiles;
    float* own = scores + row * stride;
    scores_of<D>(q + row * width, k, own, stride, seen_tiles);
    for (int i = 0; i < 16; i += ROWS) {
        float p[ROWS][MOST];
        int seen[ROWS];
        for (int r = 0; r < ROWS; r++) seen[r] = seen_by(row + i + r, head.length, causal);
        softmax_rows(p, own + i * stride, stride, seen);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            bf16* to = weights + (row + i + r) * narrow;
#pragma unroll
            for (int j = 0; j < MOST; j++)
                if (lane + 32 * j < rows) to[lane + 32 * j] = __float2bfloat16_rn(p[r][j]);
        }
    }
    __syncwarp();
    // dP = dY Vᵀ, and dS = P (dP - Σ dP P) in bf16 in its place
    scores_of<D>(dy + row * width, v, own, stride, seen_tiles);
    for (int i = 0; i < 16; i += ROWS) {
        float d[ROWS][MOST], w[ROWS][MOST], sum[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int seen = seen_by(row + i + r, head.length, causal);
            const bf16* p = weights + (row + i + r) * narrow;
            sum[r] = 0;
#pragma unroll
            for (int j = 0; j < MOST; j++) {
                const int at = lane + 32 * j;
                d[r][j] = at < seen ? own[(i + r) * stride + at] : 0.0f;
                w[r][j] = at < seen ? __bfloat162float(p[at]) : 0.0f;
                sum[r] += d[r][j] * w[r][j];
            }
        }
        warp_sums(sum);
        __syncwarp();
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            bf16* to = (bf16*)(own + (i + r) * stride);
#pragma unroll
            for (int j = 0; j < MOST; j++)
                if (lane + 32 * j < rows) to[lane + 32 * j] = __float2bfloat16_rn(w[r][j] * (d[r][j] - sum[r]));
        }
    }
    __syncwarp();
    Sum dq[D];
    rows_of<D>(dq, (bf16*)own, 2 * stride, k, seen_tiles);
    __syncthreads();
    // This warp's 16 keys: dK = dSᵀ Q / √d (Q is divided), dV = Pᵀ dY
    const int first = causal ? warp : 0;
    Sum dk[D], dv[D];
    columns_of<D>(dk, (bf16*)scores + row, 2 * stride, q, first, tiles);
    columns_of<D>(dv, weights + row, narrow, dy, first, tiles);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < D; i++) {
        give<D>(dqkv, dq[i], own, head, 0, 3, row, i, factor);
        give<D>(dqkv, dk[i], own, head, 1, 3, row, i, 1.0f);
        give<D>(dqkv, dv[i], own, head, 2, 3, row, i, 1.0f);
    }
}

#define WIDTH(d)                                                                                             \
    extern "C" __global__ void short_attention_##d(const bf16* qkv, const float* bias, bf16* y,             \
                                                   const unsigned* starts, int heads, int tokens, int tiles, \
                                                   int causal, float factor) {                              \
        short_attention<d / 16>(qkv, bias, y, starts, heads, tokens, tiles, causal, factor);                 \
    }                                                                                                        \
    extern "C" __global__ void short_attention_backward_##d(const bf16* qkv, const float* bias,             \
                                                            const bf16* dy, bf16* dqkv,                     \
                                                            const unsigned* starts, int heads, int tokens,  \
                                                            int tiles, int causal, float factor) {          \
        short_attention_backward<d / 16>(qkv, bias, dy, dqkv, starts, heads, tokens, tiles, causal, factor); \
    }
WIDTH(32)
WIDTH(48)
WIDTH(64)
WIDTH(80)
#endif
