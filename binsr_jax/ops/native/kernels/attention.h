// The attentions of a unit: a branch of it is multiplied by a map of itself, as in
// binsr_jax.nn.attention:
//
//   spatial   sigmoid(w . x + b), a number for each pixel
//   pixel     sigmoid(x W + b), a number for each pixel and channel
//   global    sigmoid(mean(x) W + b), a number for each channel, with the mean over an image
//   se        sigmoid(relu(mean(x) W + b) V + c), likewise

#ifndef BINSR_ATTENTION_H_
#define BINSR_ATTENTION_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "branch.h"

namespace binsr {

enum class AttentionKind { kNone, kSpatial, kPixel, kGlobal, kSqueeze };

inline std::optional<AttentionKind> AttentionOf(const char* name) {
  if (std::strcmp(name, "none") == 0) return AttentionKind::kNone;
  if (std::strcmp(name, "spatial") == 0) return AttentionKind::kSpatial;
  if (std::strcmp(name, "pixel") == 0) return AttentionKind::kPixel;
  if (std::strcmp(name, "global") == 0) return AttentionKind::kGlobal;
  if (std::strcmp(name, "se") == 0) return AttentionKind::kSqueeze;
  return std::nullopt;
}

// Whether an attention needs the mean over an image.
inline bool Pools(AttentionKind kind) {
  return kind == AttentionKind::kGlobal || kind == AttentionKind::kSqueeze;
}

// Whether an attention has so many numbers: first b, then w or W; with se first b, W, c and V.
inline bool HasSize(AttentionKind kind, int64_t channels, int64_t size) {
  switch (kind) {
    case AttentionKind::kNone: return size == 0;
    case AttentionKind::kSpatial: return size == 1 + channels;
    case AttentionKind::kPixel:
    case AttentionKind::kGlobal: return size == channels + channels * channels;
    case AttentionKind::kSqueeze:
      return size > channels && (size - channels) % (2 * channels + 1) == 0;
  }
  return false;
}

// 1 / (1 + 2^y) for each lane, to a few units in the last place, independent of other lanes.
//
// 2^y is 2^n 2^r with n the integer nearest to y. 2^r is a polynomial of least relative error.
template <class Lanes>
inline typename Lanes::Floats SigmoidOfPower(typename Lanes::Floats y) {
  using Floats = typename Lanes::Floats;
  const Floats most = Lanes::Set(125.0f), least = Lanes::Set(-125.0f);
  const Floats magic = Lanes::Set(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  y = y < most ? y : most;
  y = y > least ? y : least;
  const Floats shifted = y + magic;
  const Floats r = y - (shifted - magic);
  Floats e = Lanes::Set(1.3276460813e-3f);
  for (const float coefficient :
       {9.6755409613e-3f, 5.5507134646e-2f, 2.4022120237e-1f, 6.9314694405e-1f, 1.00000012f})
    e = Lanes::MultiplyAdd(e, r, Lanes::Set(coefficient));
  typename Lanes::Ints bits, exponent;
  std::memcpy(&bits, &e, sizeof bits);
  std::memcpy(&exponent, &shifted, sizeof bits);
  bits += exponent << 23;
  std::memcpy(&e, &bits, sizeof bits);
  return Lanes::Reciprocal(e + Lanes::Set(1.0f));
}

// Pixel attention: the product with W is computed for six pixels and a block of outputs at a time,
// whose sums stay in registers. The value of a pixel does not depend on its position.
template <class Lanes>
class PixelAttention {
 public:
  // numbers are b and W; the result is multiplied by a factor for each channel.
  PixelAttention(int64_t channels, const float* numbers, const float* factors)
      : channels(channels),
        blocks((channels + kBlock - 1) / kBlock),
        lines(blocks * (channels + 2)) {
    constexpr float kLog2 = 1.44269504f;  // the sigmoid is of a power of two
    for (int64_t block = 0; block < blocks; ++block) {
      Line* line = lines.data() + block * (channels + 2);
      const int64_t first = block * kBlock, outputs = std::min(kBlock, channels - first);
      std::copy_n(factors + first, outputs, line[0].at);
      for (int64_t i = 0; i <= channels; ++i)
        for (int64_t o = 0; o < outputs; ++o)
          line[1 + i].at[o] = -kLog2 * numbers[i * channels + first + o];
    }
  }

  // Writes the product of some pixels x with their maps and factors to y, which is other memory.
  void Multiply(const float* x, int64_t pixels, float* y) const {
    for (; pixels >= kPixels; pixels -= kPixels, x += kPixels * channels, y += kPixels * channels)
      Some<kPixels>(x, y);
    switch (pixels) {
      case 5: return Some<5>(x, y);
      case 4: return Some<4>(x, y);
      case 3: return Some<3>(x, y);
      case 2: return Some<2>(x, y);
      case 1: return Some<1>(x, y);
    }
  }

 private:
  using Floats = typename Lanes::Floats;
  static constexpr int64_t kLanes = Lanes::kCount, kVectors = Lanes::kSums, kPixels = 6;
  static constexpr int64_t kBlock = kLanes * kVectors;

  // The factors, b or a row of W for a block of outputs; missing ones are zeros.
  struct alignas(64) Line {
    float at[kBlock] = {};
  };

  template <int kCount>
  BINSR_NOINLINE void Some(const float* x, float* y) const {
    const Line* line = lines.data();
    for (int64_t first = 0; first < channels; first += kBlock, line += channels + 2) {
      Floats sums[kCount][kVectors];
#pragma GCC unroll 6
      for (int p = 0; p < kCount; ++p)
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sums[p][v] = Lanes::Load(line[1].at + v * kLanes);
      for (int64_t c = 0; c < channels; ++c) {
        Floats w[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) w[v] = Lanes::Load(line[2 + c].at + v * kLanes);
#pragma GCC unroll 6
        for (int p = 0; p < kCount; ++p) {
          const Floats xi = Lanes::Set(x[p * channels + c]);
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v)
            sums[p][v] = Lanes::MultiplyAdd(xi, w[v], sums[p][v]);
        }
      }
      for (int v = 0; v < kVectors; ++v) {
        const int64_t o = first + v * kLanes, left = std::min(kLanes, channels - o);
        if (left <= 0) break;
        const Floats factor = Lanes::Load(line->at + v * kLanes);
        for (int p = 0; p < kCount; ++p) {
          const Floats map = SigmoidOfPower<Lanes>(sums[p][v]) * factor;
          const float* from = x + p * channels + o;
          float* to = y + p * channels + o;
          if (left == kLanes) {
            Lanes::Store(map * Lanes::Load(from), to);
          } else {
            alignas(64) float lanes[kLanes] = {};
            std::copy_n(from, left, lanes);
            Lanes::Store(map * Lanes::Load(lanes), lanes);
            std::copy_n(lanes, left, to);
          }
        }
      }
    }
  }

  const int64_t channels, blocks;
  std::vector<Line> lines;  // of a block: its factors, b and W
};

// An attention with its numbers and a factor for each channel:  y = factor map(x) x.
template <class Lanes>
class Attention {
 public:
  // All arrays must stay.
  Attention(AttentionKind kind, int64_t channels, const float* numbers, int64_t size,
            const float* factors)
      : kind(kind), factors(factors), channels(channels), numbers(numbers), size(size) {
    if (kind == AttentionKind::kPixel) pixel.emplace(channels, numbers, factors);
    if (kind != AttentionKind::kSpatial) return;
    spatial.assign(1, 1.0f);
    spatial.insert(spatial.end(), numbers, numbers + size);
  }

