// A run of units with attentions, of one shape:
//
//   y = A(rprelu(scale * dot)) + B(x)
//
// A and B multiply by their factors and by the maps of their attentions, see attention.h.
//
// Features are updated in place, and the signs for the next unit are packed as soon as features are
// written, as in chain.h. An attention that needs the mean over an image cuts a unit in two: the first
// part computes the dot products, 16 bits each, and the sums of rows. When it has ended, the map is
// computed. The second part reads the dot products, and applies activation, maps and residual. It runs
// side by side with the first part of the next unit. Sums are taken in one order, so they do not
// depend on the threads. Where the means are given, or none are needed, the parts are one.

#ifndef BINSR_ATTENDED_H_
#define BINSR_ATTENDED_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "attention.h"
#include "chain.h"

namespace binsr {

// The parameters of a unit.
template <class Form>
struct AttendedLink {
  using Lanes = typename Form::Lanes;

  // `residual` has the factor of the residual and then the numbers of its attention.
  AttendedLink(const Shape& s, const float* threshold, const uint32_t* k, const float* epilogue,
               AttentionKind binary_kind, const float* binary, int64_t binary_size,
               AttentionKind residual_kind, const float* residual, int64_t residual_size)
      : threshold(threshold),
        kernels(s, k),
        epilogue(Epilogue::Of(epilogue, s.outputs)),
        residual_factors(s.channels, *residual),
        binary(binary_kind, s.channels, binary, binary_size, this->epilogue.factor),
        residual(residual_kind, s.channels, residual + 1, residual_size - 1,
                 residual_factors.data()) {}
  AttendedLink(const AttendedLink&) = delete;

  const float* const threshold;
  const Kernels<Form> kernels;
  const Epilogue epilogue;
  const std::vector<float> residual_factors;
  const Attention<Lanes> binary, residual;
};

// Computes y [pixels, channels] from dots [pixels, channels]; see FinishLanes.
template <class Lanes>
void FinishPixels(const int16_t* dots, int64_t pixels, const Epilogue& e, const float* added,
                  const float* gains, int64_t first, int64_t last, int64_t channels, float* y) {
  for (int64_t o = first; o + Lanes::kCount <= last; o += Lanes::kCount) {
    const auto scale = Lanes::Load(e.scale + o), shift_in = Lanes::Load(e.shift_in + o);
    const auto slope = Lanes::Load(e.slope + o), shift_out = Lanes::Load(e.shift_out + o);
    const auto factor = Lanes::Load(e.factor + o);
    for (int64_t at = o, p = 0; p < pixels; ++p, at += channels) {
      const auto dot = Lanes::FromDots(dots + at);
      const auto u = Lanes::Leaky(Lanes::MultiplyAdd(dot, scale, shift_in), slope);
      auto v = (u + shift_out) * factor;
      if (added) v = Lanes::MultiplyAdd(Lanes::Set(gains[p]), Lanes::Load(added + at), v);
      Lanes::Store(v, y + at);
    }
  }
}

// Adds the activations of some pixels to sums, without the last shift and the factor.
template <class Lanes, int64_t kOutputs, class Dot>
void AddActivations(const Dot* dots, int64_t pixels, const Epilogue& e, int64_t outputs,
                    float* sums) {
  for (int64_t o = 0; o + Lanes::kCount <= outputs; o += Lanes::kCount) {
    const auto scale = Lanes::Load(e.scale + o), shift_in = Lanes::Load(e.shift_in + o);
    const auto slope = Lanes::Load(e.slope + o);
    auto sum = Lanes::Load(sums + o);
    for (int64_t p = 0; p < pixels; ++p) {
      const auto dot = Lanes::FromDots(dots + p * kOutputs + o);
      sum = sum + Lanes::Leaky(Lanes::MultiplyAdd(dot, scale, shift_in), slope);
    }
    Lanes::Store(sum, sums + o);
  }
}

// The features of runs of pixels from their dot products; a thread has one.
template <class Form>
class Finisher {
 public:
  explicit Finisher(const Shape& s)
      : channels(s.channels),
        ones(s.channels, 1.0f),
        plain(kRun, 1.0f),
        gains(kRun),
        maps(kRun),
        added(kRun * s.channels),
        activations(kRun * s.channels),
        products(kRun * s.channels) {}

