// The FFN's non-linearities and their derivatives.

// 0 SiLU, 1 GELU, 2 GELU by tanh, 3 ReLU: the order of `Activation`.
static __device__ __forceinline__ float activation(u32 kind, float x) {
    switch (kind) {
    case 0: return __fdividef(x, 1.0f + __expf(-x));
    case 1: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case 2: return __fdividef(x, 1.0f + __expf(-2.0f * 0.7978845608f * x * (1.0f + 0.044715f * x * x)));
    default: return x > 0.0f ? x : 0.0f;
    }
}

static __device__ __forceinline__ float slope(u32 kind, float x) {
    switch (kind) {
    // (x σ)' = σ + x σ (1 − σ)
    case 0: {
        float sigmoid = __fdividef(1.0f, 1.0f + __expf(-x));
        return sigmoid * (1.0f + x * (1.0f - sigmoid));
    }
    // (x Φ)' = Φ + x φ
    case 1: return 0.5f * (1.0f + erff(x * 0.70710678f)) + x * 0.3989423f * __expf(-0.5f * x * x);
    // With y = 2 √(2/π) (x + 0.044715 x³): (x σ(y))' = σ + x σ (1 − σ) y'
    case 2: {
        float y = 2.0f * 0.7978845608f * x * (1.0f + 0.044715f * x * x), dy = 2.0f * 0.7978845608f * (1.0f + 3.0f * 0.044715f * x * x);
        float sigmoid = __fdividef(1.0f, 1.0f + __expf(-y));
        return sigmoid * (1.0f + x * (1.0f - sigmoid) * dy);
    }
    default: return x > 0.0f ? 1.0f : 0.0f;
    }
}
