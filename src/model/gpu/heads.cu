// What becomes of a head's queries, keys and scores, whatever way attention is computed.

// Values turned by rotary embeddings: own · cos ∓ other · sin, where `other` are their partners. sense is 1, or −1 to turn back.
template <typename T, u32 N>
static __device__ __forceinline__ Pack<T, N> turn(
    const Pack<T, N> &own, const Pack<T, N> &other, const Pack<T, N> &cos, const Pack<T, N> &sin, bool low, float sense
) {
    Pack<T, N> out;
#pragma unroll
    for (u32 n = 0; n < N; n += 1) {
        float turned = sense * widen(other.value[n]) * widen(sin.value[n]);
        float kept = widen(own.value[n]) * widen(cos.value[n]);
        narrow(low ? kept - turned : kept + turned, &out.value[n]);
    }
    return out;
}

// A score as the softmax takes it: scaled, capped, less its distance's share.
static __device__ __forceinline__ float shaped(float raw, float scale, float cap, float slope, u32 distance) {
    float score = raw * scale;
    if (cap > 0.0f) { score = cap * tanhf(score / cap); }
    if (slope != 0.0f) { score -= slope * (float)distance; }
    return score;
}

