// The packed convolution with NEON, whose cnt instruction counts the bits of 16 bytes at a time.
//
// An item is a byte of a word, and a vector holds 16 outputs. Eight channels take an exclusive or, a
// count and a sum in bytes. The sums are widened to 16 bits before a byte overflows.

#ifndef BINSR_NEON_H_
#define BINSR_NEON_H_

#include "portable.h"

namespace binsr {

struct FourLanes {
  using Floats = float32x4_t;
  using Ints = uint32x4_t;
  static constexpr int64_t kCount = 4, kSums = 4;

  static Floats Load(const float* from) { return vld1q_f32(from); }
  static void Store(Floats v, float* to) { vst1q_f32(to, v); }
  static Floats Set(float v) { return vdupq_n_f32(v); }
  static Floats FromDots(const int16_t* dots) {
    return vcvtq_f32_s32(vmovl_s16(vld1_s16(dots)));
  }
  static Floats MultiplyAdd(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
  static Floats Leaky(Floats u, Floats slope) {
    return vbslq_f32(vcltq_f32(u, vdupq_n_f32(0)), vmulq_f32(u, slope), u);
  }
  static Floats Reciprocal(Floats v) { return 1 / v; }
};

struct Neon : SmallTiles {
  using ImageItem = uint8_t;
  using KernelItem = uint8_t;
  using Dot = int16_t;
  using Lanes = FourLanes;
  static constexpr int64_t kItems = 4;

  static void Image(const uint32_t* pixel, const uint32_t*, int64_t words, ImageItem* to) {
    std::memcpy(to, pixel, words * sizeof(uint32_t));  // little-endian, like the items of a kernel
  }
  static KernelItem Kernel(uint32_t word, uint32_t, int64_t item) { return word >> (8 * item); }
  static int64_t Place(int64_t output) { return output; }

  template <class Rest>
  BINSR_NOINLINE static void Dots(const ImageItem* const* x, int64_t first, int64_t stride,
                                  int64_t, const KernelItem* k, int64_t rows, int64_t count,
                                  Dot most, Dot (&dots)[kPixels][kOutputs], const Rest&) {
    constexpr int kVectors = kOutputs / 16;
    std::fill_n(dots[0], kPixels * kOutputs, most);
    for (int64_t r = 0; r < rows; ++r)
      // A byte can hold the counts of 31 items.
      for (int64_t start = 0; start < count; start += kMostItems) {
        const int64_t end = std::min(count, start + kMostItems);
        const KernelItem* line = k + (r * count + start) * kOutputs;
        // Two pixels at a time: sums, kernels and temporaries fit into the registers.
        for (int64_t p = 0; p < kPixels; p += 2) {
          const ImageItem* at = x[r] + first + p * stride;
          uint8x16_t sums[2][kVectors];
          for (int v = 0; v < kVectors; ++v) sums[0][v] = sums[1][v] = vdupq_n_u8(0);
          const KernelItem* ki = line;
          for (int64_t i = start; i < end; ++i, ki += kOutputs) {
            const uint8x16_t x0 = vdupq_n_u8(at[i]), x1 = vdupq_n_u8(at[stride + i]);
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) {
              const uint8x16_t kernel = vld1q_u8(ki + 16 * v);
              sums[0][v] = vaddq_u8(sums[0][v], vcntq_u8(veorq_u8(kernel, x0)));
              sums[1][v] = vaddq_u8(sums[1][v], vcntq_u8(veorq_u8(kernel, x1)));
            }
          }
          for (int q = 0; q < 2; ++q)
            for (int v = 0; v < kVectors; ++v) {
              Subtract(vget_low_u8(sums[q][v]), dots[p + q] + 16 * v);
              Subtract(vget_high_u8(sums[q][v]), dots[p + q] + 16 * v + 8);
            }
        }
      }
  }

  static void Pack(const float* x, const float* threshold, int64_t channels, int64_t words,
                   uint32_t* to) {
    const int64_t bytes = 4 * words;
    if (channels != 8 * bytes) return Portable::Pack(x, threshold, channels, words, to);
    for (int64_t byte = 0; byte < bytes; byte += 4) {
      uint32x4_t octets = vdupq_n_u32(0);
#pragma GCC unroll 8
      for (int bit = 0; bit < 8; ++bit) {
        const int64_t c = bit * bytes + byte;
        const uint32x4_t above = vcgtq_f32(vld1q_f32(x + c), vld1q_f32(threshold + c));
        octets = vorrq_u32(octets, vandq_u32(above, vdupq_n_u32(1u << bit)));
      }
      const uint16x4_t pairs = vmovn_u32(octets);
      to[byte / 4] = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(pairs, pairs))), 0);
    }
  }

 private:
  static constexpr int64_t kMostItems = 31;

  // Subtracts twice the counts from eight dots.
  static void Subtract(uint8x8_t counts, Dot* dots) {
    const int16x8_t twice = vreinterpretq_s16_u16(vshll_n_u8(counts, 1));
    vst1q_s16(dots, vsubq_s16(vld1q_s16(dots), twice));
  }
};

}  // namespace binsr

#endif  // BINSR_NEON_H_
