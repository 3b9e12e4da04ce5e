// The handlers of float kernels that XLA calls.

#include <cstdint>
#include <string>

#include "amx.h"
#include "float_conv.h"
#include "handler.h"

namespace {

namespace ffi = xla::ffi;
using binsr::AnyBuffer;
using binsr::Checks;
using binsr::IsEmpty;
using binsr::kFloat;
using binsr::Result;
using binsr::Shape;
using binsr::ShapeOf;
using binsr::Takes;

// Whether x and k can be convolved, and y has four axes.
bool FitsConv(Checks& checks, const AnyBuffer& x, const AnyBuffer& k, const AnyBuffer& y) {
  if (!checks.Is("x", x, kFloat, 4) || !checks.Is("k", k, kFloat, 4) ||
      !checks.Is("the result", y, kFloat, 4))
    return false;
  const Shape s = ShapeOf(x.dimensions(), k.dimensions(), x.dimensions()[3]);
  const bool fits = s.outputs > binsr::kFewOutputs || s.channels % binsr::kFewInputs == 0;
  return checks.That(s.kh % 2 == 1 && s.kw % 2 == 1, "the kernel k must have odd sides") &&
         checks.Has("k", k, {s.kh, s.kw, s.channels, s.outputs}) &&
         checks.That(fits, "there is no form for " + std::to_string(s.channels) +
                               " channels and " + std::to_string(s.outputs) + " outputs");
}

ffi::Error FloatConv(ffi::ThreadPool pool, AnyBuffer x, AnyBuffer k, Result y) {
  Checks checks("float_conv");
  if (!FitsConv(checks, x, k, *y)) return checks.Error();
  const Shape s = ShapeOf(x.dimensions(), k.dimensions(), x.dimensions()[3]);
  if (!checks.Has("the result", *y, {s.batch, s.height, s.width, s.outputs}))
    return checks.Error();
  if (IsEmpty(*y)) return ffi::Error::Success();
  binsr::FloatConv(pool, s, x.typed_data<float>(), k.typed_data<float>(), y->typed_data<float>());
  return ffi::Error::Success();
}

// The float convolution with its bias, a leaky ReLU and a pixel shuffle. A slope of 1 leaves the sums.
ffi::Error FloatLayer(ffi::ThreadPool pool, AnyBuffer x, AnyBuffer k, AnyBuffer bias, AnyBuffer slope,
                      int64_t shuffle, Result y) {
  Checks checks("float_layer");
  if (!FitsConv(checks, x, k, *y) || !checks.Is("bias", bias, kFloat, 1) ||
      !checks.Is("slope", slope, kFloat, 1))
    return checks.Error();
  const Shape s = ShapeOf(x.dimensions(), k.dimensions(), x.dimensions()[3]);
  if (!checks.That(1 <= shuffle && shuffle <= 64 && s.outputs % (shuffle * shuffle) == 0,
                   "shuffle " + std::to_string(shuffle) + " does not fit " +
                       std::to_string(s.outputs) + " outputs") ||
      !checks.Has("bias", bias, {s.outputs}) || !checks.Has("slope", slope, {1}) ||
      !checks.Has("the result", *y, {s.batch, s.height * shuffle, s.width * shuffle,
                                     s.outputs / (shuffle * shuffle)}))
    return checks.Error();
  if (IsEmpty(*y)) return ffi::Error::Success();
  binsr::FloatConv(pool, s, x.typed_data<float>(), k.typed_data<float>(), y->typed_data<float>(),
                   {bias.typed_data<float>(), *slope.typed_data<float>(), shuffle});
  return ffi::Error::Success();
}

ffi::Error KernelGradients(ffi::ThreadPool pool, AnyBuffer x, AnyBuffer dy, Result dk) {
  Checks checks("kernel_gradients");
  if (!checks.Is("x", x, kFloat, 4) || !checks.Is("dy", dy, kFloat, 4) ||
      !checks.Is("the result", *dk, kFloat, 5))
    return checks.Error();
  const Shape s = ShapeOf(x.dimensions(), dk->dimensions().last(4), x.dimensions()[3]);
  if (!checks.That(s.kh % 2 == 1 && s.kw % 2 == 1, "the kernel must have odd sides") ||
      !checks.Has("dy", dy, {s.batch, s.height, s.width, s.outputs}) ||
      !checks.That(s.outputs % binsr::kManyOutputs == 0,
                   "there is no form for " + std::to_string(s.outputs) + " outputs") ||
      !checks.Has("the result", *dk, {s.batch, s.kh, s.kw, s.channels, s.outputs}))
    return checks.Error();
  if (IsEmpty(*dk)) return ffi::Error::Success();
  binsr::KernelGradients(pool, s, x.typed_data<float>(), dy.typed_data<float>(),
                         dk->typed_data<float>());
  return ffi::Error::Success();
}

// Whether bfloat16 products of these sizes can be computed.
bool FitsBf16(Checks& checks, const Shape& s) {
#ifdef BINSR_AMX
  return checks.That(s.kh % 2 == 1 && s.kw % 2 == 1, "the kernel must have odd sides") &&
         checks.That(s.channels % binsr::kBlock == 0 && s.outputs % binsr::kBlock == 0,
                     "there is no form for " + std::to_string(s.channels) + " channels and " +
                         std::to_string(s.outputs) + " outputs") &&
         checks.That(binsr::HasAmx(), "the system does not let this process use AMX");
#else
  return checks.That(false, "this CPU has no AMX");
#endif
}

ffi::Error Bf16Conv(ffi::ThreadPool pool, AnyBuffer x, AnyBuffer k, Result y) {
  Checks checks("bf16_conv");
  if (!checks.Is("x", x, kFloat, 4) || !checks.Is("k", k, kFloat, 4) ||
      !checks.Is("the result", *y, kFloat, 4))
    return checks.Error();
  const Shape s = ShapeOf(x.dimensions(), k.dimensions(), x.dimensions()[3]);
  if (!checks.Has("k", k, {s.kh, s.kw, s.channels, s.outputs}) || !FitsBf16(checks, s) ||
      !checks.Has("the result", *y, {s.batch, s.height, s.width, s.outputs}))
    return checks.Error();
  if (IsEmpty(*y)) return ffi::Error::Success();
#ifdef BINSR_AMX
  binsr::Bf16Conv(pool, s, x.typed_data<float>(), k.typed_data<float>(), y->typed_data<float>());
#endif
  return ffi::Error::Success();
}

ffi::Error Bf16KernelGradients(ffi::ThreadPool pool, AnyBuffer x, AnyBuffer dy, Result dk) {
  Checks checks("bf16_kernel_gradients");
  if (!checks.Is("x", x, kFloat, 4) || !checks.Is("dy", dy, kFloat, 4) ||
      !checks.Is("the result", *dk, kFloat, 5))
    return checks.Error();
  const Shape s = ShapeOf(x.dimensions(), dk->dimensions().last(4), x.dimensions()[3]);
  if (!checks.Has("dy", dy, {s.batch, s.height, s.width, s.outputs}) || !FitsBf16(checks, s) ||
      !checks.Has("the result", *dk, {s.batch, s.kh, s.kw, s.channels, s.outputs}))
    return checks.Error();
  if (IsEmpty(*dk)) return ffi::Error::Success();
#ifdef BINSR_AMX
  binsr::Bf16KernelGradients(pool, s, x.typed_data<float>(), dy.typed_data<float>(),
                             dk->typed_data<float>());
#endif
  return ffi::Error::Success();
}

}  // namespace

// Whether bf16_conv and bf16_kernel_gradients compute anything here.
extern "C" int binsr_has_amx() {
#ifdef BINSR_AMX
  return binsr::HasAmx();
#else
  return 0;
#endif
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(binsr_float_conv, FloatConv, Takes<2>().Ret<AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(binsr_float_layer, FloatLayer,
                              Takes<4>().Attr<int64_t>("shuffle").Ret<AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(binsr_kernel_gradients, KernelGradients, Takes<2>().Ret<AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(binsr_bf16_conv, Bf16Conv, Takes<2>().Ret<AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(binsr_bf16_kernel_gradients, Bf16KernelGradients,
                              Takes<2>()
                                  .Ret<AnyBuffer>());
