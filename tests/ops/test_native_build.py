"""How native code is compiled, kept and chosen, each in a process of its own."""

import functools
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from native_forms import FORMS, needs_native

from binsr_jax.cache_folder import cache_folder
from binsr_jax.ops.native import build, choose

SCRIPT = """
from binsr_jax.ops.native import choose
print(choose.chosen_form(), *choose.forms())
"""


def choice(script=SCRIPT, **environment):
    """What a new process says of its choice, and the lines of its errors."""
    changed = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={name: value for name, value in changed.items() if value is not None},
        capture_output=True,
        text=True,
    )
    return done.stdout.strip(), done.stderr.strip().splitlines()


@pytest.fixture
def fake_compiler(tmp_path):
    """A compiler that knows of no more than AVX2 and makes of the sources what a script does."""

    def make(script):
        compiler = tmp_path / "fake c++"
        compiler.write_text(
            f'#!/bin/sh\ncase "$*" in *-dM*) echo "#define __AVX2__ 1"; exit;; esac\n{script}\n'
        )
        compiler.chmod(0o755)
        return f"'{compiler}'"

    return make


@needs_native
def test_the_fastest_form_is_chosen_and_another_can_be():
    assert choice()[0].split()[0] == FORMS[0]
    assert choice(BINSR_KERNEL="xla")[0].startswith("xla")
    assert choice(BINSR_KERNEL="portable")[0].startswith("portable")
    assert "BINSR_KERNEL is 'fast': choose from" in choice(BINSR_KERNEL="fast")[1][-1]


@needs_native
def test_a_form_that_this_cpu_does_not_have_is_refused():
    missing = next(form for form in ("neon", "avx512", "avx2") if form not in FORMS)
    error = choice(BINSR_KERNEL=missing)[1][-1]
    assert f"BINSR_KERNEL is {missing!r}, which this CPU cannot run: choose from" in error


@needs_native
def test_a_form_that_the_system_does_not_allow_is_left_out(monkeypatch):
    form = choose._FORMS[FORMS[0]]
    monkeypatch.setitem(choose._FORMS, FORMS[0], replace(form, allowed=lambda: False))
    assert choose.forms() == FORMS[1:]


def test_without_a_compiler_it_is_xla_and_said_once(tmp_path):
    gone = str(tmp_path / "gone")
    out, errors = choice(SCRIPT + "choose.chosen_form()", CXX=gone)
    assert out == "xla"
    (line,) = errors
    assert "XLA's convolutions are used" in line
    assert f"{gone} cannot be run: No such file" in line
    assert choice(CXX=gone, BINSR_KERNEL="xla") == ("xla", [])
    assert "cannot be made because" in choice(CXX=gone, BINSR_KERNEL="avx2")[1][-1]


@needs_native
def test_the_compiler_may_have_arguments(tmp_path):
    compiler = " ".join(build._compiler())
    assert choice(CXX=f"env BINSR=1 {compiler}")[0].split() == [FORMS[0], *FORMS]
    assert "No closing quotation" in choice(CXX=f"{compiler} '")[1][0]


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing_behind(tmp_path, fake_compiler):
    compiler = fake_compiler("echo one >&2; echo 'a.h:3: error: no such thing' >&2; exit 1")
    out, (line,) = choice(CXX=compiler, HOME=str(tmp_path))
    assert out == "xla avx2 portable"
    assert line.endswith("fails: a.h:3: error: no such thing")
    assert list((tmp_path / ".cache/binsr-jax/native").iterdir()) == []
    error = choice(CXX=compiler, HOME=str(tmp_path), BINSR_KERNEL="avx2")[1][-1]
    assert "BINSR_KERNEL is 'avx2', which cannot be made because" in error
    assert error.endswith("error: no such thing")


def test_what_the_compiler_makes_of_other_sources_is_refused(tmp_path, fake_compiler):
    """A library without the handlers; it does not stay in the cache."""
    compiler = fake_compiler('for o; do :; done; echo "int x;" | c++ -x c++ -shared - -o "$o"')
    out, (line,) = choice(CXX=compiler, HOME=str(tmp_path))
    assert out == "xla avx2 portable"
    assert "cannot be loaded" in line
    assert list((tmp_path / ".cache/binsr-jax/native").iterdir()) == []


