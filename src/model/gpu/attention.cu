// What attention needs around its two matrix products: heads moved before tokens and back, turned on the way by rotary embeddings, and
// the scores of one block of queries made weights in place.
//
// Compiled where it runs, by NVRTC, behind numbers.cu and heads.cu, as activation.cu is. The threads of one warp add up a row together; no other threads meet.

// One thread: `N` values of one head of one token. Strides are in values; a head's own values lie beside one another in both.
// from: read at window · from_window + (first + token) · from_token + head · from_head; to: written likewise, `to_first` tokens on.
// cos, sin: [positions, rotated / 2], or null: then nothing is turned; sense is 1, or −1 to turn back. A token's position is its place in its
// window, which one of `first` and `to_first` says, while the other is 0.
template <typename T, u32 N>
static __device__ __forceinline__ void move(
    const T *from, T *to, u32 windows, u32 tokens, u32 heads, u32 dim, u32 first, u32 to_first,
    u64 from_window, u64 from_token, u64 from_head, u64 to_window, u64 to_token, u64 to_head,
    const T *cos, const T *sin, u32 rotated, u32 interleaved, float sense
) {
    u32 packs = dim / N;
    u64 number = this_thread();
    u32 i = (u32)(number % packs) * N;
    number /= packs;
    u32 token = (u32)(number % tokens);
    number /= tokens;
    u32 head = (u32)(number % heads);
    u32 window = (u32)(number / heads);
    if (window >= windows) { return; }
    const T *row = from + window * from_window + (u64)(first + token) * from_token + head * from_head;
    Pack<T, N> own = *(const Pack<T, N> *)(row + i), out = own;
    if (cos && i < rotated) {
        // Pairs are halves apart, so that N divides the half, or else neighbours, and then N is 1.
        u32 half = rotated / 2;
        bool low = interleaved ? !(i & 1u) : i < half;
        u32 partner = interleaved ? i ^ 1u : low ? i + half : i - half;
        u64 at = (u64)(first + to_first + token) * half + (interleaved ? i / 2 : low ? i : i - half);
        Pack<T, N> other = *(const Pack<T, N> *)(row + partner);
        Pack<T, N> c = *(const Pack<T, N> *)(cos + at), s = *(const Pack<T, N> *)(sin + at);
        out = turn(own, other, c, s, low, sense);
    }
    *(Pack<T, N> *)(to + window * to_window + (u64)(to_first + token) * to_token + head * to_head + i) = out;
}

#define MOVE(NAME, T, N)                                                                                                     \
    extern "C" __global__ void NAME(                                                                                         \
        const T *from, T *to, u32 windows, u32 tokens, u32 heads, u32 dim, u32 first, u32 to_first,                          \
        u64 from_window, u64 from_token, u64 from_head, u64 to_window, u64 to_token, u64 to_head,                            \
        const T *cos, const T *sin, u32 rotated, u32 interleaved, float sense                                                \
    ) {                                                                                                                      \
        move<T, N>(from, to, windows, tokens, heads, dim, first, to_first, from_window, from_token, from_head, to_window,    \
                   to_token, to_head, cos, sin, rotated, interleaved, sense);                                                \
    }
MOVE(move_f32, float, 1)
MOVE(move_f32_wide, float, 4)
MOVE(move_bf16, bf16, 1)
MOVE(move_bf16_wide, bf16, 8)

// What one warp knows of its query: it sees the keys from `unseen` to before `seen`.
struct Query { u32 unseen, seen; float slope; };

// scores: [windows, heads, queries, keys]; the first query's position is `first`, the first key's `oldest`.
// window: tokens that a query sees, itself among them, 0 for all. slopes: [heads] or null.
static __device__ __forceinline__ Query query(u64 row, u32 heads, u32 queries, u32 first, u32 oldest, u32 window, const float *slopes) {
    u32 position = first + (u32)(row % queries);
    Query it;
    it.seen = position + 1 - oldest;
    it.unseen = window && position + 1 > window + oldest ? position + 1 - window - oldest : 0;
    it.slope = slopes ? slopes[row / queries % heads] : 0.0f;
    return it;
}

