// The document pass of an int8 export, for x86-64 processors with AVX-512 VNNI and, where there is one, AMX.
//
// It computes what documents.onnx computes (docs/decisions/native-pass.md): 8-bit products whose whole-number sums are
// exact, everything else in float32. A call computes some documents behind one prefix on the calling thread; other
// threads may call at the same time with documents of their own. Every row is summed in an order that depends on
// nothing but its own document, so neighbours and threads move no bit, and AMX gives the bits of VNNI.
//
// Names: T tokens of the call, B documents, P prefix tokens, H hidden, D channels of a head. Matrices are row-major.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#if defined(__x86_64__) && defined(__linux__) && (defined(__GNUC__) || defined(__clang__))
#define PG_NATIVE 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kVnni = 1, kAmx = 2;                           // what features() tells
constexpr int kDone = 0, kNoMemory = 1;                      // what calls return
enum Part { kQkv, kOutput, kGate, kUp, kDown, kParts };      // the products of a layer
enum Stage { kRounding, kProjecting, kAttending, kReading, kFeeding, kLowering, kStages };  // STAGES of native_pass.py
enum Norm { kAttention, kQuery, kKey, kPostAttention, kMlp, kPostMlp, kNorms };

constexpr int kTile = 16;         // rows and columns of a tile
constexpr int kDepth = 64;        // bytes of a tile's row: so many channels are multiplied by one instruction
constexpr int kBlock = 2 * kTile; // rows and columns of what is computed at a time
constexpr int kTogether = 12;     // queries that are multiplied with the same keys

int rounded_up(int number, int step) { return (number + step - 1) / step * step; }

}  // namespace

#ifdef PG_NATIVE

namespace {

struct Free {
    void operator()(void *block) const { std::free(block); }
};

// Memory that begins on a cache line.
template <typename T>
class Buffer {
  public:
    T *get() const { return block_.get(); }
    void make(size_t count) {
        void *block = nullptr;
        if (posix_memalign(&block, 64, std::max<size_t>(count, 1) * sizeof(T))) throw std::bad_alloc();
        block_.reset(static_cast<T *>(block));
        count_ = count;
    }
    T *at_least(size_t count) {
        if (count > count_) {
            block_.reset();
            count_ = 0;
            make(count + count / 4);
            std::memset(static_cast<void *>(block_.get()), 0, count_ * sizeof(T));
        }
        return block_.get();
    }
    void copy(const T *from, size_t count) {
        make(count);
        std::memcpy(block_.get(), from, count * sizeof(T));
    }

  private:
    std::unique_ptr<T, Free> block_;
    size_t count_ = 0;
};

// A weight in tiles: for 16 columns and 64 channels, 16 rows of 4 channels of each column.
struct Product {
    int in = 0, out = 0, depth = 0;  // depth: tiles of channels
    Buffer<int8_t> tiles;
    Buffer<float> scale, bias;  // of a column; scale: times the input's step, where that is known
    Buffer<int32_t> offset;     // what a column's sum has too much, the zero of the input not being 0
    bool has_bias = false, by_token = false;
    float step = 1;
    int zero = 0;
};

struct Layer {
    Product products[kParts];
    Buffer<float> norms[kNorms];
    int window = 0, rope = 0;  // window 0: everything is seen
};

struct Sizes {
    int32_t layers, hidden, intermediate, heads, kv_heads, head_dim, gelu, turn;  // turn: block of the down input, or 0
    float epsilon, cap, embedding_scale;                                         // cap 0: none
};

struct Model {
    Sizes sizes;
    bool amx;
    std::vector<Layer> layers;
    Buffer<float> final_norm;
};

struct Scratch {  // of a thread, kept from call to call
    Buffer<float> x, qkv, read, act, wide, added, row_steps, scores, queries, keys, prefix_keys;
    Buffer<uint8_t> rounded, inner;
};

struct Batch {
    const int64_t *lengths;
    int documents, tokens, prefix;
    const float *const *keys, *const *values;  // of the prefix, a layer each: (kv_heads, P, D)
    const float *const *cosines, *const *sines;  // of the kinds of rotation: (longest document, D / 2)
};

// Adds the time since the last look to a stage's seconds.
class Clock {
  public:
    explicit Clock(double *seconds) : seconds_(seconds), last_(std::chrono::steady_clock::now()) {}
    void ends(Stage stage) {
        const auto now = std::chrono::steady_clock::now();
        seconds_[stage] += std::chrono::duration<double>(now - last_).count();
        last_ = now;
    }

