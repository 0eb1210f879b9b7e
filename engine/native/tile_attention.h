// Attention by tiles of AMX, which multiply 16-bit numbers (bfloat16: 8 bits of a number and its exponent).
//
// A number becomes two of them: the nearest, and the nearest to what that leaves, together 16 bits. A product of two such
// numbers is that of the high halves and the two mixed ones; the low halves' own, 2^-18 of it, is left out. Sums are in
// float32. This is exact to about 2^-17; one bfloat16 alone would be to 2^-9.
//
// Included once, by pass.cpp, where it has set the instructions.

#pragma once

#include <immintrin.h>

#include "attention.h"
#include "model.h"
#include "vectors.h"

namespace {

constexpr int kPairs = 2 * kTile;                             // 16-bit numbers of a tile's row
constexpr size_t kOne = static_cast<size_t>(kTile) * kPairs;  // 16-bit numbers of a tile
constexpr size_t kBoth = 2 * kOne;                            // of two tiles: the high halves, then the low ones

// The bfloat16 that is nearest, as a float32.
inline __m512 upper(__m512 x) {
    const __m512i whole = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
    return _mm512_castsi512_ps(_mm512_and_si512(whole, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}

// The upper 16 bits of 32 numbers.
inline __m512i uppers(__m512 first, __m512 second) {
    alignas(64) static const struct Table {
        int16_t odd[32];
        constexpr Table() : odd() {
            for (int i = 0; i < 32; i++) odd[i] = static_cast<int16_t>(2 * i + 1);
        }
    } table;
    return _mm512_permutex2var_epi16(_mm512_castps_si512(first), _mm512_load_si512(table.odd), _mm512_castps_si512(second));
}

// 32 numbers as bfloat16, and what these leave, as bfloat16 too.
inline void split(__m512 first, __m512 second, __m512i &high, __m512i &low) {
    const __m512 a = upper(first), b = upper(second);
    high = uppers(a, b);
    low = uppers(upper(_mm512_sub_ps(first, a)), upper(_mm512_sub_ps(second, b)));
}

// The same, high halves to `to` and low ones `below` further on.
inline void store_split(__m512 first, __m512 second, uint16_t *to, size_t below) {
    __m512i high, low;
    split(first, second, high, low);
    _mm512_store_si512(to, high);
    _mm512_store_si512(to + below, low);
}

// 16 rows of 16 words: rows become columns.
inline void transpose_words(__m512i *v) {
    __m512i w[16];
    for (int i = 0; i < 16; i += 2) {
        w[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        w[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; k++) {
            v[i + 2 * k] = _mm512_unpacklo_epi64(w[i + k], w[i + 2 + k]);
            v[i + 2 * k + 1] = _mm512_unpackhi_epi64(w[i + k], w[i + 2 + k]);
        }
    for (int k = 0; k < 4; k++) {  // v[4 i + k]: column k of each of four lanes, of rows 4 i to 4 i + 3
        const __m512i a = _mm512_shuffle_i32x4(v[k], v[4 + k], 0x88), b = _mm512_shuffle_i32x4(v[8 + k], v[12 + k], 0x88);
        const __m512i c = _mm512_shuffle_i32x4(v[k], v[4 + k], 0xdd), d = _mm512_shuffle_i32x4(v[8 + k], v[12 + k], 0xdd);
        w[k] = _mm512_shuffle_i32x4(a, b, 0x88);
        w[8 + k] = _mm512_shuffle_i32x4(a, b, 0xdd);
        w[4 + k] = _mm512_shuffle_i32x4(c, d, 0x88);
        w[12 + k] = _mm512_shuffle_i32x4(c, d, 0xdd);
    }
    for (int i = 0; i < 16; i++) v[i] = w[i];
}

// Keys (rows, D) to the tiles of a right-hand side: for 16 keys and 32 channels, 16 rows of two channels of each key.
void pack_keys(const float *from, size_t stride, int rows, int width, uint16_t *to) {
    for (int first = 0; first < rows; first += kTile)
        for (int d = 0; d < width; d += kPairs, to += kBoth) {
            __m512i high[kTile], low[kTile];
            for (int r = 0; r < kTile; r++) {
                const float *row = from + (first + r) * stride + d;
                const bool is_row = first + r < rows;
                split(_mm512_maskz_loadu_ps(is_row ? lanes(width - d) : 0, row),
                      _mm512_maskz_loadu_ps(is_row ? lanes(width - d - 16) : 0, row + 16), high[r], low[r]);
            }
            transpose_words(high);
            transpose_words(low);
            for (int r = 0; r < kTile; r++) {
                _mm512_store_si512(to + r * kPairs, high[r]);
                _mm512_store_si512(to + kOne + r * kPairs, low[r]);
            }
        }
}

// Two bfloat16s as words: the second in the upper 16 bits. Both have nothing below their own.
inline __m512i beside(__m512 even, __m512 odd) {
    return _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(even), 16), _mm512_castps_si512(odd));
}

// Values (rows, D) likewise: for 32 rows and 16 channels, 16 rows of each channel of two rows; tiles of a channel first.
void pack_values(const float *from, size_t stride, int rows, int width, uint16_t *to) {
    for (int d = 0; d < width; d += kTile) {
        const __mmask16 in = lanes(width - d);
        for (int first = 0; first < rows; first += kPairs, to += kBoth)
            for (int r = 0; r < kTile; r++) {
                const int row = first + 2 * r;
                const float *at = from + row * stride + d;
                const __m512 even = _mm512_maskz_loadu_ps(row < rows ? in : 0, at);
                const __m512 odd = _mm512_maskz_loadu_ps(row + 1 < rows ? in : 0, at + stride);
                const __m512 a = upper(even), b = upper(odd);
                _mm512_store_si512(to + r * kPairs, beside(a, b));
                _mm512_store_si512(to + kOne + r * kPairs, beside(upper(_mm512_sub_ps(even, a)), upper(_mm512_sub_ps(odd, b))));
            }
    }
}

// Up to 32 rows of split numbers: high halves and, `below` further on, low ones.
struct Split {
    uint16_t *high;
    int stride;
    size_t below;

    Split(Buffer<uint16_t> &buffer, int stride)
        : high(buffer.at_least(static_cast<size_t>(2 * kBlock) * stride)), stride(stride), below(static_cast<size_t>(kBlock) * stride) {}

    uint16_t *row(int r) const { return high + static_cast<size_t>(r) * stride; }
};

// to (32, 32), or += it: up to 32 rows of `a` from a column on, times so many tiles from `tiles` on, and for columns above
// 16 those `apart` further on.
void multiply_split(const Split &a, int column, int rows, const uint16_t *tiles, size_t apart, int columns, int steps, bool adds,
                    float *to, int to_stride) {
    const long wide = a.stride * 2L, out = to_stride * 4L, tile = kDepth;
    const bool more_rows = rows > kTile, more_columns = columns > kTile;
    float *lower = to + static_cast<size_t>(kTile) * to_stride;
    __asm__ volatile("tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3" ::: "memory");
    if (adds) {
        __asm__ volatile("tileloadd (%0,%1,1), %%tmm0" ::"r"(to), "r"(out) : "memory");
        if (more_columns) __asm__ volatile("tileloadd 64(%0,%1,1), %%tmm1" ::"r"(to), "r"(out) : "memory");
        if (more_rows) __asm__ volatile("tileloadd (%0,%1,1), %%tmm2" ::"r"(lower), "r"(out) : "memory");
        if (more_rows && more_columns) __asm__ volatile("tileloadd 64(%0,%1,1), %%tmm3" ::"r"(lower), "r"(out) : "memory");
    }
    for (int k = 0; k < steps; k++) {
        const uint16_t *high = a.row(0) + column + k * kPairs, *low = high + a.below;
        const uint16_t *high_more = a.row(kTile) + column + k * kPairs, *low_more = high_more + a.below;
        const uint16_t *left = tiles + k * kBoth, *right = left + apart;
        if (more_rows && more_columns) {  // low times high, high times high, high times low: what is loaded serves twice
            __asm__ volatile(
                "tileloadd (%0,%4,1), %%tmm4\n tileloadd (%2,%5,1), %%tmm6\n"
                "tileloadd (%3,%5,1), %%tmm7\n tileloadd (%1,%4,1), %%tmm5\n"
                "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n"
                "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n tdpbf16ps %%tmm7, %%tmm5, %%tmm3"
                ::"r"(low), "r"(low_more), "r"(left), "r"(right), "r"(wide), "r"(tile)
                : "memory");
            __asm__ volatile(
                "tileloadd (%0,%2,1), %%tmm4\n tileloadd (%1,%2,1), %%tmm5\n"
                "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n"
                "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n tdpbf16ps %%tmm7, %%tmm5, %%tmm3"
                ::"r"(high), "r"(high_more), "r"(wide)
                : "memory");
            __asm__ volatile(
                "tileloadd 1024(%0,%2,1), %%tmm6\n tileloadd 1024(%1,%2,1), %%tmm7\n"
                "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n"
                "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n tdpbf16ps %%tmm7, %%tmm5, %%tmm3"
                ::"r"(left), "r"(right), "r"(tile)
                : "memory");
            continue;
        }
        __asm__ volatile(
            "tileloadd (%0,%3,1), %%tmm4\n tileloadd (%1,%3,1), %%tmm5\n"
            "tileloadd (%2,%4,1), %%tmm6\n tileloadd 1024(%2,%4,1), %%tmm7\n"
            "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n tdpbf16ps %%tmm6, %%tmm5, %%tmm0\n tdpbf16ps %%tmm7, %%tmm5, %%tmm0"
            ::"r"(low), "r"(high), "r"(left), "r"(wide), "r"(tile)
            : "memory");
        if (more_rows)
            __asm__ volatile(
                "tileloadd (%0,%2,1), %%tmm4\n tileloadd (%1,%2,1), %%tmm5\n"
                "tdpbf16ps %%tmm6, %%tmm4, %%tmm2\n tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n tdpbf16ps %%tmm7, %%tmm5, %%tmm2"
                ::"r"(low_more), "r"(high_more), "r"(wide)
                : "memory");
        if (more_columns)
            __asm__ volatile(
                "tileloadd (%0,%1,1), %%tmm6\n tileloadd 1024(%0,%1,1), %%tmm7\n"
                "tdpbf16ps %%tmm6, %%tmm4, %%tmm1\n tdpbf16ps %%tmm6, %%tmm5, %%tmm1\n tdpbf16ps %%tmm7, %%tmm5, %%tmm1"
                ::"r"(right), "r"(tile)
                : "memory");
    }
    __asm__ volatile("tilestored %%tmm0, (%0,%1,1)" ::"r"(to), "r"(out) : "memory");
    if (more_columns) __asm__ volatile("tilestored %%tmm1, 64(%0,%1,1)" ::"r"(to), "r"(out) : "memory");
    if (more_rows) __asm__ volatile("tilestored %%tmm2, (%0,%1,1)" ::"r"(lower), "r"(out) : "memory");
    if (more_rows && more_columns) __asm__ volatile("tilestored %%tmm3, 64(%0,%1,1)" ::"r"(lower), "r"(out) : "memory");
}

// How many tiles hold so many numbers.
inline int tiles_for(int count, int each) { return rounded_up(count, each) / each; }

struct Packed {  // the keys and values of a prefix or of a document
    const uint16_t *keys, *values;
    int steps;  // tiles of values under each other

    Packed(const Buffer<uint16_t> &keys, const Buffer<uint16_t> &values, int rows)
        : keys(keys.get()), values(values.get()), steps(tiles_for(rows, kPairs)) {}
};

Packed packed_of(const float *keys, const float *values, size_t stride, int rows, int width, Buffer<uint16_t> &key_tiles,
                 Buffer<uint16_t> &value_tiles) {
    pack_keys(keys, stride, rows, width, key_tiles.at_least(tiles_for(rows, kTile) * tiles_for(width, kPairs) * kBoth));
    pack_values(values, stride, rows, width, value_tiles.at_least(tiles_for(rows, kPairs) * tiles_for(width, kTile) * kBoth));
    return Packed(key_tiles, value_tiles, rows);
}

void pack_prefix(const float *keys, const float *values, int prefix, int width, Scratch &own) {
    packed_of(keys, values, width, prefix, width, own.prefix_key_tiles, own.prefix_value_tiles);
}

// Scores of the keys [begin, end); begin: a multiple of 32.
void score_keys(const Split &queries, int rows, const Packed &packed, int begin, int end, int width, float *scores, int stride) {
    const int depth = tiles_for(width, kPairs);
    for (int column = begin; column < end; column += kPairs) {
        const uint16_t *tiles = packed.keys + static_cast<size_t>(column / kTile) * depth * kBoth;
        multiply_split(queries, 0, rows, tiles, depth * kBoth, end - column, depth, false, scores + column, stride);
    }
}

// read (32, 32), or += it: weights from a column on, times the values' rows [begin, end), in steps of 32, from channel d on.
void read_values(const Split &weights, int column, int rows, const Packed &packed, int begin, int end, int d, int width, bool adds,
                 float *read) {
    const uint16_t *tiles = packed.values + (static_cast<size_t>(d / kTile) * packed.steps + begin) * kBoth;
    multiply_split(weights, column + begin * kPairs, rows, tiles, packed.steps * kBoth, width - d, end - begin, adds, read, kBlock);
}

// Weights of a part of a row's scores, [begin, end) of them seen, as split numbers; added to the sum.
__m512 weigh_split(const float *scores, int begin, int end, int wide, float most, __m512 sum, uint16_t *to,
                   size_t below) {
    const __m512 shift = _mm512_set1_ps(most * kLog2E);
    for (int i = 0; i < wide; i += kPairs) {
        __m512 value[2];
        if (i >= begin && i + kPairs <= end) {
            value[0] = weight_of(_mm512_load_ps(scores + i), shift);
            value[1] = weight_of(_mm512_load_ps(scores + i + 16), shift);
        } else {
            for (int half = 0; half < 2; half++) {
                const __mmask16 in = seen(i + half * 16, begin, end);
                value[half] = _mm512_maskz_mov_ps(in, weight_of(_mm512_maskz_load_ps(in, scores + i + half * 16), shift));
            }
        }
        sum = _mm512_add_ps(sum, _mm512_add_ps(value[0], value[1]));
        store_split(value[0], value[1], to + i, below);
    }
    return sum;
}

// What one group of heads of one document reads, behind a prefix that is packed: rows of `read`.
void attend_by_tiles(const Group &group, Scratch &own, float *read) {
    const int width = group.width;
    const Packed prefix(own.prefix_key_tiles, own.prefix_value_tiles, group.prefix);
    const Packed tokens = packed_of(group.keys(), group.values(), group.line, group.tokens, width, own.key_tiles, own.value_tiles);
    const int start_own = prefix.steps * kPairs, wide = start_own + tokens.steps * kPairs;
    const int stride = wide + 16;  // an odd number of cache lines: else rows would push each other out
    float *scores = own.scores.at_least(static_cast<size_t>(kBlock) * stride);
    const Split queries(own.split_queries, rounded_up(width, kPairs));
    const Split weights(own.split_weights, (wide / kPairs | 1) * kPairs);
    alignas(64) float out[kBlock * kBlock];
    for (int start = 0; start < group.rows; start += kBlock) {
        const int here = std::min(kBlock, group.rows - start);
        for (int r = 0; r < here; r++) {
            const float *query = group.query(start + r);
            for (int d = 0; d < width; d += kPairs)
                store_split(_mm512_maskz_loadu_ps(lanes(width - d), query + d),
                            _mm512_maskz_loadu_ps(lanes(width - d - 16), query + d + 16), queries.row(r) + d, queries.below);
        }
        const int last = group.token(start + here - 1) + 1;  // own keys that the last of these sees
        const int own_end = tiles_for(last, kPairs);
        const Span needed = group.seen(group.token(start));  // none before what the first of these sees
        const int begin = needed.prefix / kPairs, own_begin = needed.own / kPairs;
        score_keys(queries, here, prefix, begin * kPairs, group.prefix, width, scores, stride);
        score_keys(queries, here, tokens, own_begin * kPairs, last, width, scores + start_own, stride);
        float inverse[kBlock];
        for (int r = 0; r < here; r++) {
            const int token = group.token(start + r);
            const Span from = group.seen(token);
            float *row = scores + static_cast<size_t>(r) * stride, *own_row = row + start_own;
            uint16_t *to = weights.row(r);
            const float most = std::max(cap_scores(row, from.prefix, group.prefix, group.cap),
                                        cap_scores(own_row, from.own, token + 1, group.cap));
            __m512 sum = weigh_split(row, from.prefix, group.prefix, start_own, most, _mm512_setzero_ps(), to, weights.below);
            sum = weigh_split(own_row, from.own, token + 1, own_end * kPairs, most, sum, to + start_own, weights.below);
            inverse[r] = 1 / _mm512_reduce_add_ps(sum);
        }
        for (int d = 0; d < width; d += kBlock) {
            read_values(weights, 0, here, prefix, begin, prefix.steps, d, width, false, out);
            read_values(weights, start_own, here, tokens, own_begin, own_end, d, width, true, out);
            for (int r = 0; r < here; r++)
                for (int half = 0; half < kBlock; half += 16)
                    _mm512_mask_storeu_ps(group.place(read, start + r) + d + half, lanes(width - d - half),
                                          _mm512_mul_ps(_mm512_set1_ps(inverse[r]), _mm512_load_ps(out + r * kBlock + half)));
        }
    }
}

}  // namespace