  // The products of the factors and of the map of an image with this mean.
  void OfMean(const float* mean, float* to) const {
    std::vector<float> hidden(mean, mean + channels);
    const float* n = numbers;
    if (kind == AttentionKind::kSqueeze) {
      const int64_t count = (size - channels) / (2 * channels + 1);
      hidden.assign(n, n + count);
      AddProduct(mean, channels, n + count, count, hidden.data());
      for (float& number : hidden) number = std::max(number, 0.0f);
      n += count + channels * count;
    }
    std::copy_n(n, channels, to);
    AddProduct(hidden.data(), hidden.size(), n + channels, channels, to);
    for (int64_t c = 0; c < channels; ++c) to[c] = factors[c] / (1 + std::exp(-to[c]));
  }

  // The maps of some pixels with spatial attention, without the factors.
  void Maps(const float* x, int64_t pixels, float* to) const {
    Residual(ResidualKind::kSpatial, channels, spatial.data()).Gains(x, pixels, to);
  }

  // The product with pixel attention.
  void Multiply(const float* x, int64_t pixels, float* y) const { pixel->Multiply(x, pixels, y); }

  const AttentionKind kind;
  const float* const factors;

 private:
  // Adds x [rows] W [rows, columns] to y.
  static void AddProduct(const float* x, int64_t rows, const float* w, int64_t columns, float* y) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) y[c] += x[r] * w[r * columns + c];
  }

  const int64_t channels;
  const float* const numbers;
  const int64_t size;
  std::optional<PixelAttention<Lanes>> pixel;
  std::vector<float> spatial;  // the numbers of a Residual
};

}  // namespace binsr

#endif  // BINSR_ATTENTION_H_
