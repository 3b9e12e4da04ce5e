// The end of a network that adds its enlarged input:
//
//   y = round(scale * (z + bias + enlarged(round(gain * (x - shift))))) + offset
//
// `round` drops the last bit of a float, as product of binsr_jax/ops/image.py does, and `enlarged` is its
// upsample_bilinear, whose products are rounded too. All is done in the order of that module, so the
// results are the same to the last bit.

#ifndef BINSR_IMAGE_SKIP_H_
#define BINSR_IMAGE_SKIP_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "pool.h"
#include "shape.h"

namespace binsr {

// A float without its last bit, halves to even.
inline float Rounded(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  bits = (bits + (bits >> 1 & 1)) & ~1u;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

// The weights of a phase: an output pixel lies between its own input pixel and the one `step` further.
struct Phase {
  Phase(int64_t phase, int64_t factor) {
    const double offset = (phase + 0.5) / factor - 0.5;
    far = static_cast<float>(std::abs(offset));
    near = static_cast<float>(1 - std::abs(offset));
    step = offset < 0 ? -1 : 1;
  }

  // to[i] = the weighted sum of a[i] and b[i].
  void Mix(const float* a, const float* b, int64_t count, float* to) const {
    for (int64_t i = 0; i < count; ++i) to[i] = Rounded(near * a[i]) + Rounded(far * b[i]);
  }

  float near, far;
  int64_t step;
};

// The numbers of each channel.
struct SkipNumbers {
  // The rows of an array [5, channels].
  static SkipNumbers Of(const float* n, int64_t channels) {
    return {n, n + channels, n + 2 * channels, n + 3 * channels, n + 4 * channels};
  }

  const float *bias, *shift, *gain, *scale, *offset;
};

// x is [batch, height, width, channels] of the shape s; y and z are `factor` times as high and wide, and
// may be the same memory.
template <class Pool>
void ImageSkip(Pool& pool, const Shape& s, int64_t factor, const float* x, const float* z,
               const SkipNumbers& numbers, float* y) {
  const int64_t channels = s.channels, row = s.width * channels, large = row * factor;
  std::vector<Phase> phases;
  for (int64_t i = 0; i < factor; ++i) phases.emplace_back(i, factor);
  // A row of each channel's numbers, so that loops over a row have no period.
  const auto spread = [&](const float* from) {
    std::vector<float> to(large);
    for (int64_t i = 0; i < large; ++i) to[i] = from[i % channels];
    return to;
  };
  const auto bias = spread(numbers.bias), shift = spread(numbers.shift), gain = spread(numbers.gain),
             scale = spread(numbers.scale), offset = spread(numbers.offset);
  constexpr int64_t kLeast = 4;  // rows that are worth the one beside them on either side
  InParallel(pool, s.batch * s.height, kLeast, [&](int64_t start, int64_t end) {
    std::vector<float> scaled(3 * row);  // row r is at position r % 3
    // A row with its first and last pixel once more beside it.
    std::vector<float> mixed(row + 2 * channels), one(row), enlarged(large);
    int64_t filled = -1;  // all rows before it have been scaled
    for (int64_t n = start; n < end; ++n) {
      const int64_t first = n / s.height * s.height, last = first + s.height - 1;
      for (int64_t r = std::max({filled, first, n - 1}); r <= std::min(last, n + 1); ++r) {
        float* to = scaled.data() + r % 3 * row;
        const float* from = x + r * row;
        for (int64_t i = 0; i < row; ++i) to[i] = Rounded(gain[i] * (from[i] - shift[i]));
        filled = r + 1;
      }
      for (int64_t i = 0; i < factor; ++i) {
        const int64_t beside = std::min(std::max(n + phases[i].step, first), last);
        float* middle = mixed.data() + channels;
        phases[i].Mix(scaled.data() + n % 3 * row, scaled.data() + beside % 3 * row, row, middle);
        std::copy_n(middle, channels, mixed.data());
        std::copy_n(middle + row - channels, channels, middle + row);
        for (int64_t j = 0; j < factor; ++j) {
          phases[j].Mix(middle, middle + phases[j].step * channels, row, one.data());
          for (int64_t w = 0; w < s.width; ++w)
            for (int64_t c = 0; c < channels; ++c)
              enlarged[(w * factor + j) * channels + c] = one[w * channels + c];
        }
        const float* from = z + (n * factor + i) * large;
        float* to = y + (n * factor + i) * large;
        for (int64_t k = 0; k < large; ++k)
          to[k] = Rounded(scale[k] * ((from[k] + bias[k]) + enlarged[k])) + offset[k];
      }
    }
  });
}

}  // namespace binsr

#endif  // BINSR_IMAGE_SKIP_H_
