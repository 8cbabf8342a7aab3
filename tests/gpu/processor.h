// What the GPU's kernels find around them, on a processor: they are run thread after thread, but for the threads of a warp or a block where
// they exchange values, which run at once.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <pthread.h>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__

struct Place { unsigned x, y; };
static thread_local Place blockIdx, blockDim, threadIdx;

static inline float __uint_as_float(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
static inline unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }
#define __expf(x) std::exp((float)(x))
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline float __fdividef(float x, float y) { return x / y; }

// Where the threads of a warp, and of a block, meet.
struct Warp {
    pthread_barrier_t meeting;
    float given[32];
    const unsigned short *rows[32];
    unsigned a[32][4], b[32][2];
};
static Warp warps[4];
static pthread_barrier_t everybody;
static inline Warp &own_warp() { return warps[threadIdx.x / 32]; }
static inline void __syncwarp() { pthread_barrier_wait(&own_warp().meeting); }
static inline void __syncthreads() { pthread_barrier_wait(&everybody); }
static inline float __shfl_xor_sync(unsigned, float x, unsigned apart) {
    Warp &warp = own_warp();
    unsigned lane = threadIdx.x % 32;
    warp.given[lane] = x;
    __syncwarp();
    float other = warp.given[lane ^ apart];
    __syncwarp();
    return other;
}

#include "../../src/model/gpu/numbers.cu"

// Threads that do not wait for one another.
template <typename F> static void launch(u32 threads, u32 rows, F kernel) {
    blockDim = {32, 1};
    for (u32 y = 0; y < rows; ++y)
        for (u32 x = 0; x * blockDim.x < threads; ++x)
            for (u32 thread = 0; thread < blockDim.x; ++thread) {
                blockIdx = {x, y};
                threadIdx = {thread, 0};
                kernel();
            }
}

// Blocks, one after the other.
template <typename F> static void launch_blocks(u32 blocks, u32 threads, F kernel) {
    pthread_barrier_init(&everybody, nullptr, threads);
    for (u32 warp = 0; warp < threads / 32; ++warp) { pthread_barrier_init(&warps[warp].meeting, nullptr, 32); }
    for (u32 block = 0; block < blocks; ++block) {
        std::vector<std::thread> lanes;
        for (u32 thread = 0; thread < threads; ++thread)
            lanes.emplace_back([=] {
                blockDim = {threads, 1};
                blockIdx = {block, 0};
                threadIdx = {thread, 0};
                kernel();
            });
        for (std::thread &lane : lanes) { lane.join(); }
    }
    for (u32 warp = 0; warp < threads / 32; ++warp) { pthread_barrier_destroy(&warps[warp].meeting); }
    pthread_barrier_destroy(&everybody);
}

// Warps, one after the other.
template <typename F> static void launch_warps(u32 number, F kernel) { launch_blocks(number, 32, kernel); }

// Storage that begins at a word's start, as a GPU's does.
template <typename T> struct Storage {
    T *at;
    size_t size;
    explicit Storage(size_t n) : at((T *)std::aligned_alloc(64, (n * sizeof(T) + 64) / 64 * 64)), size(n) { std::memset(at, 0xff, n * sizeof(T)); }
};
template <typename T> static Storage<T> read(size_t n) {
    Storage<T> values(n);
    if (std::fread(values.at, sizeof(T), n, stdin) != n) { std::exit(1); }
    return values;
}
template <typename T> static void write(const Storage<T> &values) { std::fwrite(values.at, sizeof(T), values.size, stdout); }
