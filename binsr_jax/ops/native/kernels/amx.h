// Convolutions for training whose factors are rounded to bfloat16 and whose sums are floats, on the
// matrix unit of a CPU: see amx_tiles.h. One instruction adds the product
// of a [16, 32] and b [32, 16], both bfloat16, to c [16, 16] of floats. The rows of b hold pairs: row r
// has b[2r, n] and b[2r + 1, n] side by side.

#ifndef BINSR_AMX_H_
#define BINSR_AMX_H_

#include "amx_tiles.h"

#if defined(BINSR_AMX) && defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define BINSR_AMX_BF16

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "pool.h"
#include "shape.h"

namespace binsr {

using Bf16 = uint16_t;
constexpr int64_t kLanes = 16;           // floats of a tile's row
constexpr int64_t kBlock = 2 * kLanes;   // rows and columns that Multiply computes, and the depth of a tile
constexpr int64_t kTile = kLanes * 2 * kLanes;  // bfloat16 of a tile

using Sixteen = Bf16 __attribute__((vector_size(32)));
using Pairs = uint32_t __attribute__((vector_size(64)));

// Sixteen floats, rounded to the nearest bfloat16, ties to even.
inline Sixteen Rounded(const float* from) {
  return reinterpret_cast<Sixteen>(_mm512_cvtneps_pbh(_mm512_loadu_ps(from)));
}

inline void Round(const float* from, int64_t count, Bf16* to) {
  for (int64_t c = 0; c < count; c += kLanes) {
    const Sixteen rounded = Rounded(from + c);
    std::memcpy(to + c, &rounded, sizeof rounded);
  }
}

// Writes row i of a matrix b, of `width` floats, into tiles of pairs, which hold zeros there: two tiles
// for rows 32 p to 32 p + 31 and columns 32 n to 32 n + 31 start at to + (n parts + p) 2 kTile.
inline void RoundIntoPairs(const float* from, int64_t width, int64_t i, int64_t parts, Bf16* to) {
  Bf16* row = to + i / kBlock * 2 * kTile + i % kBlock / 2 * 2 * kLanes;
  for (int64_t n = 0; n < width; n += kLanes) {
    Bf16* at = row + n / kBlock * parts * 2 * kTile + n % kBlock / kLanes * kTile;
    Pairs pairs;
    std::memcpy(&pairs, at, sizeof pairs);
    pairs |= __builtin_convertvector(Rounded(from + n), Pairs) << i % 2 * 16;
    std::memcpy(at, &pairs, sizeof pairs);
  }
}

// c [32, 32] = sum over p < parts of a(p) [32, 32] b_p [32, 32]. Rows of a(p) are `row` apart, those of
// c `width`; b_p are two tiles at b + p 2 kTile.
template <class A>
void Multiply(int64_t parts, const A& a, int64_t row, const Bf16* b, float* c, int64_t width) {
  const int64_t a_bytes = row * sizeof(Bf16), c_bytes = width * sizeof(float);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t p = 0; p < parts; ++p, b += 2 * kTile) {
    const Bf16* from = a(p);
    _tile_loadd(4, from, a_bytes);
    _tile_loadd(6, b, 64);
    _tile_loadd(7, b + kTile, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, from + kLanes * row, a_bytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, c_bytes);
  _tile_stored(1, c + kLanes, c_bytes);
  _tile_stored(2, c + kLanes * width, c_bytes);
  _tile_stored(3, c + kLanes * width + kLanes, c_bytes);
}

// An image whose rows are `pitch` pixels apart: between them lie the zeros beside it. A tap is a
// distance in pixels then, and whole blocks of pixels are computed, without regard to the rows.
struct Strip {
  explicit Strip(const Shape& s)
      : pitch(s.width + s.kw - 1),
        blocks((s.height * pitch + kBlock - 1) / kBlock),
        pixels(blocks * kBlock + (s.kh - 1) * pitch + s.kw - 1),
        first(s.kh / 2 * pitch + s.kw / 2) {}

