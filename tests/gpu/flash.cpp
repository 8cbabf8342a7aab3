// Runs flash attention on the processor.
// stdin: little-endian numbers as tests/suite/gpu.rs writes them; stdout: what the kernel wrote.
#include "processor.h"

#include "../../src/model/gpu/heads.cu"
#include "tensor_cores.h"
#include "../../src/model/gpu/flash.cu"

// h: size of heads, shaped, windows, seq, heads, kv_heads, rotated, window, slopes; then scale and cap. Keys come with heads first.
template <u32 HEAD> static void attended(const u32 *h) {
    u32 shaped = h[1], windows = h[2], seq = h[3], heads = h[4], kv_heads = h[5], rotated = h[6], window = h[7];
    Storage<float> factors = read<float>(2), slopes = read<float>(h[8] ? heads : 0);
    float scale = factors.at[0], cap = factors.at[1];
    const float *slope = h[8] ? slopes.at : nullptr;
    u32 size = windows * seq * HEAD;
    Storage<bf16> query = read<bf16>(size * heads), key = read<bf16>(size * kv_heads), value = read<bf16>(size * kv_heads);
    Storage<bf16> cos = read<bf16>(seq * rotated / 2), sin = read<bf16>(seq * rotated / 2), out(size * heads);
    Strides of_query = {seq * heads * HEAD, heads * HEAD, HEAD}, of_value = {seq * kv_heads * HEAD, kv_heads * HEAD, HEAD};
    Strides of_key = {kv_heads * seq * HEAD, HEAD, seq * HEAD};
    std::memset(block_memory, 0xff, sizeof(block_memory));
    u32 tiles = (seq + QUERIES - 1) / QUERIES;
    launch_blocks(tiles * heads * windows, THREADS, [=] {
        auto kernel = shaped ? flash<HEAD, true> : flash<HEAD, false>;
        kernel(query.at, key.at, value.at, out.at, seq, heads, heads / kv_heads, of_query, of_key, of_value, rotated ? cos.at : nullptr, sin.at,
               rotated, window, scale, cap, slope);
    });
    write(out);
}

int main() {
    Storage<u32> head = read<u32>(9);
    auto chosen = head.at[0] == 32 ? attended<32> : head.at[0] == 48 ? attended<48> : attended<80>;
    chosen(head.at);
}
