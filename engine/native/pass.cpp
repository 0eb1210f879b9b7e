// An int8 export's own pass, for x86-64 processors with AVX-512 VNNI and, where there is one, AMX.
//
// It computes what prefix.onnx and documents.onnx compute (docs/decisions/native-pass.md): 8-bit products whose whole-number
// sums are exact, everything else in float32, but for the products of attention where there is AMX (tile_attention.h).
// `pairgrade_run` computes some documents behind one prefix on the calling thread; other threads may call at the same time
// with documents of their own. `pairgrade_extend` computes a segment of the prefix by threads of its own. Every row is summed
// in an order that depends on nothing but its own document or segment, so neighbours and threads move no bit.
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
#include "team.h"

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
#include "documents.h"
#include "prefix.h"

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

// weight (in, out); scales (out,); bias (out,) or null; step and zero of documents' input, or by_token: each has its own step.
EXPORT int pairgrade_product(void *handle, int layer, int part, int in, int out, const int8_t *weight, const float *scales,
                             const float *bias, float step, int zero, int by_token) {
    try {
        Product &product = static_cast<Model *>(handle)->layers[layer].products[part];
        product.in = in, product.out = out, product.step = step, product.zero = zero;
        product.by_token = by_token != 0;
        pack(product, weight);
        const int wide = rounded_up(out, kBlock);
        product.scale.make(wide);
        product.bias.make(wide);
        product.plain.make(wide);
        product.has_bias = bias != nullptr;
        for (int n = 0; n < wide; n++) {
            product.scale.get()[n] = n < out ? (by_token ? scales[n] : step * scales[n]) : 0;
            product.bias.get()[n] = n < out && bias ? bias[n] : 0;
            product.plain.get()[n] = n < out ? scales[n] : 0;
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
        const Mode mode(model.amx);
        compute(model, batch, embedded, hidden, seconds, own);
        return kDone;
    } catch (const std::bad_alloc &) {
        own = Scratch();  // what it holds by now is of documents that cannot be computed
        return kNoMemory;
    }
}

// embedded (T, H) of a segment behind P tokens, whose keys and values are (kv_heads, P, D) for each layer; new_keys and
// new_values take (kv_heads, P + T, D).
EXPORT int pairgrade_extend(void *handle, const float *embedded, int tokens, int prefix, const float *const *keys,
                            const float *const *values, float *const *new_keys, float *const *new_values,
                            const float *const *cosines, const float *const *sines, int threads) {
    try {
        const Segment segment{tokens, prefix, keys, values, new_keys, new_values, cosines, sines};
        extend(*static_cast<Model *>(handle), segment, embedded, threads);
        return kDone;
    } catch (const std::bad_alloc &) {
        return kNoMemory;
    }
}

EXPORT void pairgrade_free(void *handle) { delete static_cast<Model *>(handle); }

#else

EXPORT int pairgrade_features() { return 0; }

#endif

EXPORT int pairgrade_version() { return 6; }  // native_pass.py has the same; another one where a call changes

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", nullptr, 0, nullptr, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__native() { return PyModule_Create(&definition); }
