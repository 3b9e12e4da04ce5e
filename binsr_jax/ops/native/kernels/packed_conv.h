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
// in which the items of a row of taps may be followed by zeros, and their numbers of set bits,
// [blocks, kh, kw, kOutputs], which are the counts of a zero pixel.
template <class Form>
struct Kernels {
  Kernels(const Shape& s, const uint32_t* k)
      : row((s.kw * s.words * Form::kItems + Form::kDepth - 1) / Form::kDepth * Form::kDepth *
            Form::kOutputs),
        lines((s.outputs + Form::kOutputs - 1) / Form::kOutputs * s.kh * row / Form::kOutputs),
        bits((s.outputs + Form::kOutputs - 1) / Form::kOutputs * s.kh * s.kw * Form::kOutputs) {
    auto* bit = bits.data();
    for (int64_t first = 0; first < s.outputs; first += Form::kOutputs) {
      const int64_t outputs = std::min(Form::kOutputs, s.outputs - first);
      for (int64_t tap = 0; tap < s.kh * s.kw; ++tap, bit += Form::kOutputs) {
        auto* line = lines.data() + (first / Form::kOutputs * s.kh + tap / s.kw) * (row / Form::kOutputs) +
                     tap % s.kw * s.words * Form::kItems;
        for (int64_t word = 0; word < s.words; ++word, line += Form::kItems) {
          uint32_t block[Form::kOutputs] = {}, present = 0;  // the bits that are channels
          for (int64_t b = 0; b < 32; ++b)
            present |= uint32_t{4 * (word + b % 8 * s.words) + b / 8 < s.channels} << b;
          std::copy_n(k + (tap * s.words + word) * s.outputs + first, outputs, block);
          for (int64_t o = 0; o < Form::kOutputs; ++o) {
            bit[o] += __builtin_popcount(block[o]);
            for (int64_t i = 0; i < Form::kItems; ++i)
              line[i].items[Form::Place(o)] = Form::Kernel(block[o], present, i);
          }
        }
      }
    }
  }

  // Aligned, so that a vector load touches one cache line rather than two.
  struct alignas(64) Line {
    typename Form::KernelItem items[Form::kOutputs];
  };

  int64_t row;  // number of items in a row of taps, for a block of outputs
  std::vector<Line> lines;
  std::vector<uint16_t> bits;
};

// The results of a tile that are still to be written, a few pixels at a time. write takes the row, the
// first pixel, pixels, the first output, outputs and dots.
template <class Form, class Write>
class Rest {
 public:
  explicit Rest(const Write& write) : write(write) {}

  void Set(int64_t n, int64_t start, int64_t count, int64_t first_output, int64_t number,
           const typename Form::Dot* from) {
    row = n;
    left = start;
    end = start + count;
    first = first_output;
    outputs = number;
    dots = from;
  }
  void WriteSome() {
    if (left >= end) return;
    const int64_t count = std::min(kPixels, end - left);
    write(row, left, count, first, outputs, dots);
    left += count;
    dots += count * Form::kOutputs;
  }
  void WriteAll() {
    while (left < end) WriteSome();
  }

 private:
  const Write& write;
  int64_t row = 0, left = 0, end = 0, first = 0, outputs = 0;
  const typename Form::Dot* dots = nullptr;
};

// Convolves rows of images one after the other, and keeps the rows of items for the next row.
template <class Form>
class RowConvolver {
 public:
  explicit RowConvolver(const Shape& s)
      : s(s),
        pixel(s.words * Form::kItems),
        row(((s.width + s.kw - 1 + Form::kPixels) * pixel + Form::kDepth) / kLine + 1),
        ring(s.kh * row),
        rows(s.kh),
        zero(s.words) {}

  // Drops the stored rows.
  void Restart() { filled = -1; }

