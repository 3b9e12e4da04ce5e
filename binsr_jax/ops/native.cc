// Convolutions on x86-64; binsr_jax/ops/native.py compiles this file.
//
// That of packed signs, which is what binsr_jax.ops.packed.packed_conv computes, to the last bit.
// That module says how the bits lie.
//
//   dot[b, h, w, o] = channels * valid taps
//                     - 2 * sum over valid taps of popcount(x[b, h + i, w + j] ^ k[i, j, o])
//
// And a whole branch of a unit, as binsr_jax.ops.packed.packed_branch says it, in one pass:
//
//   y = factor * shuffle(rprelu(scale * dot)) of the signs of x - threshold, and + gain * x, where the
//       gain may be a map of x: see Residual
//
// A row of the output needs kh rows of the input. They are kept as items, words or parts of words,
// with padding beside them, so that what a pixel needs of one row is contiguous. Output channels lie
// along the vectors; a block of pixels shares what is loaded of the kernel. Rows above and below the
// image are left out. Pixels beside it are read as zero bits, and what they count is taken off.
//
// FORM is the form of the sum, one of the structs below that the CPU compiled for can run.
//
// And one of floats to few outputs, as the last of a network is: see FewOutputs. And one of floats to
// many, with the gradient of its kernel, for training: see AddProduct.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "xla/ffi/api/ffi.h"

#if defined(__AVX2__) || defined(__AVX512VPOPCNTDQ__)
#include <immintrin.h>
#endif

namespace {

namespace ffi = xla::ffi;

constexpr int64_t kOutputs = 64;  // of a block, which is worked at a time; what lacks is padded
constexpr int64_t kPixels = 4;    // of a block

template <class Dot>
using Block = Dot[kPixels][kOutputs];

struct Shape {
  int64_t batch, height, width, channels, words, kh, kw, outputs;
};

// What a branch does with its dot products, for each output channel; both shifts are added.
struct Epilogue {
  const float *scale, *shift_in, *slope, *shift_out, *factor;

  Epilogue From(int64_t o) const {
    return {scale + o, shift_in + o, slope + o, shift_out + o, factor + o};
  }
};

// Each form has
//   Image(pixel, next, words, to)       writes the items of a pixel, of the words of it and the next
//   Kernel(word, item)                  an item of a word of a kernel
//   Sum(x, first, stride, k, rows, count, most, dots)
//                                       writes to dots[p][o] most, less two for each bit in which
//                                       x[r][first + p * stride + i] and
//                                       k[(r * count + i) * kOutputs + o] differ, of all r < rows
//                                       and i < count
//   Pack(x, threshold, s, words)        the signs of a pixel
//   Finish(dots, pixels, e, skip, skip_stride, gains, outputs, y, y_stride)
//                                       the output for some outputs of a block of pixels; what is
//                                       skipped to a pixel is taken times its gain

// Plain C++, to compare the others with.
struct Portable {
  using ImageItem = uint32_t;
  using KernelItem = uint32_t;
  using Dot = int16_t;
  static constexpr int64_t kItems = 1;  // of a word

  static void Image(const uint32_t* pixel, const uint32_t*, int64_t words, ImageItem* to) {
    for (int64_t i = 0; i < words; ++i) to[i] = pixel[i];
  }
  static KernelItem Kernel(uint32_t word, int64_t) { return word; }

  static void Sum(const ImageItem* const* x, int64_t first, int64_t stride, const KernelItem* k,
                  int64_t rows, int64_t count, Dot most, Block<Dot>& dots) {
    std::fill_n(dots[0], kPixels * kOutputs, most);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < count; ++i, k += kOutputs)
        for (int64_t p = 0; p < kPixels; ++p)
          for (int64_t o = 0; o < kOutputs; ++o)
            dots[p][o] -= 2 * __builtin_popcount(x[r][first + p * stride + i] ^ k[o]);
  }

  static void Pack(const float* x, const float* threshold, const Shape& s, uint32_t* words) {
    const int64_t bytes = 4 * s.words;
    std::fill_n(words, s.words, 0);
    for (int64_t c = 0; c < s.channels; ++c)
      if (x[c] > threshold[c]) words[c % bytes / 4] |= 1u << (c % 4 * 8 + c / bytes);
  }

  template <class T>
  static void Finish(const T* dots, int64_t pixels, const Epilogue& e, const float* skip,
                     int64_t skip_stride, const float* gains, int64_t outputs, float* y,
                     int64_t y_stride) {
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t o = 0; o < outputs; ++o) {
        const float u = dots[p * kOutputs + o] * e.scale[o] + e.shift_in[o];
        const float v = ((u > 0 ? u : u * e.slope[o]) + e.shift_out[o]) * e.factor[o];
        y[p * y_stride + o] = skip ? v + gains[p] * skip[p * skip_stride + o] : v;
      }
  }
};

