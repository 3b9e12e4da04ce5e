// The handlers of packed kernels. FORM is the form of the packed convolution.

#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "branch.h"
#include "chain.h"
#include "form.h"
#include "fits.h"
#include "upsample.h"

namespace {

using binsr::Buffer;
using binsr::Call;
using binsr::Checks;
using binsr::Epilogue;
using binsr::Fits;
using binsr::FORM;
using binsr::Residual;
using binsr::ResidualKind;
using binsr::Shape;
using binsr::ShapeOf;
using binsr::Type;

std::optional<ResidualKind> KindOf(const char* name) {
  if (std::strcmp(name, "none") == 0) return ResidualKind::kNone;
  if (std::strcmp(name, "plain") == 0) return ResidualKind::kPlain;
  if (std::strcmp(name, "spatial") == 0) return ResidualKind::kSpatial;
  return std::nullopt;
}

// The arguments of a branch, and the attributes "kind" and "shuffle".
struct Branch {
  explicit Branch(const Call& call)
      : x(call.buffers[0]),
        threshold(call.buffers[1]),
        k(call.buffers[2]),
        epilogue(call.buffers[3]),
        residual(call.buffers[4]),
        kind_name(call.attributes[0].text),
        kind(KindOf(kind_name)),
        shuffle(call.attributes[1].number) {}

  // Whether they are valid; writes the shape to s.
  bool Fits(Checks& checks) {
    if (!checks.Is("x", x, Type::kFloat, 4) || !checks.Is("threshold", threshold, Type::kFloat, 1) ||
        !checks.Is("k", k, Type::kWord, 4) || !checks.Is("epilogue", epilogue, Type::kFloat, 2) ||
        !checks.Is("residual", residual, Type::kFloat, 1))
      return false;
    s = ShapeOf(x.dims, k.dims, x.dims[3]);
    return binsr::Fits(checks, s) &&
           checks.That(kind.has_value(), "there is no residual ", kind_name) &&
           checks.That(1 <= shuffle && shuffle <= 64 && s.outputs % (shuffle * shuffle) == 0,
                       "the outputs do not fit the shuffle") &&
           checks.That(*kind == ResidualKind::kNone || s.outputs == s.channels * shuffle * shuffle,
                       "the outputs do not fit the channels that are added") &&
           checks.Has("threshold", threshold, {s.channels}) &&
           checks.Has("epilogue", epilogue, {5, s.outputs}) &&
           checks.Has("residual", residual, {Residual::Size(*kind, s.channels)});
  }

  Epilogue Ending() const { return Epilogue::Of(epilogue.As<float>(), s.outputs); }
  Residual Added() const { return Residual(*kind, s.channels, residual.As<float>()); }

  const Buffer &x, &threshold, &k, &epilogue, &residual;
  const char* const kind_name;
  const std::optional<ResidualKind> kind;
  const int64_t shuffle;
  Shape s;
};

}  // namespace

extern "C" void binsr_packed_conv(Call& call) {
  Checks checks(call, "packed_conv");
  if (!checks.Takes(2, {"channels"}, "i")) return;
  const Buffer &x = call.buffers[0], &k = call.buffers[1], &y = call.Result();
  if (!checks.Is("x", x, Type::kWord, 4) || !checks.Is("k", k, Type::kWord, 4) ||
      !checks.Is("the result", y, Type::kShort, 4))
    return;
  const Shape s = ShapeOf(x.dims, k.dims, call.attributes[0].number);
  if (!Fits(checks, s) || !checks.Has("x", x, {s.batch, s.height, s.width, s.words}) ||
      !checks.Has("the result", y, {s.batch, s.height, s.width, s.outputs}) || y.IsEmpty())
    return;
  binsr::PackedConv<FORM>(call.pool, s, x.As<uint32_t>(), k.As<uint32_t>(), y.As<int16_t>());
}

extern "C" void binsr_packed_branch(Call& call) {
  Checks checks(call, "packed_branch");
  if (!checks.Takes(5, {"kind", "shuffle"}, "ti")) return;
  Branch b(call);
  const Buffer& y = call.Result();
  if (!b.Fits(checks) || !checks.Is("the result", y, Type::kFloat, 4) ||
      !checks.Has("the result", y, {b.s.batch, b.s.height * b.shuffle, b.s.width * b.shuffle,
                                    b.s.outputs / (b.shuffle * b.shuffle)}) ||
      y.IsEmpty())
    return;
  binsr::PackedBranch<FORM>(call.pool, b.s, b.x.As<float>(), b.threshold.As<float>(),
                            b.k.As<uint32_t>(), b.Ending(), b.Added(), b.shuffle, y.As<float>());
}

