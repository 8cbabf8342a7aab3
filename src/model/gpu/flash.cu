// Causal attention in one pass, without its scores in memory: FlashAttention-2 (Dao 2023, arXiv 2307.08691), in bf16 with sums in f32.
//
// Compiled where it runs, by NVRTC, behind numbers.cu, heads.cu and tensor_cores.cu, for one size of heads, HEAD.

// Queries of one block, of which each warp has 16; keys of one tile; and threads of one block.
#define QUERIES 64
#define KEYS 64
#define THREADS 128
#define WORDS 8
#define LOG2_E 1.44269504f

// Of one block: its queries, then a tile of keys and one of values, in rows of HEAD values and one word, so that the 8 rows of a matrix
// lie in different banks.
extern __shared__ Pack<bf16, WORDS> block_memory[];

// Strides in values, from one window, token and head to the next; a head's own values lie beside one another.
struct Strides { u64 window, token, head; };

// Begins to copy the tile of tokens that begins at `first`; 8 threads copy a row.
template <u32 HEAD> static __device__ __forceinline__ void copy_tile(u32 to, const bf16 *from, u64 stride, u32 first, u32 seq) {
    u32 row = threadIdx.x / 8, column = threadIdx.x % 8 * WORDS;
#pragma unroll
    for (u32 next = 0; next < KEYS; next += THREADS / 8) {
        u32 token = first + next + row;
        const bf16 *own = from + (token < seq ? token : 0) * stride + column;
#pragma unroll
        for (u32 i = 0; i < HEAD; i += 8 * WORDS) {
            if (i + column < HEAD) { copy_word(to + ((next + row) * (HEAD + WORDS) + column + i) * sizeof(bf16), own + i, token < seq); }
        }
    }
}

