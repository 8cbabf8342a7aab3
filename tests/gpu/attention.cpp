// Runs attention's kernels on the processor: heads are put first and turned, and put back; scores are made weights, and the weights'
// gradient that of the scores.
// stdin: little-endian numbers as tests/suite/gpu.rs writes them; stdout: what the kernels wrote.
#include "processor.h"

#include "../../src/model/gpu/heads.cu"
#include "../../src/model/gpu/attention.cu"

// h: 0, bf16, wide, windows, seq, heads, dim, first, tokens, rotated, interleaved + 2 where they are turned back.
template <typename T, u32 N> static void moved(const u32 *h) {
    u32 windows = h[3], seq = h[4], heads = h[5], dim = h[6], first = h[7], tokens = h[8], rotated = h[9], interleaved = h[10] & 1u;
    bool back = h[10] & 2u;
    Storage<T> x = read<T>(windows * seq * heads * dim), cos = read<T>(seq * rotated / 2), sin = read<T>(seq * rotated / 2);
    Storage<T> turned(windows * heads * tokens * dim);
    u32 threads = windows * heads * tokens * dim / N;
    launch(threads, 1, [&] {
        move<T, N>(x.at, turned.at, windows, tokens, heads, dim, first, 0, seq * heads * dim, heads * dim, dim, heads * tokens * dim, dim,
                   tokens * dim, cos.at, sin.at, rotated, interleaved, 1.0f);
    });
    launch(threads, 1, [&] {
        move<T, N>(turned.at, x.at, windows, tokens, heads, dim, 0, first, heads * tokens * dim, dim, tokens * dim, seq * heads * dim,
                   heads * dim, dim, back ? cos.at : nullptr, sin.at, rotated, interleaved, -1.0f);
    });
    write(turned);
    write(x);
}

// h: 1, bf16, kernel, rows, heads, queries, keys, first, oldest, window, slopes; then scale and cap. The kernel: 0 value by value, 1 word by
// word, or the number of words that each thread holds.
template <typename T, typename F> static void weighed(const u32 *h, F kernel) {
    u32 rows = h[3], heads = h[4], keys = h[6];
    Storage<float> factors = read<float>(2), slopes = read<float>(h[10] ? heads : 0);
    Storage<T> scores = read<T>(rows * keys);
    float scale = factors.at[0], cap = factors.at[1];
    launch_warps(rows + 1, [=] { kernel(scores.at, rows, heads, h[5], keys, h[7], h[8], h[9], scale, cap, h[10] ? slopes.at : nullptr); });
    write(scores);
}

// h: 2, bf16, wide, rows, keys, capped; then scale and cap.
template <typename T, u32 N> static void weighed_back(const u32 *h) {
    u32 rows = h[3], keys = h[4];
    Storage<float> factors = read<float>(2);
    float scale = factors.at[0], cap = factors.at[1];
    Storage<T> weights = read<T>(rows * keys), raw = read<T>(rows * keys), gradient = read<T>(rows * keys);
    launch_warps(rows + 1, [=] { weigh_back<T, N>(weights.at, h[5] ? raw.at : nullptr, gradient.at, rows, keys, scale, cap); });
    write(gradient);
}

int main() {
    Storage<u32> head = read<u32>(11);
    const u32 *h = head.at;
    if (!h[0]) {
        auto chosen = h[1] ? (h[2] ? moved<bf16, 8> : moved<bf16, 1>) : (h[2] ? moved<float, 4> : moved<float, 1>);
        chosen(h);
    } else if (h[0] == 2) {
        auto chosen = h[1] ? (h[2] ? weighed_back<bf16, 8> : weighed_back<bf16, 1>) : (h[2] ? weighed_back<float, 4> : weighed_back<float, 1>);
        chosen(h);
    } else if (h[1]) {
        auto kernel = h[2] == 0 ? weigh<bf16, 1> : h[2] == 1 ? weigh<bf16, 8> : h[2] == 2 ? weigh_held<bf16, 8, 2> : weigh_held<bf16, 8, 8>;
        weighed<bf16>(h, kernel);
    } else {
        weighed<float>(h, h[2] ? weigh<float, 4> : weigh<float, 1>);
    }
}
