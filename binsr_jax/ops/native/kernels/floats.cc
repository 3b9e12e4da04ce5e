// The handlers of float kernels for inference.

#include <cstdint>

#include "float_conv.h"
#include "handler.h"
#include "image_skip.h"

namespace {

using binsr::Buffer;
using binsr::Call;
using binsr::Checks;
using binsr::Shape;
using binsr::ShapeOf;
using binsr::Type;

// Whether x and k can be convolved, and y has four axes; writes the shape to s.
bool FitsConv(Checks& checks, const Buffer& x, const Buffer& k, const Buffer& y, Shape& s) {
  if (!checks.Is("x", x, Type::kFloat, 4) || !checks.Is("k", k, Type::kFloat, 4) ||
      !checks.Is("the result", y, Type::kFloat, 4))
    return false;
  s = ShapeOf(x.dims, k.dims, x.dims[3]);
  const bool fits = s.outputs > binsr::kFewOutputs || s.channels % binsr::kFewInputs == 0;
  return checks.That(s.kh % 2 == 1 && s.kw % 2 == 1, "the kernel k must have odd sides") &&
         checks.Has("k", k, {s.kh, s.kw, s.channels, s.outputs}) &&
         checks.That(fits, "there is no form for ", s.channels, " channels and ", s.outputs,
                     " outputs");
}

}  // namespace

extern "C" void binsr_float_conv(Call& call) {
  Checks checks(call, "float_conv");
  if (!checks.Takes(2)) return;
  const Buffer &x = call.buffers[0], &k = call.buffers[1], &y = call.Result();
  Shape s;
  if (!FitsConv(checks, x, k, y, s) ||
      !checks.Has("the result", y, {s.batch, s.height, s.width, s.outputs}) || y.IsEmpty())
    return;
  binsr::FloatConv(call.pool, s, x.As<float>(), k.As<float>(), y.As<float>());
}

// The float convolution with its bias, a leaky ReLU and a pixel shuffle. A slope of 1 leaves the sums.
extern "C" void binsr_float_layer(Call& call) {
  Checks checks(call, "float_layer");
  if (!checks.Takes(4, {"shuffle"}, "i")) return;
  const Buffer &x = call.buffers[0], &k = call.buffers[1], &bias = call.buffers[2],
               &slope = call.buffers[3], &y = call.Result();
  const int64_t shuffle = call.attributes[0].number;
  Shape s;
  if (!FitsConv(checks, x, k, y, s) || !checks.Is("bias", bias, Type::kFloat, 1) ||
      !checks.Is("slope", slope, Type::kFloat, 1) ||
      !checks.That(1 <= shuffle && shuffle <= 64 && s.outputs % (shuffle * shuffle) == 0, "shuffle ",
                   shuffle, " does not fit ", s.outputs, " outputs") ||
      !checks.Has("bias", bias, {s.outputs}) || !checks.Has("slope", slope, {1}) ||
      !checks.Has("the result", y, {s.batch, s.height * shuffle, s.width * shuffle,
                                    s.outputs / (shuffle * shuffle)}) ||
      y.IsEmpty())
    return;
  binsr::FloatConv(call.pool, s, x.As<float>(), k.As<float>(), y.As<float>(),
                   {bias.As<float>(), *slope.As<float>(), shuffle});
}

// The end of a network: see image_skip.h. The result may be the memory of z.
extern "C" void binsr_image_skip(Call& call) {
  Checks checks(call, "image_skip");
  if (!checks.Takes(3, {"factor"}, "i")) return;
  const Buffer &z = call.buffers[0], &x = call.buffers[1], &numbers = call.buffers[2],
               &y = call.Result();
  const int64_t factor = call.attributes[0].number;
  if (!checks.Is("z", z, Type::kFloat, 4) || !checks.Is("x", x, Type::kFloat, 4) ||
      !checks.Is("numbers", numbers, Type::kFloat, 2) ||
      !checks.Is("the result", y, Type::kFloat, 4) ||
      !checks.That(1 <= factor && factor <= 64, "there is no factor ", factor))
    return;
  const Shape s = {x.dims[0], x.dims[1], x.dims[2], x.dims[3], 0, 1, 1, x.dims[3]};
  if (!checks.Has("z", z, {s.batch, s.height * factor, s.width * factor, s.channels}) ||
      !checks.Has("numbers", numbers, {5, s.channels}) ||
      !checks.Has("the result", y,
                  {s.batch, s.height * factor, s.width * factor, s.channels}) ||
      y.IsEmpty())
    return;
  binsr::ImageSkip(call.pool, s, factor, x.As<float>(), z.As<float>(),
                   binsr::SkipNumbers::Of(numbers.As<float>(), s.channels), y.As<float>());
}
