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

// The float convolution of x [B, H, W, C] with k [kh, kw, C, kOuts] to few outputs. Eight lanes sum
// over the channels, and then the eight sums are added. The order is the same for each pixel, wherever
// it lies. Taps outside of the image are skipped.
template <int kOuts>
struct FewOutputs {
  static constexpr int64_t kLanes = 8;

  FewOutputs(const Shape& s, const float* k) : s(s), k(s.kh * s.kw * s.channels / kLanes * kOuts) {
    for (int64_t i = 0; i < s.kh * s.kw * s.channels; ++i)
      for (int64_t o = 0; o < kOuts; ++o)
        this->k[i / kLanes * kOuts + o][i % kLanes] = k[i * kOuts + o];
  }

  // Computes a row of the output from the kh input rows around it; rows outside the image are null.
  BINSR_NOINLINE void Row(const float* const* rows, float* y) const {
    const int64_t beside = s.kw / 2;
    int64_t w = 0;
    while (w < s.width) {
      if (w >= beside && w + kPixels + beside <= s.width) {
        Block<kPixels>(rows, w, y + w * kOuts);
        w += kPixels;
      } else {
        Block<1>(rows, w, y + w * kOuts);
        w += 1;
      }
    }
  }

 private:
  template <int kCount>
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
      for (int v = 0; v < kVectors; ++v) sums[m][v] = MultiplyAdd(Floats{} + a[m * row], bi[v], sums[m][v]);
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

// Adds a matrix product to c [rows, width]; the width is a multiple of kFloats.
inline void AddProduct(const float* a, int64_t row, int64_t step, const float* b, int64_t count, float* c,
                int64_t rows, int64_t width) {
  constexpr int kVectors = kFloats == 16 ? 4 : 2;  // as many as fit into the registers for four rows
  int64_t n = 0;
  for (; n + kVectors * kFloats <= width; n += kVectors * kFloats)
    AddColumns<kVectors>(a, row, step, b + n, count, c + n, rows, width);
  for (; n < width; n += kFloats)
    AddColumns<1>(a, row, step, b + n, count, c + n, rows, width);
}

// Calls add(input pixel, output pixel, pixels) for the pixels of a row whose tap j is in the image.
template <class Add>
void Reached(const Shape& s, int64_t j, const Add& add) {
  const int64_t right = j - s.kw / 2;
  const int64_t first = std::max<int64_t>(0, -right);
  const int64_t last = std::min(s.width, s.width - right);
  if (first < last) add(first + right, first, last - first);
}

// The supported sizes: at most kFewOutputs outputs from a multiple of kFewInputs channels, or more
// outputs. Gradients have a multiple of kManyOutputs outputs.
constexpr int64_t kFewOutputs = 3, kFewInputs = 8, kManyOutputs = 16;

template <int kOuts, class Pool>
void ConvolveToFew(Pool& pool, const Shape& s, const float* x, const float* k, float* y) {
  const FewOutputs<kOuts> convolution(s, k);
  InParallel(pool, s.batch * s.height, LeastRows(s, s.channels), [&](int64_t first, int64_t last) {
    std::vector<const float*> rows(s.kh);
    for (int64_t n = first; n < last; ++n) {
      for (int64_t i = 0; i < s.kh; ++i) {
        const int64_t h = n % s.height + i - s.kh / 2;
        rows[i] = h < 0 || h >= s.height ? nullptr
                                         : x + (n + i - s.kh / 2) * s.width * s.channels;
      }
      convolution.Row(rows.data(), y + n * s.width * kOuts);
    }
  });
}

template <class Pool>
void ConvolveToMany(Pool& pool, const Shape& s, const float* x, const float* k, float* y) {
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
    std::vector<float> sums(whole ? 0 : s.width * outputs);
    for (int64_t n = start; n < end; ++n) {
      float* row = whole ? y + n * s.width * outputs : sums.data();
      std::fill_n(row, s.width * outputs, 0.0f);
      for (int64_t i = 0; i < s.kh; ++i) {
        const int64_t down = i - s.kh / 2;
        if (n % s.height + down < 0 || n % s.height + down >= s.height) continue;
        const float* from = x + (n + down) * s.width * inputs;
        const float* tap = k + i * s.kw * inputs * outputs;
        for (int64_t j = 0; j < s.kw; ++j, tap += inputs * outputs)
          Reached(s, j, [&](int64_t in, int64_t out, int64_t pixels) {
            AddProduct(from + in * inputs, inputs, 1, tap, inputs, row + out * outputs, pixels,
                       outputs);
          });
      }
      if (whole) continue;
      for (int64_t w = 0; w < s.width; ++w)
        std::copy_n(row + w * outputs, s.outputs, y + (n * s.width + w) * s.outputs);
    }
  });
}

template <class Pool>
void FloatConv(Pool& pool, const Shape& s, const float* x, const float* k, float* y) {
  if (s.outputs == 1) return ConvolveToFew<1>(pool, s, x, k, y);
  if (s.outputs == 2) return ConvolveToFew<2>(pool, s, x, k, y);
  if (s.outputs == 3) return ConvolveToFew<3>(pool, s, x, k, y);
  ConvolveToMany(pool, s, x, k, y);
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
