"""Where JAX keeps compiled programs, so that the next start is quick."""

import contextlib
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

from binsr_jax.cache_folder import cache_folder

_FOLDER, _SECONDS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
_TROUBLE = re.compile(
    r"Error (reading|writing) persistent compilation cache entry for '([^']+)': (.*)", re.DOTALL
)
_WORDS = {
    "reading": "Cached programs in %s are damaged and are compiled again (%s)",
    "writing": "Compiled programs cannot be cached in %s, so the next start compiles again (%s)",
}


def keep_compiled_programs() -> None:
    """Keeps what XLA compiles in ``~/.cache/binsr-jax/jax``, without a home in a temporary folder.

    JAX's own variable JAX_COMPILATION_CACHE_DIR names another folder. JAX is not imported for it.
    """
    # Also the initialisation of parameters, whose programs compile in less than JAX's one second.
    settings: dict[str, Any] = {_SECONDS: 0.1}
    if folder := os.environ.get(_FOLDER.upper(), ""):
        _mend(Path(folder))
    else:
        try:
            settings[_FOLDER] = str(cache_folder("jax"))
            _mend(Path(settings[_FOLDER]))
        except OSError as error:
            logging.getLogger("binsr_jax").warning("Compiled programs are not cached: %s", error)
    for name, value in settings.items():
        if name.upper() in os.environ:
            continue
        if "jax" in sys.modules:
            sys.modules["jax"].config.update(name, value)
        else:
            os.environ[name.upper()] = str(value)


def _mend(folder: Path) -> None:
    """Removes cached programs that JAX warns about, and logs that once.

    JAX writes a program under its final name. It never replaces one that a full disk or a power
    failure has truncated, but compiles it again in every process, with a warning each time.
    """
    usual, said = warnings.showwarning, set()

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        trouble = _TROUBLE.match(str(message))
        if trouble is None:
            usual(message, *args, **kwargs)
            return
        kind, program, reason = trouble.groups()
        for file in folder.glob(f"{program}-*"):
            with contextlib.suppress(OSError):
                file.unlink()
        if kind not in said:
            said.add(kind)
            lines = reason.strip().splitlines() or [""]
            logging.getLogger("binsr_jax").warning(_WORDS[kind], folder, lines[0])

    warnings.showwarning = show
