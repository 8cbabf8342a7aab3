// What the GPU's kernels find around them, on a processor: they are run thread after thread, but for the threads of a warp where they
// exchange values, which run at once.
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

struct Place { unsigned x, y; };
static thread_local Place blockIdx, blockDim, threadIdx;

static inline float __uint_as_float(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
static inline unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }
#define __expf(x) std::exp((float)(x))
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline float __fdividef(float x, float y) { return x / y; }

static pthread_barrier_t meeting;
static float given[32];
static inline float __shfl_xor_sync(unsigned, float x, unsigned apart) {
    unsigned lane = threadIdx.x % 32;
    given[lane] = x;
    pthread_barrier_wait(&meeting);
    float other = given[lane ^ apart];
    pthread_barrier_wait(&meeting);
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

// Warps, one after the other.
template <typename F> static void launch_warps(u32 warps, F kernel) {
    pthread_barrier_init(&meeting, nullptr, 32);
    for (u32 warp = 0; warp < warps; ++warp) {
        std::vector<std::thread> lanes;
        for (u32 lane = 0; lane < 32; ++lane)
            lanes.emplace_back([=] {
                blockDim = {32, 1};
                blockIdx = {warp, 0};
                threadIdx = {lane, 0};
                kernel();
            });
        for (std::thread &lane : lanes) { lane.join(); }
    }
    pthread_barrier_destroy(&meeting);
}

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
