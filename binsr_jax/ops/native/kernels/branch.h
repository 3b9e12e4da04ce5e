// A whole binary branch of a unit or an upsampler in one fused pass, as in
// binsr_jax.ops.branch.packed_branch:
//
//   y = factor * shuffle(rprelu(scale * dot)) + gain * x
//
// dot is the convolution of the signs of x - threshold; gain may be a map of x, see Residual.

#ifndef BINSR_BRANCH_H_
#define BINSR_BRANCH_H_

#include "packed_conv.h"
#include "pool.h"
#include "portable.h"
#include "shape.h"

namespace binsr {

// The parameters of a branch's epilogue, for each output channel; both shifts are added.
struct Epilogue {
  const float *scale, *shift_in, *slope, *shift_out, *factor;

  // The rows of an array [5, outputs].
  static Epilogue Of(const float* e, int64_t outputs) {
    return {e, e + outputs, e + 2 * outputs, e + 3 * outputs, e + 4 * outputs};
  }

  Epilogue From(int64_t o) const {
    return {scale + o, shift_in + o, slope + o, shift_out + o, factor + o};
  }
};

// The term that is added to a branch.
enum class ResidualKind {
  kNone,
  kPlain,    // x times a number
  kSpatial,  // x times a number and sigmoid(b + sum of w x) over the channels of the pixel
};

class Residual {
 public:
  // The size of the parameter array: nothing; the number; or the number, b and w.
  static int64_t Size(ResidualKind kind, int64_t channels) {
    return kind == ResidualKind::kNone ? 0 : kind == ResidualKind::kPlain ? 1 : 2 + channels;
  }

  Residual(ResidualKind kind, int64_t channels, const float* numbers)
      : kind(kind), channels(channels), a(numbers) {}

  // Computes the gains of some pixels, starting at x. The gain of a pixel does not depend on its
  // position. The sigmoid has a long latency, so it is best computed well before it is needed.
  void Gains(const float* x, int64_t pixels, float* gains) const {
    if (kind == ResidualKind::kPlain) std::fill_n(gains, pixels, *a);
    if (kind != ResidualKind::kSpatial) return;
    for (; pixels > 0; pixels -= 8, x += 8 * channels, gains += 8) {
      const int64_t count = std::min<int64_t>(pixels, 8);
      Eight sums[8] = {};
      if (count == 8)
        Sums<8>(x, sums);
      else
        for (int64_t p = 0; p < count; ++p) Sums<1>(x + p * channels, sums + p);
      const Eight all = Sigmoid(SumEach(sums) + a[1]) * *a;
      std::memcpy(gains, &all, count * sizeof(float));
    }
  }

  const ResidualKind kind;

 private:
  template <int kCount>
  void Sums(const float* x, Eight* to) const {
    const float* w = a + 2;
    Eight sums[kCount] = {};
    int64_t c = 0;
    for (; c + 8 <= channels; c += 8) {
      const Eight weights = LoadEight(w + c);
#pragma GCC unroll 8
      for (int p = 0; p < kCount; ++p)
        sums[p] = MultiplyAdd(LoadEight(x + p * channels + c), weights, sums[p]);
    }
    if (c < channels)
      for (int p = 0; p < kCount; ++p)
        sums[p] = MultiplyAdd(LoadEight(x + p * channels + c, channels - c),
                              LoadEight(w + c, channels - c), sums[p]);
    std::copy_n(sums, kCount, to);
  }

