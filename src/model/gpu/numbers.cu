// Numbers in memory and in registers: what the other texts here begin with.

typedef unsigned int u32;
typedef unsigned short bf16;
typedef unsigned long long u64;

static __device__ __forceinline__ float widen(float x) { return x; }
static __device__ __forceinline__ float widen(bf16 x) { return __uint_as_float((u32)x << 16); }

// To the nearest, ties to even; a NaN stays one.
static __device__ __forceinline__ void narrow(float x, float *to) { *to = x; }
static __device__ __forceinline__ void narrow(float x, bf16 *to) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(*to) : "f"(x));
#else
    u32 bits = __float_as_uint(x);
    *to = (bits & 0x7fffffffu) > 0x7f800000u ? (bf16)(bits >> 16 | 0x40u) : (bf16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
#endif
}

// Values that are read and written as one word.
template <typename T, u32 N> struct alignas(N * sizeof(T)) Pack { T value[N]; };

// The number of a thread and of a warp among all.
static __device__ __forceinline__ u64 this_thread() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
static __device__ __forceinline__ u64 this_warp() { return (u64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; }

// Over the threads of a warp.
static __device__ __forceinline__ float most(float x) {
#pragma unroll
    for (u32 apart = 16; apart > 0; apart /= 2) {
        float other = __shfl_xor_sync(0xffffffffu, x, apart);
        x = other > x ? other : x;
    }
    return x;
}

static __device__ __forceinline__ float total(float x) {
#pragma unroll
    for (u32 apart = 16; apart > 0; apart /= 2) { x += __shfl_xor_sync(0xffffffffu, x, apart); }
    return x;
}