// One warp: the weights of one query over all keys, in place of their raw products; 0 where the query does not see a key.
template <typename T, u32 N>
static __device__ __forceinline__ void weigh(
    T *scores, u64 rows, u32 heads, u32 queries, u32 keys, u32 first, u32 oldest, u32 window, float scale, float cap, const float *slopes
) {
    u64 number = this_warp();
    u32 lane = threadIdx.x % 32;
    // The whole warp goes.
    if (number >= rows) { return; }
    T *row = scores + number * keys;
    Query it = query(number, heads, queries, first, oldest, window, slopes);
    float largest = __uint_as_float(0xff800000u), sum = 0.0f;
    for (u32 j = lane * N; j < it.seen; j += 32 * N) {
        Pack<T, N> pack = *(const Pack<T, N> *)(row + j);
#pragma unroll
        for (u32 n = 0; n < N; n += 1) {
            u32 key = j + n;
            if (key >= it.unseen && key < it.seen) {
                float score = shaped(widen(pack.value[n]), scale, cap, it.slope, it.seen - 1 - key);
                largest = score > largest ? score : largest;
            }
        }
    }
    largest = most(largest);
    for (u32 j = lane * N; j < it.seen; j += 32 * N) {
        Pack<T, N> pack = *(const Pack<T, N> *)(row + j);
#pragma unroll
        for (u32 n = 0; n < N; n += 1) {
            u32 key = j + n;
            if (key >= it.unseen && key < it.seen) {
                sum += __expf(shaped(widen(pack.value[n]), scale, cap, it.slope, it.seen - 1 - key) - largest);
            }
        }
    }
    float inverse = 1.0f / total(sum);
    for (u32 j = lane * N; j < keys; j += 32 * N) {
        Pack<T, N> pack = *(const Pack<T, N> *)(row + j);
#pragma unroll
        for (u32 n = 0; n < N; n += 1) {
            u32 key = j + n;
            bool sees = key >= it.unseen && key < it.seen;
            float score = shaped(widen(pack.value[n]), scale, cap, it.slope, it.seen - 1 - key);
            narrow(sees ? __expf(score - largest) * inverse : 0.0f, &pack.value[n]);
        }
        *(Pack<T, N> *)(row + j) = pack;
    }
}

// The same for at most 32 · N · K keys, which stay in registers.
template <typename T, u32 N, u32 K>
static __device__ __forceinline__ void weigh_held(
    T *scores, u64 rows, u32 heads, u32 queries, u32 keys, u32 first, u32 oldest, u32 window, float scale, float cap, const float *slopes
) {
    u64 number = this_warp();
    u32 lane = threadIdx.x % 32;
    if (number >= rows) { return; }
    T *row = scores + number * keys;
    Query it = query(number, heads, queries, first, oldest, window, slopes);
    float held[K * N], largest = __uint_as_float(0xff800000u), sum = 0.0f;
#pragma unroll
    for (u32 k = 0; k < K; k += 1) {
        u32 j = (k * 32 + lane) * N;
        Pack<T, N> pack;
        if (j < it.seen) { pack = *(const Pack<T, N> *)(row + j); }
#pragma unroll
        for (u32 n = 0; n < N; n += 1) {
            u32 key = j + n;
            float score = __uint_as_float(0xff800000u);
            if (key >= it.unseen && key < it.seen) {
                score = shaped(widen(pack.value[n]), scale, cap, it.slope, it.seen - 1 - key);
            }
            held[k * N + n] = score;
            largest = score > largest ? score : largest;
        }
    }
    largest = most(largest);
#pragma unroll
    for (u32 i = 0; i < K * N; i += 1) {
        held[i] = __expf(held[i] - largest);
        sum += held[i];
    }
    float inverse = 1.0f / total(sum);
#pragma unroll
    for (u32 k = 0; k < K; k += 1) {
        u32 j = (k * 32 + lane) * N;
        Pack<T, N> pack;
#pragma unroll
        for (u32 n = 0; n < N; n += 1) { narrow(held[k * N + n] * inverse, &pack.value[n]); }
        if (j < keys) { *(Pack<T, N> *)(row + j) = pack; }
    }
}

