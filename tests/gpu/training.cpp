// Runs the kernels of training on the processor.
// stdin: little-endian numbers as tests/suite/gpu.rs writes them; stdout: what the kernels wrote.
#include "processor.h"

#include "../../src/model/gpu/nonlinear.cu"

#include "../../src/model/gpu/training.cu"

// h: 0, bf16, wide, kind, count.
template <typename T, u32 N> static void multiplied(const u32 *h) {
    u32 kind = h[3], count = h[4];
    Storage<T> gate = read<T>(count), up = read<T>(count), gradient = read<T>(count), out(count), to_gate(count), to_up(count);
    launch(count / N + 1, 1, [&] { gated<T, N>(gate.at, up.at, out.at, count, kind); });
    launch(count / N + 1, 1, [&] { gated_back<T, N>(gate.at, up.at, gradient.at, to_gate.at, to_up.at, count, kind); });
    write(out);
    write(to_gate);
    write(to_up);
}

// h: 1, bf16, wide, rows, width, parts; then scale.
template <typename T, u32 N> static void lost(const u32 *h) {
    u32 rows = h[3], width = h[4], parts = h[5];
    float scale = read<float>(1).at[0];
    Storage<u32> targets = read<u32>(rows);
    Storage<T> logits = read<T>(rows * width), gradient(rows * width);
    Storage<float> largest(rows * parts), sums(rows * parts), levels(rows), found(rows);
    launch_warps(rows * parts + 1, [=] { level_parts<T, N>(logits.at, largest.at, sums.at, rows, width, parts); });
    launch(rows, 1, [&] { losses<T>(logits.at, largest.at, sums.at, targets.at, levels.at, found.at, rows, width, parts, scale); });
    launch(rows * width / N + 1, 1, [&] { losses_back<T, N>(logits.at, levels.at, targets.at, gradient.at, rows, width, scale); });
    write(found);
    write(gradient);
}

// h: 2, bf16, 0, count, out, inner, along.
template <typename T> static void laid(const u32 *h) {
    u32 count = h[3], out = h[4], inner = h[5], along = h[6];
    Storage<u32> indices = read<u32>(count);
    u32 size = along ? out * count : count * inner;
    Storage<float> values = read<float>(size);
    Storage<T> weight = read<T>(out * inner);
    launch(size + 1, 1, [&] { put<T>(values.at, weight.at, indices.at, count, out, inner, along); });
    write(weight);
}

// h: 3, bf16, 0, count, limit, two halves of the seed; then the factor.
template <typename T> static void left_out(const u32 *h) {
    u32 count = h[3];
    float kept = read<float>(1).at[0];
    Storage<T> x = read<T>(count), out(count);
    launch(count / 4 + 1, 1, [&] { drop<T>(x.at, out.at, count, (u64)h[6] << 32 | h[5], h[4], kept); });
    write(out);
}

// h: 4, base, 0, count; then factor, mix, beta2, rest, keep, pull, root, eps, size.
static void stepped(const u32 *h) {
    u32 count = h[3];
    Storage<float> n = read<float>(9), value = read<float>(count), mean = read<float>(count), square = read<float>(count);
    Storage<float> gradient = read<float>(count), base = read<float>(count);
    const float *f = n.at;
    launch(count + 1, 1, [&] {
        adamw(value.at, mean.at, square.at, gradient.at, h[1] ? base.at : nullptr, count, f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8]);
    });
    write(value);
    write(mean);
    write(square);
}

// h: 5, bf16, wide, count.
template <typename T, u32 N> static void added(const u32 *h) {
    Storage<T> x = read<T>(h[3]), y = read<T>(h[3]);
    launch(h[3] / N + 1, 1, [&] { add<T, N>(x.at, y.at, h[3]); });
    write(x);
}

// h: 6, 0, 0, count, parts.
static void squared(const u32 *h) {
    u32 count = h[3], parts = h[4];
    Storage<float> x = read<float>(count), sums(parts);
    launch_warps(parts + 1, [=] { squares(x.at, sums.at, count, parts); });
    write(sums);
}

int main() {
    Storage<u32> head = read<u32>(7);
    const u32 *h = head.at;
    bool narrow = h[1], wide = h[2];
    switch (h[0]) {
    case 0: (narrow ? (wide ? multiplied<bf16, 8> : multiplied<bf16, 1>) : (wide ? multiplied<float, 4> : multiplied<float, 1>))(h); break;
    case 1: (narrow ? (wide ? lost<bf16, 8> : lost<bf16, 1>) : (wide ? lost<float, 4> : lost<float, 1>))(h); break;
    case 2: (narrow ? laid<bf16> : laid<float>)(h); break;
    case 3: (narrow ? left_out<bf16> : left_out<float>)(h); break;
    case 4: stepped(h); break;
    case 5: (narrow ? (wide ? added<bf16, 8> : added<bf16, 1>) : (wide ? added<float, 4> : added<float, 1>))(h); break;
    default: squared(h);
    }
}
