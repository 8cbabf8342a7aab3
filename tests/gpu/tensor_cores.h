// src/model/gpu/tensor_cores.cu for a processor, from the tables of the PTX ISA: "Matrix Fragments for mma.m16n8k16" and "ldmatrix".

// Of one block, larger than any kernel asks for.
extern Pack<bf16, 8> block_memory[];
alignas(16) Pack<bf16, 8> block_memory[7000];

static u32 in_shared(const void *place) { return (u32)((const char *)place - (const char *)block_memory); }
static void copy_word(u32 to, const void *from, bool there) {
    static const char zeros[16] = {};
    std::memcpy((char *)block_memory + to, there ? from : zeros, 16);
}
static void copied() {}

static void loaded(u32 (&to)[4], u32 row, bool across) {
    Warp &warp = own_warp();
    u32 lane = threadIdx.x % 32;
    warp.rows[lane] = (const bf16 *)((const char *)block_memory + row);
    __syncwarp();
    for (u32 i = 0; i < 4; ++i) {
        bf16 pair[2];
        for (u32 n = 0; n < 2; ++n) {
            u32 r = lane / 4, c = lane % 4 * 2 + n;
            pair[n] = across ? warp.rows[i * 8 + c][r] : warp.rows[i * 8 + r][c];
        }
        to[i] = pair[0] | (u32)pair[1] << 16;
    }
    __syncwarp();
}
static void matrices(u32 (&to)[4], u32 row) { loaded(to, row, false); }
static void transposes(u32 (&to)[4], u32 row) { loaded(to, row, true); }

static float half_of(u32 pair, u32 which) { return widen((bf16)(which ? pair >> 16 : pair & 0xffffu)); }
static void multiply_add(float (&sum)[4], const u32 (&a)[4], u32 low, u32 high) {
    Warp &warp = own_warp();
    u32 lane = threadIdx.x % 32;
    for (u32 i = 0; i < 4; ++i) { warp.a[lane][i] = a[i]; }
    warp.b[lane][0] = low;
    warp.b[lane][1] = high;
    __syncwarp();
    for (u32 i = 0; i < 4; ++i) {
        u32 row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (u32 k = 0; k < 16; ++k) {
            float x = half_of(warp.a[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2);
            float y = half_of(warp.b[column * 4 + k % 8 / 2][k / 8], k % 2);
            sum[i] += x * y;
        }
    }
    __syncwarp();
}

static u32 both(float first, float second) {
    bf16 pair[2];
    narrow(first, &pair[0]);
    narrow(second, &pair[1]);
    return pair[0] | (u32)pair[1] << 16;
}
static float power_of_two(float x) { return std::exp2(x); }
