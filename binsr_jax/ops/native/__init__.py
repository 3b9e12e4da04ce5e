"""Convolutions in native code, if the machine can compile and run it.

XLA's CPU programs count bits well if there is an instruction for it, and slowly otherwise. They
also write features to memory where one fused pass is enough. ``kernels`` has the packed convolution
in several forms (AVX-512, AVX2, NEON, plain C++), a whole branch and a chain of units built on it,
and float convolutions. ``build`` compiles a form once for this CPU with the machine's C++ compiler:
a library of kernels, which ``direct`` calls, and with jaxlib's headers one of handlers, through
which XLA calls them (``call``). ``choose`` selects the form for a convolution. Without a compiler,
XLA's form is used; its integers are the same.
"""
