// A segment of the prefix behind the segments before it: what prefix.onnx computes, by several threads together.
//
// Weights have 8 bits, activations 16, with a step for each token (Product in model.h says how), whatever documents have.
//
// Included once, by pass.cpp, where it has set the instructions.

#pragma once

#include <cmath>
#include <immintrin.h>

#include "attention.h"
#include "model.h"
#include "products.h"
#include "rows.h"
#include "team.h"
#include "tile_attention.h"
#include "vectors.h"

namespace {

constexpr int kReaders = 32;  // tokens whose attention is one piece of work, so that no bit depends on the threads

// The steps of a layer: each is done before the next is begun.
enum Step { kNormed, kProjected, kPlaced, kAttended, kRead, kAdded, kNormedAgain, kGated, kTurned, kLowered, kSteps };

struct Segment {
    int tokens, prefix;
    const float *const *keys, *const *values;  // of what is before it, a layer each: (kv_heads, P, D)
    float *const *new_keys, *const *new_values;  // (kv_heads, P + T, D)
    const float *const *cosines, *const *sines;  // of the kinds of rotation: (T, D / 2)
};

struct Halves {  // of the input of a product, a token's low ones behind its high ones
    Buffer<uint8_t> rows;
    Buffer<float> steps;  // of a token

    void make(int tokens, int channels) {
        rows.at_least(static_cast<size_t>(rounded_up(2 * tokens, kBlock)) * rounded_up(channels, kDepth));
        steps.at_least(tokens);
    }

    // One token's numbers, rounded to 16 bits.
    void take(const Product &product, int token, const float *x) {
        const float step = token_step(largest(x, product.in));
        steps.get()[token] = step;
        const size_t wide = static_cast<size_t>(product.depth) * kDepth;
        uint8_t *high = rows.get() + 2 * static_cast<size_t>(token) * wide;
        round_halves(x, product.in, step, high, high + wide);
    }
};

struct Nothing {  // to do while tiles multiply
    void share(int, int) const {}
};

// 32 columns of a product for all tokens: store(token, column, numbers) takes 16 of them at a time.
template <typename Store>
void multiply_halves(const Model &model, const Product &product, const Halves &halves, int tokens, int column, const Store &store) {
    alignas(64) int32_t sums[kBlock * kBlock];
    Nothing nothing;
    for (int first = 0; first < tokens; first += kTile) {
        const uint8_t *rows = halves.rows.get() + static_cast<size_t>(first) * 2 * product.depth * kDepth;
        const int here = std::min(tokens - first, kTile);
        multiply(model, product, rows, 2 * here, column, sums, nothing);
        for (int t = first; t < first + here; t++)
            for (int half = 0; half < kBlock; half += kTile)
                store(t, column + half,
                      joined(product, sums + 2 * (t - first) * kBlock + half, column + half, halves.steps.get()[t]));
    }
}

struct Shared {  // what the threads of a segment work on together
    Buffer<float> x, qkv, read, added, act;
    Halves halves;
};

// x += what a product gave, normalized before, where the family does so; then x normalized, for the next product.
void settle(const Sizes &sizes, const float *post_norm, const float *gain, const Product &next, int token, Shared &all, float *row) {
    const int hidden = sizes.hidden;
    float *x = all.x.get() + static_cast<size_t>(token) * hidden;
    if (post_norm) {
        norm(all.added.get() + static_cast<size_t>(token) * hidden, hidden, post_norm, sizes.epsilon, row);
        for (int i = 0; i < hidden; i++) x[i] += row[i];
    }
    norm_turned(sizes, x, gain, row);
    all.halves.take(next, token, row);
}

// A token's queries and keys turned to its place; its keys and values behind those that were there.
void place_token(const Model &model, const Segment &segment, int index, int token, float *line) {
    const Sizes &sizes = model.sizes;
    const Layer &layer = model.layers[index];
    const size_t width = sizes.head_dim, half = width / 2, total = segment.prefix + segment.tokens;
    turn_heads(sizes, layer, segment.cosines[layer.rope] + token * half, segment.sines[layer.rope] + token * half, line);
    for (int group = 0; group < sizes.kv_heads; group++) {
        const size_t to = (group * total + segment.prefix + token) * width;
        std::memcpy(segment.new_keys[index] + to, line + (sizes.heads + group) * width, width * sizeof(float));
        std::memcpy(segment.new_values[index] + to, line + (sizes.heads + sizes.kv_heads + group) * width, width * sizeof(float));
    }
}

void keep_group(const Segment &segment, int index, int group, int width) {
    const size_t old = static_cast<size_t>(segment.prefix) * width, total = old + static_cast<size_t>(segment.tokens) * width;
    std::memcpy(segment.new_keys[index] + group * total, segment.keys[index] + group * old, old * sizeof(float));
    std::memcpy(segment.new_values[index] + group * total, segment.values[index] + group * old, old * sizeof(float));
}

// What a group of heads reads, for up to 32 tokens.
void attend_piece(const Model &model, const Segment &segment, int index, int piece, Shared &all, Scratch &own) {
    const Sizes &sizes = model.sizes;
    const int width = sizes.head_dim, group = piece % sizes.kv_heads, first = piece / sizes.kv_heads * kReaders;
    const int end = std::min(segment.tokens, first + kReaders);
    const size_t head = static_cast<size_t>(group) * segment.prefix * width;
    const float *keys = segment.keys[index] + head, *values = segment.values[index] + head;
    const Group heads(sizes, model.layers[index].window, all.qkv.get(), end, first, group, segment.prefix);
    float *to = all.read.get() + static_cast<size_t>(first) * sizes.heads * width;
    if (model.amx) {
        pack_prefix(keys, values, segment.prefix, width, own);
        attend_by_tiles(heads, own, to);
    } else {
        transpose_prefix(keys, segment.prefix, width, own);
        attend_by_vectors(heads, values, own, to);
    }
}

// A layer, by one of the threads.
void extend_layer(const Model &model, const Segment &segment, int index, Shared &all, Team &team, Scratch &own) {
    const Sizes &sizes = model.sizes;
    const Layer &layer = model.layers[index];
    const Product *products = layer.products;
    const int tokens = segment.tokens, width = sizes.head_dim;
    const size_t line = static_cast<size_t>(sizes.heads + 2 * sizes.kv_heads) * width;
    float *row = own.wide.at_least(sizes.hidden);
    const auto share = [&](Step step, int pieces, const auto &piece) { team.share(index * kSteps + step, pieces, piece); };
    const auto share_columns = [&](Step step, const Product &product, const auto &store) {
        share(step, rounded_up(product.out, kBlock) / kBlock, [&](int piece) {
            multiply_halves(model, product, all.halves, tokens, piece * kBlock, store);
        });
    };
    const auto share_sum = [&](Step step, const Product &product, bool apart) {  // added to x, or kept for a norm
        share_columns(step, product, [&](int token, int column, __m512 value) {
            float *at = (apart ? all.added : all.x).get() + static_cast<size_t>(token) * product.out + column;
            const __mmask16 in = lanes(product.out - column);
            if (!apart) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(in, at));
            _mm512_mask_storeu_ps(at, in, value);
        });
    };

