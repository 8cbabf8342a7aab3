// Runs the activation's kernel on the processor.
// stdin: little-endian numbers as tests/suite/gpu.rs writes them; stdout: what the kernels wrote.
#include "processor.h"

#include "../../src/model/gpu/nonlinear.cu"

#include "../../src/model/gpu/activation.cu"

template <typename T, u32 N> static void both(u32 kind, u32 tokens, u32 width, u32 layers, u32 layer, u32 n_folds, bool gated) {
    u32 runs = read<u32>(1).at[0];
    Storage<u32> starts = read<u32>(runs + 1), folds = read<u32>(runs);
    Storage<T> gate = read<T>((size_t)tokens * width), up = read<T>(gated ? (size_t)tokens * width : 0);
    Storage<u32> active(runs * width);
    Storage<float> sum(runs * width), sum_sq(runs * width), max(runs * width);
    T *out = gated ? up.at : gate.at;
    launch((width + N - 1) / N, runs, [&] {
        run<T, N>(gate.at, gated ? up.at : nullptr, out, kind, width, starts.at, active.at, sum.at, sum_sq.at, max.at);
    });
    u64 neurons = (u64)layers * width;
    Storage<u64> all_active(n_folds * neurons);
    Storage<double> all_sum(neurons), all_sum_sq(neurons);
    Storage<float> all_max(neurons);
    std::memset(all_active.at, 0, 8 * all_active.size);
    std::memset(all_sum.at, 0, 8 * neurons);
    std::memset(all_sum_sq.at, 0, 8 * neurons);
    for (u64 i = 0; i < neurons; ++i) { all_max.at[i] = -INFINITY; }
    for (int again = 0; again < 2; ++again)
        launch(width, 1, [&] {
            add_runs(width, (u64)layer * width, neurons, runs, folds.at, active.at, sum.at, sum_sq.at, max.at,
                     all_active.at, all_sum.at, all_sum_sq.at, all_max.at);
        });
    write(gated ? up : gate);
    write(all_active);
    write(all_sum);
    write(all_sum_sq);
    write(all_max);
}

int main() {
    Storage<u32> head = read<u32>(9);
    const u32 *h = head.at;
    auto chosen = h[7] ? (h[8] ? both<bf16, 4> : both<bf16, 1>) : (h[8] ? both<float, 4> : both<float, 1>);
    chosen(h[0], h[1], h[2], h[3], h[4], h[5], h[6]);
}
