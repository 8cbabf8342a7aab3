// Tiles of bf16 numbers between memories and the tensor cores (PTX ISA 7.0, for compute capability 8.0 and above). The threads of a warp do
// each of these together. tests/gpu/processor.h has them in C++.

// A place in the block's memory as the instructions here name it: in bytes.
static __device__ __forceinline__ u32 in_shared(const void *place) {
    u32 address;
    asm("{ .reg .u64 place; cvta.to.shared.u64 place, %1; cvt.u32.u64 %0, place; }" : "=r"(address) : "l"(place));
    return address;
}

// Begins to copy 16 bytes to the block's memory, or zeros where nothing is there.
static __device__ __forceinline__ void copy_word(u32 to, const void *from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" : : "r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}

// Waits for the copies that this thread began.
static __device__ __forceinline__ void copied() { asm volatile("cp.async.wait_all;" : : : "memory"); }

// Four matrices of 8 × 8: lane l names row l % 8 of matrix l / 8, and is given of each, in its order, values 2 (l % 4) and the next of row l / 4.
static __device__ __forceinline__ void matrices(u32 (&to)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(row) : "memory");
}

// The same of each matrix's transpose.
static __device__ __forceinline__ void transposes(u32 (&to)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(row) : "memory");
}

// sum [16, 8] += a [16, 16] · b [16, 8]. Of lane l: sum's values 2 (l % 4) and the next of row l / 4, then of row l / 4 + 8; a's likewise, of
// columns below 8 and then of the others; b's values 2 (l % 4) and the next of column l / 4, of rows below 8 and of the others.
static __device__ __forceinline__ void multiply_add(float (&sum)[4], const u32 (&a)[4], u32 low, u32 high) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(low), "r"(high));
}

// Two numbers in one register, the first in its lower half.
static __device__ __forceinline__ u32 both(float first, float second) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}

static __device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

