// The handlers of XLA's foreign calls. Each calls the kernel of its name.

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "call.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using binsr::Attribute;
using binsr::Buffer;
using binsr::Call;
using binsr::Type;
using Kernel = void(Call&);

Buffer BufferOf(const ffi::AnyBuffer& buffer) {
  const auto dims = buffer.dimensions();
  return {static_cast<Type>(buffer.element_type()), static_cast<int64_t>(dims.size()), dims.begin(),
          buffer.untyped_data()};
}

ffi::Error Invalid(const std::string& sentence) { return ffi::Error::InvalidArgument(sentence); }

ffi::Error Forward(Kernel* kernel, ffi::ThreadPool& pool, const ffi::RemainingArgs& inputs,
                   const ffi::RemainingRets& results, const ffi::Dictionary& attributes) {
  std::vector<Buffer> buffers;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto input = inputs.get<ffi::AnyBuffer>(i);
    if (!input.has_value()) return input.error();
    buffers.push_back(BufferOf(*input));
  }
  for (size_t i = 0; i < results.size(); ++i) {
    auto result = results.get<ffi::AnyBuffer>(i);
    if (!result.has_value()) return result.error();
    buffers.push_back(BufferOf(**result));
  }
  std::deque<std::string> texts;  // whose places stay the same
  std::vector<Attribute> given;
  for (const std::string_view key : attributes) {
    const char* name = texts.emplace_back(key).c_str();
    if (attributes.contains<int64_t>(key))
      given.push_back({name, nullptr, Type::kInteger, *attributes.get<int64_t>(key)});
    else if (attributes.contains<bool>(key))
      given.push_back({name, nullptr, Type::kBool, *attributes.get<bool>(key)});
    else if (attributes.contains<std::string_view>(key))
      given.push_back({name, texts.emplace_back(*attributes.get<std::string_view>(key)).c_str(),
                       Type::kInteger, 0});
    else
      return Invalid("the attribute " + texts.back() + " has another type");
  }
  const auto schedule = [](void* context, int64_t, void (*task)(void*), void* data) {
    static_cast<ffi::ThreadPool*>(context)->Schedule([task, data] { task(data); });
  };
  Call call = {{&pool, pool.num_threads(), schedule},
               static_cast<int64_t>(inputs.size()),
               static_cast<int64_t>(results.size()),
               buffers.data(),
               static_cast<int64_t>(given.size()),
               given.data(),
               ""};
  kernel(call);
  return call.error.empty() ? ffi::Error::Success() : Invalid(call.error);
}

// All handlers have one signature, so that the code that decodes their arguments is compiled once.
template <Kernel* kKernel>
ffi::Error Handle(ffi::ThreadPool pool, ffi::RemainingArgs inputs, ffi::RemainingRets results,
                  ffi::Dictionary attributes) {
  return Forward(kKernel, pool, inputs, results, attributes);
}

}  // namespace

#define BINSR_HANDLER(name)                            \
  extern "C" void binsr_##name(binsr::Call&);          \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(binsr_xla_##name, Handle<binsr_##name>, \
                                ffi::Ffi::Bind()       \
                                    .Ctx<ffi::ThreadPool>() \
                                    .RemainingArgs()   \
                                    .RemainingRets()   \
                                    .Attrs())

BINSR_HANDLER(packed_conv);
BINSR_HANDLER(packed_branch);
BINSR_HANDLER(packed_upsample);
BINSR_HANDLER(packed_chain);
BINSR_HANDLER(packed_attended);
BINSR_HANDLER(float_conv);
BINSR_HANDLER(float_layer);
BINSR_HANDLER(image_skip);
BINSR_HANDLER(kernel_gradients);
BINSR_HANDLER(bf16_conv);
BINSR_HANDLER(bf16_kernel_gradients);
