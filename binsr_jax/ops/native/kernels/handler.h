// What handlers share: the checks of arguments. Every handler checks the number, ranks, types, sizes and
// attributes of its arguments, and writes an error that names the argument that does not fit.

#ifndef BINSR_HANDLER_H_
#define BINSR_HANDLER_H_

#include <cstdint>
#include <initializer_list>
#include <string>

#include "call.h"
#include "shape.h"

namespace binsr {

// A part of a sentence.
struct Words {
  Words(const char* text) : text(text) {}
  Words(const std::string& text) : text(text) {}
  Words(int64_t number) : text(std::to_string(number)) {}

  std::string text;
};

// Finds the first wrong argument of a handler. A check that fails returns false and writes the error.
class Checks {
 public:
  Checks(Call& call, const char* handler) : call(call), handler(handler) {}

  // Whether there are so many arrays, and these attributes in the order of their names; `kinds` has a
  // letter for each: "i" for an integer, "b" for a bool, "t" for a text.
  bool Takes(int64_t inputs, std::initializer_list<const char*> names = {}, const char* kinds = "",
             int64_t results = 1);

  // Whether a buffer has this type and rank.
  bool Is(const char* name, const Buffer& buffer, Type type, int64_t rank);

  // Whether a buffer has these sizes.
  bool Has(const char* name, const Buffer& buffer, std::initializer_list<int64_t> sizes);

  // Whether something holds; the words say what is wrong otherwise.
  template <class... Parts>
  bool That(bool holds, const Parts&... words) {
    return holds || Fails({Words(words)...});
  }

 private:
  bool Fails(std::initializer_list<Words> words);

  Call& call;
  const char* const handler;
};

// The shape of a convolution of x [batch, height, width, words or channels] with kernels
// [..., kh, kw, words or channels, outputs]. `ks` are the last four sizes of the kernels.
inline Shape ShapeOf(const int64_t* xs, const int64_t* ks, int64_t channels) {
  return {xs[0], xs[1], xs[2], channels, ks[2], ks[0], ks[1], ks[3]};
}

}  // namespace binsr

#endif  // BINSR_HANDLER_H_