  // Computes y from dots [pixels, channels] and x; y may be the same memory. The factors of a branch
  // that is multiplied by a map of means are those and the map.
  void Row(const AttendedLink<Form>& link, const int16_t* dots, const float* x, int64_t pixels,
           const float* binary_factors, const float* residual_factors, float* y) {
    for (int64_t p = 0; p < pixels; p += kRun)
      Run(link, dots + p * channels, x + p * channels, std::min(kRun, pixels - p), binary_factors,
          residual_factors, y + p * channels);
  }

 private:
  static constexpr int64_t kRun = 48;  // pixels that stay in the first-level cache

  void Run(const AttendedLink<Form>& link, const int16_t* dots, const float* x, int64_t pixels,
           const float* binary_factors, const float* residual_factors, float* y) {
    const float *term = x, *by = plain.data();  // the residual is their product
    switch (link.residual.kind) {
      case AttentionKind::kNone:
        std::fill_n(gains.data(), pixels, *link.residual.factors);
        by = gains.data();
        break;
      case AttentionKind::kSpatial:
        link.residual.Maps(x, pixels, gains.data());
        for (int64_t p = 0; p < pixels; ++p) gains[p] *= *link.residual.factors;
        by = gains.data();
        break;
      case AttentionKind::kPixel:
        link.residual.Multiply(x, pixels, added.data());
        term = added.data();
        break;
      default:
        for (int64_t p = 0; p < pixels; ++p)
          for (int64_t c = 0; c < channels; ++c)
            added[p * channels + c] = x[p * channels + c] * residual_factors[c];
        term = added.data();
    }
    Epilogue epilogue = link.epilogue;
    if (link.binary.kind != AttentionKind::kSpatial && link.binary.kind != AttentionKind::kPixel) {
      epilogue.factor = binary_factors;
      return Finish(dots, pixels, epilogue, term, by, y);
    }
    epilogue.factor = ones.data();
    Finish(dots, pixels, epilogue, nullptr, nullptr, activations.data());
    if (link.binary.kind == AttentionKind::kPixel) {
      link.binary.Multiply(activations.data(), pixels, products.data());
    } else {
      link.binary.Maps(activations.data(), pixels, maps.data());
      for (int64_t p = 0; p < pixels; ++p)
        for (int64_t c = 0; c < channels; ++c)
          products[p * channels + c] =
              activations[p * channels + c] * (maps[p] * link.binary.factors[c]);
    }
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t at = p * channels + c;
        y[at] = MultiplyAdd(by[p], term[at], products[at]);
      }
  }

  void Finish(const int16_t* dots, int64_t pixels, const Epilogue& e, const float* added,
              const float* gains, float* y) const {
    using Lanes = typename Form::Lanes;
    const int64_t o = channels - channels % Lanes::kCount;
    FinishPixels<Lanes>(dots, pixels, e, added, gains, 0, o, channels, y);
    FinishPixels<ScalarLanes>(dots, pixels, e, added, gains, o, channels, channels, y);
  }

  const int64_t channels;
  const std::vector<float> ones, plain;
  std::vector<float> gains, maps, added, activations, products;
};

// The maps of means over images, with their factors, for all units.
template <class Form>
class Pooled {
 public:
  // `means` [batch, units, number of means, channels] has those of both branches, where they need
  // them.
  Pooled(const Shape& s, AttentionKind binary, AttentionKind residual, int64_t units, float* means)
      : s(s),
        binary(Pools(binary)),
        count(this->binary + Pools(residual)),
        units(units),
        means(means),
        maps(s.batch * units * count * s.channels),
        sums(count * s.batch * s.height * s.channels) {}

  // Adds up tiles of the activations of row n.
  void AddActivations(int64_t n, const typename Form::Dot* dots, int64_t pixels,
                      const Epilogue& e, int64_t first, int64_t outputs) {
    using Lanes = typename Form::Lanes;
    float* to = Sums(n, 0) + first;
    const int64_t o = outputs - outputs % Lanes::kCount;
    binsr::AddActivations<Lanes, Form::kOutputs>(dots, pixels, e.From(first), o, to);
    binsr::AddActivations<ScalarLanes, Form::kOutputs>(dots + o, pixels, e.From(first + o),
                                                       outputs - o, to + o);
  }

  // Adds up the features x of row n.
  void AddFeatures(int64_t n, const float* x) {
    float* to = Sums(n, count - 1);
    for (int64_t w = 0; w < s.width; ++w)
      for (int64_t c = 0; c < s.channels; ++c) to[c] += x[w * s.channels + c];
  }

  void Clear(int64_t n) {
    for (int64_t i = 0; i < count; ++i) std::fill_n(Sums(n, i), s.channels, 0.0f);
  }