#ifdef __AVX2__

// AVX2. An item is four bits. Those of two neighbouring pixels choose a table, in which a byte shuffle
// looks up 32 kernels at a time: for every four bits of a kernel it has both pixels' counts, in four
// bits each.
struct Table {
  using ImageItem = uint16_t;  // where the table of a pixel and the next one is
  using KernelItem = uint8_t;
  using Dot = int16_t;
  static constexpr int64_t kItems = 8;

  static void Image(const uint32_t* pixel, const uint32_t* next, int64_t words, ImageItem* to) {
    int64_t i = 0;
    for (; i + 2 <= words; i += 2, to += 2 * kItems)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                          Items(_mm_loadu_si64(pixel + i), _mm_loadu_si64(next + i)));
    if (i < words)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                       _mm256_castsi256_si128(Items(_mm_cvtsi32_si128(pixel[i]),
                                                    _mm_cvtsi32_si128(next[i]))));
  }
  static KernelItem Kernel(uint32_t word, int64_t item) { return word >> (4 * item) & 15; }

  static void Sum(const ImageItem* const* x, int64_t first, int64_t stride, const KernelItem* k,
                  int64_t rows, int64_t count, Dot most, Block<Dot>& dots) {
    std::fill_n(dots[0], kPixels * kOutputs, most);
    for (int64_t r = 0; r < rows; ++r, k += count * kOutputs)
      SumRow(x[r] + first, stride, k, count, dots);
  }

  static void Pack(const float* x, const float* threshold, const Shape& s, uint32_t* words) {
    const int64_t bytes = 4 * s.words;
    if (s.channels != 8 * bytes || s.words % 2) return Portable::Pack(x, threshold, s, words);
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
      _mm_storel_epi64(reinterpret_cast<__m128i*>(words + byte / 4),
                       _mm_packus_epi16(pairs, pairs));
    }
  }

  static void Finish(const Dot* dots, int64_t pixels, const Epilogue& e, const float* skip,
                     int64_t skip_stride, const float* gains, int64_t outputs, float* y,
                     int64_t y_stride) {
    int64_t o = 0;
    for (; o + 8 <= outputs; o += 8) {
      const __m256 scale = _mm256_loadu_ps(e.scale + o), shift_in = _mm256_loadu_ps(e.shift_in + o);
      const __m256 slope = _mm256_loadu_ps(e.slope + o), shift_out = _mm256_loadu_ps(e.shift_out + o);
      const __m256 factor = _mm256_loadu_ps(e.factor + o);
      for (int64_t p = 0; p < pixels; ++p) {
        const auto* at = reinterpret_cast<const __m128i*>(dots + p * kOutputs + o);
        const __m256 dot = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(at)));
        const __m256 u = _mm256_add_ps(_mm256_mul_ps(dot, scale), shift_in);
        const __m256 below = _mm256_mul_ps(u, slope);
        __m256 v = _mm256_mul_ps(_mm256_add_ps(_mm256_blendv_ps(u, below, u), shift_out), factor);
        if (skip)
          v = _mm256_add_ps(v, _mm256_mul_ps(_mm256_set1_ps(gains[p]),
                                             _mm256_loadu_ps(skip + p * skip_stride + o)));
        _mm256_storeu_ps(y + p * y_stride + o, v);
      }
    }
    if (o < outputs)
      Portable::Finish(dots + o, pixels, e.From(o), skip ? skip + o : nullptr, skip_stride, gains,
                       outputs - o, y + o, y_stride);
  }

 private:
  static void SumRow(const ImageItem* x, int64_t stride, const KernelItem* k, int64_t count,
                     Block<Dot>& dots) {
    // A byte has room for the counts of 63 items.
    for (; count > 0; count -= 63, x += 63, k += 63 * kOutputs) {
      const int64_t items = std::min<int64_t>(count, 63);
      // One pair of pixels after the other: the sums of both do not fit the registers.
      for (int64_t p = 0; p < kPixels; p += 2) {
        __m256i both[2] = {}, second[2] = {};  // outputs in two halves
        int64_t i = 0;
#pragma GCC unroll 2
        for (; i + 3 <= items; i += 3)
          AddItems<3>(x + p * stride + i, k + i * kOutputs, both, second);
        for (; i < items; ++i) AddItems<1>(x + p * stride + i, k + i * kOutputs, both, second);
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
          // Both is first + 16 second, modulo 256.
          const __m256i low = _mm256_and_si256(second[half], _mm256_set1_epi8(15));
          const __m256i first = _mm256_sub_epi8(both[half], _mm256_slli_epi16(low, 4));
          Subtract(first, dots[p] + 32 * half);
          Subtract(second[half], dots[p + 1] + 32 * half);
        }
      }
    }
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

  // Up to three items, whose counts four bits have room for.
  template <int kCount>
  static void AddItems(const ImageItem* x, const KernelItem* k, __m256i (&both)[2],
                       __m256i (&second)[2]) {
    __m256i sums[2];
#pragma GCC unroll 3
    for (int i = 0; i < kCount; ++i) {
      const __m256i table =
          _mm256_broadcastsi128_si256(*reinterpret_cast<const __m128i*>(kTables.of[0] + x[i]));
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const auto* ki = reinterpret_cast<const __m256i*>(k + i * kOutputs) + half;
        const __m256i counts = _mm256_shuffle_epi8(table, _mm256_load_si256(ki));
        sums[half] = i ? _mm256_add_epi8(sums[half], counts) : counts;
      }
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m256i high = _mm256_srli_epi16(sums[half], 4);
      both[half] = _mm256_add_epi8(both[half], sums[half]);
      second[half] =
          _mm256_add_epi8(second[half], _mm256_and_si256(high, _mm256_set1_epi8(15)));
    }
  }

  // Twice the counts, which are less than 256.
  static void Subtract(__m256i counts, Dot* dots) {
    auto* d = reinterpret_cast<__m256i*>(dots);
    const __m256i low = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(counts));
    const __m256i high = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(counts, 1));
    _mm256_storeu_si256(d, _mm256_sub_epi16(_mm256_loadu_si256(d), _mm256_slli_epi16(low, 1)));
    _mm256_storeu_si256(d + 1,
                        _mm256_sub_epi16(_mm256_loadu_si256(d + 1), _mm256_slli_epi16(high, 1)));
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
constexpr Table::Tables Table::kTables;

