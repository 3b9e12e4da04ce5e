// The convolution of packed signs, row by row, in any form. binsr_jax/ops/packed.py describes the
// order of the bits.
//
//   dot[b, h, w, o] = channels * valid taps
//                     - 2 * sum over valid taps of popcount(x[b, h + i, w + j] ^ k[i, j, o])
//
// A row of the output needs kh rows of the input. These are stored as items, which are words or parts
// of words, with padding on both sides. So the items of a pixel's taps in one row are contiguous. A
// vector holds output channels; the pixels of a tile share the loaded kernel. Rows above and below
// the image are skipped. Pixels beside it are read as zero bits, and their counts are subtracted.

#ifndef BINSR_PACKED_CONV_H_
#define BINSR_PACKED_CONV_H_

#include <algorithm>
#include <vector>

#include "shape.h"

namespace binsr {

// The kernels [kh, kw, words, outputs] as items [blocks of outputs, kh, kw, words, kItems, kOutputs],
// and their numbers of set bits, [blocks, kh, kw, kOutputs], which are the counts of a zero pixel.
template <class Form>
struct Kernels {
  Kernels(const Shape& s, const uint32_t* k)
      : row(s.kw * s.words * Form::kItems * kOutputs),
        lines((s.outputs + kOutputs - 1) / kOutputs * s.kh * row / kOutputs),
        bits((s.outputs + kOutputs - 1) / kOutputs * s.kh * s.kw * kOutputs) {
    auto* line = lines.data();
    auto* bit = bits.data();
    for (int64_t first = 0; first < s.outputs; first += kOutputs) {
      const int64_t outputs = std::min(kOutputs, s.outputs - first);
      for (int64_t tap = 0; tap < s.kh * s.kw; ++tap, bit += kOutputs)
        for (int64_t word = 0; word < s.words; ++word, line += Form::kItems) {
          uint32_t block[kOutputs] = {};
          std::copy_n(k + (tap * s.words + word) * s.outputs + first, outputs, block);
          for (int64_t o = 0; o < kOutputs; ++o) {
            bit[o] += __builtin_popcount(block[o]);
            for (int64_t i = 0; i < Form::kItems; ++i)
              line[i].items[Form::Place(o)] = Form::Kernel(block[o], i);
          }
        }
    }
  }

  // Aligned, so that a vector load touches one cache line rather than two.
  struct alignas(64) Line {
    typename Form::KernelItem items[kOutputs];
  };

  int64_t row;  // number of items in a row of taps, for a block of outputs
  std::vector<Line> lines;
  std::vector<uint16_t> bits;
};

// Convolves rows of images one after the other, and keeps the rows of items for the next row.
template <class Form>
class RowConvolver {
 public:
  explicit RowConvolver(const Shape& s)
      : s(s),
        pixel(s.words * Form::kItems),
        row((s.width + s.kw - 1 + kPixels) * pixel),
        ring(s.kh * row),
        rows(s.kh),
        zero(s.words) {}

  // Drops the stored rows.
  void Restart() { filled = -1; }

  // Computes row n of the output, counted over all images. The caller requests rows in order, except
  // after a restart. words(r) returns row r of all images as words; write(first pixel, pixels, first
  // output, outputs, dots) receives the results of a tile.
  template <class Words, class Write>
  void Row(const Kernels<Form>& kernels, int64_t n, const Words& words, const Write& write) {
    const int64_t start = n / s.height * s.height, h = n - start;  // first row of the image, and row in it
    const int64_t top = std::max<int64_t>(0, h - s.kh / 2);
    const int64_t bottom = std::min(s.height, h + s.kh / 2 + 1);
    for (int64_t r = std::max(filled, start + top); r < start + bottom; ++r)
      Fill(words(r), ring.data() + (r - start) % s.kh * row);
    filled = start + bottom;
    for (int64_t r = top; r < bottom; ++r) rows[r - top] = ring.data() + r % s.kh * row;
    const auto* k = kernels.lines.data()->items + (top - h + s.kh / 2) * kernels.row;
    const auto* bits = kernels.bits.data() + (top - h + s.kh / 2) * s.kw * kOutputs;
    for (int64_t block = 0; block < s.outputs; block += kOutputs) {
      for (int64_t left = 0; left < s.width; left += kPixels) {
        alignas(64) Tile<typename Form::Dot> dots;
        Form::Dots(rows.data(), left * pixel, pixel, k, bottom - top, s.kw * pixel,
                   s.channels * (bottom - top) * s.kw, dots);
        const int64_t right = std::min(left + kPixels, s.width);
        if (left < s.kw / 2 || right > s.width - s.kw / 2)
          Correct(bits, bottom - top, left, right, dots);
        write(left, right - left, block, std::min(kOutputs, s.outputs - block), dots[0]);
      }
      k += s.kh * kernels.row;
      bits += s.kh * s.kw * kOutputs;
    }
  }

 private:
  void Fill(const uint32_t* from, typename Form::ImageItem* to) const {
    to += s.kw / 2 * pixel;
    // The padding is zero bits. The last pixel on its left has the row's first pixel as its neighbour.
    if (s.kw > 1) Form::Image(zero.data(), from, s.words, to - pixel);
    for (int64_t w = 0; w < s.width; ++w, from += s.words, to += pixel)
      Form::Image(from, w + 1 < s.width ? from + s.words : zero.data(), s.words, to);
  }

  // Corrects the dots near the sides, where pixels beside the image were counted as zero bits.
  void Correct(const uint16_t* bits, int64_t taps, int64_t left, int64_t right,
               Tile<typename Form::Dot>& dots) const {
    for (int64_t w = left; w < right; ++w)
      for (int64_t j = 0; j < s.kw; ++j) {
        if (0 <= w + j - s.kw / 2 && w + j - s.kw / 2 < s.width) continue;
        for (int64_t i = 0; i < taps; ++i)
          for (int64_t o = 0; o < kOutputs; ++o)
            dots[w - left][o] += 2 * bits[(i * s.kw + j) * kOutputs + o] - s.channels;
      }
  }

  const Shape s;
  const int64_t pixel, row;  // items
  std::vector<typename Form::ImageItem> ring;  // row r of an image is at position r % kh
  std::vector<const typename Form::ImageItem*> rows;
  const std::vector<uint32_t> zero;
  int64_t filled = -1;  // all rows before it have been written to the ring
};

}  // namespace binsr

#endif  // BINSR_PACKED_CONV_H_
