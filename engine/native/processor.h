// Which instructions the processor has, and the shape of its tiles.

#pragma once

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "model.h"

namespace {

constexpr int kVnni = 1, kAmx = 2;  // what features() tells

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

// While it lives, this thread takes denormal numbers for zero and, where there is AMX, has our tiles. It may be a thread of
// another library, too, which goes on with the tiles that it had: llama.cpp sets them once a thread.
class Mode {
  public:
    explicit Mode(bool amx) : amx_(amx), before_(_mm_getcsr()) {
        _mm_setcsr(before_ | 0x8040);
        if (!amx_) return;
        __asm__ volatile("sttilecfg %0" : "=m"(tiles_)::"memory");
        __asm__ volatile("ldtilecfg %0" ::"m"(kTiles) : "memory");
    }
    ~Mode() {
        if (amx_) __asm__ volatile("ldtilecfg %0" ::"m"(tiles_) : "memory");  // none before: their state is released
        _mm_setcsr(before_);
    }
    Mode(const Mode &) = delete;

  private:
    bool amx_;
    unsigned before_;
    TileConfig tiles_;
};

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
    const bool tiles = (d >> 22 & 1) && (d >> 24 & 1) && (d >> 25 & 1) && (states >> 17 & 3) == 3;  // BF16, TILE, INT8
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM: the kernel gives tiles to who asks
    return kVnni | (tiles && !syscall(SYS_arch_prctl, kRequest, kTileData) ? kAmx : 0);
}

}  // namespace
