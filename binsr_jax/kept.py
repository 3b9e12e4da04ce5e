"""Where JAX keeps compiled programs, so that the next start is quick."""

import logging
import os
import sys
from typing import Any

from binsr_jax.ops.native import build

_FOLDER, _SECONDS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


def keep_compiled_programs() -> None:
    """Keeps what XLA compiles in ``~/.cache/binsr-jax/jax``, without a home in a temporary folder.

    JAX's own variable JAX_COMPILATION_CACHE_DIR names another folder. JAX is not imported for it.
    """
    # Also the draws of the first parameters, of which each takes less than JAX's own second.
    settings: dict[str, Any] = {_SECONDS: 0.1}
    if _FOLDER.upper() not in os.environ:
        try:
            settings[_FOLDER] = str(build.cache_folder("jax"))
        except OSError as error:
            logging.getLogger("binsr_jax").warning("Compiled programs are not kept: %s", error)
    for name, value in settings.items():
        if name.upper() in os.environ:
            continue
        if "jax" in sys.modules:
            sys.modules["jax"].config.update(name, value)
        else:
            os.environ[name.upper()] = str(value)
