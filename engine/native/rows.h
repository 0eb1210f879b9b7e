// Rows of numbers: rounded, normalized, turned, rotated.
//
// Included once, by pass.cpp, where it has set the instructions.

#pragma once

#include <cmath>
#include <immintrin.h>

#include "model.h"
#include "vectors.h"

namespace {

void round_static(const float *x, int count, float step, int zero, uint8_t *to) {
    const __m512 inverse = _mm512_set1_ps(1 / step);
    const __m512i middle = _mm512_set1_epi32(zero);
    // far below 2^31, beyond which the conversion fails; as a minimum's first operand it leaves NaN as it is
    const __m512 most = _mm512_set1_ps(1e6f);
    for (int i = 0; i < count; i += 16) {
        const __mmask16 in = lanes(count - i);
        __m512i whole = _mm512_cvtps_epi32(_mm512_min_ps(most, _mm512_mul_ps(_mm512_maskz_loadu_ps(in, x + i), inverse)));
        whole = _mm512_max_epi32(_mm512_add_epi32(whole, middle), _mm512_setzero_si512());
        _mm_mask_storeu_epi8(to + i, in, _mm512_cvtusepi32_epi8(whole));
    }
}

float largest(const float *x, int count) {
    __m512 most = _mm512_setzero_ps();
    for (int i = 0; i < count; i += 16) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_maskz_loadu_ps(lanes(count - i), x + i)));
    return _mm512_reduce_max_ps(most);
}

// The size of a whole number of 8 bits of a token whose largest number is this; of 16 bits it is a 256th of that.
inline float token_step(float peak) { return std::max(peak, 1e-9f) * (1.0f / 127); }

// Numbers to 16 bits, their high halves and their low ones; step: that of 8 bits.
void round_halves(const float *x, int count, float step, uint8_t *high, uint8_t *low) {
    const __m512 steps = _mm512_set1_ps(step / 256), inverse = _mm512_set1_ps(256 / step);
    const __m512i middle = _mm512_set1_epi32(128);
    for (int i = 0; i < count; i += 16) {
        const __mmask16 in = lanes(count - i);
        const __m512 value = _mm512_maskz_loadu_ps(in, x + i);
        __m512 quotient = _mm512_mul_ps(value, inverse);  // and what it lacks: that of a division (Markstein 1990)
        quotient = _mm512_fmadd_ps(_mm512_fnmadd_ps(quotient, steps, value), inverse, quotient);
        const __m512i moved = _mm512_add_epi32(_mm512_cvtps_epi32(quotient), middle);  // its lowest byte is low + 128
        _mm_mask_storeu_epi8(high + i, in, _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_srai_epi32(moved, 8), middle)));
        _mm_mask_storeu_epi8(low + i, in, _mm512_cvtepi32_epi8(moved));
    }
}

// Some of a token's numbers, from column `start` on, into its rows of a product's input.
inline void round_part(const Product &product, const Rows &rows, int place, const float *x, int count, float step, int start,
                       uint8_t *to) {
    const size_t stride = static_cast<size_t>(product.depth) * kDepth;
    to += rows.row(place) * stride + start;
    if (rows.is_fine(place))
        round_halves(x, count, step, to, to + stride);
    else
        round_static(x, count, step, product.zero, to);
}

// A token's numbers, rounded to its rows of a product's input; its step goes into row_steps where the product wants that.
void round_token(const Product &product, const Rows &rows, int place, const float *x, uint8_t *to, float *row_steps) {
    float &step = row_steps[rows.tokens[place]];
    if (product.by_token) step = token_step(largest(x, product.in));
    round_part(product, rows, place, x, product.in, product.by_token ? step : product.step, 0, to);
}

void round_rows(const Product &product, const Rows &rows, const float *x, uint8_t *to, float *row_steps) {
    for (int place = 0; place < rows.count(); place++)
        round_token(product, rows, place, x + static_cast<size_t>(rows.tokens[place]) * product.in, to, row_steps);
}

// to = x / root mean square * gain; in place too.
void norm(const float *x, int count, const float *gain, float epsilon, float *to) {
    __m512 sum = _mm512_setzero_ps();
    for (int i = 0; i < count; i += 16) {
        const __m512 value = _mm512_maskz_loadu_ps(lanes(count - i), x + i);
        sum = _mm512_fmadd_ps(value, value, sum);
    }
    const __m512 factor = _mm512_set1_ps(1 / std::sqrt(_mm512_reduce_add_ps(sum) / count + epsilon));
    for (int i = 0; i < count; i += 16) {
        const __mmask16 in = lanes(count - i);
        const __m512 value = _mm512_mul_ps(_mm512_maskz_loadu_ps(in, x + i), factor);
        _mm512_mask_storeu_ps(to + i, in, _mm512_mul_ps(value, _mm512_maskz_loadu_ps(in, gain + i)));
    }
}

