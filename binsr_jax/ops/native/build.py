"""Compiles the native forms and caches them in ``~/.cache/binsr-jax/native``."""

import concurrent.futures
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from binsr_jax.cache_folder import cache_folder
from binsr_jax.files import replace_bytes

_KERNELS = Path(__file__).with_name("kernels")
_CPU = "-march=native" if platform.machine() in ("x86_64", "AMD64", "i686") else "-mcpu=native"
# Products and sums are fused only where the code says so. A compiler fuses them in one loop and not
# in another, and then a chain and its units, or two tiles, differ in the last bit.
_FLAGS = ("-std=c++17", "-O3", _CPU, "-ffp-contract=off", "-fPIC", "-pthread")
# A library finds the one that it needs in its own folder, wherever that is moved.
_BESIDE = "-Wl,-rpath,$ORIGIN" if sys.platform == "linux" else ""
_SECONDS = 300  # time limit of the compiler
# The sources of the libraries of a form. A picture is enlarged without XLA, whose headers take
# as long to compile as a kernel, and without what trains: nobody waits for these there. Most
# networks have none of the attentions of ``attended``, which XLA's library has too.
_PARTS = {
    "kernels": ("packed", "floats", "host"),
    "attended": ("attended",),
    "xla": ("xla", "training", "attended"),
}


class BuildError(Exception):
    """A form cannot be compiled; the message is a reason that follows "because"."""


@functools.cache
def macros() -> frozenset[str]:
    """The compiler's macros for this CPU, which show its instruction sets.

    Raises:
        BuildError: There is no compiler, or it fails.
    """
    command = [*_compiler(), *_FLAGS[:3], "-dM", "-E", "-x", "c++", os.devnull]
    return frozenset(_run(command).split())


def library(form: str, part: str = "kernels") -> Path:
    """A shared library of a form; it is compiled if it is missing or damaged.

    Its hash is stored beside it. A library truncated by a full disk or a power failure would crash
    the program without a message.

    Args:
        form: The name of its struct in ``kernels``.
        part: "kernels" for what runs a network, "attended" for its units with attentions, or "xla"
            for the handlers of XLA's calls and what trains. The others load the first one.

    Raises:
        BuildError: It cannot be compiled.
    """
    about = [*_sources(), *sorted(macros()), *_FLAGS, *_compiler()]
    if part != "kernels":
        about.append(_BESIDE)
    if part == "xla":
        from importlib import metadata  # here, as it takes a while

        about.append(metadata.version("jaxlib"))
    key = hashlib.sha256("\0".join(about).encode()).hexdigest()[:16]
    try:
        file = cache_folder("native") / f"{form.lower()}-{part}-{key}.so"
        return file if _is_whole(file) else _compile(form, part, file)
    except OSError as error:
        where = error.filename or "the folder of compiled code"
        raise BuildError(f"{where}: {error.strerror}") from error


def discard(file: Path) -> None:
    """Removes an unusable library, so that it will be compiled again."""
    file.unlink(missing_ok=True)
    _hash_file(file).unlink(missing_ok=True)


def _headers() -> str:
    """Where jaxlib has XLA's headers. It is not imported, which would take most of a start."""
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or spec.origin is None:
        raise BuildError("jaxlib is not installed")
    return str(Path(spec.origin).parent / "include")


def _sources() -> list[str]:
    files = sorted([*_KERNELS.glob("*.h"), *_KERNELS.glob("*.cc")])
    return [text for file in files for text in (file.name, file.read_text())]


def _compiler() -> list[str]:
    """The C++ compiler command: CXX, which may have arguments as in ``ccache g++``."""
    given = os.environ.get("CXX", "")
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise BuildError(f"CXX is {given!r}: {error}") from error
    if words:
        return words
    for name in ("c++", "g++", "clang++"):
        if (found := shutil.which(name)) is not None:
            return [found]
    raise BuildError("there is no C++ compiler: install g++ or clang, or name one in CXX")


def _run(command: list[str]) -> str:
    """The standard output of the compiler.

    Raises:
        BuildError: It fails; the message has its first line with "error".
    """
    try:
        return subprocess.run(
            command, capture_output=True, check=True, timeout=_SECONDS, text=True, errors="replace"
        ).stdout
    except subprocess.CalledProcessError as error:
        lines = error.stderr.splitlines() or [f"exit status {error.returncode}"]
        first = next((line for line in lines if "error" in line.lower()), lines[0])
        raise BuildError(f"{shlex.join(command[:1])} fails: {first.strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} takes more than {_SECONDS} seconds") from error
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error.strerror}") from error


def _compile(form: str, part: str, file: Path) -> Path:
    if sys.stderr.isatty():  # a user is waiting
        print("Compiling the convolutions for this CPU, once, in some seconds.", file=sys.stderr)
    with tempfile.TemporaryDirectory() as private:
        made = Path(private) / "library.so"
        options, needed = [*_compiler(), *_FLAGS, f"-DFORM={form}"], []
        if part == "xla":
            options += ["-isystem", _headers()]
        if part != "kernels":
            kernels = library(form)
            found = [f"-L{kernels.parent}", f"-l:{kernels.name}", _BESIDE]
            needed = found if _BESIDE else [str(kernels)]

        def compiled(source: str) -> str:
            object_file = str(Path(private) / f"{source}.o")
            _run([*options, "-c", str(_KERNELS / f"{source}.cc"), "-o", object_file])
            return object_file

        with concurrent.futures.ThreadPoolExecutor() as pool:  # each waits for a compiler
            objects = list(pool.map(compiled, _PARTS[part]))
        _run([*_compiler(), "-shared", "-pthread", *objects, *needed, "-o", str(made)])
        content = made.read_bytes()
    replace_bytes(file, content)
    replace_bytes(_hash_file(file), hashlib.sha256(content).hexdigest().encode())
    return file


def _is_whole(file: Path) -> bool:
    try:
        expected = _hash_file(file).read_text()
        return hashlib.sha256(file.read_bytes()).hexdigest() == expected
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def _hash_file(file: Path) -> Path:
    return file.with_suffix(".sha256")
