"""Convolutions in native code, where the machine can make and run it.

XLA's programs for CPUs count bits well where there is an instruction for it, and slowly elsewhere;
and they write features to memory where one pass would do. ``kernels`` has the packed convolution
in several forms (AVX-512, AVX2, NEON, plain C++), a whole branch and a chain of units made of it,
and convolutions of floats. ``build`` compiles a form once, for the CPU at hand, with the machine's
C++ compiler and the headers that come with jaxlib; ``choose`` says which form convolutions are
traced with; ``call`` calls it. Without a compiler XLA's form is used: the integers are the same.
"""
