"""What the documentation names exists."""

import importlib
import re
from pathlib import Path

import pytest

from binsr_jax.pretrained import NETWORKS

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def resolved(name: str) -> object:
    """What a dotted name such as ``binsr_jax.ops.packed.packed_conv`` stands for."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_and_files_in_a_page_exist(page):
    text = page.read_text()
    for name in set(re.findall(r"(?:`|::: )(binsr_jax(?:\.\w+)+)", text)):
        assert resolved(name) is not None
    folders = r"binsr_jax|tests|benchmarks|configs|docs|data|deploy|nn|ops|training"
    for file in set(re.findall(rf"`((?:{folders})/[\w/.]+\.(?:py|md|binsr|cc))`", text)):
        assert (ROOT / file).is_file() or (ROOT / "binsr_jax" / file).is_file(), file


def test_every_page_is_in_the_sites_menu():
    menu = set(re.findall(r"([\w/-]+\.md)", (ROOT / "mkdocs.yml").read_text()))
    folder = ROOT / "docs"
    assert menu == {page.relative_to(folder).as_posix() for page in folder.rglob("*.md")}


def test_the_readme_lists_the_packaged_networks_with_the_sizes_of_their_files():
    lines = (ROOT / "README.md").read_text().splitlines()
    listed = {line.split("|")[1].strip(" `"): line for line in lines if line.startswith("| `")}
    for network in NETWORKS.values():
        if network.there:
            size = f"{network.file.stat().st_size / 1000:.0f} KB"
            assert size in listed.get(network.name, ""), f"add {network.name}, {size}, to README.md"
