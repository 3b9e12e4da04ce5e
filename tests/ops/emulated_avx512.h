// The instructions of AVX-512 that binsr_jax/ops/native/kernels/avx512.h uses, lane by lane in plain
// C++: so that its logic is tested on CPUs without them. Included before everything else.

#ifndef BINSR_EMULATED_AVX512_H_
#define BINSR_EMULATED_AVX512_H_

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define __AVX512VPOPCNTDQ__ 1

namespace emulated {

struct Lanes {
  uint32_t at[16];
};

template <class Vector>
Lanes Of(const Vector& v) {
  Lanes lanes;
  std::memcpy(&lanes, &v, sizeof lanes);
  return lanes;
}

// The vector of what f gives for every lane.
template <class Vector, class F>
Vector Each(const F& f) {
  Lanes lanes;
  for (int i = 0; i < 16; ++i) {
    const auto one = f(i);
    static_assert(sizeof one == 4);
    std::memcpy(&lanes.at[i], &one, 4);
  }
  Vector v;
  std::memcpy(&v, &lanes, sizeof v);
  return v;
}

template <class Vector>
Vector Read(const void* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void Write(void* to, const void* from) { std::memcpy(to, from, 64); }

inline __m512i Or(__m512i kept, uint32_t mask, __m512i a, __m512i b) {
  const Lanes other = Of(kept), x = Of(a), y = Of(b);
  return Each<__m512i>([&](int i) { return mask >> i & 1 ? x.at[i] | y.at[i] : other.at[i]; });
}

inline __m512i SetSome(__m512i kept, uint32_t mask, int value) {
  const Lanes other = Of(kept);
  return Each<__m512i>([&](int i) { return mask >> i & 1 ? uint32_t(value) : other.at[i]; });
}

inline uint16_t Compare(__m512 a, __m512 b, int how) {
  uint16_t mask = 0;
  for (int i = 0; i < 16; ++i)
    mask |= (how == _CMP_LT_OQ ? a[i] < b[i] : a[i] > b[i]) << i;
  return mask;
}

inline __m512 MultiplySome(__m512 kept, uint32_t mask, __m512 a, __m512 b) {
  return Each<__m512>([&](int i) { return mask >> i & 1 ? a[i] * b[i] : kept[i]; });
}

inline __m128i Bytes(__m512i v) {
  const Lanes lanes = Of(v);
  uint8_t bytes[16];
  for (int i = 0; i < 16; ++i) bytes[i] = static_cast<uint8_t>(lanes.at[i]);
  __m128i packed;
  std::memcpy(&packed, bytes, sizeof packed);
  return packed;
}

inline __m512i Widened(__m256i v) {
  int16_t lanes[16];
  std::memcpy(lanes, &v, sizeof lanes);
  return Each<__m512i>([&](int i) { return int32_t(lanes[i]); });
}

inline __m512 Inverse(__m512 v) {
  return Each<__m512>([&](int i) { return 1 / v[i]; });
}

template <class F>
__m512i Two(__m512i a, __m512i b, const F& f) {
  const Lanes x = Of(a), y = Of(b);
  return Each<__m512i>([&](int i) { return static_cast<uint32_t>(f(x.at[i], y.at[i])); });
}

}  // namespace emulated

#define _mm512_loadu_ps(p) emulated::Read<__m512>(p)
#define _mm512_loadu_si512(p) emulated::Read<__m512i>(p)
#define _mm512_load_si512(p) emulated::Read<__m512i>(p)
#define _mm512_storeu_ps(p, v) \
  { const __m512 stored = v; emulated::Write(p, &stored); }
#define _mm512_store_si512(p, ...) \
  { const __m512i stored = __VA_ARGS__; emulated::Write(p, &stored); }
#define _mm512_set1_ps(v) emulated::Each<__m512>([&](int) { return float(v); })
#define _mm512_set1_epi32(v) emulated::Each<__m512i>([&](int) { return int32_t(v); })
#define _mm512_setzero_ps() (__m512{})
#define _mm512_setzero_si512() (__m512i{})
#define _mm512_cvtepi32_ps(v) \
  [](const emulated::Lanes& x) { \
    return emulated::Each<__m512>([&](int i) { return float(int32_t(x.at[i])); }); \
  }(emulated::Of(v))
#define _mm512_cvtepi16_epi32 emulated::Widened
#define _mm512_rcp14_ps emulated::Inverse
#define _mm512_fmadd_ps(a, b, c) \
  emulated::Each<__m512>([&](int i) { return __builtin_fmaf(a[i], b[i], c[i]); })
#define _mm512_cmp_ps_mask(a, b, how) emulated::Compare(a, b, how)
#define _mm512_mask_mul_ps emulated::MultiplySome
#define _mm512_mask_or_epi32 emulated::Or
#define _mm512_mask_set1_epi32 emulated::SetSome
#define _mm512_cvtepi32_epi8 emulated::Bytes
#define _mm512_xor_si512(a, b) emulated::Two(a, b, [](uint32_t x, uint32_t y) { return x ^ y; })
#define _mm512_add_epi32(a, b) emulated::Two(a, b, [](uint32_t x, uint32_t y) { return x + y; })
#define _mm512_sub_epi32(a, b) emulated::Two(a, b, [](uint32_t x, uint32_t y) { return x - y; })
#define _mm512_slli_epi32(a, n) \
  emulated::Two(a, __m512i{}, [&](uint32_t x, uint32_t) { return x << (n); })
#define _mm512_popcnt_epi32(a) \
  emulated::Two(a, __m512i{}, [](uint32_t x, uint32_t) { return __builtin_popcount(x); })

#endif  // BINSR_EMULATED_AVX512_H_
