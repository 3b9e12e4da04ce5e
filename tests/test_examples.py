"""The notebooks in ``examples`` run, and are stored without their results."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import pytest

matplotlib.use("Agg")
NOTEBOOKS = sorted((Path(__file__).parent.parent / "examples").glob("*.ipynb"))


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def run(notebook: Path) -> dict[str, Any]:
    """Runs the code of a notebook as Jupyter does, cell by cell, and returns its variables."""
    variables: dict[str, Any] = {"__name__": "__main__"}
    for cell in code_cells(notebook):
        exec(compile("".join(cell["source"]), f"{notebook.name}, {cell['id']}", "exec"), variables)
    return variables


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_a_notebook_is_stored_without_results(notebook: Path) -> None:
    for cell in code_cells(notebook):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_restore_shows_what_it_says(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (notebook,) = (file for file in NOTEBOOKS if file.name == "restore.ipynb")
    found = run(notebook)
    figures = [found["plt"].figure(number) for number in found["plt"].get_fignums()]
    titles = [[axes.get_title() for axes in figure.axes] for figure in figures]
    found["plt"].close("all")
    for (before, after, original), gain in zip(titles, (2, 4), strict=True):
        assert float(after.split()[-2]) > float(before.split()[-2]) + gain
        assert original == "original"
    assert found["by_bits"] == found["signs"][0] @ found["signs"][1]
    assert "x2 " in capsys.readouterr().out
