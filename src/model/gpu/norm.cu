// RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467).
//
// Compiled where it runs, by NVRTC, as activation.cu is. The threads of one warp add up a row together; no other threads meet.

// One warp: one row of x [rows, width], which is a whole number of words. weight: [width].
template <typename T, u32 N>
static __device__ __forceinline__ void rms(const T *x, const T *weight, T *out, u64 rows, u32 width, float eps) {
    u64 number = (u64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    u32 lane = threadIdx.x % 32;
    // The whole warp goes.
    if (number >= rows) { return; }
    const T *row = x + number * width;
    float squares = 0.0f;
#pragma unroll 8
    for (u32 i = lane * N; i < width; i += 32 * N) {
        Pack<T, N> pack = *(const Pack<T, N> *)(row + i);
#pragma unroll
        for (u32 n = 0; n < N; n += 1) { squares += widen(pack.value[n]) * widen(pack.value[n]); }
    }
    float scale = rsqrtf(total(squares) / (float)width + eps);
#pragma unroll 4
    for (u32 i = lane * N; i < width; i += 32 * N) {
        Pack<T, N> pack = *(const Pack<T, N> *)(row + i), by = *(const Pack<T, N> *)(weight + i);
#pragma unroll
        for (u32 n = 0; n < N; n += 1) { narrow(widen(pack.value[n]) * scale * widen(by.value[n]), &pack.value[n]); }
        *(Pack<T, N> *)(out + number * width + i) = pack;
    }
}

#define RMS(NAME, T, N)                                                                                                      \
    extern "C" __global__ void NAME(const T *x, const T *weight, T *out, u64 rows, u32 width, float eps) {                    \
        rms<T, N>(x, weight, out, rows, width, eps);                                                                         \
    }
RMS(rms_f32, float, 1)
RMS(rms_f32_wide, float, 4)
RMS(rms_bf16, bf16, 1)
RMS(rms_bf16_wide, bf16, 8)
