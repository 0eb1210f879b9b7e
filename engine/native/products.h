// Products of 8-bit numbers, whose whole-number sums are exact: by tiles of AMX, or by VNNI.
//
// Included once, by pass.cpp, where it has set the instructions.

#pragma once

#include <immintrin.h>

#include "model.h"
#include "vectors.h"

namespace {

void pack(Product &product, const int8_t *weight) {
    const int wide = rounded_up(product.out, kBlock) / kTile;
    product.depth = rounded_up(product.in, kDepth) / kDepth;
    const size_t size = static_cast<size_t>(wide) * product.depth * kTile * kDepth;
    product.tiles.make(size);
    std::memset(product.tiles.get(), 0, size);
    std::vector<int32_t> sums(wide * kTile, 0);
    for (int k = 0; k < product.in; k++) {
        const int8_t *row = weight + static_cast<size_t>(k) * product.out;
        int8_t *to = product.tiles.get() + static_cast<size_t>(k / kDepth) * kTile * kDepth + k % kDepth / 4 * kDepth + k % 4;
        for (int n = 0; n < product.out; n++) {
            to[static_cast<size_t>(n / kTile) * product.depth * kTile * kDepth + n % kTile * 4] = row[n];
            sums[n] += row[n];
        }
    }
    product.offset.make(wide * kTile);
    product.middle.make(wide * kTile);
    for (int n = 0; n < wide * kTile; n++) product.offset.get()[n] = product.zero * sums[n], product.middle.get()[n] = 128 * sums[n];
}

// 32 rows times 32 columns, by tiles of AMX. Between its steps it does `work` on the sums of before: tiles keep the core
// waiting, and other instructions run meanwhile.
template <typename Work>
void multiply_amx(const Product &product, const uint8_t *a, int rows, int column, int32_t *sums, Work &work) {
    const int stride = product.depth * kDepth;
    const size_t step = static_cast<size_t>(kTile) * kDepth;
    const int8_t *left = product.tiles.get() + static_cast<size_t>(column / kTile) * product.depth * step;
    const int8_t *right = left + product.depth * step;
    const uint8_t *low = a + static_cast<size_t>(kTile) * stride;
    const long wide = stride, tile = kDepth, out = kBlock * sizeof(int32_t);
    const bool both = rows > kTile;
    __asm__ volatile("tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3" ::: "memory");
    for (int k = 0; k < product.depth; k++) {
        __asm__ volatile(
            "tileloadd (%0,%3,1), %%tmm4\n tileloadd (%1,%4,1), %%tmm6\n tileloadd (%2,%4,1), %%tmm7\n"
            "tdpbusd %%tmm6, %%tmm4, %%tmm0\n tdpbusd %%tmm7, %%tmm4, %%tmm1"
            ::"r"(a + k * kDepth), "r"(left + k * step), "r"(right + k * step), "r"(wide), "r"(tile)
            : "memory");
        if (both)
            __asm__ volatile(
                "tileloadd (%0,%1,1), %%tmm5\n"
                "tdpbusd %%tmm6, %%tmm5, %%tmm2\n tdpbusd %%tmm7, %%tmm5, %%tmm3" ::"r"(low + k * kDepth), "r"(wide)
                : "memory");
        work.share(k, product.depth);
    }
    __asm__ volatile("tilestored %%tmm0, (%0,%1,1)\n tilestored %%tmm1, 64(%0,%1,1)" ::"r"(sums), "r"(out) : "memory");
    if (both)
        __asm__ volatile("tilestored %%tmm2, (%0,%1,1)\n tilestored %%tmm3, 64(%0,%1,1)" ::"r"(sums + kTile * kBlock), "r"(out)
                         : "memory");
}

// The same by VNNI, eight rows at a time.
void multiply_vnni(const Product &product, const uint8_t *a, int rows, int column, int32_t *sums) {
    constexpr int kRows = 8;
    const int stride = product.depth * kDepth;
    const size_t step = static_cast<size_t>(kTile) * kDepth;
    const int8_t *left = product.tiles.get() + static_cast<size_t>(column / kTile) * product.depth * step;
    const int8_t *right = left + product.depth * step;
    for (int first = 0; first < rows; first += kRows) {
        const uint8_t *top = a + static_cast<size_t>(first) * stride;
        __m512i sum[kRows][2];
        for (auto &row : sum) row[0] = row[1] = _mm512_setzero_si512();
        for (int k = 0; k < product.depth * kTile; k++) {
            const __m512i b0 = _mm512_load_si512(left + static_cast<size_t>(k) * kDepth);
            const __m512i b1 = _mm512_load_si512(right + static_cast<size_t>(k) * kDepth);
#pragma GCC unroll 8
            for (int r = 0; r < kRows; r++) {
                int32_t four;
                std::memcpy(&four, top + static_cast<size_t>(r) * stride + k * 4, 4);
                const __m512i value = _mm512_set1_epi32(four);
                sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], value, b0);
                sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], value, b1);
            }
        }
        for (int r = 0; r < kRows; r++) {
            _mm512_storeu_si512(sums + (first + r) * kBlock, sum[r][0]);
            _mm512_storeu_si512(sums + (first + r) * kBlock + kTile, sum[r][1]);
        }
    }
}

