"""``python -m binsr_jax`` is ``binsr``."""

import sys

from binsr_jax.commands import main

sys.exit(main())
