// Runs the norms' kernels on the processor.
// stdin: little-endian numbers as tests/suite/gpu.rs writes them; stdout: what the kernels wrote, forward and back.
#include "processor.h"

#include "../../src/model/gpu/norm.cu"

// h: bf16, wide (2: and forward with rows held in registers), rows, width, centred.
template <typename T, u32 N> static void normed(const u32 *h) {
    u32 rows = h[2], width = h[3], centred = h[4];
    float eps = read<float>(1).at[0];
    Storage<T> x = read<T>(rows * width), weight = read<T>(width), bias = read<T>(width), gradient = read<T>(rows * width);
    Storage<T> out(rows * width), back(rows * width);
    launch_warps(rows + 1, [=] {
        if constexpr (N == 8) {
            if (h[1] == 2) { return norm_held<T, N, 3>(x.at, weight.at, out.at, rows, width, eps); }
        }
        norm<T, N>(x.at, weight.at, centred ? bias.at : nullptr, out.at, rows, width, eps, centred);
    });
    launch_warps(rows + 1, [=] { norm_back<T, N>(x.at, weight.at, gradient.at, back.at, rows, width, eps, centred); });
    write(out);
    write(back);
}

int main() {
    Storage<u32> head = read<u32>(5);
    const u32 *h = head.at;
    auto chosen = h[0] ? (h[1] ? normed<bf16, 8> : normed<bf16, 1>) : (h[1] ? normed<float, 4> : normed<float, 1>);
    chosen(h);
}
