"""``python train.py ...`` is ``binsr train ...``."""

import sys

from binsr_jax.commands import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
