// Functions of 16 numbers at a time.
//
// Included once, by pass.cpp, where it has set the instructions.

#pragma once

#include <cmath>
#include <immintrin.h>

namespace {

constexpr float kLog2E = 1.44269504f;

__mmask16 lanes(int count) { return count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1; }

// Two to a power, to about 2^-22 of it.
inline __m512 two_to(__m512 power) {
    const __m512 rest = _mm512_reduce_ps(power, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // in [0, 1)
    __m512 y = _mm512_set1_ps(0.00187757668f);  // 2 to the rest: the polynomial whose largest relative error is least
    for (const float factor : {0.00898934028f, 0.0558263177f, 0.240153617f, 0.693153073f, 0.999999925f})
        y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(factor));
    return _mm512_scalef_ps(y, power);
}

inline __m512 hyperbolic_tangent(__m512 x) {
    const __m512 one = _mm512_set1_ps(1), two = _mm512_set1_ps(2);
    return _mm512_sub_ps(one, _mm512_div_ps(two, _mm512_add_ps(two_to(_mm512_mul_ps(_mm512_set1_ps(2 * kLog2E), x)), one)));
}

inline __m512 activated(__m512 x, bool gelu) {
    const __m512 one = _mm512_set1_ps(1);
    if (!gelu) return _mm512_div_ps(x, _mm512_add_ps(one, two_to(_mm512_mul_ps(_mm512_set1_ps(-kLog2E), x))));
    const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
    const __m512 inner = _mm512_mul_ps(_mm512_set1_ps(0.7978845608f), _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x));
    return _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(0.5f), x), _mm512_add_ps(one, hyperbolic_tangent(inner)));
}

// e to the (score - most), `shift` being most / ln(2).
inline __m512 weight_of(__m512 score, __m512 shift) { return two_to(_mm512_fmsub_ps(score, _mm512_set1_ps(kLog2E), shift)); }

}  // namespace