#endif
#ifdef __AVX512VPOPCNTDQ__

// AVX-512 with VPOPCNTDQ. An item is a word, and the bits of 16 words are counted at a time.
struct Population : Portable {
  using Dot = int32_t;
  static constexpr int64_t kLanes = 16;

  // The counts of a block stay in registers for all rows.
  static void Sum(const ImageItem* const* x, int64_t first, int64_t stride, const KernelItem* k,
                  int64_t rows, int64_t count, Dot most, Block<Dot>& dots) {
    constexpr int kVectors = kOutputs / kLanes;
    __m512i counts[kPixels][kVectors] = {};
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < count; ++i, k += kOutputs) {
#pragma GCC unroll 4
        for (int p = 0; p < kPixels; ++p) {
          const __m512i xi = _mm512_set1_epi32(x[r][first + p * stride + i]);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            const __m512i ki = _mm512_load_si512(k + v * kLanes);
            const __m512i differing = _mm512_popcnt_epi32(_mm512_xor_si512(ki, xi));
            counts[p][v] = _mm512_add_epi32(counts[p][v], differing);
          }
        }
      }
#pragma GCC unroll 4
    for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        _mm512_store_si512(dots[p] + v * kLanes,
                           _mm512_sub_epi32(_mm512_set1_epi32(most),
                                            _mm512_slli_epi32(counts[p][v], 1)));
  }

  static void Pack(const float* x, const float* threshold, const Shape& s, uint32_t* words) {
    if (s.channels != 64) return Table::Pack(x, threshold, s, words);
    // Eight bytes, of which the first eight lanes have the even bits, and the others the odd ones.
    const __m512i places = _mm512_mask_set1_epi32(_mm512_set1_epi32(1), 0xff00, 2);
    __m512i octets = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int pair = 0; pair < 4; ++pair) {
      const __mmask16 above =
          _mm512_cmp_ps_mask(_mm512_loadu_ps(x + pair * kLanes),
                             _mm512_loadu_ps(threshold + pair * kLanes), _CMP_GT_OQ);
      octets = _mm512_mask_or_epi32(octets, above, octets, _mm512_slli_epi32(places, 2 * pair));
    }
    const __m128i bytes = _mm512_cvtepi32_epi8(octets);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(words),
                     _mm_or_si128(bytes, _mm_srli_si128(bytes, 8)));
  }

  static void Finish(const Dot* dots, int64_t pixels, const Epilogue& e, const float* skip,
                     int64_t skip_stride, const float* gains, int64_t outputs, float* y,
                     int64_t y_stride) {
    int64_t o = 0;
    for (; o + kLanes <= outputs; o += kLanes) {
      const __m512 scale = _mm512_loadu_ps(e.scale + o), shift_in = _mm512_loadu_ps(e.shift_in + o);
      const __m512 slope = _mm512_loadu_ps(e.slope + o), shift_out = _mm512_loadu_ps(e.shift_out + o);
      const __m512 factor = _mm512_loadu_ps(e.factor + o);
      for (int64_t p = 0; p < pixels; ++p) {
        const __m512 dot = _mm512_cvtepi32_ps(_mm512_loadu_si512(dots + p * kOutputs + o));
        const __m512 u = _mm512_add_ps(_mm512_mul_ps(dot, scale), shift_in);
        const __mmask16 negative = _mm512_cmp_ps_mask(u, _mm512_setzero_ps(), _CMP_LT_OQ);
        __m512 v = _mm512_mul_ps(
            _mm512_add_ps(_mm512_mask_mul_ps(u, negative, u, slope), shift_out), factor);
        if (skip)
          v = _mm512_add_ps(v, _mm512_mul_ps(_mm512_set1_ps(gains[p]),
                                             _mm512_loadu_ps(skip + p * skip_stride + o)));
        _mm512_storeu_ps(y + p * y_stride + o, v);
      }
    }
    if (o < outputs)
      Portable::Finish(dots + o, pixels, e.From(o), skip ? skip + o : nullptr, skip_stride, gains,
                       outputs - o, y + o, y_stride);
  }
};