  private:
    double *seconds_;
    std::chrono::steady_clock::time_point last_;
};

struct alignas(64) TileConfig {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t columns[16] = {};
    uint8_t rows[16] = {};
};

const TileConfig kTiles = [] {
    TileConfig config;
    for (int i = 0; i < 8; i++) config.columns[i] = kDepth, config.rows[i] = kTile;
    return config;
}();

uint64_t enabled_states() {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return static_cast<uint64_t>(high) << 32 | low;
}

int found_features() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0;  // OSXSAVE
    const uint64_t states = enabled_states();
    if ((states & 0xe6) != 0xe6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const bool avx512 = (b >> 16 & 1) && (b >> 17 & 1) && (b >> 30 & 1) && (b >> 31 & 1);  // F, DQ, BW, VL
    if (!avx512 || !(c >> 11 & 1)) return 0;
    const bool tiles = (d >> 24 & 1) && (d >> 25 & 1) && (states >> 17 & 3) == 3;
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM: the kernel gives tiles to who asks
    return kVnni | (tiles && !syscall(SYS_arch_prctl, kRequest, kTileData) ? kAmx : 0);
}

}  // namespace

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,avx2"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,avx2")
#endif

namespace {

__mmask16 lanes(int count) { return count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1; }

// e to the x, to about one unit in the last place; 0 below -87.
inline __m512 exponential(__m512 x) {
    const __m512 least = _mm512_set1_ps(-87.0f);
    const __mmask16 counts = _mm512_cmp_ps_mask(x, least, _CMP_NLT_UQ);
    x = _mm512_min_ps(_mm512_set1_ps(88.0f), _mm512_max_ps(least, x));  // the second where it is not a number
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
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

// ---- 8-bit products

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
    for (int n = 0; n < wide * kTile; n++) product.offset.get()[n] = product.zero * sums[n];
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

// Sixteen columns of one row: whole-number sums to numbers. row_step: of a product by token, else 1.
inline __m512 scaled(const Product &product, const int32_t *sums, int column, float row_step) {
    const __m512i whole = _mm512_sub_epi32(_mm512_loadu_si512(sums), _mm512_load_si512(product.offset.get() + column));
    __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(whole), _mm512_load_ps(product.scale.get() + column));
    if (product.by_token) value = _mm512_mul_ps(value, _mm512_set1_ps(row_step));
    return product.has_bias ? _mm512_add_ps(value, _mm512_load_ps(product.bias.get() + column)) : value;
}

// A block's rows that wait to be worked on, a share of them at a time.
struct Waiting {
    int rows = 0, row = 0, column = 0;

    int begin(int index, int count) const { return rows * index / count; }
};

// Sums become numbers of `to` (rows, out), or are added to them.
struct Store : Waiting {
    const Product *product;
    const int32_t *sums;
    const float *row_steps;
    float *to;
    bool adds;

    void share(int index, int count) const {
        for (int r = begin(index, count); r < begin(index + 1, count); r++)
            for (int half = 0; half < kBlock; half += kTile) {
                const __mmask16 in = lanes(product->out - column - half);
                float *at = to + static_cast<size_t>(row + r) * product->out + column + half;
                __m512 value = scaled(*product, sums + r * kBlock + half, column + half, row_steps ? row_steps[row + r] : 1);
                if (adds) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(in, at));
                _mm512_mask_storeu_ps(at, in, value);
            }
    }
};

// to (rows, out) = a times the weight; or to += it.
void product_into(const Model &model, const Product &product, const uint8_t *a, int rows, const float *row_steps, float *to,
                  bool adds) {
    alignas(64) int32_t sums[2][kBlock * kBlock];
    const size_t stride = static_cast<size_t>(product.depth) * kDepth;
    Store waiting{{}, &product, nullptr, row_steps, to, adds};
    int next = 0;
    for (int column = 0; column < product.out; column += kBlock)
        for (int row = 0; row < rows; row += kBlock, next ^= 1) {
            const int here = std::min(kBlock, rows - row);
            multiply(model, product, a + row * stride, here, column, sums[next], waiting);
            waiting.rows = here, waiting.row = row, waiting.column = column, waiting.sums = sums[next];
        }
    waiting.share(0, 1);
}