  const int64_t pitch;
  const int64_t blocks;  // of pixels of the output
  const int64_t pixels;  // of the input, with what is around it
  const int64_t first;   // where the image starts in the input
};

// The convolution of x [B, H, W, C] with k [kh, kw, C, O]; C and O are multiples of kBlock.
template <class Pool>
void Bf16Conv(Pool& pool, const Shape& s, const float* x, const float* k, float* y) {
  const Strip strip(s);
  const int64_t inputs = s.channels, outputs = s.outputs, deep = inputs / kBlock;
  const int64_t parts = s.kh * s.kw * deep;
  std::vector<Bf16> pairs(parts * kBlock * outputs);
  for (int64_t i = 0; i < parts * kBlock; ++i)
    RoundIntoPairs(k + i * outputs, outputs, i, parts, pairs.data());
  InParallel(pool, s.batch, 1, [&](int64_t image, int64_t end) {
    const Tiles tiles;
    std::vector<Bf16> padded(strip.pixels * inputs);
    alignas(64) float block[kBlock * kBlock];
    for (; image < end; ++image) {
      for (int64_t h = 0; h < s.height; ++h)
        Round(x + (image * s.height + h) * s.width * inputs, s.width * inputs,
              padded.data() + (strip.first + h * strip.pitch) * inputs);
      for (int64_t o = 0; o < outputs; o += kBlock)
        for (int64_t m = 0; m < strip.blocks * kBlock; m += kBlock) {
          const auto rows = [&](int64_t p) {
            const int64_t tap = p / deep;
            const int64_t pixel = m + tap / s.kw * strip.pitch + tap % s.kw;
            return padded.data() + pixel * inputs + p % deep * kBlock;
          };
          Multiply(parts, rows, inputs, pairs.data() + o / kBlock * parts * 2 * kTile, block,
                   kBlock);
          for (int64_t i = 0; i < kBlock; ++i) {
            const int64_t h = (m + i) / strip.pitch, w = (m + i) % strip.pitch;
            if (h < s.height && w < s.width)
              std::memcpy(y + ((image * s.height + h) * s.width + w) * outputs + o,
                          block + i * kBlock, kBlock * sizeof(float));
          }
        }
    }
  });
}

// The kernel's gradient of every image, dk [B, kh, kw, C, O], for the gradient dy of the output; C and
// O are multiples of kBlock. It is a product of x, transposed, with dy, summed over the pixels.
template <class Pool>
void Bf16KernelGradients(Pool& pool, const Shape& s, const float* x, const float* dy, float* dk) {
  const Strip strip(s);
  const int64_t inputs = s.channels, outputs = s.outputs;
  // Rows an odd number of cache lines apart do not all fall into the same sets of the cache.
  const int64_t row = (strip.pixels + kBlock - 1) / kBlock * kBlock | kBlock;
  InParallel(pool, s.batch, 1, [&](int64_t image, int64_t end) {
    const Tiles tiles;
    std::vector<Bf16> transposed(inputs * row), pairs(strip.blocks * kBlock * outputs);
    for (; image < end; ++image) {
      std::fill(pairs.begin(), pairs.end(), 0);
      for (int64_t h = 0; h < s.height; ++h)
        for (int64_t w = 0; w < s.width; ++w) {
          const int64_t pixel = (image * s.height + h) * s.width + w;
          RoundIntoPairs(dy + pixel * outputs, outputs, h * strip.pitch + w, strip.blocks,
                         pairs.data());
          Bf16* column = transposed.data() + strip.first + h * strip.pitch + w;
          for (int64_t c = 0; c < inputs; c += kLanes) {
            Bf16 lanes[kLanes];
            Round(x + pixel * inputs + c, kLanes, lanes);
            for (int64_t i = 0; i < kLanes; ++i) column[(c + i) * row] = lanes[i];
          }
        }
      for (int64_t o = 0; o < outputs; o += kBlock)
        for (int64_t c = 0; c < inputs; c += kBlock)
          for (int64_t tap = 0; tap < s.kh * s.kw; ++tap) {
            const Bf16* from =
                transposed.data() + c * row + tap / s.kw * strip.pitch + tap % s.kw;
            const auto columns = [from](int64_t p) { return from + p * kBlock; };
            Multiply(strip.blocks, columns, row, pairs.data() + o / kBlock * strip.blocks * 2 * kTile,
                     dk + ((image * s.kh * s.kw + tap) * inputs + c) * outputs + o, outputs);
          }
    }
  });
}

}  // namespace binsr

#endif  // AMX
#endif  // BINSR_AMX_H_
