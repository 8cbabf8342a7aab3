// The FFN's non-linearity, its product with the up projection, and the counting of active neurons, in one pass over both.
//
// Compiled where it runs, by NVRTC, behind numbers.cu and nonlinear.cu: no toolkit's version has to fit a driver's. Nothing is included, nothing is shared
// between threads and no thread waits for another, so that the same text compiles as C++ and is tested on a processor (tests/suite/gpu.rs).

// Tokens that a thread reads at once.
#define AHEAD 4

// One thread: `N` neurons over the tokens of one run, at most 64 consecutive tokens of one window and one fold.
// gate, up, out: [tokens, width]. `up` may be null: then `out` is the activation alone; `out` may be `gate` or `up`, or null: then nothing is written.
// starts: [runs + 1], the first token of each run. active, sum, sum_sq, max: [runs, width], or all null: then nothing is counted.
template <typename T, u32 N>
static __device__ __forceinline__ void run(
    const T *gate, const T *up, T *out, u32 kind, u32 width, const u32 *starts,
    u32 *active, float *sum, float *sum_sq, float *max
) {
    u32 neuron = (blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (neuron >= width) { return; }
    Pack<u32, N> fired;
    Pack<float, N> totals, squares, largest;
#pragma unroll
    for (u32 n = 0; n < N; n += 1) {
        fired.value[n] = 0;
        totals.value[n] = 0.0f;
        squares.value[n] = 0.0f;
        largest.value[n] = __uint_as_float(0xff800000u);
    }
    u32 end = starts[blockIdx.y + 1];
    for (u32 first = starts[blockIdx.y]; first < end; first += AHEAD) {
        // Read first and written then, since what is written between might be what is read next.
        Pack<T, N> gates[AHEAD], ups[AHEAD];
#pragma unroll
        for (u32 i = 0; i < AHEAD; i += 1) {
            u64 at = (u64)(first + i < end ? first + i : first) * width + neuron;
            gates[i] = *(const Pack<T, N> *)(gate + at);
            ups[i] = up ? *(const Pack<T, N> *)(up + at) : gates[i];
        }
#pragma unroll
        for (u32 i = 0; i < AHEAD; i += 1) {
            if (first + i >= end) { break; }
#pragma unroll
            for (u32 n = 0; n < N; n += 1) {
                float g = widen(gates[i].value[n]);
                float a = activation(kind, g);
                fired.value[n] += g > 0.0f;
                totals.value[n] += a;
                squares.value[n] += a * a;
                largest.value[n] = a > largest.value[n] ? a : largest.value[n];
                narrow(up ? a * widen(ups[i].value[n]) : a, &ups[i].value[n]);
            }
            if (out) { *(Pack<T, N> *)(out + (u64)(first + i) * width + neuron) = ups[i]; }
        }
    }
    if (active) {
        u64 at = (u64)blockIdx.y * width + neuron;
        *(Pack<u32, N> *)(active + at) = fired;
        *(Pack<float, N> *)(sum + at) = totals;
        *(Pack<float, N> *)(sum_sq + at) = squares;
        *(Pack<float, N> *)(max + at) = largest;
    }
}

#define RUN(NAME, T, N)                                                                                                      \
    extern "C" __global__ void NAME(                                                                                         \
        const T *gate, const T *up, T *out, u32 kind, u32 width, const u32 *starts, u32 *active, float *sum, float *sum_sq,  \
        float *max                                                                                                           \
    ) {                                                                                                                      \
        run<T, N>(gate, up, out, kind, width, starts, active, sum, sum_sq, max);                                             \
    }
RUN(activation_f32, float, 1)
RUN(activation_f32_wide, float, 4)
RUN(activation_bf16, bf16, 1)
RUN(activation_bf16_wide, bf16, 4)

// Runs whose sums are read at once.
#define RUNS 16

// One thread: one neuron of the `width` that begin at `first` among the `neurons` of the model, over all runs in their order, so that sums are
// the same bits every time. folds: [runs]. all_active: [folds, neurons]; all_sum, all_sum_sq, all_max: [neurons].
extern "C" __global__ void add_runs(
    u32 width, u64 first, u64 neurons, u32 runs, const u32 *folds,
    const u32 *active, const float *sum, const float *sum_sq, const float *max,
    u64 *all_active, double *all_sum, double *all_sum_sq, float *all_max
) {
    u32 neuron = blockIdx.x * blockDim.x + threadIdx.x;
    if (neuron >= width) { return; }
    double sums = all_sum[first + neuron], squares = all_sum_sq[first + neuron];
    float largest = all_max[first + neuron];
    u32 fold = folds[0];
    u64 fired = 0;
    for (u32 r = 0; r < runs; r += RUNS) {
        // Read first and added then, since what is written between might be what is read next.
        u32 counts[RUNS], of[RUNS];
        float a[RUNS], b[RUNS], c[RUNS];
#pragma unroll
        for (u32 i = 0; i < RUNS; i += 1) {
            bool there = r + i < runs;
            u64 at = (u64)(there ? r + i : r) * width + neuron;
            of[i] = folds[there ? r + i : runs - 1];
            counts[i] = there ? active[at] : 0;
            a[i] = there ? sum[at] : 0.0f;
            b[i] = there ? sum_sq[at] : 0.0f;
            c[i] = max[at];
        }
#pragma unroll
        for (u32 i = 0; i < RUNS; i += 1) {
            if (of[i] != fold) {
                all_active[(u64)fold * neurons + first + neuron] += fired;
                fold = of[i];
                fired = 0;
            }
            fired += counts[i];
            sums += a[i];
            squares += b[i];
            largest = c[i] > largest ? c[i] : largest;
        }
    }
    all_active[(u64)fold * neurons + first + neuron] += fired;
    all_sum[first + neuron] = sums;
    all_sum_sq[first + neuron] = squares;
    all_max[first + neuron] = largest;
}
