// Runs the GPU's kernels on the processor, thread after thread: they share nothing and wait for nobody, so that the order is free.
// stdin: little-endian numbers as tests/suite/gpu.rs writes them; stdout: what the kernels wrote.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline

struct Place { unsigned x, y; };
static Place blockIdx, blockDim, threadIdx;

static inline float __uint_as_float(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
static inline unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }

#include "../../src/model/gpu/activation.cu"

template <typename F> static void launch(u32 width, u32 rows, F kernel) {
    blockDim = {32, 1};
    for (u32 y = 0; y < rows; ++y)
        for (u32 x = 0; x * blockDim.x < width; ++x)
            for (u32 thread = 0; thread < blockDim.x; ++thread) {
                blockIdx = {x, y};
                threadIdx = {thread, 0};
                kernel();
            }
}

template <typename T> static std::vector<T> read(size_t n) {
    std::vector<T> values(n);
    if (std::fread(values.data(), sizeof(T), n, stdin) != n) { std::exit(1); }
    return values;
}
template <typename T> static void write(const std::vector<T> &values) { std::fwrite(values.data(), sizeof(T), values.size(), stdout); }

template <typename T> static void both(u32 kind, u32 tokens, u32 width, u32 layers, u32 layer, u32 n_folds, bool gated) {
    u32 runs = read<u32>(1)[0];
    std::vector<u32> starts = read<u32>(runs + 1), folds = read<u32>(runs);
    std::vector<T> gate = read<T>((size_t)tokens * width), up = read<T>(gated ? (size_t)tokens * width : 0);
    std::vector<u32> active(runs * width);
    std::vector<float> sum(runs * width), sum_sq(runs * width), max(runs * width);
    T *out = gated ? up.data() : gate.data();
    launch(width, runs, [&] {
        run<T>(gate.data(), gated ? up.data() : nullptr, out, kind, width, starts.data(), active.data(), sum.data(), sum_sq.data(), max.data());
    });
    u64 neurons = (u64)layers * width;
    std::vector<u64> all_active(n_folds * neurons);
    std::vector<double> all_sum(neurons), all_sum_sq(neurons);
    std::vector<float> all_max(neurons, -INFINITY);
    for (int again = 0; again < 2; ++again)
        launch(width, 1, [&] {
            add_runs(width, (u64)layer * width, neurons, runs, folds.data(), active.data(), sum.data(), sum_sq.data(), max.data(),
                     all_active.data(), all_sum.data(), all_sum_sq.data(), all_max.data());
        });
    write(gated ? up : gate);
    write(all_active);
    write(all_sum);
    write(all_sum_sq);
    write(all_max);
}

int main() {
    std::vector<u32> head = read<u32>(8);
    if (head[7]) {
        both<bf16>(head[0], head[1], head[2], head[3], head[4], head[5], head[6]);
    } else {
        both<float>(head[0], head[1], head[2], head[3], head[4], head[5], head[6]);
    }
}
