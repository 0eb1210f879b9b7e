// Attention in float32, and what both kinds of attention go by.
//
// Included once, by pass.cpp, where it has set the instructions.

#pragma once

#include <cmath>
#include <immintrin.h>

#include "model.h"
#include "vectors.h"

namespace {

constexpr int kTogether = 12;  // queries that are multiplied with the same keys

// The first key of the prefix and the first of the document's own that a token sees.
struct Span {
    int prefix, own;
};

// The heads of a document that share keys; a row is a query, those of a token beside each other.
struct Group {
    const float *qkv;  // of the document, a line for each token
    int tokens, first, index, prefix, window;  // first: of the tokens that read
    int width, heads, kv_heads;
    float cap;
    int each, rows;
    size_t line;

    Group(const Sizes &sizes, int window, const float *qkv, int tokens, int first, int index, int prefix)
        : qkv(qkv), tokens(tokens), first(first), index(index), prefix(prefix), window(window), width(sizes.head_dim),
          heads(sizes.heads), kv_heads(sizes.kv_heads), cap(sizes.cap), each(heads / kv_heads), rows((tokens - first) * each),
          line(static_cast<size_t>(heads + 2 * kv_heads) * width) {}

    int token(int row) const { return first + row / each; }
    const float *query(int row) const { return qkv + token(row) * line + head(row); }
    const float *keys() const { return qkv + static_cast<size_t>(heads + index) * width; }
    const float *values() const { return qkv + static_cast<size_t>(heads + kv_heads + index) * width; }
    float *place(float *read, int row) const { return read + static_cast<size_t>(row / each) * heads * width + head(row); }
    Span seen(int token) const {
        const int oldest = window ? std::max(0, prefix + token - window + 1) : 0;
        return {std::min(oldest, prefix), std::max(0, oldest - prefix)};
    }

  private:
    size_t head(int row) const { return static_cast<size_t>(index * each + row % each) * width; }
};

// from (rows, D) to (D, wide); columns that no row fills are 0.
void transpose(const float *from, size_t stride, int rows, int width, float *to, int wide) {
    for (int first = 0; first < wide; first += 16)
        for (int d = 0; d < width; d++)
            for (int r = first; r < first + 16; r++) to[static_cast<size_t>(d) * wide + r] = r < rows ? from[r * stride + d] : 0;
}

// Sixteen columns of scores, or twice as many: scores (12, stride) = queries (D / 16, 12, 16) times keys (D, wide).
template <int halves>
inline void multiply_columns(const float *queries, const float *keys, int width, size_t wide, float *scores, size_t stride) {
    __m512 sum[kTogether][halves];
    for (auto &row : sum)
        for (auto &half : row) half = _mm512_setzero_ps();
    for (int first = 0; first < width; first += 16, queries += kTogether * 16)
        for (int d = 0; d < std::min(16, width - first); d++, keys += wide) {
            __m512 key[halves];
            for (int half = 0; half < halves; half++) key[half] = _mm512_loadu_ps(keys + half * 16);
#pragma GCC unroll 12
            for (int r = 0; r < kTogether; r++) {
                const __m512 value = _mm512_set1_ps(queries[r * 16 + d]);
                for (int half = 0; half < halves; half++) sum[r][half] = _mm512_fmadd_ps(value, key[half], sum[r][half]);
            }
        }
    for (int r = 0; r < kTogether; r++)
        for (int half = 0; half < halves; half++) _mm512_storeu_ps(scores + r * stride + half * 16, sum[r][half]);
}

// Scores of the keys before `end`.
void multiply_keys(const float *queries, const float *keys, int width, int wide, int end, float *scores, int stride) {
    for (int column = 0; column < end; column += 32)
        if (column + 16 < end)
            multiply_columns<2>(queries, keys + column, width, wide, scores + column, stride);
        else
            multiply_columns<1>(queries, keys + column, width, wide, scores + column, stride);
}

// Which of the 16 places from `first` on lie in [begin, end).
inline __mmask16 seen(int first, int begin, int end) {
    return first >= begin && first + 16 <= end ? 0xffff : lanes(end - first) & ~lanes(begin - first);
}

// A part of a row's scores, [begin, end) of them seen: capped, and their largest.
float cap_scores(float *scores, int begin, int end, float cap) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    for (int i = begin / 16 * 16; i < end; i += 16) {
        const __mmask16 in = seen(i, begin, end);
        __m512 value = _mm512_maskz_loadu_ps(in, scores + i);
        if (cap > 0) {
            value = _mm512_mul_ps(hyperbolic_tangent(value), _mm512_set1_ps(cap));
            _mm512_mask_storeu_ps(scores + i, in, value);
        }
        most = _mm512_mask_max_ps(most, in, most, value);
    }
    return _mm512_reduce_max_ps(most);
}