// One stage of a turn within 16 numbers: those `half` apart become their sum and their difference.
template <int half>
inline __m512 turned_within(__m512 value) {
    alignas(64) static const struct Table {
        int32_t other[16];
        float sign[16];
        constexpr Table() : other(), sign() {
            for (int i = 0; i < 16; i++) other[i] = i ^ half, sign[i] = i & half ? -1.0f : 1.0f;
        }
    } table;
    return _mm512_fmadd_ps(value, _mm512_load_ps(table.sign), _mm512_permutexvar_ps(_mm512_load_si512(table.other), value));
}

// Up to 16 times 16 numbers, all of a block's stages that lie within them; then times `scale`.
inline void turn_together(float *x, int block, int count, float scale) {
    __m512 v[16];
    const int vectors = rounded_up(count, 16) / 16;
    for (int i = 0; i < vectors; i++) {
        v[i] = _mm512_maskz_loadu_ps(lanes(count - i * 16), x + i * 16);
        if (block > 1) v[i] = turned_within<1>(v[i]);
        if (block > 2) v[i] = turned_within<2>(v[i]);
        if (block > 4) v[i] = turned_within<4>(v[i]);
        if (block > 8) v[i] = turned_within<8>(v[i]);
    }
    for (int half = 1; half < vectors; half *= 2)
        for (int start = 0; start < vectors; start += 2 * half)
            for (int i = start; i < start + half; i++) {
                const __m512 a = v[i], b = v[i + half];
                v[i] = _mm512_add_ps(a, b), v[i + half] = _mm512_sub_ps(a, b);
            }
    const __m512 scales = _mm512_set1_ps(scale);
    for (int i = 0; i < vectors; i++)
        _mm512_mask_storeu_ps(x + i * 16, lanes(count - i * 16), _mm512_mul_ps(v[i], scales));
}

// A block times the orthogonal Hadamard matrix (Sylvester's), in place; block: a power of two.
void turn(float *x, int block) {
    const int together = std::min(block, 256);
    const float scale = 1 / std::sqrt(static_cast<float>(block));
    for (int start = 0; start < block; start += together) turn_together(x + start, block, together, block > 256 ? 1 : scale);
    for (int half = 256; half < block; half *= 2)
        for (int start = 0; start < block; start += 2 * half)
            for (int i = start; i < start + half; i += 16) {
                const __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + half);
                const __m512 scales = _mm512_set1_ps(2 * half == block ? scale : 1);
                _mm512_storeu_ps(x + i, _mm512_mul_ps(_mm512_add_ps(a, b), scales));
                _mm512_storeu_ps(x + i + half, _mm512_mul_ps(_mm512_sub_ps(a, b), scales));
            }
}

// A row, block by block.
void turn_row(float *x, int count, int block) {
    if (block)
        for (int i = 0; i < count; i += block) turn(x + i, block);
}

// Norm of a row as a layer's products take it.
void norm_turned(const Sizes &sizes, const float *x, const float *gain, float *to) {
    norm(x, sizes.hidden, gain, sizes.epsilon, to);
    turn_row(to, sizes.hidden, sizes.norm_turn);
}

// The same of each row, rounded for a product.
void norm_rounded(const Sizes &sizes, const Product &product, const Rows &rows, const float *x, const float *gain, Scratch &own,
                  uint8_t *to) {
    float *row = own.wide.at_least(sizes.hidden), *steps = own.row_steps.get();
    for (int place = 0; place < rows.count(); place++) {
        norm_turned(sizes, x + static_cast<size_t>(rows.tokens[place]) * sizes.hidden, gain, row);
        round_token(product, rows, place, row, to, steps);
    }
}

// The rotation of a head by its token's place: channel i with channel half + i.
void rotate(float *x, const float *cosines, const float *sines, int half) {
    for (int i = 0; i < half; i += 16) {
        const __mmask16 in = lanes(half - i);
        const __m512 c = _mm512_maskz_loadu_ps(in, cosines + i), s = _mm512_maskz_loadu_ps(in, sines + i);
        const __m512 a = _mm512_maskz_loadu_ps(in, x + i), b = _mm512_maskz_loadu_ps(in, x + half + i);
        _mm512_mask_storeu_ps(x + i, in, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(x + half + i, in, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
    }
}

// A token's queries and keys, each normalized where the family does so, and rotated.
void turn_heads(const Sizes &sizes, const Layer &layer, const float *cosines, const float *sines, float *line) {
    const int width = sizes.head_dim;
    for (int head = 0; head < sizes.heads + sizes.kv_heads; head++) {
        const float *gain = layer.norms[head < sizes.heads ? kQuery : kKey].get();
        float *x = line + static_cast<size_t>(head) * width;
        if (gain) norm(x, width, gain, sizes.epsilon, x);
        rotate(x, cosines, sines, width / 2);
    }
}

}  // namespace
