"""A C++ compiler for an older CPU: runs ``c++`` so that it uses AVX2 and nothing later."""

import os
import sys

os.execvp("c++", ["c++", *sys.argv[1:], "-march=x86-64-v3"])