    const float *before = index ? model.layers[index - 1].norms[kPostMlp].get() : nullptr;
    share(kNormed, tokens, [&](int t) { settle(sizes, before, layer.norms[kAttention].get(), products[kQkv], t, all, row); });
    share_columns(kProjected, products[kQkv], [&](int token, int column, __m512 value) {
        _mm512_mask_storeu_ps(all.qkv.get() + token * line + column, lanes(products[kQkv].out - column), value);
    });
    share(kPlaced, tokens + sizes.kv_heads, [&](int piece) {
        if (piece < tokens)
            place_token(model, segment, index, piece, all.qkv.get() + piece * line);
        else
            keep_group(segment, index, piece - tokens, width);
    });
    if (index == sizes.layers - 1) return;  // nothing is read behind its keys and values
    share(kAttended, rounded_up(tokens, kReaders) / kReaders * sizes.kv_heads,
          [&](int piece) { attend_piece(model, segment, index, piece, all, own); });
    share(kRead, tokens, [&](int t) {
        all.halves.take(products[kOutput], t, all.read.get() + static_cast<size_t>(t) * products[kOutput].in);
    });
    const float *post_norm = layer.norms[kPostAttention].get();
    share_sum(kAdded, products[kOutput], post_norm != nullptr);
    share(kNormedAgain, tokens,
          [&](int t) { settle(sizes, post_norm, layer.norms[kMlp].get(), products[kGate], t, all, row); });
    share(kGated, rounded_up(sizes.intermediate, kBlock) / kBlock, [&](int piece) {
        const auto place = [&](int token, int column) { return all.act.get() + static_cast<size_t>(token) * sizes.intermediate + column; };
        multiply_halves(model, products[kGate], all.halves, tokens, piece * kBlock, [&](int token, int column, __m512 value) {
            _mm512_mask_storeu_ps(place(token, column), lanes(sizes.intermediate - column), activated(value, sizes.gelu));
        });
        multiply_halves(model, products[kUp], all.halves, tokens, piece * kBlock, [&](int token, int column, __m512 value) {
            const __mmask16 in = lanes(sizes.intermediate - column);
            float *at = place(token, column);
            _mm512_mask_storeu_ps(at, in, _mm512_mul_ps(_mm512_maskz_loadu_ps(in, at), value));
        });
    });
    share(kTurned, tokens, [&](int t) {
        float *act = all.act.get() + static_cast<size_t>(t) * sizes.intermediate;
        turn_row(act, sizes.intermediate, sizes.turn);
        all.halves.take(products[kDown], t, act);
    });
    share_sum(kLowered, products[kDown], layer.norms[kPostMlp].get() != nullptr);
}

void extend(const Model &model, const Segment &segment, const float *embedded, int threads) {
    const Sizes &sizes = model.sizes;
    const size_t tokens = segment.tokens, read_wide = static_cast<size_t>(sizes.heads) * sizes.head_dim;
    const size_t line = read_wide + 2 * static_cast<size_t>(sizes.kv_heads) * sizes.head_dim;
    Shared all;
    float *x = all.x.at_least(tokens * sizes.hidden);
    for (size_t i = 0; i < tokens * sizes.hidden; i++) x[i] = embedded[i] * sizes.embedding_scale;
    all.qkv.at_least(tokens * line + 32);
    all.read.at_least(tokens * read_wide);
    all.added.at_least(tokens * sizes.hidden);
    all.act.at_least(tokens * sizes.intermediate);
    all.halves.make(segment.tokens, std::max({sizes.hidden, static_cast<int>(read_wide), sizes.intermediate}));
    Team team(sizes.layers * kSteps);
    team.run(threads, [&] {
        const Mode mode(model.amx);
        Scratch own;
        for (int index = 0; index < sizes.layers; index++) extend_layer(model, segment, index, all, team, own);
    });
}

}  // namespace
