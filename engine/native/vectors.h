// Functions of 16 numbers at a time.
//
// Included once, by documents.cpp, where it has set the instructions.

#pragma once

#include <cmath>
#include <immintrin.h>

namespace {

constexpr float kLog2E = 1.44269504f;

__mmask16 lanes(int count) { return count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1; }

// e to the x, to about one unit in the last place; 0 below -87.
inline __m512 exponential(__m512 x) {
    const __m512 least = _mm512_set1_ps(-87.0f);
    const __mmask16 counts = _mm512_cmp_ps_mask(x, least, _CMP_NLT_UQ);
    x = _mm512_min_ps(_mm512_set1_ps(88.0f), _mm512_max_ps(least, x));  // the second where it is not a number
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(kLog2E)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 y = _mm512_set1_ps(1.0f / 5040);  // the series of e to the r, |r| at most ln(2) / 2
    for (const float factor : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(factor));
    return _mm512_maskz_scalef_ps(counts, y, n);
}

inline __m512 hyperbolic_tangent(__m512 x) {
    const __m512 one = _mm512_set1_ps(1), two = _mm512_set1_ps(2);
    return _mm512_sub_ps(one, _mm512_div_ps(two, _mm512_add_ps(exponential(_mm512_mul_ps(two, x)), one)));
}

inline __m512 activated(__m512 x, bool gelu) {
    const __m512 one = _mm512_set1_ps(1);
    if (!gelu) return _mm512_div_ps(x, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
    const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
    const __m512 inner = _mm512_mul_ps(_mm512_set1_ps(0.7978845608f), _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x));
    return _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(0.5f), x), _mm512_add_ps(one, hyperbolic_tangent(inner)));
}

// e to the (score - most): a power of two, of which `shift` is what most gives.
inline __m512 weight_of(__m512 score, __m512 shift) {
    const __m512 power = _mm512_fmsub_ps(score, _mm512_set1_ps(kLog2E), shift);
    const __m512 rest = _mm512_reduce_ps(power, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // in [0, 1)
    __m512 y = _mm512_set1_ps(0.00187757668f);  // 2 to the rest: the polynomial whose largest relative error is least
    for (const float factor : {0.00898934028f, 0.0558263177f, 0.240153617f, 0.693153073f, 0.999999925f})
        y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(factor));
    return _mm512_scalef_ps(y, power);
}

}  // namespace
