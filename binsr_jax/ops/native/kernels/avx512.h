// The packed convolution with AVX-512 and VPOPCNTDQ. An item is a word, and the bits of 16 words are
// counted at a time.

#ifndef BINSR_AVX512_H_
#define BINSR_AVX512_H_

#include "avx2.h"

namespace binsr {

struct SixteenLanes {
  using Floats = __m512;
  using Ints = uint32_t __attribute__((vector_size(64)));
  static constexpr int64_t kCount = 16, kSums = 4;

  static Floats Load(const float* from) { return _mm512_loadu_ps(from); }
  static void Store(Floats v, float* to) { _mm512_storeu_ps(to, v); }
  static Floats Set(float v) { return _mm512_set1_ps(v); }
  static Floats FromDots(const int32_t* dots) {
    return _mm512_cvtepi32_ps(_mm512_loadu_si512(dots));
  }
  static Floats FromDots(const int16_t* dots) {
    const auto* at = reinterpret_cast<const __m256i*>(dots);
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(at)));
  }
  static Floats MultiplyAdd(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats Leaky(Floats u, Floats slope) {
    const __mmask16 negative = _mm512_cmp_ps_mask(u, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_mask_mul_ps(u, negative, u, slope);
  }
  // By an approximation to 14 bits and a step of Newton's method, several times as fast as a division.
  static Floats Reciprocal(Floats v) {
    const Floats r = _mm512_rcp14_ps(v);
    return r * _mm512_fmadd_ps(-v, r, Set(2.0f));
  }
};

struct Avx512 : Portable {
  using Dot = int32_t;
  using Lanes = SixteenLanes;

  // The counts of a tile stay in registers for all rows.
  template <class Rest>
  BINSR_NOINLINE static void Dots(const ImageItem* const* x, int64_t first, int64_t stride,
                                  int64_t, const KernelItem* k, int64_t rows, int64_t count,
                                  Dot most, Dot (&dots)[kPixels][kOutputs], const Rest&) {
    constexpr int kVectors = kOutputs / 16;
    __m512i counts[kPixels][kVectors];
#pragma GCC unroll 4
    for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) counts[p][v] = _mm512_setzero_si512();
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < count; ++i, k += kOutputs) {
#pragma GCC unroll 4
        for (int p = 0; p < kPixels; ++p) {
          const __m512i xi = _mm512_set1_epi32(x[r][first + p * stride + i]);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            const __m512i ki = _mm512_load_si512(k + v * 16);
            const __m512i differing = _mm512_popcnt_epi32(_mm512_xor_si512(ki, xi));
            counts[p][v] = _mm512_add_epi32(counts[p][v], differing);
          }
        }
      }
#pragma GCC unroll 4
    for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        _mm512_store_si512(dots[p] + v * 16,
                           _mm512_sub_epi32(_mm512_set1_epi32(most),
                                            _mm512_slli_epi32(counts[p][v], 1)));
  }

  static void Pack(const float* x, const float* threshold, int64_t channels, int64_t words,
                   uint32_t* to) {
    if (channels != 64) return Avx2::Pack(x, threshold, channels, words, to);
#if defined(__GFNI__)
    // The signs of channel 8 i + j are bit j of byte i. They become bit i of byte j: the product of this
    // 8x8 matrix with a row of the identity is its column. The instruction starts at the last byte.
    const auto above = [&](int64_t c) {
      return _mm512_cmp_ps_mask(_mm512_loadu_ps(x + c), _mm512_loadu_ps(threshold + c), _CMP_GT_OQ);
    };
    const __mmask64 all = _mm512_kunpackd(_mm512_kunpackw(above(48), above(32)),
                                          _mm512_kunpackw(above(16), above(0)));
    const __m128i rows = _mm_cvtsi64_si128(__builtin_bswap64(all));
    const __m128i identity = _mm_set1_epi64x(0x8040201008040201);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to),
                     _mm_gf2p8affine_epi64_epi8(identity, rows, 0));
#else
    // Eight bytes: the first eight lanes have their even bits, the others their odd bits.
    const __m512i places = _mm512_mask_set1_epi32(_mm512_set1_epi32(1), 0xff00, 2);
    __m512i octets = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int pair = 0; pair < 4; ++pair) {
      const __mmask16 above = _mm512_cmp_ps_mask(
          _mm512_loadu_ps(x + pair * 16), _mm512_loadu_ps(threshold + pair * 16), _CMP_GT_OQ);
      octets = _mm512_mask_or_epi32(octets, above, octets, _mm512_slli_epi32(places, 2 * pair));
    }
    const __m128i bytes = _mm512_cvtepi32_epi8(octets);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to),
                     _mm_or_si128(bytes, _mm_srli_si128(bytes, 8)));
#endif
  }
};

}  // namespace binsr

#endif  // BINSR_AVX512_H_
