// A run of units of one shape in one pass: unit after unit, features in one buffer.
//
// A unit reads the signs of neighbouring pixels, but the features of its own pixel only. So features
// are updated in place. The signs and residual gains for the next unit are computed as soon as the
// features are written. So each unit reads and writes the features once.
//
// All pairs of a unit and a block of rows form a list, and all threads take entries by one counter. A
// block of a unit needs the signs of that block and its two neighbours from the previous unit. In step
// t, unit u processes block t - 2u. Its inputs were started in step t - 1 at the latest, so a thread
// hardly ever waits. With a lag of one block, it would need the entry just before it. Units are
// processed in groups, so that the active blocks stay in the cache.

#ifndef BINSR_CHAIN_H_
#define BINSR_CHAIN_H_

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "branch.h"

namespace binsr {

template <class Form>
struct Link {
  Link(const Shape& s, const float* threshold, const uint32_t* k, const float* epilogue,
       const Residual& residual)
      : threshold(threshold),
        kernels(s, k),
        epilogue(Epilogue::Of(epilogue, s.outputs)),
        residual(residual) {}

  const float* threshold;
  Kernels<Form> kernels;
  Epilogue epilogue;
  Residual residual;
};

// The order in which the blocks of all stages are started. A block needs the same block and its
// neighbours from the previous stage.
inline std::vector<std::pair<int64_t, int64_t>> Wavefront(int64_t stages, int64_t blocks) {
  constexpr int64_t kGroup = 8, kLag = 2;
  const int64_t group = std::max(blocks, kLag * kGroup);  // steps from one group to the next
  std::vector<std::vector<std::pair<int64_t, int64_t>>> steps(
      (stages - 1) / kGroup * group + kLag * kGroup + blocks);
  for (int64_t stage = 0; stage < stages; ++stage)
    for (int64_t block = 0; block < blocks; ++block)
      steps[stage / kGroup * group + kLag * (stage % kGroup) + block].emplace_back(stage, block);
  std::vector<std::pair<int64_t, int64_t>> order;
  for (const auto& step : steps) order.insert(order.end(), step.begin(), step.end());
  return order;
}

// Computes y, the output of all units for x [batch, height, width, channels]; adds x with `skip`.
template <class Form, class Pool>
void PackedChain(Pool& pool, const Shape& s, const std::vector<std::optional<Link<Form>>>& links, const float* x,
                 bool skip, float* y) {
  const int64_t rows = s.batch * s.height, units = static_cast<int64_t>(links.size());
  const int64_t row = s.width * s.channels, bits = s.width * s.words;
  // Small enough for the second-level cache and for many blocks; large enough that few rows at the
  // borders are computed twice.
  const int64_t height = std::max({s.kh / 2, std::min(rows / 16, (1 << 17) / row), int64_t{2}});
  const int64_t size = std::min<int64_t>(height, std::max<int64_t>(8, s.kh / 2));
  const int64_t blocks = (rows + size - 1) / size;
  // The stage before the units prepares x. Two alternating maps of signs and gains are enough: a block
  // depends on all readers of the old content, so they have finished when it is overwritten.
  const auto order = Wavefront(units + 1, blocks);
  std::vector<uint32_t> signs[2] = {std::vector<uint32_t>(rows * bits),
                                    std::vector<uint32_t>(rows * bits)};
  std::vector<float> gains[2] = {std::vector<float>(rows * s.width),
                                 std::vector<float>(rows * s.width)};
  Flags done((units + 1) * blocks);
  const auto pack = [&](const Link<Form>& link, const float* from, int64_t pixels, uint32_t* to) {
    for (int64_t p = 0; p < pixels; ++p)
      Form::Pack(from + p * s.channels, link.threshold, s.channels, s.words, to + p * s.words);
  };
  InOrder(pool, static_cast<int64_t>(order.size()), [&] {
    return [&, convolver = RowConvolver<Form>(s)](int64_t i) mutable {
      const int64_t stage = order[i].first, block = order[i].second;
      const int64_t start = block * size, end = std::min(rows, start + size);
      if (stage == 0) {
        const int64_t pixels = (end - start) * s.width;
        pack(*links[0], x + start * row, pixels, signs[0].data() + start * bits);
        links[0]->residual.Gains(x + start * row, pixels, gains[0].data() + start * s.width);
        return done.Raise(block);
      }
      const Link<Form>& link = *links[stage - 1];
      const Link<Form>* next = stage < units ? &*links[stage] : nullptr;
      const float* from = stage == 1 ? x : y;
      const uint32_t* own = signs[(stage - 1) % 2].data();
      const float* own_gains = gains[(stage - 1) % 2].data();
      uint32_t* to = signs[stage % 2].data();
      float* gains_to = gains[stage % 2].data();
      for (int64_t b = std::max<int64_t>(0, block - 1); b < std::min(blocks, block + 2); ++b)
        done.Wait((stage - 1) * blocks + b);
      convolver.Restart();
      const auto write = [&](int64_t n, int64_t left, int64_t pixels, int64_t first, int64_t outputs,
                           const typename Form::Dot* dots) {
        const int64_t pixel = n * s.width + left;
        const float* added = from + pixel * s.channels + first;
        float* out = y + pixel * s.channels + first;
        Finish<Form>(dots, pixels, link.epilogue.From(first), added, s.channels,
                     own_gains + pixel, outputs, out, s.channels);
        if (next && first + outputs == s.channels) {
          pack(*next, y + pixel * s.channels, pixels, to + pixel * s.words);
          // The gains of eight pixels take hardly longer than those of four.
          const int64_t so_far = left % 8 + pixels, begun = pixel - left % 8;
          if (so_far % 8 == 0 || left + pixels == s.width)
            next->residual.Gains(y + begun * s.channels, so_far, gains_to + begun);
        }
        if (!next && skip)
          for (int64_t p = 0; p < pixels * s.channels; p += s.channels)
            for (int64_t o = 0; o < outputs; ++o)
              out[p + o] += x[pixel * s.channels + first + p + o];
      };
      convolver.Rows(link.kernels, start, end, [&](int64_t r) { return own + r * bits; }, write);
      done.Raise(stage * blocks + block);
    };
  });
}

}  // namespace binsr

#endif  // BINSR_CHAIN_H_
