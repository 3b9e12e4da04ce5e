// Float convolutions of x [batch, height, width, channels] with k [kh, kw, channels, outputs].
// FewOutputs computes few outputs, as in a network's last layer. AddProduct computes many outputs, and
// the kernel's gradient in training.

#ifndef BINSR_FLOAT_CONV_H_
#define BINSR_FLOAT_CONV_H_

#include <algorithm>
#include <vector>

#include "branch.h"
#include "pool.h"
#include "shape.h"

namespace binsr {

// The supported sizes: at most kFewOutputs outputs from a multiple of kFewInputs channels, or more
// outputs. Gradients have a multiple of kManyOutputs outputs.
constexpr int64_t kFewOutputs = 3, kFewInputs = 8, kManyOutputs = 16;

// The float convolution of x [B, H, W, C] with k [kh, kw, C, outputs] to at most kFewOutputs outputs.
// Eight lanes sum over the channels, and then the eight sums are added. The order is the same for each
// pixel, wherever it lies. Taps outside of the image are skipped.
struct FewOutputs {
  static constexpr int64_t kLanes = 8;

  FewOutputs(const Shape& s, const float* k)
      : s(s), k(s.kh * s.kw * s.channels / kLanes * s.outputs) {
    for (int64_t i = 0; i < s.kh * s.kw * s.channels; ++i)
      for (int64_t o = 0; o < s.outputs; ++o)
        this->k[i / kLanes * s.outputs + o][i % kLanes] = k[i * s.outputs + o];
  }

  // Computes a row of the output from the kh input rows around it; rows outside the image are null.
  void Row(const float* const* rows, float* y) const {
    if (s.outputs == 1) RowOf<1>(rows, y);
    if (s.outputs == 2) RowOf<2>(rows, y);
    if (s.outputs == 3) RowOf<3>(rows, y);
  }

 private:
  template <int kOuts>
  BINSR_NOINLINE void RowOf(const float* const* rows, float* y) const {
    const int64_t beside = s.kw / 2;
    int64_t w = 0;
    while (w < s.width) {
#ifdef __AVX512F__
      if (w >= beside && w + 8 + beside <= s.width) {
        Pairs<4, kOuts>(rows, w, y + w * kOuts);
        w += 8;
        continue;
      }
#endif
      if (w >= beside && w + kPixels + beside <= s.width) {
        Block<kPixels, kOuts>(rows, w, y + w * kOuts);
        w += kPixels;
      } else {
        Block<1, kOuts>(rows, w, y + w * kOuts);
        w += 1;
      }
    }
  }

