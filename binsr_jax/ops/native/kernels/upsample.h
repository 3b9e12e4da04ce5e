// An upsampling branch and the following float convolution to few outputs, fused into one pass; it is
// the end of a network. Only a few rows of the upsampled features, the largest of all, are in memory.

#ifndef BINSR_UPSAMPLE_H_
#define BINSR_UPSAMPLE_H_

#include <algorithm>
#include <vector>

#include "branch.h"
#include "float_conv.h"

namespace binsr {

// The branch has the shape s and a pixel shuffle, followed by the kernel `tail` [kh, kw, features, outs].
// y is [batch, shuffle * height, shuffle * width, outs].
template <class Form, class Pool>
void PackedUpsample(Pool& pool, const Shape& s, const float* x, const float* threshold,
                    const uint32_t* k, const Epilogue& epilogue, const Residual& residual,
                    int64_t shuffle, const float* tail, int64_t kh, int64_t kw, int64_t outs,
                    float* y) {
  const Kernels<Form> kernels(s, k);
  const int64_t features = s.outputs / (shuffle * shuffle);
  const Shape large = {s.batch, s.height * shuffle, s.width * shuffle, features, 0, kh, kw, outs};
  const FewOutputs convolution(large, tail);
  const int64_t row = large.width * features, kept = kh + shuffle - 1;
  // The fewest rows of the branch that are worth their halo, which is computed twice.
  constexpr int64_t kLeast = 8;
  InParallel(pool, s.batch * s.height, kLeast, [&](int64_t start, int64_t end) {
    BranchRows<Form> branch(s, kernels, x, threshold, epilogue, residual, shuffle);
    Aligned ring(kept * row);  // row r of an image's upsampled features is at position r % kept
    std::vector<const float*> rows(kh);
    std::vector<float*> to(shuffle);
    const auto place = [&](int64_t r) { return ring.data() + r % kept * row; };
    while (start < end) {
      const int64_t image = start / s.height, before = image * s.height;
      const int64_t stop = std::min(end, before + s.height);
      int64_t next = std::max<int64_t>(0, (start - before) * shuffle - kh / 2) / shuffle;
      for (int64_t r = (start - before) * shuffle; r < (stop - before) * shuffle; ++r) {
        const int64_t last = std::min(large.height - 1, r + kh / 2);
        for (; next * shuffle <= last; ++next) {
          for (int64_t i = 0; i < shuffle; ++i) to[i] = place(next * shuffle + i);
          branch.Row(before + next, to.data());
        }
        for (int64_t i = 0; i < kh; ++i) {
          const int64_t h = r + i - kh / 2;
          rows[i] = h < 0 || h >= large.height ? nullptr : place(h);
        }
        convolution.Row(rows.data(), y + (image * large.height + r) * large.width * outs);
      }
      start = stop;
    }
  });
}

}  // namespace binsr

#endif  // BINSR_UPSAMPLE_H_