extern "C" void binsr_packed_upsample(Call& call) {
  Checks checks(call, "packed_upsample");
  if (!checks.Takes(6, {"kind", "shuffle"}, "ti")) return;
  Branch b(call);
  const Buffer &tail = call.buffers[5], &y = call.Result();
  if (!b.Fits(checks) || !checks.Is("tail", tail, Type::kFloat, 4) ||
      !checks.Is("the result", y, Type::kFloat, 4))
    return;
  const int64_t kh = tail.dims[0], kw = tail.dims[1], outs = tail.dims[3];
  const int64_t features = b.s.outputs / (b.shuffle * b.shuffle);
  if (!checks.That(kh % 2 == 1 && kw % 2 == 1, "the kernel tail must have odd sides") ||
      !checks.That(1 <= outs && outs <= binsr::kFewOutputs && features % binsr::kFewInputs == 0,
                   "tail has no form for ", features, " channels and ", outs, " outputs") ||
      !checks.Has("tail", tail, {kh, kw, features, outs}) ||
      !checks.Has("the result", y,
                  {b.s.batch, b.s.height * b.shuffle, b.s.width * b.shuffle, outs}) ||
      y.IsEmpty())
    return;
  binsr::PackedUpsample<FORM>(call.pool, b.s, b.x.As<float>(), b.threshold.As<float>(),
                              b.k.As<uint32_t>(), b.Ending(), b.Added(), b.shuffle,
                              tail.As<float>(), kh, kw, outs, y.As<float>());
}

extern "C" void binsr_packed_chain(Call& call) {
  Checks checks(call, "packed_chain");
  if (!checks.Takes(5, {"kind", "skip"}, "tb")) return;
  const Buffer &x = call.buffers[0], &threshold = call.buffers[1], &k = call.buffers[2],
               &epilogue = call.buffers[3], &residual = call.buffers[4], &y = call.Result();
  if (!checks.Is("x", x, Type::kFloat, 4) || !checks.Is("threshold", threshold, Type::kFloat, 2) ||
      !checks.Is("k", k, Type::kWord, 5) || !checks.Is("epilogue", epilogue, Type::kFloat, 3) ||
      !checks.Is("residual", residual, Type::kFloat, 2) ||
      !checks.Is("the result", y, Type::kFloat, 4))
    return;
  const int64_t units = k.dims[0];
  const Shape s = ShapeOf(x.dims, k.dims + 1, x.dims[3]);
  const char* const name = call.attributes[0].text;
  const auto kind = KindOf(name);
  if (!Fits(checks, s) || !checks.That(units >= 1, "a chain must have units") ||
      !checks.That(kind.has_value() && *kind != ResidualKind::kNone, "a chain has no residual ",
                   name) ||
      !checks.That(s.outputs == s.channels, "a unit must have as many outputs as channels") ||
      !checks.Has("threshold", threshold, {units, s.channels}) ||
      !checks.Has("epilogue", epilogue, {units, 5, s.outputs}) ||
      !checks.Has("residual", residual, {units, Residual::Size(*kind, s.channels)}) ||
      !checks.Has("the result", y, {s.batch, s.height, s.width, s.channels}) || y.IsEmpty())
    return;
  std::vector<std::optional<binsr::Link<FORM>>> links(units);
  binsr::InOrder(call.pool, units, [&] {
    return [&](int64_t u) {
      const int64_t numbers = Residual::Size(*kind, s.channels);
      links[u].emplace(s, threshold.As<float>() + u * s.channels,
                       k.As<uint32_t>() + u * s.kh * s.kw * s.words * s.outputs,
                       epilogue.As<float>() + u * 5 * s.outputs,
                       Residual(*kind, s.channels, residual.As<float>() + u * numbers));
    };
  });
  binsr::PackedChain<FORM>(call.pool, s, links, x.As<float>(), call.attributes[1].number != 0,
                           y.As<float>());
}