// The same part's weights, 0 where nothing is seen up to `wide`; added to the sum.
__m512 weigh(float *scores, int begin, int end, int wide, float most, __m512 sum) {
    const __m512 shift = _mm512_set1_ps(most * kLog2E);
    for (int i = 0; i < wide; i += 16) {
        const __mmask16 in = seen(i, begin, end);
        __m512 value = _mm512_setzero_ps();
        if (in) value = _mm512_maskz_mov_ps(in, weight_of(_mm512_maskz_loadu_ps(in, scores + i), shift));
        sum = _mm512_add_ps(sum, value);
        _mm512_storeu_ps(scores + i, value);
    }
    return sum;
}

// read (12, D) += weights (12, stride) times values (rows, D), rows [begin, end).
void multiply_values(const float *weights, int stride, const float *values, size_t value_stride, int begin, int end, int width,
                     float *read) {
    for (int d = 0; d < width; d += 32) {
        const __mmask16 m0 = lanes(width - d), m1 = lanes(width - d - 16);
        __m512 sum[kTogether][2];
        for (int r = 0; r < kTogether; r++) {
            sum[r][0] = _mm512_maskz_loadu_ps(m0, read + r * width + d);
            sum[r][1] = _mm512_maskz_loadu_ps(m1, read + r * width + d + 16);
        }
        for (int j = begin; j < end; j++) {
            const float *value = values + j * value_stride + d;
            const __m512 v0 = _mm512_maskz_loadu_ps(m0, value), v1 = _mm512_maskz_loadu_ps(m1, value + 16);
#pragma GCC unroll 12
            for (int r = 0; r < kTogether; r++) {
                const __m512 weight = _mm512_set1_ps(weights[static_cast<size_t>(r) * stride + j]);
                sum[r][0] = _mm512_fmadd_ps(weight, v0, sum[r][0]);
                sum[r][1] = _mm512_fmadd_ps(weight, v1, sum[r][1]);
            }
        }
        for (int r = 0; r < kTogether; r++) {
            _mm512_mask_storeu_ps(read + r * width + d, m0, sum[r][0]);
            _mm512_mask_storeu_ps(read + r * width + d + 16, m1, sum[r][1]);
        }
    }
}

void transpose_prefix(const float *keys, int prefix, int width, Scratch &own) {
    const int wide = rounded_up(prefix, 16);
    transpose(keys, width, prefix, width, own.prefix_keys.at_least(static_cast<size_t>(width) * wide + 16), wide);
}

// What one group of heads of one document reads, behind a prefix whose keys are transposed: rows of `read`.
void attend_by_vectors(const Group &group, const float *prefix_values, Scratch &own, float *read) {
    const int width = group.width, prefix = group.prefix;
    const int prefix_wide = rounded_up(prefix, 16), own_wide = rounded_up(group.tokens, 16);
    const int stride = prefix_wide + own_wide + 32;
    const float *prefix_keys = own.prefix_keys.get();
    float *keys = own.keys.at_least(static_cast<size_t>(width) * own_wide);
    transpose(group.keys(), group.line, group.tokens, width, keys, own_wide);
    float *scores = own.scores.at_least(static_cast<size_t>(kTogether) * stride);
    float *queries = own.queries.at_least(static_cast<size_t>(2 * kTogether) * rounded_up(width, 16));
    float *out = queries + static_cast<size_t>(kTogether) * rounded_up(width, 16);
    for (int start = 0; start < group.rows; start += kTogether) {
        const int here = std::min(kTogether, group.rows - start);
        for (int r = 0; r < kTogether; r++) {
            const float *query = group.query(start + std::min(r, here - 1));
            for (int d = 0; d < width; d += 16)
                _mm512_storeu_ps(queries + d * kTogether + r * 16, _mm512_maskz_loadu_ps(lanes(width - d), query + d));
        }
        const int last = group.token(start + here - 1) + 1;  // own keys that the last of these sees
        const Span needed = group.seen(group.token(start));  // none before what the first of these sees
        multiply_keys(queries, prefix_keys, width, prefix_wide, prefix, scores, stride);
        multiply_keys(queries, keys, width, own_wide, last, scores + prefix_wide, stride);
        float inverse[kTogether];
        for (int r = 0; r < kTogether; r++) {
            const int token = group.token(start + std::min(r, here - 1));
            const Span from = group.seen(token);
            float *row = scores + static_cast<size_t>(r) * stride, *own_row = row + prefix_wide;
            const float most = std::max(cap_scores(row, from.prefix, prefix, group.cap),
                                        cap_scores(own_row, from.own, token + 1, group.cap));
            __m512 sum = weigh(row, from.prefix, prefix, prefix_wide, most, _mm512_setzero_ps());
            sum = weigh(own_row, from.own, token + 1, rounded_up(last, 16), most, sum);
            inverse[r] = 1 / _mm512_reduce_add_ps(sum);
        }
        std::memset(out, 0, static_cast<size_t>(kTogether) * width * sizeof(float));
        multiply_values(scores, stride, prefix_values, width, needed.prefix, prefix, width, out);
        multiply_values(scores + prefix_wide, stride, group.values(), group.line, needed.own, last, width, out);
        for (int r = 0; r < here; r++) {
            float *to = group.place(read, start + r);
            for (int d = 0; d < width; d++) to[d] = out[r * width + d] * inverse[r];
        }
    }
}

}  // namespace
