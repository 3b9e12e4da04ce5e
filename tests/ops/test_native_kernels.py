"""The native kernels without Python: under sanitizers, and on an emulated ARM CPU.

``native_kernels.cc`` compares every form that the CPU compiled for has with sums that are written
out, and reads and writes buffers of their own length.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from binsr_jax.ops.native import build

HARNESS = Path(__file__).with_name("native_kernels.cc")
EMULATED = Path(__file__).with_name("emulated_avx512.h")
# With sanitizers GCC 12 warns of its own header of AVX-512; clang does not know that warning.
UNKNOWN = ["-Wno-unknown-warning-option", "-Wno-maybe-uninitialized"]
WARNINGS = ["-Wall", "-Wextra", "-Werror", *UNKNOWN]
FLAGS = ["-std=c++17", "-pthread", *WARNINGS, "-I", str(build._KERNELS)]
ARM_COMPILER, ARM_EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"


def host_macros():
    try:
        return build.macros()
    except build.BuildError:
        return frozenset()


HOST = host_macros()


def compiled(compiler, options, tmp_path):
    program = tmp_path / "kernels"
    command = [*compiler, *FLAGS, *options, str(HARNESS), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return str(program)


def assert_passes(command, *forms):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()
    assert last == "0 failures"
    checked = {line.split(":")[0] for line in lines}
    assert checked >= {"portable", "floats", *forms}


def host_compiler(*options):
    """The compiler, where it makes programs with these options that run."""
    try:
        compiler = build._compiler()
    except build.BuildError as error:
        pytest.skip(str(error))
    check = [*compiler, *options, "-x", "c++", "-", "-o", "/dev/null"]
    if subprocess.run(check, input=b"int main() {}", capture_output=True).returncode:
        pytest.skip(f"{compiler[0]} does not take {' '.join(options)}")
    return compiler


def test_under_sanitizers(tmp_path):
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    compiler = host_compiler(*sanitizers)
    program = compiled(compiler, ["-O1", build._CPU, *sanitizers], tmp_path)
    assert_passes([program], *(["avx2"] if "__AVX2__" in HOST else []))


def test_threads_share_a_chain_without_races(tmp_path):
    compiler = host_compiler("-fsanitize=thread")
    program = compiled(compiler, ["-O1", build._CPU, "-fsanitize=thread"], tmp_path)
    assert_passes([program])


@pytest.mark.skipif(
    "__AVX2__" not in HOST or "__AVX512F__" in HOST, reason="emulated where there is AVX2 alone"
)
def test_on_an_emulated_avx512_cpu(tmp_path):
    """Lane by lane in plain C++; CPUs that have it run the form itself."""
    options = ["-O1", build._CPU, "-Wno-psabi", "-include", str(EMULATED)]
    assert_passes([compiled(build._compiler(), options, tmp_path)], "avx512")


@pytest.mark.skipif(
    not (shutil.which(ARM_COMPILER) and shutil.which(ARM_EMULATOR)),
    reason=f"wants {ARM_COMPILER} and {ARM_EMULATOR}",
)
def test_on_an_emulated_arm_cpu(tmp_path):
    program = compiled([ARM_COMPILER], ["-O2", "-static"], tmp_path)
    assert_passes([ARM_EMULATOR, program], "neon")