#endif

// The kernels [kh, kw, words, outputs] as items [blocks of outputs, kh, kw, words, kItems, kOutputs];
// and the set bits of each, [blocks, kh, kw, kOutputs], which is what a pixel of zero bits counts.
struct Kernels {
  Kernels(const Shape& s, const uint32_t* k)
      : row(s.kw * s.words * FORM::kItems * kOutputs),
        lines((s.outputs + kOutputs - 1) / kOutputs * s.kh * row / kOutputs),
        bits((s.outputs + kOutputs - 1) / kOutputs * s.kh * s.kw * kOutputs) {
    auto* line = lines.data();
    auto* bit = bits.data();
    for (int64_t first = 0; first < s.outputs; first += kOutputs) {
      const int64_t outputs = std::min(kOutputs, s.outputs - first);
      for (int64_t tap = 0; tap < s.kh * s.kw; ++tap, bit += kOutputs)
        for (int64_t word = 0; word < s.words; ++word) {
          uint32_t block[kOutputs] = {};
          std::copy_n(k + (tap * s.words + word) * s.outputs + first, outputs, block);
          for (int64_t o = 0; o < kOutputs; ++o) bit[o] += __builtin_popcount(block[o]);
          for (int64_t i = 0; i < FORM::kItems; ++i, ++line)
            for (int64_t o = 0; o < kOutputs; ++o) line->items[o] = FORM::Kernel(block[o], i);
        }
    }
  }

  // Vectors are loaded from one line of the cache: from two it takes twice as long.
  struct alignas(64) Line {
    FORM::KernelItem items[kOutputs];
  };

  int64_t row;  // items of a row of taps, of a block of outputs
  std::vector<Line> lines;
  std::vector<uint16_t> bits;
};

// Rows [first, last) of the output, counted over all images. words(r, scratch) is row r of all images
// as words, made in the scratch if need be; write(row, first pixel, pixels, first output, outputs,
// dots) takes the results of a block.
template <class Words, class Write>
void ConvolveRows(const Shape& s, const Kernels& kernels, int64_t first, int64_t last,
                  const Words& words, const Write& write) {
  const int64_t pixel = s.words * FORM::kItems;  // items
  const int64_t row = (s.width + s.kw - 1 + kPixels) * pixel;
  std::vector<FORM::ImageItem> ring(s.kh * row);  // row r of an image is in place r % kh
  std::vector<const FORM::ImageItem*> rows(s.kh);
  std::vector<uint32_t> scratch(s.width * s.words);
  const std::vector<uint32_t> zero(s.words);
  int64_t filled = -1;  // the rows of all images before it are in the ring
  for (int64_t n = first; n < last; ++n) {
    const int64_t start = n / s.height * s.height, h = n - start;  // of the image, and in it
    const int64_t top = std::max<int64_t>(0, h - s.kh / 2);
    const int64_t bottom = std::min(s.height, h + s.kh / 2 + 1);
    for (int64_t r = std::max(filled, start + top); r < start + bottom; ++r) {
      auto* to = ring.data() + (r - start) % s.kh * row + s.kw / 2 * pixel;
      const uint32_t* from = words(r, scratch.data());
      // The padding beside the row is of zero bits, but the pixel next to the last of it is the first.
      if (s.kw > 1) FORM::Image(zero.data(), from, s.words, to - pixel);
      for (int64_t w = 0; w < s.width; ++w, from += s.words, to += pixel)
        FORM::Image(from, w + 1 < s.width ? from + s.words : zero.data(), s.words, to);
    }
    filled = start + bottom;
    for (int64_t r = top; r < bottom; ++r) rows[r - top] = ring.data() + r % s.kh * row;
    const auto* k = kernels.lines.data()->items;
    const auto* bits = kernels.bits.data();
    for (int64_t block = 0; block < s.outputs; block += kOutputs) {
      for (int64_t left = 0; left < s.width; left += kPixels) {
        alignas(64) Block<FORM::Dot> dots;
        FORM::Sum(rows.data(), left * pixel, pixel, k + (top - h + s.kh / 2) * kernels.row,
                  bottom - top, s.kw * pixel, s.channels * (bottom - top) * s.kw, dots);
        const int64_t right = std::min(left + kPixels, s.width);
        const bool inside = left >= s.kw / 2 && right <= s.width - s.kw / 2;
        // What is beside the image was counted as zero bits.
        for (int64_t w = left; !inside && w < right; ++w)
          for (int64_t j = 0; j < s.kw; ++j) {
            if (0 <= w + j - s.kw / 2 && w + j - s.kw / 2 < s.width) continue;
            for (int64_t r = top; r < bottom; ++r)
              for (int64_t o = 0; o < kOutputs; ++o)
                dots[w - left][o] +=
                    2 * bits[((r - h + s.kh / 2) * s.kw + j) * kOutputs + o] - s.channels;
          }
        write(n, left, right - left, block, std::min(kOutputs, s.outputs - block), dots[0]);
      }
      k += s.kh * kernels.row;
      bits += s.kh * s.kw * kOutputs;
    }
  }
}

