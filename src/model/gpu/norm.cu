// RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467) and LayerNorm (Ba et al. 2016, arXiv 1607.06450), and their backward passes.
//
// Compiled where it runs, by NVRTC, as activation.cu is. The threads of one warp add up a row together; no other threads meet.

// Of one row, read by one warp: its mean, or 0 where rows are not centred, and the inverse of the root of its mean square.
struct Spread { float mean, inverse; };
template <typename T, u32 N>
static __device__ __forceinline__ Spread spread(const T *row, u32 width, float eps, u32 centred) {
    u32 lane = threadIdx.x % 32;
    Spread it = {0.0f, 0.0f};
    if (centred) {
        float sum = 0.0f;
#pragma unroll 4
        for (u32 i = lane * N; i < width; i += 32 * N) {
            Pack<T, N> pack = *(const Pack<T, N> *)(row + i);
#pragma unroll
            for (u32 n = 0; n < N; n += 1) { sum += widen(pack.value[n]); }
        }
        it.mean = total(sum) / (float)width;
    }
    float squares = 0.0f;
#pragma unroll 8
    for (u32 i = lane * N; i < width; i += 32 * N) {
        Pack<T, N> pack = *(const Pack<T, N> *)(row + i);
#pragma unroll
        for (u32 n = 0; n < N; n += 1) {
            float x = widen(pack.value[n]) - it.mean;
            squares += x * x;
        }
    }
    it.inverse = rsqrtf(total(squares) / (float)width + eps);
    return it;
}

// One warp: one row of x [rows, width] by either norm. weight: [width]; bias likewise, or null.
template <typename T, u32 N>
static __device__ __forceinline__ void norm(
    const T *x, const T *weight, const T *bias, T *out, u64 rows, u32 width, float eps, u32 centred
) {
    u64 number = this_warp();
    u32 lane = threadIdx.x % 32;
    if (number >= rows) { return; }
    const T *row = x + number * width;
    Spread it = spread<T, N>(row, width, eps, centred);
#pragma unroll 4
    for (u32 i = lane * N; i < width; i += 32 * N) {
        Pack<T, N> pack = *(const Pack<T, N> *)(row + i), by = *(const Pack<T, N> *)(weight + i), plus = by;
        if (bias) { plus = *(const Pack<T, N> *)(bias + i); }
#pragma unroll
        for (u32 n = 0; n < N; n += 1) {
            float y = (widen(pack.value[n]) - it.mean) * it.inverse * widen(by.value[n]);
            narrow(bias ? y + widen(plus.value[n]) : y, &pack.value[n]);
        }
        *(Pack<T, N> *)(out + number * width + i) = pack;
    }
}

// The same without bias for rows that are not centred and have at most 32 · N · K values, which stay in registers.
template <typename T, u32 N, u32 K>
static __device__ __forceinline__ void norm_held(const T *x, const T *weight, T *out, u64 rows, u32 width, float eps) {
    u64 number = this_warp();
    u32 lane = threadIdx.x % 32;
    if (number >= rows) { return; }
    const T *row = x + number * width;
    Pack<T, N> held[K];
#pragma unroll
    for (u32 k = 0; k < K; k += 1) {
        u32 i = (k * 32 + lane) * N;
        if (i < width) { held[k] = *(const Pack<T, N> *)(row + i); }
    }
    float squares = 0.0f;
#pragma unroll
    for (u32 k = 0; k < K; k += 1) {
#pragma unroll
        for (u32 n = 0; n < N; n += 1) {
            float value = (k * 32 + lane) * N < width ? widen(held[k].value[n]) : 0.0f;
            squares += value * value;
        }
    }
    float inverse = rsqrtf(total(squares) / (float)width + eps);
#pragma unroll
    for (u32 k = 0; k < K; k += 1) {
        u32 i = (k * 32 + lane) * N;
        if (i < width) {
            Pack<T, N> by = *(const Pack<T, N> *)(weight + i);
#pragma unroll
            for (u32 n = 0; n < N; n += 1) { narrow(widen(held[k].value[n]) * inverse * widen(by.value[n]), &by.value[n]); }
            *(Pack<T, N> *)(out + number * width + i) = by;
        }
    }
}

// One warp: one row of the gradient of x. With x̂ = (x − mean) / root and h = g · weight: (h − mean(h x̂) x̂ − [centred] mean(h)) / root.
template <typename T, u32 N>
static __device__ __forceinline__ void norm_back(
    const T *x, const T *weight, const T *gradient, T *out, u64 rows, u32 width, float eps, u32 centred
) {
    u64 number = this_warp();
    u32 lane = threadIdx.x % 32;
    if (number >= rows) { return; }
    const T *row = x + number * width, *from = gradient + number * width;
    Spread it = spread<T, N>(row, width, eps, centred);
    float along = 0.0f, level = 0.0f;
#pragma unroll 4
    for (u32 i = lane * N; i < width; i += 32 * N) {
        Pack<T, N> pack = *(const Pack<T, N> *)(row + i), by = *(const Pack<T, N> *)(weight + i), g = *(const Pack<T, N> *)(from + i);
#pragma unroll
        for (u32 n = 0; n < N; n += 1) {
            float h = widen(g.value[n]) * widen(by.value[n]);
            along += h * (widen(pack.value[n]) - it.mean);
            level += h;
        }
    }
    along = total(along) * it.inverse / (float)width;
    level = centred ? total(level) / (float)width : 0.0f;
#pragma unroll 4
    for (u32 i = lane * N; i < width; i += 32 * N) {
        Pack<T, N> pack = *(const Pack<T, N> *)(row + i), by = *(const Pack<T, N> *)(weight + i), g = *(const Pack<T, N> *)(from + i);
#pragma unroll
        for (u32 n = 0; n < N; n += 1) {
            float h = widen(g.value[n]) * widen(by.value[n]);
            narrow((h - along * (widen(pack.value[n]) - it.mean) * it.inverse - level) * it.inverse, &g.value[n]);
        }
        *(Pack<T, N> *)(out + number * width + i) = g;
    }
}

#define NORM(KERNEL, NAME, T, N)                                                                                             \
    extern "C" __global__ void NAME(                                                                                         \
        const T *x, const T *weight, const T *other, T *out, u64 rows, u32 width, float eps, u32 centred                     \
    ) {                                                                                                                      \
        KERNEL<T, N>(x, weight, other, out, rows, width, eps, centred);                                                      \
    }
NORM(norm, norm_f32, float, 1)
NORM(norm, norm_f32_wide, float, 4)
NORM(norm, norm_bf16, bf16, 1)
NORM(norm, norm_bf16_wide, bf16, 8)
NORM(norm_back, norm_back_f32, float, 1)
NORM(norm_back, norm_back_f32_wide, float, 4)
NORM(norm_back, norm_back_bf16, bf16, 1)
NORM(norm_back, norm_back_bf16_wide, bf16, 8)

#define NORM_HELD(NAME, K)                                                                                                   \
    extern "C" __global__ void NAME(                                                                                         \
        const bf16 *x, const bf16 *weight, const bf16 *, bf16 *out, u64 rows, u32 width, float eps, u32                      \
    ) {                                                                                                                      \
        norm_held<bf16, 8, K>(x, weight, out, rows, width, eps);                                                             \
    }
NORM_HELD(norm_bf16_2048, 8)
NORM_HELD(norm_bf16_4096, 16)
NORM_HELD(norm_bf16_6144, 24)
