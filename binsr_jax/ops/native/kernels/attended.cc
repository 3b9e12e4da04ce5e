// The handler of units with attentions. Few networks need it, so it is compiled when one of them does.
// FORM is the form of the packed convolution.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "attended.h"
#include "fits.h"
#include "form.h"

using binsr::AttentionOf;
using binsr::Buffer;
using binsr::Call;
using binsr::Checks;
using binsr::Fits;
using binsr::FORM;
using binsr::Shape;
using binsr::ShapeOf;
using binsr::Type;

extern "C" void binsr_packed_attended(Call& call) {
  Checks checks(call, "packed_attended");
  if (!checks.Takes(7, {"binary", "residual", "skip"}, "ttb", 2)) return;
  const Buffer &x = call.buffers[0], &threshold = call.buffers[1], &k = call.buffers[2],
               &epilogue = call.buffers[3], &binary = call.buffers[4], &residual = call.buffers[5],
               &means = call.buffers[6], &y = call.Result(0), &taken = call.Result(1);
  if (!checks.Is("x", x, Type::kFloat, 4) || !checks.Is("threshold", threshold, Type::kFloat, 2) ||
      !checks.Is("k", k, Type::kWord, 5) || !checks.Is("epilogue", epilogue, Type::kFloat, 3) ||
      !checks.Is("binary", binary, Type::kFloat, 2) ||
      !checks.Is("residual", residual, Type::kFloat, 2) ||
      !checks.Is("means", means, Type::kFloat, 4) || !checks.Is("the result", y, Type::kFloat, 4) ||
      !checks.Is("the result of means", taken, Type::kFloat, 4))
    return;
  const int64_t units = k.dims[0], numbers = binary.dims[1], others = residual.dims[1] - 1;
  const Shape s = ShapeOf(x.dims, k.dims + 1, x.dims[3]);
  const char *const of_binary = call.attributes[0].text, *const of_residual = call.attributes[1].text;
  const auto a = AttentionOf(of_binary), b = AttentionOf(of_residual);
  if (!Fits(checks, s) || !checks.That(units >= 1, "a chain must have units") ||
      !checks.That(a.has_value(), "there is no attention ", of_binary) ||
      !checks.That(b.has_value(), "there is no attention ", of_residual) ||
      !checks.That(s.outputs == s.channels, "a unit must have as many outputs as channels") ||
      !checks.Has("threshold", threshold, {units, s.channels}) ||
      !checks.Has("epilogue", epilogue, {units, 5, s.outputs}) ||
      !checks.Has("binary", binary, {units, numbers}) ||
      !checks.That(binsr::HasSize(*a, s.channels, numbers), "binary has ", numbers,
                   " numbers, which do not fit ", of_binary, " attention") ||
      !checks.Has("residual", residual, {units, 1 + others}) ||
      !checks.That(binsr::HasSize(*b, s.channels, others), "residual has ", 1 + others,
                   " numbers, which do not fit ", of_residual, " attention"))
    return;
  const int64_t count = binsr::Pools(*a) + binsr::Pools(*b), given = means.dims[1];
  if (!checks.Has("means", means, {s.batch, given ? units : 0, count, s.channels}) ||
      !checks.Has("the result", y, {s.batch, s.height, s.width, s.channels}) ||
      !checks.Has("the result of means", taken, {s.batch, units, count, s.channels}) || y.IsEmpty())
    return;
  std::vector<std::optional<binsr::AttendedLink<FORM>>> links(units);
  binsr::InOrder(call.pool, units, [&] {
    return [&](int64_t u) {
      links[u].emplace(s, threshold.As<float>() + u * s.channels,
                       k.As<uint32_t>() + u * s.kh * s.kw * s.words * s.outputs,
                       epilogue.As<float>() + u * 5 * s.outputs, *a,
                       binary.As<float>() + u * numbers, numbers, *b,
                       residual.As<float>() + u * (1 + others), 1 + others);
    };
  });
  if (given)
    std::copy_n(means.As<float>(), s.batch * units * count * s.channels, taken.As<float>());
  binsr::PackedAttended<FORM>(call.pool, s, links, *a, *b, x.As<float>(), given > 0,
                              taken.As<float>(), call.attributes[2].number != 0, y.As<float>());
}
