// What all kernels here share: numbers in f32 or bf16 read and written V at a time, sums over a warp.
//
// A kernel is a template over the format T of its halves of a block's inner numbers (float, or bf16
// as under torch's autocast) and V, the numbers that a thread takes at once: 4 where the width is a
// multiple of 4 and every pointer of 16 bytes, else 1. Arithmetic is f32. No kernel adds with
// atomics: every sum has one order, whatever the GPU does.
#pragma once
#include <cuda_bf16.h>
#include <stddef.h>

typedef __nv_bfloat16 bf16;

template <int V> struct Few { float v[V]; };

// The `at`-th V numbers.
template <int V> __device__ __forceinline__ Few<V> load(const float* p, size_t at) {
    Few<V> few;
    if constexpr (V == 4) {
        const float4 all = reinterpret_cast<const float4*>(p)[at];
        few.v[0] = all.x, few.v[1] = all.y, few.v[2] = all.z, few.v[3] = all.w;
    } else {
        few.v[0] = p[at];
    }
    return few;
}

template <int V> __device__ __forceinline__ Few<V> load(const bf16* p, size_t at) {
    Few<V> few;
    if constexpr (V == 4) {
        // A bf16 is the upper half of an f32.
        const uint2 all = reinterpret_cast<const uint2*>(p)[at];
        few.v[0] = __uint_as_float(all.x << 16), few.v[1] = __uint_as_float(all.x & 0xffff0000u);
        few.v[2] = __uint_as_float(all.y << 16), few.v[3] = __uint_as_float(all.y & 0xffff0000u);
    } else {
        few.v[0] = __bfloat162float(p[at]);
    }
    return few;
}

template <int V> __device__ __forceinline__ void store(float* p, size_t at, Few<V> few) {
    if constexpr (V == 4) {
        reinterpret_cast<float4*>(p)[at] = make_float4(few.v[0], few.v[1], few.v[2], few.v[3]);
    } else {
        p[at] = few.v[0];
    }
}

// Rounded to nearest, ties to even.
template <int V> __device__ __forceinline__ void store(bf16* p, size_t at, Few<V> few) {
    if constexpr (V == 4) {
        __nv_bfloat162 low = __floats2bfloat162_rn(few.v[0], few.v[1]);
        __nv_bfloat162 high = __floats2bfloat162_rn(few.v[2], few.v[3]);
        uint2 all;
        all.x = *reinterpret_cast<unsigned*>(&low);
        all.y = *reinterpret_cast<unsigned*>(&high);
        reinterpret_cast<uint2*>(p)[at] = all;
    } else {
        p[at] = __float2bfloat16_rn(few.v[0]);
    }
}

// The sum over all 32 lanes, in every lane.
__device__ __forceinline__ float warp_sum(float x) {
    for (int by = 16; by > 0; by /= 2) x += __shfl_xor_sync(0xffffffffu, x, by);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int by = 16; by > 0; by /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, by));
    return x;
}

// This thread's place among all threads of a grid of one dimension.
__device__ __forceinline__ size_t place() { return (size_t)blockIdx.x * blockDim.x + threadIdx.x; }

// The kernels of one template under the names NAME_f32_4 and so on; formats are void in PARAMS.
#define IN_ONE_FORMAT(NAME, PARAMS, ARGS)                                    \
    extern "C" __global__ void NAME##_f32_4 PARAMS { NAME<float, 4> ARGS; } \
    extern "C" __global__ void NAME##_f32_1 PARAMS { NAME<float, 1> ARGS; }
#define IN_BOTH_FORMATS(NAME, PARAMS, ARGS)                                  \
    IN_ONE_FORMAT(NAME, PARAMS, ARGS)                                        \
    extern "C" __global__ void NAME##_bf16_4 PARAMS { NAME<bf16, 4> ARGS; } \
    extern "C" __global__ void NAME##_bf16_1 PARAMS { NAME<bf16, 1> ARGS; }
