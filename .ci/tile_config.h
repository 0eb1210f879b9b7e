// Included in front of llama.cpp's C++ by llama.cmake. GCC's own _tile_loadconfig (seen in GCC 12) tells the compiler
// that it reads 8 of the configuration's 64 bytes; the others are then never written, and the first product of tiles
// ends the process with SIGILL.
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" : : "m"(*(const unsigned char(*)[64])(config)))
#endif