// Calls work(first, last) for parts of 0..count, of at least so many, on the threads of the pool and
// on this one. A part is a share of what is left: the first ones are large, as what is worked twice at
// their borders is less then; the last ones small, so that no thread waits long for another.
template <class Work>
void InParallel(ffi::ThreadPool& pool, int64_t count, int64_t least, const Work& work) {
  struct Progress {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto progress = std::make_shared<Progress>();
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  // A task that starts when nothing is left touches nothing but the progress. So this thread need
  // not wait for the tasks, which could not start if all threads of the pool waited for theirs.
  auto task = [progress, count, least, threads, &work] {
    int64_t first = progress->next, last;
    while (first < count) {
      last = std::min(count, first + std::max(least, (count - first) / (2 * threads)));
      if (!progress->next.compare_exchange_weak(first, last)) continue;
      work(first, last);
      if ((progress->done += last - first) == count) {
        std::lock_guard<std::mutex> lock(progress->mutex);
        progress->all_done.notify_one();
      }
      first = progress->next;
    }
  };
  for (int64_t i = 1; i < std::min(threads, (count + least - 1) / least); ++i)
    pool.Schedule(decltype(task)(task));
  task();
  std::unique_lock<std::mutex> lock(progress->mutex);
  progress->all_done.wait(lock, [&] { return progress->done == count; });
}

// The shape of a convolution of x [B, H, W, words or channels] with kernels [kh, kw, words, outputs].
Shape ShapeOf(ffi::Span<const int64_t> xs, ffi::Span<const int64_t> ks, int64_t channels) {
  return {xs[0], xs[1], xs[2], channels, ks[2], ks[0], ks[1], ks[3]};
}

// The rows of the output that are worth a task: some hundred thousand products, of so many words or
// numbers a pixel.
int64_t LeastRows(const Shape& s, int64_t pixel) {
  const int64_t row = std::max<int64_t>(1, s.width * pixel * s.kh * s.kw * s.outputs);
  return std::max<int64_t>(1, (1 << 18) / row);
}

template <class Words, class Write>
void Convolve(ffi::ThreadPool& pool, const Shape& s, const uint32_t* k, const Words& words,
              const Write& write) {
  const Kernels kernels(s, k);
  InParallel(pool, s.batch * s.height, LeastRows(s, s.words), [&](int64_t first, int64_t last) {
    ConvolveRows(s, kernels, first, last, words, write);
  });
}

using Eight = float __attribute__((vector_size(32)));

// Zeros stand for what lacks to eight.
Eight LoadEight(const float* from, int64_t count = 8) {
  Eight v = {};
  std::memcpy(&v, from, count * sizeof(float));
  return v;
}

Eight MultiplyAdd(Eight a, Eight b, Eight c) {
#ifdef __FMA__
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

float Sum(Eight v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

// The convolution of floats x [B, H, W, C] with k [kh, kw, C, kOuts] to few outputs. Eight channels
// are added up side by side, and then those eight sums: for each pixel in the same order, wherever it
// lies. What is beside the image is left out.
template <int kOuts>
struct FewOutputs {
  static constexpr int64_t kLanes = 8;

  FewOutputs(const Shape& s, const float* k) : s(s), k(s.kh * s.kw * s.channels / kLanes * kOuts) {
    for (int64_t i = 0; i < s.kh * s.kw * s.channels; ++i)
      for (int64_t o = 0; o < kOuts; ++o)
        this->k[i / kLanes * kOuts + o][i % kLanes] = k[i * kOuts + o];
  }

  // Rows [first, last) of the output, counted over all images.
  void Rows(const float* x, int64_t first, int64_t last, float* y) const {
    for (int64_t n = first; n < last; ++n) {
      const int64_t h = n % s.height, beside = s.kw / 2;
      const float* row = x + n * s.width * s.channels;
      float* to = y + n * s.width * kOuts;
      int64_t w = 0;
      while (w < s.width) {
        if (w >= beside && w + kPixels + beside <= s.width) {
          Block<kPixels>(row, h, w, to + w * kOuts);
          w += kPixels;
        } else {
          Block<1>(row, h, w, to + w * kOuts);
          w += 1;
        }
      }
    }
  }

 private:
  template <int kCount>
  void Block(const float* row, int64_t h, int64_t w, float* y) const {
    Eight sums[kCount][kOuts] = {};
    for (int64_t i = 0; i < s.kh; ++i) {
      const int64_t down = i - s.kh / 2;
      if (h + down < 0 || h + down >= s.height) continue;
      for (int64_t j = 0; j < s.kw; ++j) {
        const int64_t column = w + j - s.kw / 2;
        if (column < 0 || column >= s.width) continue;
        const float* at = row + (down * s.width + column) * s.channels;
        const Eight* weights = k.data() + (i * s.kw + j) * s.channels / kLanes * kOuts;
        for (int64_t c = 0; c < s.channels; c += kLanes, weights += kOuts)
#pragma GCC unroll 4
          for (int p = 0; p < kCount; ++p) {
            const Eight lanes = LoadEight(at + p * s.channels + c);
#pragma GCC unroll 3
            for (int o = 0; o < kOuts; ++o)
              sums[p][o] = MultiplyAdd(lanes, weights[o], sums[p][o]);
          }
      }
    }
    for (int p = 0; p < kCount; ++p)
      for (int o = 0; o < kOuts; ++o) y[p * kOuts + o] = Sum(sums[p][o]);
  }

  const Shape s;
  std::vector<Eight> k;
};

#ifdef __AVX512F__
using Floats = float __attribute__((vector_size(64)));
#else
using Floats = float __attribute__((vector_size(32)));
#endif
constexpr int64_t kFloats = sizeof(Floats) / sizeof(float);

Floats Load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

void Store(Floats v, float* to) { std::memcpy(to, &v, sizeof v); }

// c[m, n] += sum over i < count of a[m, i] b[i, n], for some rows m of c and so many vectors of its
// width; a[m, i] is at m * row + i * step. The sums stay in registers.
template <int kRows, int kVectors>
void AddBlock(const float* a, int64_t row, int64_t step, const float* b, int64_t count, float* c,
              int64_t width) {
  Floats sums[kRows][kVectors];
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[m][v] = Load(c + m * width + v * kFloats);
  for (int64_t i = 0; i < count; ++i, a += step, b += width) {
    Floats bi[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) bi[v] = Load(b + v * kFloats);
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[m][v] += a[m * row] * bi[v];
  }
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Store(sums[m][v], c + m * width + v * kFloats);
}

template <int kVectors>
void AddColumns(const float* a, int64_t row, int64_t step, const float* b, int64_t count, float* c,
                int64_t rows, int64_t width) {
  for (; rows >= 4; rows -= 4, a += 4 * row, c += 4 * width)
    AddBlock<4, kVectors>(a, row, step, b, count, c, width);
  if (rows == 3) AddBlock<3, kVectors>(a, row, step, b, count, c, width);
  if (rows == 2) AddBlock<2, kVectors>(a, row, step, b, count, c, width);
  if (rows == 1) AddBlock<1, kVectors>(a, row, step, b, count, c, width);
}

// A product of matrices, added to c [rows, width]; the width is a multiple of kFloats.
void AddProduct(const float* a, int64_t row, int64_t step, const float* b, int64_t count, float* c,
                int64_t rows, int64_t width) {
  constexpr int kVectors = kFloats == 16 ? 4 : 2;  // what the registers hold for four rows
  int64_t n = 0;
  for (; n + kVectors * kFloats <= width; n += kVectors * kFloats)
    AddColumns<kVectors>(a, row, step, b + n, count, c + n, rows, width);
  for (; n < width; n += kFloats)
    AddColumns<1>(a, row, step, b + n, count, c + n, rows, width);
}

// Calls add(input pixel, output pixel, pixels) for the pixels of a row that a tap j reaches.
template <class Add>
void Reached(const Shape& s, int64_t j, const Add& add) {
  const int64_t right = j - s.kw / 2;
  const int64_t first = std::max<int64_t>(0, -right);
  const int64_t last = std::min(s.width, s.width - right);
  if (first < last) add(first + right, first, last - first);
}

using Bits = ffi::Buffer<ffi::U32, 4>;
using Dots = ffi::Buffer<ffi::S16, 4>;
using Features = ffi::Buffer<ffi::F32, 4>;
using Gradients = ffi::Buffer<ffi::F32, 5>;  // of a kernel, by each image
using PerChannel = ffi::Buffer<ffi::F32, 1>;
using PerOutput = ffi::Buffer<ffi::F32, 2>;  // [5, outputs]: what an Epilogue has

ffi::Error PackedConv(ffi::ThreadPool pool, Bits x, Bits k, int64_t channels,
                      ffi::Result<Dots> y) {
  const Shape s = ShapeOf(x.dimensions(), k.dimensions(), channels);
  const auto words = [&](int64_t r, uint32_t*) { return x.typed_data() + r * s.width * s.words; };
  const auto write = [&](int64_t row, int64_t left, int64_t pixels, int64_t first, int64_t outputs,
                         const FORM::Dot* dots) {
    int16_t* to = y->typed_data() + (row * s.width + left) * s.outputs + first;
    for (int64_t p = 0; p < pixels; ++p)
      std::copy_n(dots + p * kOutputs, outputs, to + p * s.outputs);
  };
  Convolve(pool, s, k.typed_data(), words, write);
  return ffi::Error::Success();
}

// What is added to a branch: x times a; or, with spatial attention, times a sigmoid(b + sum of w x)
// over the channels of the pixel. In one buffer: nothing, or a, or a, b and w.
struct Residual {
  explicit Residual(PerChannel buffer)
      : size(buffer.element_count()), channels(size - 2), a(buffer.typed_data()) {}

  // Of so many pixels, at most kPixels, from x on.
  void Gains(const float* x, int64_t pixels, float* gains) const {
    if (size == 1) std::fill_n(gains, pixels, *a);
    if (size <= 1) return;
    if (pixels == kPixels)
      Sums<kPixels>(x, gains);
    else
      for (int64_t p = 0; p < pixels; ++p) Sums<1>(x + p * channels, gains + p);
    for (int64_t p = 0; p < pixels; ++p) gains[p] = *a / (1 + std::exp(-gains[p]));
  }

  const int64_t size;

 private:
  // In the same order for each pixel, wherever it lies.
  template <int kCount>
  void Sums(const float* x, float* to) const {
    const float* w = a + 2;
    Eight sums[kCount] = {};
    const auto add = [&](int64_t c, int64_t count) {
      const Eight weights = LoadEight(w + c, count);
#pragma GCC unroll 4
      for (int p = 0; p < kCount; ++p)
        sums[p] = MultiplyAdd(LoadEight(x + p * channels + c, count), weights, sums[p]);
    };
    int64_t c = 0;
    for (; c + 8 <= channels; c += 8) add(c, 8);
    if (c < channels) add(c, channels - c);
    for (int p = 0; p < kCount; ++p) to[p] = a[1] + Sum(sums[p]);
  }

  const int64_t channels;
  const float* const a;
};

ffi::Error PackedBranch(ffi::ThreadPool pool, Features x, PerChannel threshold, Bits k,
                        PerOutput epilogue, PerChannel added, int64_t shuffle,
                        ffi::Result<Features> y) {
  const Shape s = ShapeOf(x.dimensions(), k.dimensions(), x.dimensions()[3]);
  const float* e = epilogue.typed_data();
  const Epilogue all = {e, e + s.outputs, e + 2 * s.outputs, e + 3 * s.outputs, e + 4 * s.outputs};
  const Residual residual(added);
  const auto words = [&](int64_t r, uint32_t* scratch) {
    const float* from = x.typed_data() + r * s.width * s.channels;
    for (int64_t w = 0; w < s.width; ++w)
      FORM::Pack(from + w * s.channels, threshold.typed_data(), s, scratch + w * s.words);
    return static_cast<const uint32_t*>(scratch);
  };
  // With pixel shuffle the outputs are those of each of shuffle * shuffle pixels in turn, and what
  // is skipped to them is one pixel of x.
  const int64_t features = s.outputs / (shuffle * shuffle);
  const auto write = [&](int64_t row, int64_t left, int64_t pixels, int64_t first, int64_t outputs,
                         const FORM::Dot* dots) {
    // What of x is packed for the next row is fetched while this one is computed.
    if (first == 0)
      for (int64_t i = 0; i < pixels * s.channels; i += 16)
        __builtin_prefetch(x.typed_data() +
                           ((row + s.kh / 2 + 1) * s.width + left) * s.channels + i);
    const float* from = x.typed_data() + (row * s.width + left) * s.channels;
    float gains[kPixels];
    residual.Gains(from, pixels, gains);
    for (int64_t o = first; o < first + outputs;) {
      const int64_t place = o / features, feature = o % features;
      const int64_t run = std::min(features - feature, first + outputs - o);
      const int64_t large_row = row * shuffle + place / shuffle;
      const int64_t to = (large_row * s.width + left) * shuffle + place % shuffle;
      FORM::Finish(dots + o - first, pixels, all.From(o),
                   residual.size ? from + feature : nullptr, s.channels, gains, run,
                   y->typed_data() + to * features + feature, shuffle * features);
      o += run;
    }
  };
  Convolve(pool, s, k.typed_data(), words, write);
  return ffi::Error::Success();
}

template <int kOuts>
void ConvolveToFew(ffi::ThreadPool& pool, const Shape& s, Features x, Features k, float* y) {
  const FewOutputs<kOuts> convolution(s, k.typed_data());
  InParallel(pool, s.batch * s.height, LeastRows(s, s.channels), [&](int64_t first, int64_t last) {
    convolution.Rows(x.typed_data(), first, last, y);
  });
}

void ConvolveToMany(ffi::ThreadPool& pool, const Shape& s, Features x, Features k, float* y) {
  const int64_t inputs = s.channels, outputs = s.outputs;
  InParallel(pool, s.batch * s.height, LeastRows(s, inputs), [&](int64_t start, int64_t end) {
    for (int64_t n = start; n < end; ++n) {
      float* row = y + n * s.width * outputs;
      std::fill_n(row, s.width * outputs, 0.0f);
      for (int64_t i = 0; i < s.kh; ++i) {
        const int64_t down = i - s.kh / 2;
        if (n % s.height + down < 0 || n % s.height + down >= s.height) continue;
        const float* from = x.typed_data() + (n + down) * s.width * inputs;
        const float* tap = k.typed_data() + i * s.kw * inputs * outputs;
        for (int64_t j = 0; j < s.kw; ++j, tap += inputs * outputs)
          Reached(s, j, [&](int64_t in, int64_t out, int64_t pixels) {
            AddProduct(from + in * inputs, inputs, 1, tap, inputs, row + out * outputs, pixels,
                       outputs);
          });
      }
    }
  });
}

ffi::Error FloatConv(ffi::ThreadPool pool, Features x, Features k, ffi::Result<Features> y) {
  const Shape s = ShapeOf(x.dimensions(), k.dimensions(), x.dimensions()[3]);
  if (s.outputs == 1) ConvolveToFew<1>(pool, s, x, k, y->typed_data());
  if (s.outputs == 2) ConvolveToFew<2>(pool, s, x, k, y->typed_data());
  if (s.outputs == 3) ConvolveToFew<3>(pool, s, x, k, y->typed_data());
  if (s.outputs > 3) ConvolveToMany(pool, s, x, k, y->typed_data());
  return ffi::Error::Success();
}

// The kernel's gradient of every image: [B, kh, kw, I, O]. A row of taps is a task, so that the order
// of a sum does not depend on the threads.
ffi::Error KernelGradients(ffi::ThreadPool pool, Features x, Features dy,
                           ffi::Result<Gradients> dk) {
  const auto ks = dk->dimensions().last(4);
  const Shape s = ShapeOf(x.dimensions(), ks, x.dimensions()[3]);
  const int64_t inputs = s.channels, outputs = s.outputs;
  InParallel(pool, s.batch * s.kh, 1, [&](int64_t start, int64_t end) {
    for (int64_t n = start; n < end; ++n) {
      const int64_t image = n / s.kh * s.height, down = n % s.kh - s.kh / 2;
      float* tap = dk->typed_data() + n * s.kw * inputs * outputs;
      std::fill_n(tap, s.kw * inputs * outputs, 0.0f);
      for (int64_t j = 0; j < s.kw; ++j, tap += inputs * outputs)
        for (int64_t h = std::max<int64_t>(0, -down); h < std::min(s.height, s.height - down); ++h)
          Reached(s, j, [&](int64_t in, int64_t out, int64_t pixels) {
            AddProduct(x.typed_data() + ((image + h + down) * s.width + in) * inputs, 1, inputs,
                       dy.typed_data() + ((image + h) * s.width + out) * outputs, pixels, tap,
                       inputs, outputs);
          });
    }
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(binsr_packed_conv, PackedConv,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Bits>()
                                  .Arg<Bits>()
                                  .Attr<int64_t>("channels")
                                  .Ret<Dots>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(binsr_packed_branch, PackedBranch,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Features>()
                                  .Arg<PerChannel>()
                                  .Arg<Bits>()
                                  .Arg<PerOutput>()
                                  .Arg<PerChannel>()
                                  .Attr<int64_t>("shuffle")
                                  .Ret<Features>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(binsr_float_conv, FloatConv,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Features>()
                                  .Arg<Features>()
                                  .Ret<Features>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(binsr_kernel_gradients, KernelGradients,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Features>()
                                  .Arg<Features>()
                                  .Ret<Gradients>());