LOADED = """
import ctypes, sys
ctypes.CDLL(sys.argv[1]).binsr_xla_packed_conv
print({line.split()[-1] for line in open("/proc/self/maps") if "-kernels-" in line})
"""


@needs_native
@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep the folder's name")
def test_libraries_may_be_moved_together(tmp_path):
    struct = choose._FORMS[FORMS[0]].struct
    kernels, handlers = (build.library(struct, part) for part in ("kernels", "xla"))
    moved = shutil.copy(kernels, tmp_path)
    command = [sys.executable, "-c", LOADED, shutil.copy(handlers, tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{{{str(moved)!r}}}"


HANDLERS = """
import jax.numpy as jnp
from binsr_jax.ops.native import choose
print(choose.chosen_form(), choose.form_for_conv(jnp.ones((1, 2, 2, 16)), jnp.ones((3, 3, 16, 16))))
"""


@needs_native
def test_without_handlers_for_xla_it_is_xla_where_xla_runs(tmp_path):
    compiler = tmp_path / "c++"
    script = (
        '#!/bin/sh\ncase "$*" in *xla.cc*) echo "error: none" >&2; exit 1;; esac\nexec c++ "$@"\n'
    )
    compiler.write_text(script)
    compiler.chmod(0o755)
    home, form = str(tmp_path), FORMS[0]
    out, errors = choice(HANDLERS, CXX=str(compiler), HOME=home)
    assert out == f"{form} xla"
    assert "XLA's convolutions are used" in errors[-1]
    out, errors = choice(HANDLERS, CXX=str(compiler), HOME=home, BINSR_KERNEL=form)
    assert out == ""
    assert f"BINSR_KERNEL is {form!r}, which cannot be made because" in errors[-1]


def test_what_is_begun_in_the_background_is_not_made_again(monkeypatch):
    made = []

    @functools.cache
    def slow_library(form, part, names):
        time.sleep(0.2)
        made.append((form, part))

    monkeypatch.setattr(choose, "_library", slow_library)
    monkeypatch.setattr(build, "macros", frozenset)
    monkeypatch.setenv("BINSR_KERNEL", "portable")
    choose.chosen_form.cache_clear()
    choose.begin()
    assert choose.chosen_form() == "portable"
    assert made == [("portable", "kernels")]
    choose.chosen_form.cache_clear()


def test_what_fails_in_the_background_is_said_by_who_needs_it(monkeypatch):
    def library(form, part, names):
        raise build.BuildError("of the test")

    monkeypatch.setattr(choose, "_library", library)
    monkeypatch.setattr(build, "macros", frozenset)
    monkeypatch.setenv("BINSR_KERNEL", "portable")
    choose.chosen_form.cache_clear()
    choose.begin()
    with pytest.raises(ValueError, match="because of the test"):
        choose.chosen_form()


@needs_native
@pytest.mark.parametrize("size", [0, 64, 100_000])
def test_a_library_that_was_cut_off_is_made_anew(monkeypatch, tmp_path, size):
    cache_folder.cache_clear()
    monkeypatch.setenv("HOME", str(tmp_path))
    made = []
    monkeypatch.setattr(build, "_compile", lambda form, part, file: made.append(file) or file)
    file = build.library("Portable")
    file.write_bytes(os.urandom(200_000))
    build._hash_file(file).write_text(build.hashlib.sha256(file.read_bytes()).hexdigest())
    build.library("Portable")
    assert len(made) == 1
    os.truncate(file, size)
    build.library("Portable")
    assert len(made) == 2
    build._hash_file(file).unlink()
    build.library("Portable")
    assert len(made) == 3
    cache_folder.cache_clear()


def test_a_cache_on_a_full_disk_is_one_line(monkeypatch, caplog):
    def full(form, part, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "_is_whole", lambda file: False)
    monkeypatch.setattr(build, "_compile", full)
    with pytest.raises(build.BuildError, match="the folder of compiled code: No space left"):
        build.library("Portable")
