// Documents behind a prefix: what documents.onnx computes, on the calling thread.
//
// Included once, by pass.cpp, where it has set the instructions.

#pragma once

#include <cmath>
#include <immintrin.h>

#include "attention.h"
#include "model.h"
#include "products.h"
#include "rows.h"
#include "tile_attention.h"
#include "vectors.h"

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
            turn_heads(sizes, layer, cosines + static_cast<size_t>(t) * half, sines + static_cast<size_t>(t) * half, row);
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
void add_product(const Model &model, const Product &product, const Rows &rows, const uint8_t *a, const float *post_norm,
                 Scratch &own, float *x) {
    const float *steps = product.by_token ? own.row_steps.get() : nullptr;
    if (!post_norm) return product_into(model, product, rows, a, steps, x, true);
    const int hidden = model.sizes.hidden;
    float *added = own.added.at_least(static_cast<size_t>(rows.count()) * hidden);
    product_into(model, product, rows, a, steps, added, false);
    for (int r = 0; r < rows.count(); r++) {
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
        each(half_done * count + index, 2 * count, [&](int place, int r) {
            const int token = rows->tokens[place];
            const bool is_fine = rows->is_fine(place);
            const float step = row_steps ? row_steps[token] : 1;
            for (int half = 0; half < kBlock; half += kTile) {
                const __m512 g = numbers(*gate, is_fine, gates + r * kBlock + half, column + half, step);
                const __m512 u = numbers(*up, is_fine, ups + r * kBlock + half, column + half, step);
                _mm512_mask_storeu_ps(act + static_cast<size_t>(token) * stride + column - start + half,
                                      lanes(start + wide - column - half), _mm512_mul_ps(activated(g, gelu), u));
            }
        });
    }
};

// The input of the down product: activation(gate) * up, turned, rounded.
void feed(const Model &model, const Layer &layer, const Rows &rows, const uint8_t *a, Scratch &own, uint8_t *to) {
    const Sizes &sizes = model.sizes;
    const Product &gate = layer.products[kGate], &up = layer.products[kUp], &down = layer.products[kDown];
    const int tokens = rows.count(), chunk = std::min(sizes.intermediate, std::max(sizes.turn, 512));
    const int kept = down.by_token ? rounded_up(sizes.intermediate, chunk) : chunk;  // until a token's step is known
    const size_t stride = static_cast<size_t>(gate.depth) * kDepth;
    float *all = own.act.at_least(static_cast<size_t>(tokens) * kept + 16), *peaks = own.peaks.at_least(tokens);
    std::fill_n(peaks, tokens, 0.0f);
    const float *steps = gate.by_token ? own.row_steps.get() : nullptr;
    alignas(64) int32_t gates[2][kBlock * kBlock], ups[2][kBlock * kBlock];
    for (int start = 0; start < sizes.intermediate; start += chunk) {
        const int wide = std::min(chunk, sizes.intermediate - start);
        float *act = down.by_token ? all + static_cast<size_t>(start) * tokens : all;  // chunk after chunk
        Gated waiting{{&rows}, &gate, &up, nullptr, nullptr, steps, act, start, wide, chunk, sizes.gelu != 0};
        int next = 0;
        for (int column = start; column < start + wide; column += kBlock)
            for (int row = 0; row < rows.all(); row += kBlock, next ^= 1) {
                const int here = std::min(kBlock, rows.all() - row);
                const uint8_t *from = a + row * stride;
                waiting.half_done = 0;
                multiply(model, gate, from, here, column, gates[next], waiting);
                waiting.half_done = 1;
                multiply(model, up, from, here, column, ups[next], waiting);
                waiting.here = here, waiting.row = row, waiting.column = column;
                waiting.gates = gates[next], waiting.ups = ups[next];
            }
        waiting.half_done = 0;
        waiting.share(0, 1);
        waiting.half_done = 1;
        waiting.share(0, 1);
        for (int place = 0; place < tokens; place++) {
            const int token = rows.tokens[place];
            float *row = act + static_cast<size_t>(token) * chunk;
            turn_row(row, wide, sizes.turn);
            if (down.by_token)
                peaks[token] = std::max(peaks[token], largest(row, wide));
            else
                round_part(down, rows, place, row, wide, down.step, start, to);
        }
    }
    if (!down.by_token) return;
    for (int token = 0; token < tokens; token++) own.row_steps.get()[token] = token_step(peaks[token]);
    for (int start = 0; start < sizes.intermediate; start += chunk)
        for (int place = 0; place < tokens; place++) {
            const int token = rows.tokens[place];
            round_part(down, rows, place, all + static_cast<size_t>(start) * tokens + static_cast<size_t>(token) * chunk,
                       std::min(chunk, sizes.intermediate - start), own.row_steps.get()[token], start, to);
        }
}

