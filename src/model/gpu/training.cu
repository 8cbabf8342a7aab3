// What training needs besides norms and attention: the gated activation and its gradient, sums, trained rows in a frozen weight,
// cross-entropy, dropout, and AdamW.
//
// Compiled where it runs, by NVRTC, behind numbers.cu and nonlinear.cu. Only the threads of a warp exchange values.

// One thread: `N` values of act(gate) · up.
template <typename T, u32 N>
static __device__ __forceinline__ void gated(const T *gate, const T *up, T *out, u64 count, u32 kind) {
    u64 at = this_thread() * N;
    if (at >= count) { return; }
    Pack<T, N> g = *(const Pack<T, N> *)(gate + at), u = *(const Pack<T, N> *)(up + at);
#pragma unroll
    for (u32 n = 0; n < N; n += 1) { narrow(activation(kind, widen(g.value[n])) * widen(u.value[n]), &u.value[n]); }
    *(Pack<T, N> *)(out + at) = u;
}

// One thread: `N` values of the gradients of gate and up, from that of act(gate) · up.
template <typename T, u32 N>
static __device__ __forceinline__ void gated_back(
    const T *gate, const T *up, const T *gradient, T *to_gate, T *to_up, u64 count, u32 kind
) {
    u64 at = this_thread() * N;
    if (at >= count) { return; }
    Pack<T, N> g = *(const Pack<T, N> *)(gate + at), u = *(const Pack<T, N> *)(up + at), from = *(const Pack<T, N> *)(gradient + at);
#pragma unroll
    for (u32 n = 0; n < N; n += 1) {
        float x = widen(g.value[n]), back = widen(from.value[n]), factor = widen(u.value[n]);
        narrow(back * factor * slope(kind, x), &g.value[n]);
        narrow(back * activation(kind, x), &u.value[n]);
    }
    *(Pack<T, N> *)(to_gate + at) = g;
    *(Pack<T, N> *)(to_up + at) = u;
}

// One thread: `N` values of x + y in place of x.
template <typename T, u32 N> static __device__ __forceinline__ void add(T *x, const T *y, u64 count) {
    u64 at = this_thread() * N;
    if (at >= count) { return; }
    Pack<T, N> sum = *(const Pack<T, N> *)(x + at), more = *(const Pack<T, N> *)(y + at);
#pragma unroll
    for (u32 n = 0; n < N; n += 1) { narrow(widen(sum.value[n]) + widen(more.value[n]), &sum.value[n]); }
    *(Pack<T, N> *)(x + at) = sum;
}

// One warp: the sum of the squares of one of `parts` parts of x. to: [parts].
extern "C" __global__ void squares(const float *x, float *to, u64 count, u32 parts) {
    u64 number = this_warp();
    if (number >= parts) { return; }
    u64 each = (count + parts - 1) / parts, first = number * each, end = first + each < count ? first + each : count;
    float sum = 0.0f;
    for (u64 i = first + threadIdx.x % 32; i < end; i += 32) { sum += x[i] * x[i]; }
    sum = total(sum);
    if (threadIdx.x % 32 == 0) { to[number] = sum; }
}

// One thread: one value laid into a weight [out, inner]. values: [count, inner] along 0, [out, count] along 1. indices: [count].
template <typename T>
static __device__ __forceinline__ void put(const float *values, T *weight, const u32 *indices, u32 count, u32 out, u32 inner, u32 along) {
    u64 number = this_thread();
    u32 rows = along ? out : count, columns = along ? count : inner;
    if (number >= (u64)rows * columns) { return; }
    u32 row = (u32)(number / columns), column = (u32)(number % columns);
    u64 at = along ? (u64)row * inner + indices[column] : (u64)indices[row] * inner + column;
    narrow(values[number], weight + at);
}