  // Computes the means of a unit from the sums of all rows.
  void TakeMeans(const AttendedLink<Form>& link, int64_t unit) {
    std::vector<double> total(s.channels);
    for (int64_t b = 0; b < s.batch; ++b)
      for (int64_t i = 0; i < count; ++i) {
        std::fill(total.begin(), total.end(), 0.0);
        for (int64_t h = 0; h < s.height; ++h) {
          const float* row = Sums(b * s.height + h, i);
          for (int64_t c = 0; c < s.channels; ++c) total[c] += row[c];
        }
        float* to = means + Place(b, unit, i);
        for (int64_t c = 0; c < s.channels; ++c) to[c] = total[c] / (s.height * s.width);
        if (binary && i == 0)
          for (int64_t c = 0; c < s.channels; ++c) to[c] += link.epilogue.shift_out[c];
      }
  }

  // Computes the maps of a unit from its means.
  void TakeMaps(const AttendedLink<Form>& link, int64_t unit) {
    for (int64_t b = 0; b < s.batch; ++b)
      for (int64_t i = 0; i < count; ++i) {
        const auto& attention = binary && i == 0 ? link.binary : link.residual;
        attention.OfMean(means + Place(b, unit, i), maps.data() + Place(b, unit, i));
      }
  }

  // The factors of the branches for row n of a unit; null for a residual that takes no mean.
  const float* Binary(const AttendedLink<Form>& link, int64_t unit, int64_t n) const {
    return binary ? maps.data() + Place(n / s.height, unit, 0) : link.binary.factors;
  }
  const float* Residual(int64_t unit, int64_t n) const {
    return count > binary ? maps.data() + Place(n / s.height, unit, count - 1) : nullptr;
  }

 private:
  float* Sums(int64_t n, int64_t i) { return sums.data() + (n * count + i) * s.channels; }
  int64_t Place(int64_t image, int64_t unit, int64_t i) const {
    return ((image * units + unit) * count + i) * s.channels;
  }

  const Shape s;
  const bool binary;

 public:
  const int64_t count;

 private:
  const int64_t units;
  float* const means;
  std::vector<float> maps, sums;
};

// A block of rows of a unit, or the maps of a unit. The parts have their own flags.
struct AttendedEntry {
  enum Part { kConvolve, kMaps, kFinish, kBoth } part;
  int64_t unit, block;
};

// The order in which entries are started; those that an entry waits for come before it. The finish of
// unit -1 packs the signs of x. In two parts, every second unit begins with the last block, which its
// first part has left in the cache.
inline std::vector<AttendedEntry> AttendedOrder(int64_t units, int64_t blocks, bool in_two) {
  using Entry = AttendedEntry;
  std::vector<Entry> order;
  if (!in_two) {
    for (const auto& [stage, block] : Wavefront(units + 1, blocks))
      order.push_back({stage ? Entry::kBoth : Entry::kFinish, stage - 1, block});
    return order;
  }
  constexpr int64_t kLag = 3;  // so that the signs of the neighbouring blocks have been packed
  for (int64_t unit = -1; unit < units; ++unit) {
    if (unit >= 0) order.push_back({Entry::kMaps, unit, 0});
    const auto block = [&](int64_t i) { return unit % 2 ? i : blocks - 1 - i; };
    for (int64_t i = 0; i < blocks + kLag; ++i) {
      if (i < blocks) order.push_back({Entry::kFinish, unit, block(i)});
      if (i >= kLag && unit + 1 < units)
        order.push_back({Entry::kConvolve, unit + 1, block(i - kLag)});
    }
  }
  return order;
}