  template <int kCount, int kOuts>
  void Block(const float* const* rows, int64_t w, float* y) const {
    Eight sums[kCount][kOuts] = {};
    for (int64_t i = 0; i < s.kh; ++i) {
      if (rows[i] == nullptr) continue;
      for (int64_t j = 0; j < s.kw; ++j) {
        const int64_t column = w + j - s.kw / 2;
        if (column < 0 || column >= s.width) continue;
        const float* at = rows[i] + column * s.channels;
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

#ifdef __AVX512F__
  // Block for pairs of pixels in the halves of a vector, with the same sums.
  template <int kPairs, int kOuts>
  void Pairs(const float* const* rows, int64_t w, float* y) const {
    __m512 sums[kPairs][kOuts];
#pragma GCC unroll 4
    for (int p = 0; p < kPairs; ++p)
#pragma GCC unroll 3
      for (int o = 0; o < kOuts; ++o) sums[p][o] = _mm512_setzero_ps();
    for (int64_t i = 0; i < s.kh; ++i) {
      if (rows[i] == nullptr) continue;
      const float* at = rows[i] + (w - s.kw / 2) * s.channels;
      const Eight* weights = k.data() + i * s.kw * s.channels / kLanes * kOuts;
      // The taps of a row are one run of inputs.
      for (int64_t c = 0; c < s.kw * s.channels; c += kLanes, weights += kOuts) {
        __m512 both[kOuts];
#pragma GCC unroll 3
        for (int o = 0; o < kOuts; ++o)
          both[o] = _mm512_broadcast_f32x8(reinterpret_cast<__m256>(weights[o]));
#pragma GCC unroll 4
        for (int p = 0; p < kPairs; ++p) {
          const float* from = at + 2 * p * s.channels + c;
          const __m512 lanes =
              _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(from)),
                                 _mm256_loadu_ps(from + s.channels), 1);
#pragma GCC unroll 3
          for (int o = 0; o < kOuts; ++o) sums[p][o] = _mm512_fmadd_ps(lanes, both[o], sums[p][o]);
        }
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < kPairs; ++p)
#pragma GCC unroll 3
      for (int o = 0; o < kOuts; ++o) {
        const __m256 high = _mm512_extractf32x8_ps(sums[p][o], 1);
        y[2 * p * kOuts + o] = Sum(reinterpret_cast<Eight>(_mm512_castps512_ps256(sums[p][o])));
        y[(2 * p + 1) * kOuts + o] = Sum(reinterpret_cast<Eight>(high));
      }
  }
#endif

  const Shape s;
  std::vector<Eight> k;
};

#ifdef __AVX512F__
using Floats = float __attribute__((vector_size(64)));
#else
using Floats = float __attribute__((vector_size(32)));
#endif
constexpr int64_t kFloats = sizeof(Floats) / sizeof(float);

inline Floats Load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void Store(Floats v, float* to) { std::memcpy(to, &v, sizeof v); }

// A float in every lane. Compilers make an addition and a shuffle of `Floats{} + a`, which count in the
// innermost loop.
inline Floats Spread(float a) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_set1_ps(a));
#elif defined(__AVX2__)
  return reinterpret_cast<Floats>(_mm256_set1_ps(a));
#else
  return Floats{} + a;
#endif
}

#ifdef __AVX512F__
inline Floats MultiplyAdd(Floats a, Floats b, Floats c) {
  return reinterpret_cast<Floats>(_mm512_fmadd_ps(
      reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
}
#endif

// c[m, n] += sum over i < count of a[m, i] b[i, n], for kRows rows m of c and kVectors vectors of
// columns; a[m, i] is at m * row + i * step. The sums stay in registers.
template <int kRows, int kVectors>
void AddBlock(const float* a, int64_t row, int64_t step, const float* b, int64_t count, float* c,
              int64_t width) {
  Floats sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[m][v] = Load(c + m * width + v * kFloats);
  for (int64_t i = 0; i < count; ++i, a += step, b += width) {
    Floats bi[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) bi[v] = Load(b + v * kFloats);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[m][v] = MultiplyAdd(Spread(a[m * row]), bi[v], sums[m][v]);
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Store(sums[m][v], c + m * width + v * kFloats);
}

template <int kRows, int kVectors>
void AddRows(const float* a, int64_t row, int64_t step, const float* b, int64_t count, float* c,
             int64_t rows, int64_t width) {
  for (; rows >= kRows; rows -= kRows, a += kRows * row, c += kRows * width)
    AddBlock<kRows, kVectors>(a, row, step, b, count, c, width);
  if constexpr (kRows > 1)
    if (rows > 0) AddRows<kRows / 2, kVectors>(a, row, step, b, count, c, rows, width);
}

// Adds a matrix product to c [rows, width]; the width is a multiple of kFloats.
inline void AddProduct(const float* a, int64_t row, int64_t step, const float* b, int64_t count, float* c,
                int64_t rows, int64_t width) {
  // As many as fit into the registers, and enough sums to hide the latency of an addition.
  constexpr int kVectors = kFloats == 16 ? 4 : 2;
  int64_t n = 0;
  for (; n + kVectors * kFloats <= width; n += kVectors * kFloats)
    AddRows<4, kVectors>(a, row, step, b + n, count, c + n, rows, width);
  for (; n < width; n += kFloats)
    AddRows<8, 1>(a, row, step, b + n, count, c + n, rows, width);
}

// Calls add(input pixel, output pixel, pixels) for the pixels of a row whose tap j is in the image.
template <class Add>
void Reached(const Shape& s, int64_t j, const Add& add) {
  const int64_t right = j - s.kw / 2;
  const int64_t first = std::max<int64_t>(0, -right);
  const int64_t last = std::min(s.width, s.width - right);
  if (first < last) add(first + right, first, last - first);
}

// What follows the sums of a float convolution: a bias, a leaky ReLU (where `bias` is not null), and a
// pixel shuffle in the channel order of PyTorch.
struct Ending {
  const float* bias = nullptr;
  float slope = 1;
  int64_t shuffle = 1;

  // Writes `count` pixels of row n of the result, from pixel `first` on; sums are `apart` floats apart.
  // They may be changed.
  void operator()(const Shape& s, float* sums, int64_t apart, int64_t n, int64_t first, int64_t count,
                  float* y) const {
    const int64_t outputs = s.outputs, features = outputs / (shuffle * shuffle);
    if (bias != nullptr)
      for (int64_t w = 0; w < count; ++w) Activate(sums + w * apart, outputs);
    for (int64_t w = 0; w < count; ++w) {
      const float* from = sums + w * apart;
      if (shuffle == 1) {
        std::copy_n(from, outputs, y + (n * s.width + first + w) * outputs);
        continue;
      }
      for (int64_t i = 0; i < shuffle; ++i) {
        float* to = y + ((n * shuffle + i) * s.width + first + w) * shuffle * features;
        for (int64_t j = 0; j < shuffle; ++j)
          for (int64_t c = 0; c < features; ++c)
            *to++ = from[(c * shuffle + i) * shuffle + j];
      }
    }
  }

 private:
  // Both sides of 0 are computed, so that the loop has no branches and becomes vectors.
  void Activate(float* __restrict sums, int64_t outputs) const {
    for (int64_t o = 0; o < outputs; ++o) {
      const float v = sums[o] + bias[o], scaled = slope * v;
      sums[o] = v >= 0 ? v : scaled;
    }
  }
};

template <class Pool>
void ConvolveToFew(Pool& pool, const Shape& s, const float* x, const float* k, const Ending& ending,
                   float* y) {
  const FewOutputs convolution(s, k);
  InParallel(pool, s.batch * s.height, LeastRows(s, s.channels), [&](int64_t first, int64_t last) {
    std::vector<const float*> rows(s.kh);
    std::vector<float> sums(s.width * s.outputs);
    for (int64_t n = first; n < last; ++n) {
      for (int64_t i = 0; i < s.kh; ++i) {
        const int64_t h = n % s.height + i - s.kh / 2;
        rows[i] = h < 0 || h >= s.height ? nullptr
                                         : x + (n + i - s.kh / 2) * s.width * s.channels;
      }
      convolution.Row(rows.data(), sums.data());
      ending(s, sums.data(), s.outputs, n, 0, s.width, y);
    }
  });
}

// Adds one row of taps to the sums of the pixels first..last - 1 of a row. The taps of a pixel are one
// run of inputs, so a pixel in the middle takes one product with all of them.
inline void AddTaps(const Shape& s, const float* row, const float* taps, int64_t first, int64_t last,
                    float* sums, int64_t outputs) {
  const int64_t inputs = s.channels, beside = s.kw / 2;
  for (int64_t w = first; w < last;) {
    const int64_t left = std::max<int64_t>(0, beside - w);
    const int64_t right = std::min(s.kw, s.width - w + beside);
    const bool whole = right - left == s.kw;
    const int64_t pixels = whole ? std::min(last, s.width - beside) - w : 1;
    AddProduct(row + (w + left - beside) * inputs, inputs, 1, taps + left * inputs * outputs,
               (right - left) * inputs, sums + (w - first) * outputs, pixels, outputs);
    w += pixels;
  }
}

template <class Pool>
void ConvolveToMany(Pool& pool, const Shape& s, const float* x, const float* k, const Ending& ending,
                    float* y) {
  constexpr int64_t kTogether = 64;  // pixels whose sums stay in the first-level cache
  const int64_t inputs = s.channels;
  // Whole vectors of outputs: missing ones have zeros in the kernel and are dropped from the sums.
  const int64_t outputs = (s.outputs + kManyOutputs - 1) / kManyOutputs * kManyOutputs;
  const bool whole = outputs == s.outputs;
  std::vector<float> wider(whole ? 0 : s.kh * s.kw * inputs * outputs);
  if (!whole) {
    for (int64_t i = 0; i < s.kh * s.kw * inputs; ++i)
      std::copy_n(k + i * s.outputs, s.outputs, wider.data() + i * outputs);
    k = wider.data();
  }
  InParallel(pool, s.batch * s.height, LeastRows(s, inputs), [&](int64_t start, int64_t end) {
    std::vector<float> sums(std::min(s.width, kTogether) * outputs);
    for (int64_t n = start; n < end; ++n)
      for (int64_t w = 0; w < s.width; w += kTogether) {
        const int64_t last = std::min(s.width, w + kTogether);
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (int64_t i = 0; i < s.kh; ++i) {
          const int64_t down = i - s.kh / 2;
          if (n % s.height + down < 0 || n % s.height + down >= s.height) continue;
          AddTaps(s, x + (n + down) * s.width * inputs, k + i * s.kw * inputs * outputs, w, last,
                  sums.data(), outputs);
        }
        ending(s, sums.data(), outputs, n, w, last - w, y);
      }
  });
}

template <class Pool>
void FloatConv(Pool& pool, const Shape& s, const float* x, const float* k, float* y,
               const Ending& ending = {}) {
  if (s.outputs <= kFewOutputs) return ConvolveToFew(pool, s, x, k, ending, y);
  ConvolveToMany(pool, s, x, k, ending, y);
}

// Computes the kernel's gradient of every image, dk [batch, kh, kw, channels, outputs], from the output's
// gradient dy. A task is a row of taps, so the order of a sum does not depend on the threads.
template <class Pool>
void KernelGradients(Pool& pool, const Shape& s, const float* x, const float* dy, float* dk) {
  const int64_t inputs = s.channels, outputs = s.outputs;
  InParallel(pool, s.batch * s.kh, 1, [&](int64_t start, int64_t end) {
    for (int64_t n = start; n < end; ++n) {
      const int64_t image = n / s.kh * s.height, down = n % s.kh - s.kh / 2;
      float* tap = dk + n * s.kw * inputs * outputs;
      std::fill_n(tap, s.kw * inputs * outputs, 0.0f);
      for (int64_t j = 0; j < s.kw; ++j, tap += inputs * outputs)
        for (int64_t h = std::max<int64_t>(0, -down); h < std::min(s.height, s.height - down); ++h)
          Reached(s, j, [&](int64_t in, int64_t out, int64_t pixels) {
            AddProduct(x + ((image + h + down) * s.width + in) * inputs, 1, inputs,
                       dy + ((image + h) * s.width + out) * outputs, pixels, tap, inputs, outputs);
          });
    }
  });
}

}  // namespace binsr

#endif  // BINSR_FLOAT_CONV_H_
