// What is asked of two products by different algorithms.
//
// Compiled where it runs, by NVRTC, behind numbers.cu, as activation.cu is.

// Sets `found` where words of a and b differ; a thread compares one word in `threads`.
extern "C" __global__ void differing(const Pack<u32, 4> *a, const Pack<u32, 4> *b, u64 words, u64 threads, u32 *found) {
    u64 number = this_thread();
    if (number >= threads) { return; }
    bool same = true;
    for (u64 i = number; i < words; i += threads) {
        Pack<u32, 4> x = a[i], y = b[i];
#pragma unroll
        for (u32 n = 0; n < 4; n += 1) { same = same && x.value[n] == y.value[n]; }
    }
    if (!same) { *found = 1; }
}
