// The handlers of kernels for training: gradients, and convolutions with factors of bfloat16. They are
// compiled with xla.cc, since only XLA trains.

#include <cstdint>

#include "amx.h"
#include "float_conv.h"
#include "handler.h"

namespace {

using binsr::Buffer;
using binsr::Call;
using binsr::Checks;
using binsr::Shape;
using binsr::ShapeOf;
using binsr::Type;

// Whether bfloat16 products of these sizes can be computed.
bool FitsBf16(Checks& checks, const Shape& s) {
#ifdef BINSR_AMX_BF16
  return checks.That(s.kh % 2 == 1 && s.kw % 2 == 1, "the kernel must have odd sides") &&
         checks.That(s.channels % binsr::kBlock == 0 && s.outputs % binsr::kBlock == 0,
                     "there is no form for ", s.channels, " channels and ", s.outputs, " outputs") &&
         checks.That(binsr::HasAmx(), "the system does not let this process use AMX");
#else
  (void)s;
  return checks.That(false, "this CPU has no AMX");
#endif
}

// Whether these are valid arguments of a gradient of kernels; writes the shape to s.
bool FitsGradients(Checks& checks, const Buffer& x, const Buffer& dy, const Buffer& dk, Shape& s) {
  if (!checks.Is("x", x, Type::kFloat, 4) || !checks.Is("dy", dy, Type::kFloat, 4) ||
      !checks.Is("the result", dk, Type::kFloat, 5))
    return false;
  s = ShapeOf(x.dims, dk.dims + 1, x.dims[3]);
  return checks.That(s.kh % 2 == 1 && s.kw % 2 == 1, "the kernel must have odd sides") &&
         checks.Has("dy", dy, {s.batch, s.height, s.width, s.outputs}) &&
         checks.Has("the result", dk, {s.batch, s.kh, s.kw, s.channels, s.outputs});
}

}  // namespace

// Whether bf16_conv and bf16_kernel_gradients compute anything here.
extern "C" int binsr_has_amx() {
#ifdef BINSR_AMX_BF16
  return binsr::HasAmx();
#else
  return 0;
#endif
}

extern "C" void binsr_kernel_gradients(Call& call) {
  Checks checks(call, "kernel_gradients");
  if (!checks.Takes(2)) return;
  const Buffer &x = call.buffers[0], &dy = call.buffers[1], &dk = call.Result();
  Shape s;
  if (!FitsGradients(checks, x, dy, dk, s) ||
      !checks.That(s.outputs % binsr::kManyOutputs == 0, "there is no form for ", s.outputs,
                   " outputs") ||
      dk.IsEmpty())
    return;
  binsr::KernelGradients(call.pool, s, x.As<float>(), dy.As<float>(), dk.As<float>());
}

extern "C" void binsr_bf16_conv(Call& call) {
  Checks checks(call, "bf16_conv");
  if (!checks.Takes(2)) return;
  const Buffer &x = call.buffers[0], &k = call.buffers[1], &y = call.Result();
  if (!checks.Is("x", x, Type::kFloat, 4) || !checks.Is("k", k, Type::kFloat, 4) ||
      !checks.Is("the result", y, Type::kFloat, 4))
    return;
  const Shape s = ShapeOf(x.dims, k.dims, x.dims[3]);
  if (!checks.Has("k", k, {s.kh, s.kw, s.channels, s.outputs}) || !FitsBf16(checks, s) ||
      !checks.Has("the result", y, {s.batch, s.height, s.width, s.outputs}) || y.IsEmpty())
    return;
#ifdef BINSR_AMX_BF16
  binsr::Bf16Conv(call.pool, s, x.As<float>(), k.As<float>(), y.As<float>());
#endif
}

extern "C" void binsr_bf16_kernel_gradients(Call& call) {
  Checks checks(call, "bf16_kernel_gradients");
  if (!checks.Takes(2)) return;
  const Buffer &x = call.buffers[0], &dy = call.buffers[1], &dk = call.Result();
  Shape s;
  if (!FitsGradients(checks, x, dy, dk, s) || !FitsBf16(checks, s) || dk.IsEmpty()) return;
#ifdef BINSR_AMX_BF16
  binsr::Bf16KernelGradients(call.pool, s, x.As<float>(), dy.As<float>(), dk.As<float>());
#endif
}
