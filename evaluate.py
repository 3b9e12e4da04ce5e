"""``python evaluate.py ...`` is ``binsr evaluate ...``."""

import sys

from binsr_jax.commands import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
