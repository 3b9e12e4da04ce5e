// The packed convolution with AVX2, which has no instruction that counts the bits of a vector.
//
// An item is four bits. The items of two neighbouring pixels select a table of 16 bytes. A byte shuffle
// looks up 32 kernels at a time in it. For every four bits of a kernel, the table has the counts of both
// pixels: the first in the low four bits of a byte, the second in the high ones.

#ifndef BINSR_AVX2_H_
#define BINSR_AVX2_H_

#include "portable.h"

namespace binsr {

struct EightLanes {
  using Floats = __m256;
  using Ints = uint32_t __attribute__((vector_size(32)));
  static constexpr int64_t kCount = 8, kSums = 2;

  static Floats Load(const float* from) { return _mm256_loadu_ps(from); }
  static void Store(Floats v, float* to) { _mm256_storeu_ps(to, v); }
  static Floats Set(float v) { return _mm256_set1_ps(v); }
  static Floats FromDots(const int16_t* dots) {
    const auto* at = reinterpret_cast<const __m128i*>(dots);
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(at)));
  }
  static Floats MultiplyAdd(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static Floats Leaky(Floats u, Floats slope) {
    return _mm256_blendv_ps(u, _mm256_mul_ps(u, slope), u);
  }
  static Floats Reciprocal(Floats v) { return 1 / v; }
};

struct Avx2 : SmallTiles {
  using ImageItem = uint16_t;  // the offset of the table for a pixel and the next one
  using KernelItem = uint8_t;
  using Dot = int16_t;
  using Lanes = EightLanes;
  static constexpr int64_t kItems = 8;

