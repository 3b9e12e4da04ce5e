// The packed convolution in plain C++, for any CPU, to compare the other forms with.
//
// A form of the packed convolution is a struct with
//   ImageItem, KernelItem, Dot           the types of items and of a dot product
//   kItems                               the number of items in a word of 32 signs
//   kPixels, kOutputs                    the numbers of pixels and outputs in a tile; missing outputs are
//                                        zeros
//   kDepth                               the items of a row of taps are filled up to a multiple of it
//   kOverlaps                            whether Dots writes the results of the tile before: calls
//                                        rest.WriteSome()
//   kZeros                               whether an item of zeros has the dot product 0; otherwise it is
//                                        zero bits
//   Unit                                 lives while a thread calls Dots
//   Image(pixel, next, words, to)        writes the items of a pixel, from its words and the words of
//                                        the pixel to its right
//   Kernel(word, present, item)          the item of a word of a kernel, and of the bits that are channels
//   Place(output)                        the position of an output's item in a line of kOutputs
//   Dots(x, first, stride, pixels, k, rows, count, most, dots, rest)
//                                        writes dots[p][o]: `most`, minus two for each bit in which
//                                        x[r][first + p * stride + i] and
//                                        k[(r * filled + i) * kOutputs + Place(o)] differ, over all
//                                        r < rows and i < count, where filled is count after it was
//                                        filled up; at least for p < pixels
//   Pack(x, threshold, channels, words, to)
//                                        writes the signs of a pixel's x - threshold
//   Lanes                                a vector of floats, see ScalarLanes

#ifndef BINSR_PORTABLE_H_
#define BINSR_PORTABLE_H_

#include <algorithm>

#include "shape.h"

namespace binsr {

// One float at a time. `Ints` has an integer for each float, for its bits; kSums vectors of sums for each
// of six pixels fit the registers.
struct ScalarLanes {
  using Floats = float;
  using Ints = uint32_t;
  static constexpr int64_t kCount = 1;
  static constexpr int64_t kSums = 8;

  static Floats Load(const float* from) { return *from; }
  static void Store(Floats v, float* to) { *to = v; }
  static Floats Set(float v) { return v; }
  template <class Dot>
  static Floats FromDots(const Dot* dots) {
    return static_cast<float>(*dots);
  }
  static Floats MultiplyAdd(Floats a, Floats b, Floats c) { return binsr::MultiplyAdd(a, b, c); }
  // u if it is positive, otherwise u times the slope.
  static Floats Leaky(Floats u, Floats slope) { return u > 0 ? u : u * slope; }
  // 1 / v, for positive numbers of normal size.
  static Floats Reciprocal(Floats v) { return 1 / v; }
};

struct Portable : SmallTiles {
  using ImageItem = uint32_t;
  using KernelItem = uint32_t;
  using Dot = int16_t;
  using Lanes = ScalarLanes;
  static constexpr int64_t kItems = 1;

  static void Image(const uint32_t* pixel, const uint32_t*, int64_t words, ImageItem* to) {
    std::copy_n(pixel, words, to);
  }
  static KernelItem Kernel(uint32_t word, uint32_t, int64_t) { return word; }
  static int64_t Place(int64_t output) { return output; }

  template <class Rest>
  BINSR_NOINLINE static void Dots(const ImageItem* const* x, int64_t first, int64_t stride,
                                  int64_t, const KernelItem* k, int64_t rows, int64_t count,
                                  Dot most, Dot (&dots)[kPixels][kOutputs], const Rest&) {
    std::fill_n(dots[0], kPixels * kOutputs, most);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < count; ++i, k += kOutputs)
        for (int64_t p = 0; p < kPixels; ++p)
          for (int64_t o = 0; o < kOutputs; ++o)
            dots[p][o] -= 2 * __builtin_popcount(x[r][first + p * stride + i] ^ k[o]);
  }

  static void Pack(const float* x, const float* threshold, int64_t channels, int64_t words,
                   uint32_t* to) {
    const int64_t bytes = 4 * words;
    std::fill_n(to, words, 0);
    for (int64_t c = 0; c < channels; ++c)
      if (x[c] > threshold[c]) to[c % bytes / 4] |= 1u << (c % 4 * 8 + c / bytes);
  }
};

}  // namespace binsr

#endif  // BINSR_PORTABLE_H_