// The tokens of a batch as rows of products' inputs: of each document the last ones have 16 bits.
Rows rows_of(const Sizes &sizes, const Batch &batch, Scratch &own) {
    int *tokens = own.order.at_least(batch.tokens), *next = tokens;
    const auto tail = [&](int b) { return static_cast<int>(std::min<int64_t>(sizes.tail, batch.lengths[b])); };
    for (int b = 0, start = 0; b < batch.documents; start += static_cast<int>(batch.lengths[b]), b++)
        for (int t = 0; t < batch.lengths[b] - tail(b); t++) *next++ = start + t;
    const int narrow = static_cast<int>(next - tokens);
    for (int b = 0, end = 0; b < batch.documents; b++) {
        end += static_cast<int>(batch.lengths[b]);
        for (int t = tail(b); t > 0; t--) *next++ = end - t;
    }
    return Rows{tokens, narrow, batch.tokens - narrow};
}

// Behind the last attention: each document's last token, all of whose bits are as a tail's, where there is one.
Rows last_rows(const Sizes &sizes, const Batch &batch, Scratch &own) {
    int *tokens = own.order.get();
    for (int b = 0; b < batch.documents; b++) tokens[b] = b;
    const int narrow = sizes.tail ? 0 : batch.documents;
    return Rows{tokens, narrow, batch.documents - narrow};
}

void compute(const Model &model, const Batch &batch, const float *embedded, float *hidden, double *seconds, Scratch &own) {
    Clock clock(seconds);
    const Sizes &sizes = model.sizes;
    Rows rows = rows_of(sizes, batch, own);
    const size_t tokens = batch.tokens, all = rounded_up(rows.all(), kBlock);
    const int read_wide = sizes.heads * sizes.head_dim;
    float *x = own.x.at_least(tokens * sizes.hidden);
    for (size_t i = 0; i < tokens * sizes.hidden; i++) x[i] = embedded[i] * sizes.embedding_scale;
    float *qkv = own.qkv.at_least(tokens * (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim + 32);
    float *read = own.read.at_least(tokens * read_wide);
    uint8_t *rounded = own.rounded.at_least(all * rounded_up(std::max(sizes.hidden, read_wide), kDepth));
    uint8_t *inner = own.inner.at_least(all * rounded_up(sizes.intermediate, kDepth));
    own.row_steps.at_least(tokens);
    for (int index = 0; index < sizes.layers; index++) {
        const Layer &layer = model.layers[index];
        const Product *products = layer.products;
        const bool is_last = index == sizes.layers - 1;
        norm_rounded(sizes, products[kQkv], rows, x, layer.norms[kAttention].get(), own, rounded);
        clock.ends(kRounding);
        product_into(model, products[kQkv], rows, rounded, products[kQkv].by_token ? own.row_steps.get() : nullptr, qkv, false);
        clock.ends(kProjecting);
        attend(model, layer, index, batch, own, qkv, read, is_last);
        clock.ends(kAttending);
        if (is_last) {  // behind the last attention only last tokens go on
            rows = last_rows(sizes, batch, own);
            int64_t place = -1;
            for (int b = 0; b < batch.documents; b++) {
                place += batch.lengths[b];
                std::memmove(x + static_cast<size_t>(b) * sizes.hidden, x + place * sizes.hidden, sizes.hidden * sizeof(float));
            }
        }
        round_rows(products[kOutput], rows, read, rounded, own.row_steps.get());
        clock.ends(kRounding);
        add_product(model, products[kOutput], rows, rounded, layer.norms[kPostAttention].get(), own, x);
        clock.ends(kReading);
        norm_rounded(sizes, products[kGate], rows, x, layer.norms[kMlp].get(), own, rounded);
        clock.ends(kRounding);
        feed(model, layer, rows, rounded, own, inner);
        clock.ends(kFeeding);
        add_product(model, products[kDown], rows, inner, layer.norms[kPostMlp].get(), own, x);
        clock.ends(kLowering);
    }
    for (int b = 0; b < batch.documents; b++)
        norm(x + static_cast<size_t>(b) * sizes.hidden, sizes.hidden, model.final_norm.get(), sizes.epsilon,
             hidden + static_cast<size_t>(b) * sizes.hidden);
    clock.ends(kRounding);
}

}  // namespace
