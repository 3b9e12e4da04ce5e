// The handlers of packed kernels that XLA calls. FORM is the form of the packed convolution. They are
// a file of their own so that two compilers share the work, for which a user waits.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "branch.h"
#include "chain.h"
#include "form.h"
#include "handler.h"
#include "upsample.h"

namespace {

namespace ffi = xla::ffi;
using binsr::AnyBuffer;
using binsr::Checks;
using binsr::Epilogue;
using binsr::FORM;
using binsr::IsEmpty;
using binsr::kFloat;
using binsr::kWord;
using binsr::Residual;
using binsr::ResidualKind;
using binsr::Result;
using binsr::Shape;
using binsr::ShapeOf;
using binsr::Takes;

// Whether the kernels support the shape of a packed convolution.
bool Fits(Checks& checks, const Shape& s) {
  return checks.That(s.kh % 2 == 1 && s.kw % 2 == 1, "the kernel k must have odd sides") &&
         checks.That(s.channels >= 1 && s.words == (s.channels + 31) / 32,
                     "k has " + std::to_string(s.words) + " words for " +
                         std::to_string(s.channels) + " channels") &&
         checks.That(s.kh * s.kw <= (1 << 15) && s.words < (1 << 10) &&
                         32 * s.kh * s.kw * s.words < (1 << 15),
                     "16 bits do not hold the dot products of so many taps and channels");
}

std::optional<ResidualKind> KindOf(std::string_view name) {
  if (name == "none") return ResidualKind::kNone;
  if (name == "plain") return ResidualKind::kPlain;
  if (name == "spatial") return ResidualKind::kSpatial;
  return std::nullopt;
}

ffi::Error PackedConv(ffi::ThreadPool pool, AnyBuffer x, AnyBuffer k, int64_t channels, Result y) {
  Checks checks("packed_conv");
  if (!checks.Is("x", x, kWord, 4) || !checks.Is("k", k, kWord, 4) ||
      !checks.Is("the result", *y, ffi::DataType::S16, 4))
    return checks.Error();
  const Shape s = ShapeOf(x.dimensions(), k.dimensions(), channels);
  if (!Fits(checks, s) || !checks.Has("x", x, {s.batch, s.height, s.width, s.words}) ||
      !checks.Has("the result", *y, {s.batch, s.height, s.width, s.outputs}))
    return checks.Error();
  if (IsEmpty(*y)) return ffi::Error::Success();
  binsr::PackedConv<FORM>(pool, s, x.typed_data<uint32_t>(), k.typed_data<uint32_t>(),
                          y->typed_data<int16_t>());
  return ffi::Error::Success();
}

// Whether these are valid arguments of a branch; writes its shape to s.
bool IsBranch(Checks& checks, const AnyBuffer& x, const AnyBuffer& threshold, const AnyBuffer& k,
              const AnyBuffer& epilogue, const AnyBuffer& residual, std::string_view kind,
              int64_t shuffle, Shape& s) {
  if (!checks.Is("x", x, kFloat, 4) || !checks.Is("threshold", threshold, kFloat, 1) ||
      !checks.Is("k", k, kWord, 4) || !checks.Is("epilogue", epilogue, kFloat, 2) ||
      !checks.Is("residual", residual, kFloat, 1))
    return false;
  s = ShapeOf(x.dimensions(), k.dimensions(), x.dimensions()[3]);
  const auto kind_of = KindOf(kind);
  return Fits(checks, s) &&
         checks.That(kind_of.has_value(), "there is no residual " + std::string(kind)) &&
         checks.That(1 <= shuffle && shuffle <= 64 && s.outputs % (shuffle * shuffle) == 0,
                     "the outputs do not fit the shuffle") &&
         checks.That(
             *kind_of == ResidualKind::kNone || s.outputs == s.channels * shuffle * shuffle,
             "the outputs do not fit the channels that are added") &&
         checks.Has("threshold", threshold, {s.channels}) &&
         checks.Has("epilogue", epilogue, {5, s.outputs}) &&
         checks.Has("residual", residual, {Residual::Size(*kind_of, s.channels)});
}

ffi::Error PackedBranch(ffi::ThreadPool pool, AnyBuffer x, AnyBuffer threshold, AnyBuffer k,
                        AnyBuffer epilogue, AnyBuffer residual, std::string_view kind,
                        int64_t shuffle, Result y) {
  Checks checks("packed_branch");
  Shape s;
  if (!IsBranch(checks, x, threshold, k, epilogue, residual, kind, shuffle, s) ||
      !checks.Is("the result", *y, kFloat, 4) ||
      !checks.Has("the result", *y, {s.batch, s.height * shuffle, s.width * shuffle,
                                     s.outputs / (shuffle * shuffle)}))
    return checks.Error();
  if (IsEmpty(*y)) return ffi::Error::Success();
  binsr::PackedBranch<FORM>(
      pool, s, x.typed_data<float>(), threshold.typed_data<float>(), k.typed_data<uint32_t>(),
      Epilogue::Of(epilogue.typed_data<float>(), s.outputs),
      Residual(*KindOf(kind), s.channels, residual.typed_data<float>()), shuffle,
      y->typed_data<float>());
  return ffi::Error::Success();
}

ffi::Error PackedUpsample(ffi::ThreadPool pool, AnyBuffer x, AnyBuffer threshold, AnyBuffer k,
                          AnyBuffer epilogue, AnyBuffer residual, AnyBuffer tail,
                          std::string_view kind, int64_t shuffle, Result y) {
  Checks checks("packed_upsample");
  Shape s;
  if (!IsBranch(checks, x, threshold, k, epilogue, residual, kind, shuffle, s) ||
      !checks.Is("tail", tail, kFloat, 4) || !checks.Is("the result", *y, kFloat, 4))
    return checks.Error();
  const int64_t kh = tail.dimensions()[0], kw = tail.dimensions()[1], outs = tail.dimensions()[3];
  const int64_t features = s.outputs / (shuffle * shuffle);
  if (!checks.That(kh % 2 == 1 && kw % 2 == 1, "the kernel tail must have odd sides") ||
      !checks.That(1 <= outs && outs <= binsr::kFewOutputs && features % binsr::kFewInputs == 0,
                   "tail has no form for " + std::to_string(features) + " channels and " +
                       std::to_string(outs) + " outputs") ||
      !checks.Has("tail", tail, {kh, kw, features, outs}) ||
      !checks.Has("the result", *y, {s.batch, s.height * shuffle, s.width * shuffle, outs}))
    return checks.Error();
  if (IsEmpty(*y)) return ffi::Error::Success();
  const auto run = [&](auto count) {
    binsr::PackedUpsample<FORM, count.value>(
        pool, s, x.typed_data<float>(), threshold.typed_data<float>(), k.typed_data<uint32_t>(),
        Epilogue::Of(epilogue.typed_data<float>(), s.outputs),
        Residual(*KindOf(kind), s.channels, residual.typed_data<float>()), shuffle,
        tail.typed_data<float>(), kh, kw, y->typed_data<float>());
  };
  if (outs == 1) run(std::integral_constant<int, 1>());
  if (outs == 2) run(std::integral_constant<int, 2>());
  if (outs == 3) run(std::integral_constant<int, 3>());
  return ffi::Error::Success();
}

ffi::Error PackedChain(ffi::ThreadPool pool, AnyBuffer x, AnyBuffer threshold, AnyBuffer k,
                       AnyBuffer epilogue, AnyBuffer residual, std::string_view kind, bool skip,
                       Result y) {
  Checks checks("packed_chain");
  if (!checks.Is("x", x, kFloat, 4) || !checks.Is("threshold", threshold, kFloat, 2) ||
      !checks.Is("k", k, kWord, 5) || !checks.Is("epilogue", epilogue, kFloat, 3) ||
      !checks.Is("residual", residual, kFloat, 2) || !checks.Is("the result", *y, kFloat, 4))
    return checks.Error();
  const int64_t units = k.dimensions()[0];
  const Shape s = ShapeOf(x.dimensions(), k.dimensions().last(4), x.dimensions()[3]);
  const auto kind_of = KindOf(kind);
  if (!Fits(checks, s) || !checks.That(units >= 1, "a chain must have units") ||
      !checks.That(kind_of.has_value() && *kind_of != ResidualKind::kNone,
                   "a chain has no residual " + std::string(kind)) ||
      !checks.That(s.outputs == s.channels, "a unit must have as many outputs as channels") ||
      !checks.Has("threshold", threshold, {units, s.channels}) ||
      !checks.Has("epilogue", epilogue, {units, 5, s.outputs}) ||
      !checks.Has("residual", residual, {units, Residual::Size(*kind_of, s.channels)}) ||
      !checks.Has("the result", *y, {s.batch, s.height, s.width, s.channels}))
    return checks.Error();
  if (IsEmpty(*y)) return ffi::Error::Success();
  std::vector<std::optional<binsr::Link<FORM>>> links(units);
  binsr::InOrder(pool, units, [&] {
    return [&](int64_t u) {
      const int64_t numbers = Residual::Size(*kind_of, s.channels);
      links[u].emplace(s, threshold.typed_data<float>() + u * s.channels,
                       k.typed_data<uint32_t>() + u * s.kh * s.kw * s.words * s.outputs,
                       epilogue.typed_data<float>() + u * 5 * s.outputs,
                       Residual(*kind_of, s.channels, residual.typed_data<float>() + u * numbers));
    };
  });
  binsr::PackedChain<FORM>(pool, s, links, x.typed_data<float>(), skip, y->typed_data<float>());
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(binsr_packed_conv, PackedConv,
                              Takes<2>()
                                  .Attr<int64_t>("channels")
                                  .Ret<AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(binsr_packed_branch, PackedBranch,
                              Takes<5>()
                                  .Attr<std::string_view>("kind")
                                  .Attr<int64_t>("shuffle")
                                  .Ret<AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(binsr_packed_upsample, PackedUpsample,
                              Takes<6>()
                                  .Attr<std::string_view>("kind")
                                  .Attr<int64_t>("shuffle")
                                  .Ret<AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(binsr_packed_chain, PackedChain,
                              Takes<5>()
                                  .Attr<std::string_view>("kind")
                                  .Attr<bool>("skip")
                                  .Ret<AnyBuffer>());
