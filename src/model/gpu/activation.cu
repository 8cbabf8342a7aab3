// The FFN's non-linearity, its product with the up projection, and the counting of active neurons, in one pass over both.
//
// Compiled where it runs, by NVRTC: no toolkit's version has to fit a driver's. Nothing is included, nothing is shared between threads
// and no thread waits for another, so that the same text compiles as C++ and is tested on a processor (tests/suite/gpu.rs).

typedef unsigned int u32;
typedef unsigned short bf16;
typedef unsigned long long u64;

static __device__ __forceinline__ float widen(float x) { return x; }
static __device__ __forceinline__ float widen(bf16 x) { return __uint_as_float((u32)x << 16); }

// To the nearest, ties to even; a NaN stays one.
static __device__ __forceinline__ void narrow(float x, float *to) { *to = x; }
static __device__ __forceinline__ void narrow(float x, bf16 *to) {
    u32 bits = __float_as_uint(x);
    *to = (bits & 0x7fffffffu) > 0x7f800000u ? (bf16)(bits >> 16 | 0x40u) : (bf16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// 0 SiLU, 1 GELU, 2 GELU by tanh, 3 ReLU: the order of `Activation`.
static __device__ __forceinline__ float activation(u32 kind, float x) {
    switch (kind) {
    case 0: return x / (1.0f + expf(-x));
    case 1: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case 2: return x / (1.0f + expf(-2.0f * 0.7978845608f * x * (1.0f + 0.044715f * x * x)));
    default: return x > 0.0f ? x : 0.0f;
    }
}

// One thread: one neuron over the tokens of one run, at most 64 consecutive tokens of one window and one fold.
// gate, up, out: [tokens, width]. `up` may be null: then `out` is the activation alone; `out` may be `gate` or `up`, or null: then nothing is written.
// starts: [runs + 1], the first token of each run. active, sum, sum_sq, max: [runs, width], or all null: then nothing is counted.
template <typename T>
static __device__ __forceinline__ void run(
    const T *gate, const T *up, T *out, u32 kind, u32 width, const u32 *starts,
    u32 *active, float *sum, float *sum_sq, float *max
) {
    u32 neuron = blockIdx.x * blockDim.x + threadIdx.x;
    if (neuron >= width) { return; }
    u32 fired = 0;
    float total = 0.0f, squares = 0.0f, largest = __uint_as_float(0xff800000u);
    u32 end = starts[blockIdx.y + 1];
#pragma unroll 4
    for (u32 token = starts[blockIdx.y]; token < end; token += 1) {
        u64 at = (u64)token * width + neuron;
        float g = widen(gate[at]);
        float a = activation(kind, g);
        fired += g > 0.0f;
        total += a;
        squares += a * a;
        largest = a > largest ? a : largest;
        if (out) { narrow(up ? a * widen(up[at]) : a, &out[at]); }
    }
    if (active) {
        u64 at = (u64)blockIdx.y * width + neuron;
        active[at] = fired;
        sum[at] = total;
        sum_sq[at] = squares;
        max[at] = largest;
    }
}

extern "C" __global__ void activation_f32(
    const float *gate, const float *up, float *out, u32 kind, u32 width, const u32 *starts,
    u32 *active, float *sum, float *sum_sq, float *max
) {
    run<float>(gate, up, out, kind, width, starts, active, sum, sum_sq, max);
}

extern "C" __global__ void activation_bf16(
    const bf16 *gate, const bf16 *up, bf16 *out, u32 kind, u32 width, const u32 *starts,
    u32 *active, float *sum, float *sum_sq, float *max
) {
    run<bf16>(gate, up, out, kind, width, starts, active, sum, sum_sq, max);
}

// One thread: one neuron of the `width` that begin at `first` among the `neurons` of the model, over all runs in their order, so that sums are
// the same bits every time. folds: [runs]. all_active: [folds, neurons]; all_sum, all_sum_sq, all_max: [neurons].
extern "C" __global__ void add_runs(
    u32 width, u64 first, u64 neurons, u32 runs, const u32 *folds,
    const u32 *active, const float *sum, const float *sum_sq, const float *max,
    u64 *all_active, double *all_sum, double *all_sum_sq, float *all_max
) {
    u32 neuron = blockIdx.x * blockDim.x + threadIdx.x;
    if (neuron >= width) { return; }
    double total = all_sum[first + neuron], squares = all_sum_sq[first + neuron];
    float largest = all_max[first + neuron];
    u32 fold = folds[0];
    u64 fired = 0;
#pragma unroll 8
    for (u32 r = 0; r < runs; r += 1) {
        u64 at = (u64)r * width + neuron;
        if (folds[r] != fold) {
            all_active[(u64)fold * neurons + first + neuron] += fired;
            fold = folds[r];
            fired = 0;
        }
        fired += active[at];
        total += sum[at];
        squares += sum_sq[at];
        largest = max[at] > largest ? max[at] : largest;
    }
    all_active[(u64)fold * neurons + first + neuron] += fired;
    all_sum[first + neuron] = total;
    all_sum_sq[first + neuron] = squares;
    all_max[first + neuron] = largest;
}
