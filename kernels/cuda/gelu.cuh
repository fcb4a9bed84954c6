// GELU and its slope: x Φ(x) (arXiv 1606.08415), or x σ(1.702 x) if `quick` (openai/CLIP).
#pragma once

__device__ __forceinline__ float gelu_value(float x, int quick) {
    if (quick) return x / (1.0f + expf(-1.702f * x));
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
}

__device__ __forceinline__ float gelu_slope(float x, int quick) {
    if (quick) {
        const float s = 1.0f / (1.0f + expf(-1.702f * x));
        return s + 1.702f * x * s * (1.0f - s);
    }
    const float below = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
    return below + x * 0.39894228040143268f * expf(-0.5f * x * x);
}