// One warp: of one part of one row of logits [rows, width], the largest value and the sum of the exponentials of the others less it.
// largest, sums: [rows, parts].
template <typename T, u32 N>
static __device__ __forceinline__ void level_parts(const T *logits, float *largest, float *sums, u32 rows, u32 width, u32 parts) {
    u64 number = this_warp();
    u32 lane = threadIdx.x % 32;
    if (number >= (u64)rows * parts) { return; }
    u32 words = (width / N + parts - 1) / parts, first = (u32)(number % parts) * words * N, end = first + words * N;
    end = end < width ? end : width;
    const T *row = logits + number / parts * width;
    float max = __uint_as_float(0xff800000u), sum = 0.0f;
    for (u32 i = first + lane * N; i < end; i += 32 * N) {
        Pack<T, N> pack = *(const Pack<T, N> *)(row + i);
        float own = max;
#pragma unroll
        for (u32 n = 0; n < N; n += 1) {
            float x = widen(pack.value[n]);
            // A NaN is no maximum; it goes on in the sum.
            own = x > own ? x : own;
        }
        if (own > max) {
            sum *= __expf(max - own);
            max = own;
        }
#pragma unroll
        for (u32 n = 0; n < N; n += 1) {
            float x = widen(pack.value[n]);
            sum += x == __uint_as_float(0xff800000u) ? 0.0f : __expf(x - max);
        }
    }
    float all = most(max);
    // A lane that has seen nothing has nothing to add.
    sum = total(max == all ? sum : sum * __expf(max - all));
    if (lane == 0) {
        largest[number] = all;
        sums[number] = sum;
    }
}

// One thread: of one row, the logarithm of the sum of all exponentials, and its loss: that less the target's logit, times `scale`; 0 where the
// target is none. targets, levels, losses: [rows].
template <typename T>
static __device__ __forceinline__ void losses(
    const T *logits, const float *largest, const float *sums, const u32 *targets, float *levels, float *losses, u32 rows, u32 width,
    u32 parts, float scale
) {
    u32 row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) { return; }
    float max = __uint_as_float(0xff800000u), sum = 0.0f;
    for (u32 i = 0; i < parts; i += 1) { max = largest[row * parts + i] > max ? largest[row * parts + i] : max; }
    for (u32 i = 0; i < parts; i += 1) {
        float own = sums[row * parts + i];
        // A part of minus infinities alone, or none, adds nothing.
        sum += own > 0.0f || own != own ? own * __expf(largest[row * parts + i] - max) : 0.0f;
    }
    float level = max + logf(sum);
    levels[row] = level;
    u32 target = targets[row];
    losses[row] = target < width ? (level - widen(logits[(u64)row * width + target])) * scale : 0.0f;
}

// One thread: `N` values of the gradient of the logits: (p − [target]) times `scale`, 0 in a row without a target.
template <typename T, u32 N>
static __device__ __forceinline__ void losses_back(
    const T *logits, const float *levels, const u32 *targets, T *out, u32 rows, u32 width, float scale
) {
    u64 at = this_thread() * N;
    if (at >= (u64)rows * width) { return; }
    u32 row = (u32)(at / width), column = (u32)(at % width), target = targets[row];
    Pack<T, N> pack = *(const Pack<T, N> *)(logits + at);
#pragma unroll
    for (u32 n = 0; n < N; n += 1) {
        float p = __expf(widen(pack.value[n]) - levels[row]) - (column + n == target ? 1.0f : 0.0f);
        narrow(target < width ? p * scale : 0.0f, &pack.value[n]);
    }
    *(Pack<T, N> *)(out + at) = pack;
}