// 32 rows of `a` times 32 columns of the weight; meanwhile the work on the sums before.
template <typename Work>
inline void multiply(const Model &model, const Product &product, const uint8_t *a, int rows, int column, int32_t *sums, Work &work) {
    if (model.amx) return multiply_amx(product, a, rows, column, sums, work);
    multiply_vnni(product, a, rows, column, sums);
    work.share(0, 1);
}

// Sixteen columns of a token: the sums of both halves, whose rows are one behind the other, to numbers.
inline __m512 joined(const Product &product, const int32_t *high, int column, float step) {
    const __m512i middle = _mm512_load_si512(product.middle.get() + column);
    const __m512 above = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_load_si512(high), middle));
    const __m512 below = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_load_si512(high + kBlock), middle));
    const __m512 whole = _mm512_fmadd_ps(below, _mm512_set1_ps(1.0f / 256), above);
    const __m512 value = _mm512_mul_ps(_mm512_mul_ps(whole, _mm512_load_ps(product.plain.get() + column)), _mm512_set1_ps(step));
    return product.has_bias ? _mm512_add_ps(value, _mm512_load_ps(product.bias.get() + column)) : value;
}

// The same of a token whose numbers have 8 bits.
inline __m512 scaled(const Product &product, const int32_t *sums, int column, float row_step) {
    const __m512i whole = _mm512_sub_epi32(_mm512_loadu_si512(sums), _mm512_load_si512(product.offset.get() + column));
    __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(whole), _mm512_load_ps(product.scale.get() + column));
    if (product.by_token) value = _mm512_mul_ps(value, _mm512_set1_ps(row_step));
    return product.has_bias ? _mm512_add_ps(value, _mm512_load_ps(product.bias.get() + column)) : value;
}

// A block's rows that wait to be worked on, a share of them at a time.
struct Waiting {
    const Rows *rows;
    int here = 0, row = 0, column = 0;

    // work(place, r): the tokens of a share, each once, and the row of the block that its sums are, or begin with.
    template <typename Work>
    inline void each(int index, int count, const Work &work) const {
        const int narrow = rows->narrow - row, pairs = rows->pairs() - row;  // as rows of the block
        const int begin = here * index / count, end = here * (index + 1) / count;
        for (int r = begin; r < std::min(end, narrow); r++) work(row + r, r);
        for (int r = std::max((begin + 1) & ~1, pairs); r < end; r += 2) work(rows->narrow + (r - pairs) / 2, r);
    }
};

// Sixteen columns of a token, of the bits that it has.
inline __m512 numbers(const Product &product, bool is_fine, const int32_t *sums, int column, float row_step) {
    return is_fine ? joined(product, sums, column, row_step) : scaled(product, sums, column, row_step);
}

// Sums become numbers of `to` (tokens, out), or are added to them.
struct Store : Waiting {
    const Product *product;
    const int32_t *sums;
    const float *row_steps;
    float *to;
    bool adds;

    void share(int index, int count) const {
        each(index, count, [&](int place, int r) {
            const int token = rows->tokens[place];
            const float step = row_steps ? row_steps[token] : 1;
            for (int half = 0; half < kBlock; half += kTile) {
                const __mmask16 in = lanes(product->out - column - half);
                float *at = to + static_cast<size_t>(token) * product->out + column + half;
                __m512 value = numbers(*product, rows->is_fine(place), sums + r * kBlock + half, column + half, step);
                if (adds) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(in, at));
                _mm512_mask_storeu_ps(at, in, value);
            }
        });
    }
};

// to (tokens, out) = a times the weight; or to += it.
void product_into(const Model &model, const Product &product, const Rows &rows, const uint8_t *a, const float *row_steps,
                  float *to, bool adds) {
    alignas(64) int32_t sums[2][kBlock * kBlock];
    Store waiting{{&rows}, &product, nullptr, row_steps, to, adds};
    const size_t stride = static_cast<size_t>(product.depth) * kDepth;
    int next = 0;
    for (int column = 0; column < product.out; column += kBlock)
        for (int row = 0; row < rows.all(); row += kBlock, next ^= 1) {
            const int here = std::min(kBlock, rows.all() - row);
            multiply(model, product, a + row * stride, here, column, sums[next], waiting);
            waiting.here = here, waiting.row = row, waiting.column = column, waiting.sums = sums[next];
        }
    waiting.share(0, 1);
}

}  // namespace
