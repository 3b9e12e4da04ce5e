// What all handlers of packed kernels check.

#ifndef BINSR_FITS_H_
#define BINSR_FITS_H_

#include "handler.h"
#include "shape.h"

namespace binsr {

// Whether the kernels support the shape of a packed convolution.
inline bool Fits(Checks& checks, const Shape& s) {
  return checks.That(s.kh % 2 == 1 && s.kw % 2 == 1, "the kernel k must have odd sides") &&
         checks.That(s.channels >= 1 && s.words == (s.channels + 31) / 32, "k has ", s.words,
                     " words for ", s.channels, " channels") &&
         checks.That(s.kh * s.kw <= (1 << 15) && s.words < (1 << 10) &&
                         32 * s.kh * s.kw * s.words < (1 << 15),
                     "16 bits do not hold the dot products of so many taps and channels");
}

}  // namespace binsr

#endif  // BINSR_FITS_H_
