// Includes the form of the packed convolution to compile: FORM is Portable, Avx2, Avx512, Amx or Neon.

#ifndef BINSR_FORM_H_
#define BINSR_FORM_H_

#include "portable.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "avx2.h"
#endif
#if defined(__AVX512VPOPCNTDQ__)
#include "avx512.h"
#include "amx_form.h"
#endif
#if defined(__ARM_NEON) && defined(__aarch64__)
#include "neon.h"
#endif

#endif  // BINSR_FORM_H_