  // Computes rows of the output, counted over all images. The caller requests rows in order, except
  // after a restart. words(r) returns row r of all images as words; write receives the results, see
  // Rest.
  template <class Words, class Write>
  void Rows(const Kernels<Form>& kernels, int64_t first, int64_t last, const Words& words,
            const Write& write) {
    [[maybe_unused]] const typename Form::Unit unit;
    alignas(64) Tile<Form> tiles[Form::kOverlaps ? 2 : 1];
    int64_t turn = 0;
    Rest<Form, Write> rest(write);
    for (int64_t n = first; n < last; ++n) {
      const int64_t start = n / s.height * s.height, h = n - start;  // first row of the image, and row in it
      const int64_t top = std::max<int64_t>(0, h - s.kh / 2);
      const int64_t bottom = std::min(s.height, h + s.kh / 2 + 1), taps = bottom - top;
      for (int64_t r = std::max(filled, start + top); r < start + bottom; ++r)
        Fill(words(r), ring[(r - start) % s.kh * row].items);
      filled = start + bottom;
      for (int64_t r = top; r < bottom; ++r) rows[r - top] = ring[r % s.kh * row].items;
      const auto* k = kernels.lines.data()->items + (top - h + s.kh / 2) * kernels.row;
      const auto* bits = kernels.bits.data() + (top - h + s.kh / 2) * s.kw * Form::kOutputs;
      for (int64_t block = 0; block < s.outputs; block += Form::kOutputs) {
        for (int64_t left = 0; left < s.width; left += Form::kPixels) {
          Tile<Form>& dots = tiles[turn];
          const int64_t right = std::min(left + Form::kPixels, s.width);
          Form::Dots(rows.data(), left * pixel, pixel, right - left, k, taps, s.kw * pixel,
                     s.channels * taps * s.kw, dots, rest);
          if (!Form::kZeros && (left < s.kw / 2 || right > s.width - s.kw / 2))
            Correct(bits, taps, left, right, dots);
          rest.WriteAll();
          rest.Set(n, left, right - left, block, std::min(Form::kOutputs, s.outputs - block), dots[0]);
          if (Form::kOverlaps)
            turn ^= 1;
          else
            rest.WriteAll();
        }
        k += s.kh * kernels.row;
        bits += s.kh * s.kw * Form::kOutputs;
      }
    }
    rest.WriteAll();
  }

 private:
  void Fill(const uint32_t* from, typename Form::ImageItem* to) const {
    to += s.kw / 2 * pixel;
    // The padding is zero items. The last pixel on its left has the row's first pixel as its neighbour.
    if (s.kw > 1 && !Form::kZeros) Form::Image(zero.data(), from, s.words, to - pixel);
    for (int64_t w = 0; w < s.width; ++w, from += s.words, to += pixel)
      Form::Image(from, w + 1 < s.width ? from + s.words : zero.data(), s.words, to);
  }

  // Corrects the dots near the sides, where pixels beside the image were counted as zero bits.
  void Correct(const uint16_t* bits, int64_t taps, int64_t left, int64_t right,
               Tile<Form>& dots) const {
    for (int64_t w = left; w < right; ++w)
      for (int64_t j = 0; j < s.kw; ++j) {
        if (0 <= w + j - s.kw / 2 && w + j - s.kw / 2 < s.width) continue;
        for (int64_t i = 0; i < taps; ++i)
          for (int64_t o = 0; o < Form::kOutputs; ++o)
            dots[w - left][o] += 2 * bits[(i * s.kw + j) * Form::kOutputs + o] - s.channels;
      }
  }

  static constexpr int64_t kLine = 64 / sizeof(typename Form::ImageItem);
  struct alignas(64) Line {
    typename Form::ImageItem items[kLine];
  };

  const Shape s;
  const int64_t pixel, row;  // items, and lines
  std::vector<Line> ring;    // row r of an image is at position r % kh
  std::vector<const typename Form::ImageItem*> rows;
  const std::vector<uint32_t> zero;
  int64_t filled = -1;  // all rows before it have been written to the ring
};

}  // namespace binsr

#endif  // BINSR_PACKED_CONV_H_