// Computes y, the output of all units for x [batch, height, width, channels]; adds x with `skip`. If
// means are given, they are used; otherwise they are computed and written.
template <class Form, class Pool>
void PackedAttended(Pool& pool, const Shape& s,
                    const std::vector<std::optional<AttendedLink<Form>>>& links,
                    AttentionKind binary, AttentionKind residual, const float* x, bool given,
                    float* means, bool skip, float* y) {
  using Entry = AttendedEntry;
  const int64_t rows = s.batch * s.height, units = static_cast<int64_t>(links.size());
  const int64_t row = s.width * s.channels, bits = s.width * s.words;
  Pooled<Form> pooled(s, binary, residual, units, means);
  const bool in_two = pooled.count > 0 && !given, sums_x = Pools(residual);
  if (given)
    for (int64_t u = 0; u < units; ++u) pooled.TakeMaps(*links[u], u);
  // As in chain.h. All threads wait for the last block of a first part; yet larger blocks, with fewer
  // rows at borders, take less time.
  const int64_t share = in_two ? 8 : 16, most = in_two ? 16 : 8;
  const int64_t size = std::max<int64_t>(
      {s.kh / 2, std::min<int64_t>({rows / share, (1 << 17) / row, most}), int64_t{in_two ? 1 : 2}});
  const int64_t blocks = (rows + size - 1) / size;
  const auto order = AttendedOrder(units, blocks, in_two);
  std::vector<uint32_t> signs[2] = {std::vector<uint32_t>(rows * bits),
                                    std::vector<uint32_t>(in_two ? 0 : rows * bits)};
  std::vector<int16_t> dots(in_two ? rows * row : 0);
  Flags convolved(units * blocks), mapped(units), finished((units + 1) * blocks);
  InOrder(pool, static_cast<int64_t>(order.size()), [&] {
    return [&, convolver = RowConvolver<Form>(s), ending = Finisher<Form>(s),
            own_dots = std::vector<int16_t>(in_two ? 0 : size * row)](int64_t i) mutable {
      const auto [part, unit, block] = order[i];
      const int64_t start = block * size, end = std::min(rows, start + size);
      const float* const from = unit == 0 ? x : y;
      const auto signs_of = [&](int64_t u) { return signs[in_two ? 0 : u % 2].data(); };

      // Writes the dot products of the block, and the sums of its rows.
      const auto convolve = [&](int16_t* to) {
        const auto& link = *links[unit];
        for (int64_t b = std::max<int64_t>(0, block - 1); b < std::min(blocks, block + 2); ++b)
          finished.Wait(unit * blocks + b);
        for (int64_t n = start; in_two && n < end; ++n) pooled.Clear(n);
        const auto write = [&](int64_t n, int64_t left, int64_t pixels, int64_t first,
                               int64_t outputs, const typename Form::Dot* tile) {
          constexpr int64_t kOutputs = Form::kOutputs;
          for (int64_t p = 0; p < pixels; ++p) {
            int16_t* at = to + (n - start) * row + (left + p) * s.channels + first;
            if (outputs == kOutputs)  // of a constant size, which is faster
              std::copy_n(tile + p * kOutputs, kOutputs, at);
            else
              std::copy_n(tile + p * kOutputs, outputs, at);
          }
          if (in_two && Pools(binary))
            pooled.AddActivations(n, tile, pixels, link.epilogue, first, outputs);
        };
        const uint32_t* own = signs_of(unit);
        const auto words = [&](int64_t r) { return own + r * bits; };
        convolver.Restart();
        convolver.Rows(link.kernels, start, end, words, write);
        for (int64_t n = start; in_two && sums_x && n < end; ++n)
          pooled.AddFeatures(n, from + n * row);
      };

      const auto pack = [&](int64_t n, const float* features) {
        if (unit + 1 == units) return;
        uint32_t* to = signs_of(unit + 1) + n * bits;
        for (int64_t w = 0; w < s.width; ++w)
          Form::Pack(features + w * s.channels, links[unit + 1]->threshold, s.channels, s.words,
                     to + w * s.words);
      };

      const auto finish = [&](int64_t n, const int16_t* own) {
        const auto& link = *links[unit];
        float* to = y + n * row;
        ending.Row(link, own, from + n * row, s.width, pooled.Binary(link, unit, n),
                   pooled.Residual(unit, n), to);
        pack(n, to);
        if (skip && unit + 1 == units)
          for (int64_t j = 0; j < row; ++j) to[j] += x[n * row + j];
      };

      switch (part) {
        case Entry::kConvolve:
          convolve(dots.data() + start * row);
          return convolved.Raise(unit * blocks + block);
        case Entry::kMaps:
          for (int64_t b = 0; b < blocks; ++b) convolved.Wait(unit * blocks + b);
          pooled.TakeMeans(*links[unit], unit);
          pooled.TakeMaps(*links[unit], unit);
          return mapped.Raise(unit);
        case Entry::kFinish:
          if (unit >= 0) mapped.Wait(unit);
          for (int64_t n = start; n < end; ++n)
            if (unit < 0)
              pack(n, x + n * row);
            else
              finish(n, dots.data() + n * row);
          return finished.Raise((unit + 1) * blocks + block);
        case Entry::kBoth:
          convolve(own_dots.data());
          for (int64_t n = start; n < end; ++n) finish(n, own_dots.data() + (n - start) * row);
          return finished.Raise((unit + 1) * blocks + block);
      }
    };
  });
}

}  // namespace binsr

#endif  // BINSR_ATTENDED_H_