#define WEIGH(NAME, T, ...)                                                                                                  \
    extern "C" __global__ void NAME(                                                                                         \
        T *scores, u64 rows, u32 heads, u32 queries, u32 keys, u32 first, u32 oldest, u32 window, float scale, float cap,    \
        const float *slopes                                                                                                  \
    ) {                                                                                                                      \
        __VA_ARGS__(scores, rows, heads, queries, keys, first, oldest, window, scale, cap, slopes);                          \
    }
WEIGH(weigh_f32, float, weigh<float, 1>)
WEIGH(weigh_f32_wide, float, weigh<float, 4>)
WEIGH(weigh_bf16, bf16, weigh<bf16, 1>)
WEIGH(weigh_bf16_wide, bf16, weigh<bf16, 8>)
WEIGH(weigh_bf16_256, bf16, weigh_held<bf16, 8, 1>)
WEIGH(weigh_bf16_512, bf16, weigh_held<bf16, 8, 2>)
WEIGH(weigh_bf16_1024, bf16, weigh_held<bf16, 8, 4>)
WEIGH(weigh_bf16_2048, bf16, weigh_held<bf16, 8, 8>)

// One warp: one row of the weights' gradient [rows, keys] made that of the raw products, in place: p (g − Σ p g) scale, and where scores are
// capped times 1 − tanh²(raw scale / cap). weights: [rows, keys], 0 where a query does not see a key; raw likewise, or null.
template <typename T, u32 N>
static __device__ __forceinline__ void weigh_back(const T *weights, const T *raw, T *gradient, u64 rows, u32 keys, float scale, float cap) {
    u64 number = this_warp();
    u32 lane = threadIdx.x % 32;
    if (number >= rows) { return; }
    const T *own = weights + number * keys;
    T *row = gradient + number * keys;
    float along = 0.0f;
#pragma unroll 4
    for (u32 j = lane * N; j < keys; j += 32 * N) {
        Pack<T, N> p = *(const Pack<T, N> *)(own + j), g = *(const Pack<T, N> *)(row + j);
#pragma unroll
        for (u32 n = 0; n < N; n += 1) { along += widen(p.value[n]) * widen(g.value[n]); }
    }
    along = total(along);
#pragma unroll 4
    for (u32 j = lane * N; j < keys; j += 32 * N) {
        Pack<T, N> p = *(const Pack<T, N> *)(own + j), g = *(const Pack<T, N> *)(row + j), s = p;
        if (raw) { s = *(const Pack<T, N> *)(raw + number * keys + j); }
#pragma unroll
        for (u32 n = 0; n < N; n += 1) {
            float back = widen(p.value[n]) * (widen(g.value[n]) - along) * scale;
            if (raw) {
                float level = tanhf(widen(s.value[n]) * scale / cap);
                back *= 1.0f - level * level;
            }
            narrow(back, &g.value[n]);
        }
        *(Pack<T, N> *)(row + j) = g;
    }
}

#define WEIGH_BACK(NAME, T, N)                                                                                               \
    extern "C" __global__ void NAME(const T *weights, const T *raw, T *gradient, u64 rows, u32 keys, float scale, float cap) { \
        weigh_back<T, N>(weights, raw, gradient, rows, keys, scale, cap);                                                    \
    }
WEIGH_BACK(weigh_back_f32, float, 1)
WEIGH_BACK(weigh_back_f32_wide, float, 4)
WEIGH_BACK(weigh_back_bf16, bf16, 1)
WEIGH_BACK(weigh_back_bf16_wide, bf16, 8)