// ---- rounding, norms, turns

void round_static(const float *x, int count, float step, int zero, uint8_t *to) {
    const __m512 inverse = _mm512_set1_ps(1 / step);
    const __m512i middle = _mm512_set1_epi32(zero);
    for (int i = 0; i < count; i += 16) {
        const __mmask16 in = lanes(count - i);
        __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(in, x + i), inverse));
        whole = _mm512_max_epi32(_mm512_add_epi32(whole, middle), _mm512_setzero_si512());
        _mm_mask_storeu_epi8(to + i, in, _mm512_cvtusepi32_epi8(whole));
    }
}

float largest(const float *x, int count) {
    __m512 most = _mm512_setzero_ps();
    for (int i = 0; i < count; i += 16) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_maskz_loadu_ps(lanes(count - i), x + i)));
    return _mm512_reduce_max_ps(most);
}

// Round rows to the input of a product; a step for each row goes into row_steps where the product wants that.
void round_rows(const Product &product, const float *x, int rows, uint8_t *to, float *row_steps) {
    const size_t stride = static_cast<size_t>(product.depth) * kDepth;
    for (int r = 0; r < rows; r++) {
        const float *row = x + static_cast<size_t>(r) * product.in;
        if (product.by_token) row_steps[r] = std::max(largest(row, product.in), 1e-9f) * (1.0f / 127);
        round_static(row, product.in, product.by_token ? row_steps[r] : product.step, product.zero, to + r * stride);
    }
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

// Norm of each row, rounded for a product.
void norm_rounded(const Sizes &sizes, const Product &product, const float *x, const float *gain, int rows, Scratch &own,
                  uint8_t *to) {
    float *row = own.wide.at_least(sizes.hidden);
    const size_t stride = static_cast<size_t>(product.depth) * kDepth;
    float *steps = own.row_steps.at_least(rows);
    for (int r = 0; r < rows; r++) {
        norm(x + static_cast<size_t>(r) * sizes.hidden, sizes.hidden, gain, sizes.epsilon, row);
        round_rows(product, row, 1, to + r * stride, steps + r);
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

// Up to 16 times 16 numbers, all of a block's stages that lie within them.
inline void turn_together(float *x, int block, int count) {
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
    for (int i = 0; i < vectors; i++) _mm512_mask_storeu_ps(x + i * 16, lanes(count - i * 16), v[i]);
}

// A block times the orthogonal Hadamard matrix (Sylvester's), in place; block: a power of two.
void turn(float *x, int block) {
    const int together = std::min(block, 256);
    for (int start = 0; start < block; start += together) turn_together(x + start, block, together);
    for (int half = 256; half < block; half *= 2)
        for (int start = 0; start < block; start += 2 * half)
            for (int i = start; i < start + half; i += 16) {
                const __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + half);
                _mm512_storeu_ps(x + i, _mm512_add_ps(a, b));
                _mm512_storeu_ps(x + i + half, _mm512_sub_ps(a, b));
            }
    const float scale = 1 / std::sqrt(static_cast<float>(block));
    for (int i = 0; i < block; i++) x[i] *= scale;
}

// ---- attention

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

// The same part's exponentials, 0 where nothing is seen up to `wide`; added to the sum.
__m512 exponentials(float *scores, int begin, int end, int wide, float most, __m512 sum) {
    const __m512 shift = _mm512_set1_ps(most);
    for (int i = 0; i < wide; i += 16) {
        const __mmask16 in = seen(i, begin, end);
        const __m512 value = in ? _mm512_maskz_mov_ps(in, exponential(_mm512_sub_ps(_mm512_maskz_loadu_ps(in, scores + i), shift)))
                                : _mm512_setzero_ps();
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

void rotate(float *x, const float *cosines, const float *sines, int half) {
    for (int i = 0; i < half; i += 16) {
        const __mmask16 in = lanes(half - i);
        const __m512 c = _mm512_maskz_loadu_ps(in, cosines + i), s = _mm512_maskz_loadu_ps(in, sines + i);
        const __m512 a = _mm512_maskz_loadu_ps(in, x + i), b = _mm512_maskz_loadu_ps(in, x + half + i);
        _mm512_mask_storeu_ps(x + i, in, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(x + half + i, in, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
    }
}

// What one group of heads of one document reads: rows of `read` for its queries [first, tokens).
void attend_group(const Sizes &sizes, const Layer &layer, const float *qkv, int tokens, int first, int group, int prefix,
                  const float *prefix_keys, const float *prefix_values, Scratch &own, float *read) {
    const int width = sizes.head_dim, each = sizes.heads / sizes.kv_heads;
    const size_t line = static_cast<size_t>(sizes.heads + 2 * sizes.kv_heads) * width;
    const int prefix_wide = rounded_up(prefix, 16), own_wide = rounded_up(tokens, 16);
    const int stride = prefix_wide + own_wide + 32;
    float *keys = own.keys.at_least(static_cast<size_t>(width) * own_wide);
    transpose(qkv + static_cast<size_t>(sizes.heads + group) * width, line, tokens, width, keys, own_wide);
    const float *values = qkv + static_cast<size_t>(sizes.heads + sizes.kv_heads + group) * width;
    float *scores = own.scores.at_least(static_cast<size_t>(kTogether) * stride);
    float *queries = own.queries.at_least(static_cast<size_t>(2 * kTogether) * rounded_up(width, 16));
    float *out = queries + static_cast<size_t>(kTogether) * rounded_up(width, 16);
    const int rows = (tokens - first) * each;
    for (int start = 0; start < rows; start += kTogether) {
        const int here = std::min(kTogether, rows - start);
        for (int r = 0; r < kTogether; r++) {
            const int row = start + std::min(r, here - 1), token = first + row / each, head = group * each + row % each;
            const float *query = qkv + token * line + static_cast<size_t>(head) * width;
            for (int d = 0; d < width; d += 16)
                _mm512_storeu_ps(queries + d * kTogether + r * 16, _mm512_maskz_loadu_ps(lanes(width - d), query + d));
        }
        const int last = first + (start + here - 1) / each + 1;  // own keys that the last of these sees
        const int earliest = first + start / each;
        // of the prefix and of the own keys, what the first of these sees last: none earlier is needed
        const int oldest = layer.window ? std::max(0, prefix + earliest - layer.window + 1) : 0;
        const int prefix_begin = std::min(oldest, prefix), own_begin = std::max(0, oldest - prefix);
        multiply_keys(queries, prefix_keys, width, prefix_wide, prefix, scores, stride);
        multiply_keys(queries, keys, width, own_wide, last, scores + prefix_wide, stride);
        float inverse[kTogether];
        for (int r = 0; r < kTogether; r++) {
            const int token = first + (start + std::min(r, here - 1)) / each;
            const int begin = layer.window ? std::max(0, prefix + token - layer.window + 1) : 0;
            const int in_prefix = std::min(begin, prefix), in_own = std::max(0, begin - prefix);
            float *row = scores + static_cast<size_t>(r) * stride, *own_row = row + prefix_wide;
            const float most = std::max(cap_scores(row, in_prefix, prefix, sizes.cap),
                                        cap_scores(own_row, in_own, token + 1, sizes.cap));
            __m512 sum = exponentials(row, in_prefix, prefix, prefix_wide, most, _mm512_setzero_ps());
            sum = exponentials(own_row, in_own, token + 1, rounded_up(last, 16), most, sum);
            inverse[r] = 1 / _mm512_reduce_add_ps(sum);
        }
        std::memset(out, 0, static_cast<size_t>(kTogether) * width * sizeof(float));
        multiply_values(scores, stride, prefix_values, width, prefix_begin, prefix, width, out);
        multiply_values(scores + prefix_wide, stride, values, line, own_begin, last, width, out);
        for (int r = 0; r < here; r++) {
            const int row = start + r;
            float *to = read + static_cast<size_t>(row / each) * sizes.heads * width +
                        static_cast<size_t>(group * each + row % each) * width;
            for (int d = 0; d < width; d++) to[d] = out[r * width + d] * inverse[r];
        }
    }
}

// The attention of all documents; is_last: for their last tokens only, a row each.
void attend(const Model &model, const Layer &layer, int index, const Batch &batch, Scratch &own, float *qkv, float *read,
            bool is_last) {
    const Sizes &sizes = model.sizes;
    const int width = sizes.head_dim, wide = rounded_up(batch.prefix, 16);
    const size_t line = static_cast<size_t>(sizes.heads + 2 * sizes.kv_heads) * width;
    const float *cosines = batch.cosines[layer.rope], *sines = batch.sines[layer.rope];
    float *row = qkv;
    for (int b = 0; b < batch.documents; b++)
        for (int t = 0; t < batch.lengths[b]; t++, row += line)
            for (int head = 0; head < sizes.heads + sizes.kv_heads; head++) {
                const float *gain = layer.norms[head < sizes.heads ? kQuery : kKey].get();
                float *x = row + static_cast<size_t>(head) * width;
                if (gain) norm(x, width, gain, sizes.epsilon, x);
                rotate(x, cosines + static_cast<size_t>(t) * (width / 2), sines + static_cast<size_t>(t) * (width / 2), width / 2);
            }
    float *prefix_keys = own.prefix_keys.at_least(static_cast<size_t>(width) * wide + 16);
    for (int group = 0; group < sizes.kv_heads; group++) {
        const size_t head = static_cast<size_t>(group) * batch.prefix * width;
        transpose(batch.keys[index] + head, width, batch.prefix, width, prefix_keys, wide);
        const float *document = qkv;
        float *to = read;
        for (int b = 0; b < batch.documents; b++) {
            const int tokens = static_cast<int>(batch.lengths[b]), first = is_last ? tokens - 1 : 0;
            attend_group(sizes, layer, document, tokens, first, group, batch.prefix, prefix_keys, batch.values[index] + head, own, to);
            document += tokens * line;
            to += static_cast<size_t>(tokens - first) * sizes.heads * width;
        }
    }
}

// ---- layers

// x += what a product gives, normalized before where the family does so.
void add_product(const Model &model, const Product &product, const uint8_t *a, int rows, const float *post_norm, Scratch &own,
                 float *x) {
    const float *steps = product.by_token ? own.row_steps.get() : nullptr;
    if (!post_norm) return product_into(model, product, a, rows, steps, x, true);
    const int hidden = model.sizes.hidden;
    float *added = own.added.at_least(static_cast<size_t>(rows) * hidden);
    product_into(model, product, a, rows, steps, added, false);
    for (int r = 0; r < rows; r++) {
        float *row = added + static_cast<size_t>(r) * hidden, *to = x + static_cast<size_t>(r) * hidden;
        norm(row, hidden, post_norm, model.sizes.epsilon, row);
        for (int i = 0; i < hidden; i++) to[i] += row[i];
    }
}

// Sums of gate and up become activation(gate) * up of `act`, columns from `start` on.
struct Gated : Waiting {
    const Product *gate, *up;
    const int32_t *gates, *ups;
    const float *row_steps;
    float *act;
    int start, wide, stride;
    bool gelu;
    int half_done = 0;  // shares are of one half of the rows, then of the other

    void share(int index, int count) const {
        const int offset = half_done * count;
        for (int r = begin(offset + index, 2 * count); r < begin(offset + index + 1, 2 * count); r++)
            for (int half = 0; half < kBlock; half += kTile) {
                const float step = row_steps ? row_steps[row + r] : 1;
                const __m512 g = scaled(*gate, gates + r * kBlock + half, column + half, step);
                const __m512 u = scaled(*up, ups + r * kBlock + half, column + half, step);
                _mm512_mask_storeu_ps(act + static_cast<size_t>(row + r) * stride + column - start + half,
                                      lanes(start + wide - column - half), _mm512_mul_ps(activated(g, gelu), u));
            }
    }
};

// The input of the down product: activation(gate) * up, turned, rounded.
void feed(const Model &model, const Layer &layer, const uint8_t *a, int rows, Scratch &own, uint8_t *to) {
    const Sizes &sizes = model.sizes;
    const Product &gate = layer.products[kGate], &up = layer.products[kUp], &down = layer.products[kDown];
    const size_t stride = static_cast<size_t>(gate.depth) * kDepth, down_stride = static_cast<size_t>(down.depth) * kDepth;
    const int chunk = down.by_token ? sizes.intermediate : std::min(sizes.intermediate, std::max(sizes.turn, 512));
    float *act = own.act.at_least(static_cast<size_t>(rows) * chunk + 16);
    const float *steps = gate.by_token ? own.row_steps.get() : nullptr;
    alignas(64) int32_t gates[2][kBlock * kBlock], ups[2][kBlock * kBlock];
    for (int start = 0; start < sizes.intermediate; start += chunk) {
        const int wide = std::min(chunk, sizes.intermediate - start);
        Gated waiting{{}, &gate, &up, nullptr, nullptr, steps, act, start, wide, chunk, sizes.gelu != 0};
        int next = 0;
        for (int column = start; column < start + wide; column += kBlock)
            for (int row = 0; row < rows; row += kBlock, next ^= 1) {
                const int here = std::min(kBlock, rows - row);
                waiting.half_done = 0;
                multiply(model, gate, a + row * stride, here, column, gates[next], waiting);
                waiting.half_done = 1;
                multiply(model, up, a + row * stride, here, column, ups[next], waiting);
                waiting.rows = here, waiting.row = row, waiting.column = column;
                waiting.gates = gates[next], waiting.ups = ups[next];
            }
        waiting.half_done = 0;
        waiting.share(0, 1);
        waiting.half_done = 1;
        waiting.share(0, 1);
        for (int r = 0; r < rows; r++) {
            float *row = act + static_cast<size_t>(r) * chunk;
            if (sizes.turn)
                for (int i = 0; i < wide; i += sizes.turn) turn(row + i, sizes.turn);
            if (!down.by_token) round_static(row, wide, down.step, down.zero, to + r * down_stride + start);
        }
    }
    if (down.by_token) round_rows(down, act, rows, to, own.row_steps.at_least(rows));
}

void compute(const Model &model, const Batch &batch, const float *embedded, float *hidden, double *seconds, Scratch &own) {
    Clock clock(seconds);
    const Sizes &sizes = model.sizes;
    int rows = batch.tokens;
    const size_t all = rounded_up(rows, kBlock);
    const int read_wide = sizes.heads * sizes.head_dim;
    float *x = own.x.at_least(static_cast<size_t>(rows) * sizes.hidden);
    for (size_t i = 0; i < static_cast<size_t>(rows) * sizes.hidden; i++) x[i] = embedded[i] * sizes.embedding_scale;
    float *qkv = own.qkv.at_least(static_cast<size_t>(rows) * (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim + 32);
    float *read = own.read.at_least(static_cast<size_t>(rows) * read_wide);
    uint8_t *rounded = own.rounded.at_least(all * rounded_up(std::max(sizes.hidden, read_wide), kDepth));
    uint8_t *inner = own.inner.at_least(all * rounded_up(sizes.intermediate, kDepth));
    own.row_steps.at_least(rows);
    for (int index = 0; index < sizes.layers; index++) {
        const Layer &layer = model.layers[index];
        const Product *products = layer.products;
        const bool is_last = index == sizes.layers - 1;
        norm_rounded(sizes, products[kQkv], x, layer.norms[kAttention].get(), rows, own, rounded);
        clock.ends(kRounding);
        product_into(model, products[kQkv], rounded, rows, products[kQkv].by_token ? own.row_steps.get() : nullptr, qkv, false);
        clock.ends(kProjecting);
        attend(model, layer, index, batch, own, qkv, read, is_last);
        clock.ends(kAttending);
        if (is_last) {  // behind the last attention only last tokens go on
            rows = batch.documents;
            int64_t place = -1;
            for (int b = 0; b < rows; b++) {
                place += batch.lengths[b];
                std::memmove(x + static_cast<size_t>(b) * sizes.hidden, x + place * sizes.hidden, sizes.hidden * sizeof(float));
            }
        }
        round_rows(products[kOutput], read, rows, rounded, own.row_steps.get());
        clock.ends(kRounding);
        add_product(model, products[kOutput], rounded, rows, layer.norms[kPostAttention].get(), own, x);
        clock.ends(kReading);
        norm_rounded(sizes, products[kGate], x, layer.norms[kMlp].get(), rows, own, rounded);
        clock.ends(kRounding);
        feed(model, layer, rounded, rows, own, inner);
        clock.ends(kFeeding);
        add_product(model, products[kDown], inner, rows, layer.norms[kPostMlp].get(), own, x);
        clock.ends(kLowering);
    }
    for (int b = 0; b < rows; b++)
        norm(x + static_cast<size_t>(b) * sizes.hidden, sizes.hidden, model.final_norm.get(), sizes.epsilon,
             hidden + static_cast<size_t>(b) * sizes.hidden);
    clock.ends(kRounding);
}

}  // namespace

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

EXPORT int pairgrade_features() { return found_features(); }

EXPORT void *pairgrade_new(const Sizes *sizes, int amx) {
    try {
        auto model = std::make_unique<Model>();
        model->sizes = *sizes;
        model->amx = amx != 0;
        model->layers.resize(sizes->layers);
        return model.release();
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

// weight (in, out); scales (out,); bias (out,) or null; step and zero of the input, or by_token.
EXPORT int pairgrade_product(void *handle, int layer, int part, int in, int out, const int8_t *weight, const float *scales,
                             const float *bias, float step, int zero, int by_token) {
    try {
        Product &product = static_cast<Model *>(handle)->layers[layer].products[part];
        product.in = in, product.out = out, product.step = step, product.zero = zero, product.by_token = by_token != 0;
        pack(product, weight);
        const int wide = rounded_up(out, kBlock);
        product.scale.make(wide);
        product.bias.make(wide);
        product.has_bias = bias != nullptr;
        for (int n = 0; n < wide; n++) {
            product.scale.get()[n] = n < out ? (by_token ? scales[n] : step * scales[n]) : 0;
            product.bias.get()[n] = n < out && bias ? bias[n] : 0;
        }
        return kDone;
    } catch (const std::bad_alloc &) {
        return kNoMemory;
    }
}

// The gain of a norm; layer -1: of the final one.
EXPORT int pairgrade_norm(void *handle, int layer, int norm, int size, const float *gain) {
    try {
        auto *model = static_cast<Model *>(handle);
        (layer < 0 ? model->final_norm : model->layers[layer].norms[norm]).copy(gain, size);
        return kDone;
    } catch (const std::bad_alloc &) {
        return kNoMemory;
    }
}

EXPORT int pairgrade_layer(void *handle, int layer, int window, int rope) {
    Layer &own = static_cast<Model *>(handle)->layers[layer];
    own.window = window, own.rope = rope;
    return kDone;
}

// embedded (T, H); hidden (B, H) takes the normalized hidden state of each document's last token; seconds (kStages) take
// what each stage took, added to what they hold.
EXPORT int pairgrade_run(void *handle, const float *embedded, const int64_t *lengths, int documents, int prefix,
                         const float *const *keys, const float *const *values, const float *const *cosines,
                         const float *const *sines, float *hidden, double *seconds) {
    static thread_local Scratch own;
    const Model &model = *static_cast<Model *>(handle);
    try {
        Batch batch{lengths, documents, 0, prefix, keys, values, cosines, sines};
        for (int b = 0; b < documents; b++) batch.tokens += static_cast<int>(lengths[b]);
        const unsigned before = _mm_getcsr();
        _mm_setcsr(before | 0x8040);  // denormal numbers are zero
        if (model.amx) __asm__ volatile("ldtilecfg %0" ::"m"(kTiles) : "memory");
        try {
            compute(model, batch, embedded, hidden, seconds, own);
        } catch (...) {
            if (model.amx) __asm__ volatile("tilerelease" ::: "memory");
            _mm_setcsr(before);
            throw;
        }
        if (model.amx) __asm__ volatile("tilerelease" ::: "memory");
        _mm_setcsr(before);
        return kDone;
    } catch (const std::bad_alloc &) {
        return kNoMemory;
    }
}

EXPORT void pairgrade_free(void *handle) { delete static_cast<Model *>(handle); }

#else

EXPORT int pairgrade_features() { return 0; }

#endif

EXPORT int pairgrade_version() { return 2; }  // native_pass.py has the same; another one where a call changes

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", nullptr, 0, nullptr, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__native() { return PyModule_Create(&definition); }