// One thread: four values, of which those whose 16 random bits are below `limit` become 0 and the others `kept` times as large.
template <typename T>
static __device__ __forceinline__ void drop(const T *x, T *out, u64 count, u64 seed, u32 limit, float kept) {
    u64 number = this_thread();
    // The finaliser of SplitMix64.
    u64 bits = seed + number * 0x9e3779b97f4a7c15ull;
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9ull;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111ebull;
    bits ^= bits >> 31;
#pragma unroll
    for (u32 n = 0; n < 4; n += 1) {
        u64 at = number * 4 + n;
        bool dropped = (u32)(bits >> 16 * n & 0xffffu) < limit;
        if (at < count) { narrow(dropped ? 0.0f : widen(x[at]) * kept, out + at); }
    }
}

#define WORDS(NAME, T, N)                                                                                                    \
    extern "C" __global__ void gated_##NAME(const T *gate, const T *up, T *out, u64 count, u32 kind) {                       \
        gated<T, N>(gate, up, out, count, kind);                                                                             \
    }                                                                                                                        \
    extern "C" __global__ void gated_back_##NAME(                                                                            \
        const T *gate, const T *up, const T *gradient, T *to_gate, T *to_up, u64 count, u32 kind                             \
    ) {                                                                                                                      \
        gated_back<T, N>(gate, up, gradient, to_gate, to_up, count, kind);                                                   \
    }                                                                                                                        \
    extern "C" __global__ void add_##NAME(T *x, const T *y, u64 count) { add<T, N>(x, y, count); }
WORDS(f32, float, 1)
WORDS(f32_wide, float, 4)
WORDS(bf16, bf16, 1)
WORDS(bf16_wide, bf16, 8)

#define LOSS(NAME, T, N)                                                                                                     \
    extern "C" __global__ void level_parts_##NAME(const T *logits, float *largest, float *sums, u32 rows, u32 width, u32 parts) { \
        level_parts<T, N>(logits, largest, sums, rows, width, parts);                                                        \
    }                                                                                                                        \
    extern "C" __global__ void losses_back_##NAME(                                                                           \
        const T *logits, const float *levels, const u32 *targets, T *out, u32 rows, u32 width, float scale                   \
    ) {                                                                                                                      \
        losses_back<T, N>(logits, levels, targets, out, rows, width, scale);                                                 \
    }
LOSS(f32, float, 1)
LOSS(f32_wide, float, 4)
LOSS(bf16, bf16, 1)
LOSS(bf16_wide, bf16, 8)

#define EACH(NAME, T)                                                                                                        \
    extern "C" __global__ void put_##NAME(                                                                                   \
        const float *values, T *weight, const u32 *indices, u32 count, u32 out, u32 inner, u32 along                         \
    ) {                                                                                                                      \
        put<T>(values, weight, indices, count, out, inner, along);                                                           \
    }                                                                                                                        \
    extern "C" __global__ void losses_##NAME(                                                                                \
        const T *logits, const float *largest, const float *sums, const u32 *targets, float *levels, float *out, u32 rows,   \
        u32 width, u32 parts, float scale                                                                                    \
    ) {                                                                                                                      \
        losses<T>(logits, largest, sums, targets, levels, out, rows, width, parts, scale);                                   \
    }                                                                                                                        \
    extern "C" __global__ void drop_##NAME(const T *x, T *out, u64 count, u64 seed, u32 limit, float kept) {                 \
        drop<T>(x, out, count, seed, limit, kept);                                                                           \
    }
EACH(f32, float)
EACH(bf16, bf16)

// One thread: one step of AdamW for one value. base: what it is pulled towards, or null for zero.
extern "C" __global__ void adamw(
    float *value, float *mean, float *square, const float *gradient, const float *base, u64 count, float factor, float mix, float beta2,
    float rest, float keep, float pull, float root, float eps, float size
) {
    u64 i = this_thread();
    if (i >= count) { return; }
    float g = gradient[i] * factor, m = mean[i], v = square[i], x = value[i];
    m += (g - m) * mix;
    v = v * beta2 + rest * g * g;
    x = base ? x - pull * (x - base[i]) : x * keep;
    mean[i] = m;
    square[i] = v;
    value[i] = x - size * (m / (sqrtf(v) / root + eps));
}