  const int64_t channels;
  const float* const a;
};

// Computes outputs of kCount pixels of a tile from some of its dot products. `added` may be null;
// otherwise it is multiplied by its gain and added. y may be the same memory.
template <class Lanes, int64_t kOutputs, int kCount, class Dot>
inline __attribute__((always_inline)) void FinishLanes(
    const Dot* dots, const Epilogue& e, const float* added, int64_t added_stride, const float* gains,
    int64_t outputs, float* y, int64_t y_stride) {
  for (int64_t o = 0; o + Lanes::kCount <= outputs; o += Lanes::kCount) {
    const auto scale = Lanes::Load(e.scale + o), shift_in = Lanes::Load(e.shift_in + o);
    const auto slope = Lanes::Load(e.slope + o), shift_out = Lanes::Load(e.shift_out + o);
    const auto factor = Lanes::Load(e.factor + o);
#pragma GCC unroll 4
    for (int p = 0; p < kCount; ++p) {
      const auto dot = Lanes::FromDots(dots + p * kOutputs + o);
      const auto u = Lanes::Leaky(Lanes::MultiplyAdd(dot, scale, shift_in), slope);
      auto v = (u + shift_out) * factor;
      if (added)
        v = Lanes::MultiplyAdd(Lanes::Set(gains[p]), Lanes::Load(added + p * added_stride + o), v);
      Lanes::Store(v, y + p * y_stride + o);
    }
  }
}

template <class Form>
void Finish(const typename Form::Dot* dots, int64_t pixels, const Epilogue& e, const float* added,
            int64_t added_stride, const float* gains, int64_t outputs, float* y,
            int64_t y_stride) {
  using Lanes = typename Form::Lanes;
  constexpr int64_t kOutputs = Form::kOutputs;
  const int64_t o = outputs - outputs % Lanes::kCount;
  // Most tiles are whole: loops of known lengths take half the time.
  if (pixels == kPixels && outputs == kOutputs && added)
    return FinishLanes<Lanes, kOutputs, kPixels>(dots, e, added, added_stride, gains, kOutputs, y,
                                                 y_stride);
  for (int64_t p = 0; p < pixels; ++p) {
    const float* const more = added ? added + p * added_stride : nullptr;
    FinishLanes<Lanes, kOutputs, 1>(dots + p * kOutputs, e, more, 0, gains + p, o, y + p * y_stride, 0);
    if (o < outputs)
      FinishLanes<ScalarLanes, kOutputs, 1>(dots + p * kOutputs + o, e.From(o),
                                            more ? more + o : nullptr, 0, gains + p, outputs - o,
                                            y + p * y_stride + o, 0);
  }
}

// The fewest output rows that are worth a task, which is some hundred thousand products. `pixel` is the
// number of words or floats per pixel.
inline int64_t LeastRows(const Shape& s, int64_t pixel) {
  const int64_t row = std::max<int64_t>(1, s.width * pixel * s.kh * s.kw * s.outputs);
  return std::max<int64_t>(1, (1 << 18) / row);
}

// The dot products [batch, height, width, outputs] of x, words [batch, height, width, words].
template <class Form, class Pool>
void PackedConv(Pool& pool, const Shape& s, const uint32_t* x, const uint32_t* k, int16_t* y) {
  const Kernels<Form> kernels(s, k);
  InParallel(pool, s.batch * s.height, LeastRows(s, s.words), [&](int64_t start, int64_t end) {
    RowConvolver<Form> convolver(s);
    const auto words = [&](int64_t r) { return x + r * s.width * s.words; };
    convolver.Rows(kernels, start, end, words,
                   [&](int64_t n, int64_t left, int64_t pixels, int64_t first, int64_t outputs,
                       const typename Form::Dot* dots) {
                     int16_t* to = y + (n * s.width + left) * s.outputs + first;
                     for (int64_t p = 0; p < pixels; ++p)
                       std::copy_n(dots + p * Form::kOutputs, outputs, to + p * s.outputs);
                   });
  });
}

// A branch for x [batch, height, width, channels], row by row. With pixel shuffle, the outputs of a pixel
// belong to shuffle * shuffle pixels in turn, and the same pixel of x is added to all of them.
template <class Form>
class BranchRows {
 public:
  BranchRows(const Shape& s, const Kernels<Form>& kernels, const float* x, const float* threshold,
             const Epilogue& epilogue, const Residual& residual, int64_t shuffle)
      : s(s),
        kernels(kernels),
        x(x),
        threshold(threshold),
        epilogue(epilogue),
        residual(residual),
        shuffle(shuffle),
        features(s.outputs / (shuffle * shuffle)),
        convolver(s),
        signs(s.width * s.words),
        gains(s.width) {}

  // Computes row n, counted over all images. It gives `shuffle` rows of the output, each of
  // shuffle * width pixels; row i is written to to[i]. The caller requests rows in order.
  BINSR_NOINLINE void Row(int64_t n, float* const* to) {
    const auto words = [&](int64_t r) {
      const float* from = x + r * s.width * s.channels;
      for (int64_t w = 0; w < s.width; ++w)
        Form::Pack(from + w * s.channels, threshold, s.channels, s.words,
                   signs.data() + w * s.words);
      return signs.data();
    };
    const auto write = [&](int64_t, int64_t left, int64_t pixels, int64_t first, int64_t outputs,
                           const typename Form::Dot* dots) {
      const float* from = x + (n * s.width + left) * s.channels;
      if (first == 0 && left == 0) residual.Gains(from, s.width, gains.data());
      for (int64_t o = first; o < first + outputs;) {
        const int64_t place = o / features, feature = o % features;
        const int64_t run = std::min(features - feature, first + outputs - o);
        float* at = to[place / shuffle] + (left * shuffle + place % shuffle) * features;
        Finish<Form>(dots + o - first, pixels, epilogue.From(o),
                     residual.kind == ResidualKind::kNone ? nullptr : from + feature, s.channels,
                     gains.data() + left, run, at + feature, shuffle * features);
        o += run;
      }
    };
    convolver.Rows(kernels, n, n + 1, words, write);
  }

 private:
  const Shape s;
  const Kernels<Form>& kernels;
  const float *const x, *const threshold;
  const Epilogue epilogue;
  const Residual residual;
  const int64_t shuffle, features;
  RowConvolver<Form> convolver;
  std::vector<uint32_t> signs;
  std::vector<float> gains;
};

// All rows of one branch; see BranchRows.
template <class Form, class Pool>
void PackedBranch(Pool& pool, const Shape& s, const float* x, const float* threshold,
                  const uint32_t* k, const Epilogue& epilogue, const Residual& residual,
                  int64_t shuffle, float* y) {
  const Kernels<Form> kernels(s, k);
  InParallel(pool, s.batch * s.height, LeastRows(s, s.words), [&](int64_t start, int64_t end) {
    BranchRows<Form> rows(s, kernels, x, threshold, epilogue, residual, shuffle);
    const int64_t row = s.width * s.outputs / shuffle;  // size of a row of the output
    std::vector<float*> to(shuffle);
    for (int64_t n = start; n < end; ++n) {
      for (int64_t i = 0; i < shuffle; ++i) to[i] = y + (n * shuffle + i) * row;
      rows.Row(n, to.data());
    }
  });
}

}  // namespace binsr

#endif  // BINSR_BRANCH_H_
