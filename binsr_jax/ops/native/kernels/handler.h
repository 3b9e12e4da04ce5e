// What handlers share: XLA's types, and the checks of arguments. Every handler checks ranks, types,
// sizes and attributes of its arguments, and returns an error that names the argument that does not
// fit.

#ifndef BINSR_HANDLER_H_
#define BINSR_HANDLER_H_

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#include "shape.h"
#include "xla/ffi/api/ffi.h"

namespace binsr {

namespace ffi = xla::ffi;
using ffi::AnyBuffer;
using Result = ffi::Result<AnyBuffer>;

constexpr auto kFloat = ffi::DataType::F32;
constexpr auto kWord = ffi::DataType::U32;

// Finds the first wrong argument of a handler.
class Checks {
 public:
  explicit Checks(std::string handler) : handler(std::move(handler)) {}

  // Whether a buffer has this type and rank.
  bool Is(const char* name, const AnyBuffer& buffer, ffi::DataType type, size_t rank) {
    if (buffer.element_type() != type)
      return Fails(std::string(name) + " must be " + (type == kFloat ? "float32" :
                   type == kWord ? "uint32" : "int16"));
    if (buffer.dimensions().size() != rank)
      return Fails(std::string(name) + " must have " + std::to_string(rank) + " axes, not " +
                   std::to_string(buffer.dimensions().size()));
    return true;
  }

  // Whether a buffer has these sizes.
  bool Has(const char* name, const AnyBuffer& buffer, std::initializer_list<int64_t> sizes) {
    const auto dims = buffer.dimensions();
    if (std::equal(dims.begin(), dims.end(), sizes.begin(), sizes.end())) return true;
    return Fails(std::string(name) + " is " + Text(dims) + " and must be " + Text(sizes));
  }

  bool That(bool holds, const std::string& sentence) { return holds || Fails(sentence); }

  ffi::Error Error() const { return ffi::Error::InvalidArgument(handler + ": " + sentence); }

 private:
  bool Fails(std::string what) {
    sentence = std::move(what);
    return false;
  }

  template <class Sizes>
  static std::string Text(const Sizes& sizes) {
    std::string text;
    for (const int64_t size : sizes) text += (text.empty() ? "[" : ", ") + std::to_string(size);
    return text.empty() ? "[]" : text + "]";
  }

  const std::string handler;
  std::string sentence;
};

// The shape of a convolution of x [batch, height, width, words or channels] with kernels
// [..., kh, kw, words or channels, outputs].
inline Shape ShapeOf(ffi::Span<const int64_t> xs, ffi::Span<const int64_t> ks, int64_t channels) {
  return {xs[0], xs[1], xs[2], channels, ks[2], ks[0], ks[1], ks[3]};
}

// A binding that takes the pool of threads and so many buffers; attributes and the result follow.
template <int kBuffers>
auto Takes() {
  if constexpr (kBuffers == 0)
    return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>();
  else
    return Takes<kBuffers - 1>().template Arg<AnyBuffer>();
}

inline bool IsEmpty(const AnyBuffer& buffer) { return buffer.element_count() == 0; }

}  // namespace binsr

#endif  // BINSR_HANDLER_H_