  static void Image(const uint32_t* pixel, const uint32_t* next, int64_t words, ImageItem* to) {
    int64_t i = 0;
    for (; i + 2 <= words; i += 2, to += 2 * kItems)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                          Items(_mm_loadu_si64(pixel + i), _mm_loadu_si64(next + i)));
    if (i < words)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                       _mm256_castsi256_si128(
                           Items(_mm_cvtsi32_si128(pixel[i]), _mm_cvtsi32_si128(next[i]))));
  }
  static KernelItem Kernel(uint32_t word, uint32_t, int64_t item) { return word >> (4 * item) & 15; }
  // The first 16 of 32 outputs lie in the even bytes. So a shift and a mask widen counts in bytes to
  // 16 bits.
  static int64_t Place(int64_t o) { return o / 32 * 32 + o % 16 * 2 + o / 16 % 2; }

  template <class Rest>
  BINSR_NOINLINE static void Dots(const ImageItem* const* x, int64_t first, int64_t stride,
                                  int64_t, const KernelItem* k, int64_t rows, int64_t count,
                                  Dot most, Dot (&dots)[kPixels][kOutputs], const Rest&) {
    std::fill_n(dots[0], kPixels * kOutputs, most);
    for (int64_t r = 0; r < rows; ++r) {
      const ImageItem* items = x[r] + first;
      // A byte can hold the counts of 63 items.
      for (int64_t left = count; left > 0; left -= kMostItems, items += kMostItems) {
        const int64_t now = std::min<int64_t>(left, kMostItems);
        SubtractItems(items, items + 2 * stride, k, now, dots);
        k += now * kOutputs;
      }
    }
  }

  static void Pack(const float* x, const float* threshold, int64_t channels, int64_t words,
                   uint32_t* to) {
    const int64_t bytes = 4 * words;
    if (channels != 8 * bytes || words % 2)
      return Portable::Pack(x, threshold, channels, words, to);
    for (int64_t byte = 0; byte < bytes; byte += 8) {
      __m256i octets = _mm256_setzero_si256();
#pragma GCC unroll 8
      for (int bit = 0; bit < 8; ++bit) {
        const int64_t c = bit * bytes + byte;
        const __m256 above =
            _mm256_cmp_ps(_mm256_loadu_ps(x + c), _mm256_loadu_ps(threshold + c), _CMP_GT_OQ);
        const __m256i place = _mm256_set1_epi32(1 << bit);
        octets = _mm256_or_si256(octets, _mm256_and_si256(_mm256_castps_si256(above), place));
      }
      const __m128i pairs = _mm_packus_epi32(_mm256_castsi256_si128(octets),
                                             _mm256_extracti128_si256(octets, 1));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to + byte / 4), _mm_packus_epi16(pairs, pairs));
    }
  }

 private:
  static constexpr int64_t kMostItems = 63;

  // Subtracts twice the counts of some items from the dots of four pixels; x has the items of the
  // first two pixels, x2 the items of the other two.
  //
  // For each pair of pixels and each half of the outputs there are two sums in bytes. b is the count
  // of the first pixel + 16 times the count of the second, modulo 256. h sums the same values shifted
  // right by four bits in 16-bit words. So a high byte of h is the second pixel's count, and a low
  // byte is the second pixel's count + 16 times the first pixel's count of the high byte, modulo 256.
  static void SubtractItems(const ImageItem* x, const ImageItem* x2, const KernelItem* k,
                            int64_t count, Dot (&dots)[kPixels][kOutputs]) {
    __m256i b00 = {}, b01 = {}, b10 = {}, b11 = {}, h00 = {}, h01 = {}, h10 = {}, h11 = {};
    // Three items at a time, because four bits can hold their counts. Loads limit this loop. The sums
    // and a line of the kernel just fit into the 16 registers. Compilers do not find this allocation:
    // they load every line twice, or spill sums to memory.
    for (; count >= 3; count -= 3, x += 3, x2 += 3, k += 3 * kOutputs) {
      __m256i k0, k1, table, t, g00, g01, g10, g11;
      int64_t at;
#define BINSR_LINE(i) "vmovdqa " #i "*64(%[k]), %[k0]\n vmovdqa " #i "*64+32(%[k]), %[k1]\n"
#define BINSR_TABLE(x, i) \
  "movzwl " #i "*2(%[" x "]), %k[at]\n vbroadcasti128 (%[tables],%[at]), %[table]\n"
#define BINSR_FIRST(x, g) \
  BINSR_TABLE(x, 0) \
  "vpshufb %[k0], %[table], %[" g "0]\n vpshufb %[k1], %[table], %[" g "1]\n"
#define BINSR_NEXT(x, g, i) \
  BINSR_TABLE(x, i) \
  "vpshufb %[k0], %[table], %[t]\n vpaddb %[t], %[" g "0], %[" g "0]\n" \
  "vpshufb %[k1], %[table], %[t]\n vpaddb %[t], %[" g "1], %[" g "1]\n"
#define BINSR_SUM(n) \
  "vpaddb %[g" n "], %[b" n "], %[b" n "]\n vpsrlw $4, %[g" n "], %[g" n "]\n" \
  "vpaddb %[g" n "], %[h" n "], %[h" n "]\n"
      asm(BINSR_LINE(0) BINSR_FIRST("x", "g0") BINSR_FIRST("x2", "g1")
          BINSR_LINE(1) BINSR_NEXT("x", "g0", 1) BINSR_NEXT("x2", "g1", 1)
          BINSR_LINE(2) BINSR_NEXT("x", "g0", 2) BINSR_NEXT("x2", "g1", 2)
          BINSR_SUM("00") BINSR_SUM("01") BINSR_SUM("10") BINSR_SUM("11")
          : [b00] "+x"(b00), [b01] "+x"(b01), [b10] "+x"(b10), [b11] "+x"(b11),
            [h00] "+x"(h00), [h01] "+x"(h01), [h10] "+x"(h10), [h11] "+x"(h11),
            [g00] "=&x"(g00), [g01] "=&x"(g01), [g10] "=&x"(g10), [g11] "=&x"(g11),
            [k0] "=&x"(k0), [k1] "=&x"(k1), [table] "=&x"(table), [t] "=&x"(t), [at] "=&r"(at)
          : [x] "r"(x), [x2] "r"(x2), [k] "r"(k), [tables] "r"(kTables.of[0])
          : "memory");
#undef BINSR_LINE
#undef BINSR_TABLE
#undef BINSR_FIRST
#undef BINSR_NEXT
#undef BINSR_SUM
    }
    for (; count > 0; --count, ++x, ++x2, k += kOutputs) {
      AddItem(*x, k, b00, h00);
      AddItem(*x, k + 32, b01, h01);
      AddItem(*x2, k, b10, h10);
      AddItem(*x2, k + 32, b11, h11);
    }
    Subtract(b00, h00, dots[0], dots[1]);
    Subtract(b01, h01, dots[0] + 32, dots[1] + 32);
    Subtract(b10, h10, dots[2], dots[3]);
    Subtract(b11, h11, dots[2] + 32, dots[3] + 32);
  }

  static void AddItem(ImageItem x, const KernelItem* k, __m256i& both, __m256i& high) {
    const auto* table = reinterpret_cast<const __m128i*>(kTables.of[0] + x);
    const __m256i counts =
        _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_load_si128(table)),
                            _mm256_load_si256(reinterpret_cast<const __m256i*>(k)));
    both = _mm256_add_epi8(both, counts);
    high = _mm256_add_epi8(high, _mm256_srli_epi16(counts, 4));
  }

  static void Subtract(__m256i both, __m256i high, Dot* first, Dot* second) {
    const __m256i byte = _mm256_set1_epi16(255);
    const auto less16 = [&](__m256i v, __m256i times) {
      return _mm256_and_si256(_mm256_sub_epi16(v, _mm256_slli_epi16(times, 4)), byte);
    };
    const __m256i second_odd = _mm256_srli_epi16(high, 8);
    const __m256i first_odd = less16(_mm256_srli_epi16(both, 8), second_odd);
    const __m256i second_even = less16(high, first_odd);
    const __m256i first_even = less16(both, second_even);
    const auto twice_off = [](__m256i counts, Dot* dots) {
      auto* d = reinterpret_cast<__m256i*>(dots);
      _mm256_store_si256(d, _mm256_sub_epi16(_mm256_load_si256(d), _mm256_slli_epi16(counts, 1)));
    };
    twice_off(first_even, first);
    twice_off(first_odd, first + 16);
    twice_off(second_even, second);
    twice_off(second_odd, second + 16);
  }

  // The items of two words of a pixel and of the next one.
  static __m256i Items(__m128i pixel, __m128i next) {
    const __m128i low = _mm_set1_epi8(15), high = _mm_set1_epi8(-16);
    const __m128i even =
        _mm_or_si128(_mm_and_si128(pixel, low), _mm_and_si128(_mm_slli_epi16(next, 4), high));
    const __m128i odd =
        _mm_or_si128(_mm_and_si128(_mm_srli_epi16(pixel, 4), low), _mm_and_si128(next, high));
    return _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_unpacklo_epi8(even, odd)), 4);
  }

  struct Tables {
    alignas(16) uint8_t of[256][16] = {};
    constexpr Tables() {
      for (int both = 0; both < 256; ++both)
        for (int k = 0; k < 16; ++k) {
          for (int bits = (both & 15) ^ k; bits; bits >>= 1) of[both][k] += bits & 1;
          for (int bits = both >> 4 ^ k; bits; bits >>= 1) of[both][k] += (bits & 1) << 4;
        }
    }
  };
  static const Tables kTables;
};
inline constexpr Avx2::Tables Avx2::kTables;

}  // namespace binsr

#endif  // BINSR_AVX2_H_
