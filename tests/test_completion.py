"""``binsr completion``: the scripts, and what bash completes with its script."""

import shutil
import subprocess
from pathlib import Path

import pytest

from binsr_jax.commands import COMMANDS, main
from binsr_jax.commands.completion import SHELLS

# Fills COMP_WORDS as bash does at the Tab key.
_ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_shtab_binsr 2> /dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""
CHECKS = {
    "bash": ["bash", "-n"],
    "zsh": ["zsh", "-n"],
    "fish": ["fish", "--no-execute"],
    "tcsh": ["tcsh", "-f"],
}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> dict[str, Path]:
    """The script of each shell."""
    folder = tmp_path_factory.mktemp("completion")
    files = {shell: folder / shell for shell in SHELLS}
    with pytest.MonkeyPatch.context() as patch:
        for shell, file in files.items():
            with open(file, "w", encoding="utf-8") as stream:
                patch.setattr("sys.stdout", stream)
                assert main(["completion", shell]) == 0
    return files


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_reads_its_script(scripts, shell) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    done = subprocess.run([*CHECKS[shell], str(scripts[shell])], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_has_commands_flags_and_values(scripts, shell) -> None:
    text = scripts[shell].read_text(encoding="utf-8")
    for word in (*COMMANDS, "steps", "max-megapixels", "config.train.steps", "reactnet", "hevc"):
        assert word in text


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["de"], {"demo", "denoise", "dejpeg"}),
        (["upscale", "--over"], {"--overwrite"}),
        (["upscale", "-m", "x2-p"], {"x2-photo", "x2-photo-commercial"}),
        (["upscale", "-m", "sm"], {"small.binsr"}),
        (["upscale", "pho"], {"photo.png"}),
        (["upscale", "-f", "web"], {"webp"}),
        (["export", "x2", "--to", "onnx-"], {"onnx-int8"}),
        (["train", "--config", "quick"], {"quickstart"}),
        (["train", "--config.model.unit", "bbcu_"], {"bbcu_v2"}),
        (["train", "--config.train.step"], {"--config.train.steps"}),
        (["evaluate", "--which", "l"], {"latest"}),
        (["study", "k", "--config", "quick"], {"quickstart"}),
    ],
)
def test_bash_completes(scripts, tmp_path, words, expected) -> None:
    for name in ("photo.png", "small.binsr"):
        (tmp_path / name).touch()
    command = ["bash", "--norc", "-c", _ASK, "bash", str(scripts["bash"]), "binsr", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected
