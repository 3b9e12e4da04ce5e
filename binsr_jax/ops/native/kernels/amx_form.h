// The packed convolution on a CPU's matrix unit: see amx_tiles.h.
//
// The unit multiplies 8-bit integers. So the bits of a few rows become bytes of 1 and -1, which stay in
// the cache; an item is four of them. One instruction adds the product of a [16 pixels, 64 signs] and
// b [64 signs, 16 outputs] to c [16 pixels, 16 outputs]. Row r of b has the items 4 r of all outputs.

#ifndef BINSR_AMX_FORM_H_
#define BINSR_AMX_FORM_H_

#include <cstring>

#include "amx_tiles.h"
#include "avx512.h"

#ifdef BINSR_AMX

namespace binsr {

struct Amx : Avx512 {
  using Unit = Tiles;
  static constexpr int64_t kItems = 8, kPixels = 32, kOutputs = 32, kDepth = 16;
  static constexpr bool kOverlaps = true, kZeros = true;

  static void Image(const uint32_t* pixel, const uint32_t*, int64_t words, ImageItem* to) {
    int64_t i = 0;
    for (; i + 2 <= words; i += 2, to += 2 * kItems) {
      uint64_t bits;
      std::memcpy(&bits, pixel + i, sizeof bits);
      _mm512_storeu_si512(to, _mm512_mask_blend_epi8(bits, _mm512_set1_epi8(-1), _mm512_set1_epi8(1)));
    }
    if (i < words)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                          _mm256_mask_blend_epi8(pixel[i], _mm256_set1_epi8(-1), _mm256_set1_epi8(1)));
  }
  // The bytes of missing channels are zeros.
  static KernelItem Kernel(uint32_t word, uint32_t present, int64_t item) {
    KernelItem four = 0;
    for (int64_t i = 0, bit = 4 * item; i < 4; ++i, ++bit)
      if (present >> bit & 1) four |= (word >> bit & 1 ? 0x01u : 0xffu) << (8 * i);
    return four;
  }

  template <class Rest>
  BINSR_NOINLINE static void Dots(const ImageItem* const* x, int64_t first, int64_t stride,
                                  int64_t pixels, const KernelItem* k, int64_t rows, int64_t count,
                                  Dot, Dot (&dots)[kPixels][kOutputs], Rest& rest) {
    asm volatile("" ::: "memory");  // the tiles are loaded by instructions that no compiler reads
    if (pixels > kPixels / 2)
      Multiply<true>(x, first, stride, k, rows, count, dots, rest);
    else
      Multiply<false>(x, first, stride, k, rows, count, dots, rest);
  }

 private:
  template <bool kBoth, class Rest>
  static void Multiply(const ImageItem* const* x, int64_t first, int64_t stride,
                       const KernelItem* k, int64_t rows, int64_t count,
                       Dot (&dots)[kPixels][kOutputs], Rest& rest) {
    constexpr int64_t kSide = 16, kLine = kOutputs * sizeof(KernelItem);
    const int64_t apart = stride * sizeof(ImageItem);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < count; i += kDepth, k += kDepth * kOutputs) {
        const ImageItem* a = x[r] + first + i;
        _tile_loadd(4, a, apart);
        _tile_loadd(6, k, kLine);
        _tile_loadd(7, k + kSide, kLine);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        if (kBoth) {
          _tile_loadd(5, a + kSide * stride, apart);
          _tile_dpbssd(2, 5, 6);
          _tile_dpbssd(3, 5, 7);
        }
        rest.WriteSome();
      }
    _tile_stored(0, dots[0], kLine);
    _tile_stored(1, dots[0] + kSide, kLine);
    if (kBoth) {
      _tile_stored(2, dots[kSide], kLine);
      _tile_stored(3, dots[kSide] + kSide, kLine);
    }
  }
};

}  // namespace binsr

#endif

#endif  // BINSR_AMX_FORM_H_