// One block: the queries of one tile, of one head of one window.
// query: [windows, seq, heads, HEAD], turned here where there are angles cos, sin [positions, rotated / 2], whose pairs are halves apart;
// key, value: [windows, seq, heads / group, HEAD], of which the key is turned already; out: [windows, seq, heads, HEAD] without gaps.
// window: tokens that a query sees, itself among them, 0 for all. cap and slopes [heads] (or null) count where scores are SHAPED.
template <u32 HEAD, bool SHAPED>
static __device__ __forceinline__ void flash(
    const bf16 *query, const bf16 *key, const bf16 *value, bf16 *out, u32 seq, u32 heads, u32 group, Strides of_query, Strides of_key,
    Strides of_value, const bf16 *cos, const bf16 *sin, u32 rotated, u32 window, float scale, float cap, const float *slopes
) {
    constexpr u32 ROW = HEAD + WORDS, ROWS = 16, TURNS = QUERIES * HEAD / WORDS / THREADS;
    bf16 *queries = block_memory->value;
    u32 keys = in_shared(queries + QUERIES * ROW), values = in_shared(queries + (QUERIES + KEYS) * ROW);
    // The blocks of the last queries have the most keys, and begin first.
    u32 tiles = (seq + QUERIES - 1) / QUERIES;
    u32 first = (tiles - 1 - blockIdx.x % tiles) * QUERIES, head = blockIdx.x / tiles % heads;
    u64 own_window = blockIdx.x / tiles / heads;
    query += own_window * of_query.window + head * of_query.head;
    key += own_window * of_key.window + head / group * of_key.head;
    value += own_window * of_value.window + head / group * of_value.head;
    out += (own_window * seq * heads + head) * HEAD;

    // The oldest key that the first query sees, and the youngest that the last one does: tiles go from the youngest back, so that every
    // query has seen itself before it comes to tiles of which it sees nothing.
    u32 end = first + QUERIES < seq ? first + QUERIES : seq;
    u32 oldest = window && first + 1 > window ? (first + 1 - window) / KEYS * KEYS : 0;
    u32 tile = (end - 1) / KEYS * KEYS;
    copy_tile<HEAD>(keys, key, of_key.token, tile, seq);

    // Four words are read before the first is written.
#pragma unroll
    for (u32 next = 0; next < TURNS; next += 4) {
        Pack<bf16, WORDS> own[4], other[4], c[4], s[4];
#pragma unroll
        for (u32 j = 0; j < 4 && next + j < TURNS; j += 1) {
            u32 i = (next + j) * THREADS + threadIdx.x, at = i % (HEAD / WORDS) * WORDS, token = first + i / (HEAD / WORDS);
            token = token < seq ? token : first;
            const bf16 *from = query + token * of_query.token;
            own[j] = *(const Pack<bf16, WORDS> *)(from + at);
            // Without a branch: what is not turned reads itself again.
            u32 half = rotated / 2;
            bool turned = cos && at < rotated, low = at < half;
            u64 angle = (u64)token * half + (low ? at : at - half);
            other[j] = *(const Pack<bf16, WORDS> *)(from + (!turned ? at : low ? at + half : at - half));
            c[j] = *(const Pack<bf16, WORDS> *)(turned ? cos + angle : from + at);
            s[j] = *(const Pack<bf16, WORDS> *)(turned ? sin + angle : from + at);
        }
#pragma unroll
        for (u32 j = 0; j < 4 && next + j < TURNS; j += 1) {
            u32 i = (next + j) * THREADS + threadIdx.x, row = i / (HEAD / WORDS), at = i % (HEAD / WORDS) * WORDS;
            if (cos && at < rotated) { own[j] = turn(own[j], other[j], c[j], s[j], at < rotated / 2, 1.0f); }
            *(Pack<bf16, WORDS> *)(queries + row * ROW + at) = own[j];
        }
    }

    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // The warp's first query, the rows and columns that a lane names for matrices, and its own ones in a product.
    u32 start = first + warp * ROWS;
    u32 row_a = lane % 16, column_a = lane / 16 * 8, row_b = lane % 8 + lane / 16 * 8, column_b = lane / 8 % 2 * 8;
    u32 own_row = lane / 4, own_column = lane % 4 * 2;
    bf16 *own_queries = queries + warp * ROWS * ROW;
    u32 query_matrix = in_shared(own_queries + row_a * ROW + column_a);
    u32 key_matrix = keys + (row_b * ROW + column_b) * sizeof(bf16), value_matrix = values + (row_a * ROW + column_a) * sizeof(bf16);
    float slope = SHAPED && slopes ? slopes[head] : 0.0f;
    // Scores are raised to powers of two.
    float factor = SHAPED ? LOG2_E : scale * LOG2_E;

    float mixed[HEAD / 8][4], largest[2], sums[2];
#pragma unroll
    for (u32 n = 0; n < HEAD / 8; n += 1) {
#pragma unroll
        for (u32 i = 0; i < 4; i += 1) { mixed[n][i] = 0.0f; }
    }
#pragma unroll
    for (u32 i = 0; i < 2; i += 1) {
        largest[i] = __uint_as_float(0xff800000u);
        sums[i] = 0.0f;
    }

    while (true) {
        // The keys have come, and everybody is done with the last values.
        copied();
        __syncthreads();
        copy_tile<HEAD>(values, value, of_value.token, tile, seq);
        // Some query of the warp sees some key of the tile.
        bool sees = tile < start + ROWS && (!window || tile + KEYS - 1 + window > start);
        float scores[KEYS / 8][4];
        if (sees) {
#pragma unroll
            for (u32 n = 0; n < KEYS / 8; n += 1) {
#pragma unroll
                for (u32 i = 0; i < 4; i += 1) { scores[n][i] = 0.0f; }
            }
#pragma unroll
            for (u32 k = 0; k < HEAD; k += 16) {
                u32 a[4];
                matrices(a, query_matrix + k * sizeof(bf16));
#pragma unroll
                for (u32 n = 0; n < KEYS / 8; n += 2) {
                    u32 b[4];
                    matrices(b, key_matrix + (n * 8 * ROW + k) * sizeof(bf16));
                    multiply_add(scores[n], a, b[0], b[1]);
                    multiply_add(scores[n + 1], a, b[2], b[3]);
                }
            }
        }
        // The values have come, and everybody is done with the keys.
        copied();
        __syncthreads();
        bool last = tile == oldest;
        if (!last) { copy_tile<HEAD>(keys, key, of_key.token, tile - KEYS, seq); }
        if (sees) {
            // Whether every query of the warp sees every key of the tile.
            bool whole = tile + KEYS - 1 <= start && (!window || tile + window >= start + ROWS);
#pragma unroll
            for (u32 half = 0; half < 2; half += 1) {
                u32 position = start + half * 8 + own_row;
                float most_here = largest[half];
#pragma unroll
                for (u32 n = 0; n < KEYS / 8; n += 1) {
#pragma unroll
                    for (u32 i = 0; i < 2; i += 1) {
                        float &score = scores[n][half * 2 + i];
                        u32 at = tile + n * 8 + own_column + i;
                        if (SHAPED) { score = shaped(score, scale, cap, slope, position - at); }
                        if (!whole && (at > position || (window && at + window <= position))) { score = __uint_as_float(0xff800000u); }
                        most_here = score > most_here ? score : most_here;
                    }
                }
                most_here = fmaxf(most_here, __shfl_xor_sync(0xffffffffu, most_here, 1));
                most_here = fmaxf(most_here, __shfl_xor_sync(0xffffffffu, most_here, 2));
                float base = most_here * factor, again = power_of_two(largest[half] * factor - base);
                largest[half] = most_here;
                float sum = sums[half] * again;
#pragma unroll
                for (u32 n = 0; n < KEYS / 8; n += 1) {
#pragma unroll
                    for (u32 i = 0; i < 2; i += 1) {
                        float &score = scores[n][half * 2 + i];
                        score = power_of_two(score * factor - base);
                        sum += score;
                    }
                }
                sums[half] = sum;
#pragma unroll
                for (u32 n = 0; n < HEAD / 8; n += 1) {
                    mixed[n][half * 2] *= again;
                    mixed[n][half * 2 + 1] *= again;
                }
            }
#pragma unroll
            for (u32 k = 0; k < KEYS; k += 16) {
                u32 a[4];
#pragma unroll
                for (u32 i = 0; i < 4; i += 1) {
                    const float *pair = &scores[k / 8 + i / 2][i % 2 * 2];
                    a[i] = both(pair[0], pair[1]);
                }
#pragma unroll
                for (u32 n = 0; n < HEAD / 8; n += 2) {
                    u32 b[4];
                    transposes(b, value_matrix + (k * ROW + n * 8) * sizeof(bf16));
                    multiply_add(mixed[n], a, b[0], b[1]);
                    multiply_add(mixed[n + 1], a, b[2], b[3]);
                }
            }
        }
        if (last) { break; }
        tile -= KEYS;
    }

    // Through the place of the warp's own queries, so that whole words are written.
#pragma unroll
    for (u32 half = 0; half < 2; half += 1) {
        float sum = sums[half];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        float inverse = 1.0f / sum;
        bf16 *row = own_queries + (half * 8 + own_row) * ROW + own_column;
#pragma unroll
        for (u32 n = 0; n < HEAD / 8; n += 1) { *(u32 *)(row + n * 8) = both(mixed[n][half * 2] * inverse, mixed[n][half * 2 + 1] * inverse); }
    }
    __syncwarp();
    for (u32 i = lane; i < ROWS * HEAD / WORDS; i += 32) {
        u32 row = i / (HEAD / WORDS), at = i % (HEAD / WORDS) * WORDS, token = start + row;
        if (token < seq) {
            *(Pack<bf16, WORDS> *)(out + (u64)token * heads * HEAD + at) = *(const Pack<bf16, WORDS> *)(own_queries + row * ROW + at);
        }
    }
}

#ifdef HEAD_DIM
// Blocks that share a multiprocessor, whose registers they divide.
#define BLOCKS (HEAD_DIM <= 128 ? 3 : 2)
#define FLASH(NAME, SHAPED)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME(                                                      \
        const bf16 *query, const bf16 *key, const bf16 *value, bf16 *out, u32 seq, u32 heads, u32 group,                     \
        u64 query_window, u64 query_token, u64 query_head, u64 key_window, u64 key_token, u64 key_head,                      \
        u64 value_window, u64 value_token, u64 value_head,                                                                   \
        const bf16 *cos, const bf16 *sin, u32 rotated, u32 window, float scale, float cap, const float *slopes               \
    ) {                                                                                                                      \
        flash<HEAD_DIM, SHAPED>(                                                                                             \
            query, key, value, out, seq, heads, group, {query_window, query_token, query_head},                              \
            {key_window, key_token, key_head}, {value_window, value_token, value_head}, cos, sin, rotated, window, scale,    \
            cap, slopes);                                                                                                    \
    }
FLASH(flash_plain, false)
FLASH(flash_shaped, true)
#endif
