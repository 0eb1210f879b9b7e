// The document pass of an int8 export, for x86-64 processors with AVX-512 VNNI and, where there is one, AMX.
//
// It computes what documents.onnx computes (docs/decisions/native-pass.md): 8-bit products whose whole-number sums are
// exact, everything else in float32, but for the products of attention where there is AMX (tile_attention.h). A call
// computes some documents behind one prefix on the calling thread; other threads may call at the same time with documents
// of their own. Every row is summed in an order that depends on nothing but its own document, so neighbours and threads
// move no bit.
//
// Names: T tokens of the call, B documents, P prefix tokens, H hidden, D channels of a head. Matrices are row-major.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define EXPORT extern "C" __attribute__((visibility("default")))

#if defined(__x86_64__) && defined(__linux__) && (defined(__GNUC__) || defined(__clang__))

#include <cmath>
#include <immintrin.h>

#include "model.h"
#include "processor.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,avx2"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,avx2")
#endif

#include "vectors.h"
#include "rows.h"
#include "products.h"
#include "attention.h"
#include "tile_attention.h"

namespace {

// The attention of all documents; is_last: for their last tokens only, a row each.
void attend(const Model &model, const Layer &layer, int index, const Batch &batch, Scratch &own, float *qkv, float *read,
            bool is_last) {
    const Sizes &sizes = model.sizes;
    const int width = sizes.head_dim, half = width / 2, prefix = batch.prefix;
    const size_t line = static_cast<size_t>(sizes.heads + 2 * sizes.kv_heads) * width;
    const float *cosines = batch.cosines[layer.rope], *sines = batch.sines[layer.rope];
    float *row = qkv;
    for (int b = 0; b < batch.documents; b++)
        for (int t = 0; t < batch.lengths[b]; t++, row += line)
            for (int head = 0; head < sizes.heads + sizes.kv_heads; head++) {
                const float *gain = layer.norms[head < sizes.heads ? kQuery : kKey].get();
                float *x = row + static_cast<size_t>(head) * width;
                if (gain) norm(x, width, gain, sizes.epsilon, x);
                rotate(x, cosines + static_cast<size_t>(t) * half, sines + static_cast<size_t>(t) * half, half);
            }
    for (int group = 0; group < sizes.kv_heads; group++) {
        const size_t head = static_cast<size_t>(group) * prefix * width;
        const float *keys = batch.keys[index] + head, *values = batch.values[index] + head;
        if (model.amx)
            pack_prefix(keys, values, prefix, width, own);
        else
            transpose_prefix(keys, prefix, width, own);
        const float *document = qkv;
        float *to = read;
        for (int b = 0; b < batch.documents; b++) {
            const int tokens = static_cast<int>(batch.lengths[b]), first = is_last ? tokens - 1 : 0;
            const Group heads(sizes, layer.window, document, tokens, first, group, prefix);
            if (model.amx)
                attend_by_tiles(heads, own, to);
            else
                attend_by_vectors(heads, values, own, to);
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
        own = Scratch();  // what it holds by now is of documents that cannot be computed
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
