// A model's weights as the pass holds them, and what a call and a thread work on.

#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace {

constexpr int kDone = 0, kNoMemory = 1;  // what calls return
enum Part { kQkv, kOutput, kGate, kUp, kDown, kParts };  // the products of a layer
enum Stage { kRounding, kProjecting, kAttending, kReading, kFeeding, kLowering, kStages };  // STAGES of native_pass.py
enum Norm { kAttention, kQuery, kKey, kPostAttention, kMlp, kPostMlp, kNorms };

constexpr int kTile = 16;          // rows and columns of a tile
constexpr int kDepth = 64;         // bytes of a tile's row: so many channels are multiplied by one instruction
constexpr int kBlock = 2 * kTile;  // rows and columns of what is computed at a time

inline int rounded_up(int number, int step) { return (number + step - 1) / step * step; }

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
//
// Its input's numbers have 8 bits, or 16 (Rows): 256 * high + low, whose halves are rows of one 8-bit product.
struct Product {
    int in = 0, out = 0, depth = 0;  // depth: tiles of channels
    Buffer<int8_t> tiles;
    Buffer<float> scale, bias, plain;  // of a column; plain: the weight's own; scale: times the input's step, where it is known
    Buffer<int32_t> offset, middle;    // what a column's sum has too much, the zero of the input not being 0; where it is 128
    bool has_bias = false, by_token = false;  // by_token: documents' input has a step a token
    float step = 1;
    int zero = 0;
};

// The rows of a product's input: tokens of 8 bits, then those of 16, of which each is two rows, high halves and low ones.
struct Rows {
    const int *tokens;  // in the order of their rows
    int narrow, fine;   // how many tokens have 8 bits, and 16

    int count() const { return narrow + fine; }
    int pairs() const { return rounded_up(narrow, 2); }  // the first row of two: no block of rows parts them
    int all() const { return pairs() + 2 * fine; }
    bool is_fine(int place) const { return place >= narrow; }
    int row(int place) const { return is_fine(place) ? pairs() + 2 * (place - narrow) : place; }
};

struct Layer {
    Product products[kParts];
    Buffer<float> norms[kNorms];
    int window = 0, rope = 0;  // window 0: everything is seen
};

struct Sizes {
    int32_t layers, hidden, intermediate, heads, kv_heads, head_dim, gelu;
    int32_t turn, norm_turn;  // blocks of the down input and of normalized values, or 0
    int32_t tail;             // a document's last tokens whose activations have 16 bits all the same
    float epsilon, cap, embedding_scale;  // cap 0: none
};

struct Model {
    Sizes sizes;
    bool amx;
    std::vector<Layer> layers;
    Buffer<float> final_norm;
};

struct Scratch {  // of a thread, kept from call to call
    Buffer<float> x, qkv, read, act, wide, added, row_steps, peaks, scores, queries, keys, prefix_keys;
    Buffer<uint8_t> rounded, inner;
    Buffer<int> order;
    Buffer<uint16_t> split_queries, split_weights, key_tiles, value_tiles, prefix_key_tiles, prefix_value_tiles;
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

}  // namespace
