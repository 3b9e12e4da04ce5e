// Shared by all kernels: the sizes of a convolution and small vectors of floats.

#ifndef BINSR_SHAPE_H_
#define BINSR_SHAPE_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace binsr {

// A convolution of x [batch, height, width, channels or words] with a kernel
// [kh, kw, channels or words, outputs], of odd sides.
struct Shape {
  int64_t batch, height, width, channels, words, kh, kw, outputs;
};

constexpr int64_t kPixels = 4;  // pixels in a tile of most forms

// The dot products of a tile; see portable.h for a form.
template <class Form>
using Tile = typename Form::Dot[Form::kPixels][Form::kOutputs];

// What most forms have: see portable.h.
struct SmallTiles {
  static constexpr int64_t kPixels = binsr::kPixels, kOutputs = 64, kDepth = 1;
  static constexpr bool kOverlaps = false, kZeros = false;
  struct Unit {};
};

// Floats from the start of a cache line on, so that a vector touches one line rather than two.
class Aligned {
 public:
  explicit Aligned(int64_t count) : lines((count + 15) / 16) {}
  float* data() { return lines.data()->floats; }

 private:
  struct alignas(64) Line {
    float floats[16];
  };
  std::vector<Line> lines;
};

// For long functions that several kernels call: inlined copies would cost compile time.
#define BINSR_NOINLINE __attribute__((noinline))

using Eight = float __attribute__((vector_size(32)));

// Loads up to eight floats; missing ones are zeros.
inline Eight LoadEight(const float* from, int64_t count = 8) {
  Eight v = {};
  std::memcpy(&v, from, count * sizeof(float));
  return v;
}

// a b + c, rounded once if the CPU can. So all programs give the same bits, on which tiles depend.
inline float MultiplyAdd(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

inline Eight MultiplyAdd(Eight a, Eight b, Eight c) {
#if defined(__AVX2__) && defined(__FMA__)
  return reinterpret_cast<Eight>(_mm256_fmadd_ps(
      reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#else
  Eight v;
  for (int i = 0; i < 8; ++i) v[i] = MultiplyAdd(a[i], b[i], c[i]);
  return v;
#endif
}

inline float Sum(Eight v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

// The sums of eight vectors, each in the order of Sum.
inline Eight SumEach(const Eight (&v)[8]) {
#if defined(__AVX2__)
  const auto halves = [&](int i) {
    const __m256 a = reinterpret_cast<__m256>(v[i]), b = reinterpret_cast<__m256>(v[i + 1]);
    return _mm256_castps_pd(
        _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31)));
  };
  const auto quarters = [&](int i) {
    const __m256d a = halves(i), b = halves(i + 2);
    return _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)),
                         _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
  };
  const __m256 a = quarters(0), b = quarters(4);
  const __m256 sums =
      _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
  // These are the sums of the vectors 0, 2, 4, 6 and 1, 3, 5, 7.
  return reinterpret_cast<Eight>(
      _mm256_permutevar8x32_ps(sums, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
#else
  Eight sums;
  for (int i = 0; i < 8; ++i) sums[i] = Sum(v[i]);
  return sums;
#endif
}

// 1 / (1 + exp(-x)) for each lane, to a few units in the last place, independent of other lanes.
//
// exp(y) is 2^n exp(r) with r in +-ln(2) / 2. n is the integer nearest to y / ln(2), and exp(r) is
// computed by its Taylor polynomial.
inline Eight Sigmoid(Eight x) {
  using Ints = int32_t __attribute__((vector_size(32)));
  constexpr float kLog2 = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Eight one = Eight{} + 1.0f;
  Eight y = -x;
  y = y > 87.0f ? Eight{} + 87.0f : y;
  y = y < -87.0f ? Eight{} - 87.0f : y;
  const Eight shifted = MultiplyAdd(y, Eight{} + kLog2, Eight{} + kMagic);
  const Eight n = shifted - kMagic;
  Eight r = MultiplyAdd(n, Eight{} - kLn2High, y);
  r = MultiplyAdd(n, Eight{} - kLn2Low, r);
  Eight e = Eight{} + 1.0f / 5040;
  for (const float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    e = MultiplyAdd(e, r, Eight{} + coefficient);
  const Ints exponent = (reinterpret_cast<Ints>(shifted) << 23) + (127 << 23);
  return one / (one + e * reinterpret_cast<Eight>(exponent));
}

}  // namespace binsr

#endif  // BINSR_SHAPE_H_
