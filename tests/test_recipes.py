"""Recipe files: their rows and variants, and what becomes of a mistake in one."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from binsr_jax.commands import main
from binsr_jax.config import config_to_json
from binsr_jax.cost import CONVENTIONS, count, giga
from binsr_jax.errors import UserError
from binsr_jax.recipes import PACKAGED, Published, list_recipes, open_recipe, packaged

ROOT = Path(__file__).parent.parent
RECIPE = """
from binsr_jax.config import default, variant_fields
from binsr_jax.recipes import Published

VARIANTS = {"size": ("small", "large"), "scale": ("2", "4")}
SCORES = {"Set5": 31.5, "CBSD68-15": 33.0, "CBSD68-25": 30.1}
ROWS = {"size=large,scale=4": Published("Large", scores=SCORES, operations=1.25)}

def get_config(variant=""):
    fields = variant_fields(variant, **VARIANTS)
    config = default()
    config.scale = int(fields["scale"])
    config.model.blocks = 1
    config.model.features = {"small": 4, "large": 9}[fields["size"]]
    return config
"""


@pytest.fixture
def recipe(tmp_path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(RECIPE)
    return str(path)


def test_a_variant_is_its_row_however_it_is_written(recipe):
    for variant in ("size=large,scale=4", "scale=4,size=large"):
        opened = open_recipe(f"{recipe}:{variant}")
        assert (opened.config.model.features, opened.config.scale) == (9, 4)
        assert opened.title == "Large"
        assert opened.published.scores["CBSD68-25"] == 30.1
        assert opened.published.operations == 1.25
        assert opened.spec == f"{recipe}:{variant}"


def test_what_is_no_row_has_nothing_published(recipe):
    opened = open_recipe(f"{recipe}:size=large")
    assert opened.config.scale == 2
    assert opened.published == Published("mine:size=large")
    assert open_recipe(recipe).title == "mine"
    assert open_recipe(recipe).spec == recipe


def test_a_folder_lists_rows_and_files_without_rows(recipe, tmp_path):
    (tmp_path / "alone.py").write_text(
        "from binsr_jax.config import default\ndef get_config(): return default()\n"
    )
    (tmp_path / "_part.py").write_text("raise RuntimeError\n")
    assert [r.title for r in list_recipes(tmp_path)] == ["alone", "Large"]
    assert [open_recipe(r.spec) for r in list_recipes(tmp_path)] == list_recipes(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_of_this_name\n", "ModuleNotFoundError"),
        ("def get_config(:\n", "SyntaxError"),
        ("x = 1\n", "no function get_config"),
        ("def get_config(): return 1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_a_broken_recipe_is_one_sentence(text, words, tmp_path):
    (tmp_path / "broken.py").write_text(text)
    for call in (lambda: list_recipes(tmp_path), lambda: open_recipe(f"{tmp_path}/broken.py")):
        with pytest.raises(UserError, match=words) as caught:
            call()
        assert "broken.py" in str(caught.value)


def test_wrong_names_are_told_with_the_right_ones(recipe, tmp_path):
    with pytest.raises(UserError, match="size = small, large; scale = 2, 4"):
        open_recipe(f"{recipe}:size=huge")
    with pytest.raises(UserError, match=r"other\.py.*choose from .*mine\.py"):
        open_recipe(str(tmp_path / "other.py"))
    with pytest.raises(UserError, match="name one such as"):
        open_recipe(str(tmp_path / "nowhere" / "other.py"))
    with pytest.raises(UserError, match="no recipes"):
        list_recipes(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no variants"):
        open_recipe("quickstart:size=small")


def test_binsr_configs_lists_costs_and_scores(recipe, tmp_path, capsys):
    cost = count(open_recipe(f"{recipe}:size=large,scale=4").config)
    assert main(["configs", str(tmp_path)]) == 0
    *head, row = capsys.readouterr().out.splitlines()
    assert head[0].startswith("| recipe |")
    operations = giga(CONVENTIONS["bbcu"].operations(cost))
    cells = [f"{recipe}:size=large,scale=4", "Large", f"{operations} G / 1 K", "1.25 G"]
    assert row == f"| {' | '.join(cells)} | bbcu, 320x180 | Set5 31.50, CBSD68 33.00 / 30.10 |"
    assert main(["configs", str(tmp_path), "--no-cost"]) == 0
    assert f"| Large |  | {cells[-1]} |" in capsys.readouterr().out


def test_a_table_may_be_read_in_part(tmp_path):
    (tmp_path / "mine.py").write_text(RECIPE)
    command = f"'{sys.executable}' -m binsr_jax configs --no-cost '{tmp_path}' | true"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert run.stderr == ""


def test_binsr_cost_of_all_recipes(recipe, tmp_path, capsys):
    assert main(["cost", "--all", str(tmp_path)]) == 0
    head, rule, row = capsys.readouterr().out.splitlines()
    assert "| bbcu, 320x180 |" in row
    assert "| 1.25 G |" in row
    assert head.count("|") == rule.count("|") == row.count("|")
    assert main(["cost", "--all", str(tmp_path), "--convention", "bsrc", "--size", "4x6"]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert "| bsrc, 6x4 |" in row
    assert "1.25" not in row  # that is counted in another way


def test_binsr_cost_counts_in_every_convention(recipe, capsys):
    assert main(["cost", "--config", recipe]) == 0
    table = capsys.readouterr().out
    for name, convention in CONVENTIONS.items():
        cost = count(open_recipe(recipe).config, convention.size)
        size = f"{convention.size[1]}x{convention.size[0]}"
        operations = giga(convention.operations(cost))
        assert f"| operations by {name}, LR {size} | {operations} G |" in table
    assert main(["cost", "--config", recipe, "--convention", "bsrc"]) == 0
    table = capsys.readouterr().out
    assert "float, LR 96x96" in table
    assert "ptflops" not in table


ALL = list_recipes()


def test_the_papers_rows_are_there():
    number = dict.fromkeys(packaged(), 0)
    for recipe in ALL:
        number[recipe.file] += 1
    assert number == {
        "attention": 16 + 12,
        "bbcu_sr": 2 * 10 + 4,
        "bin_edsr": 1,
        "dejpeg": 1,
        "denoise": 8,
        "denoise_grey": 4,
        "distil": 1,
        "edsr": 1,
        "esrgan": 2,
        "jpeg": 8,
        "photo": 1,
        "quickstart": 1,
        "realesrgan": 2,
    }
    assert len({recipe.spec for recipe in ALL}) == len(ALL)


def test_published_numbers_are_sane():
    for published in (recipe.published for recipe in ALL):
        assert published.convention in CONVENTIONS
        assert all(15 < psnr < 40 for psnr in published.scores.values())
        assert all(0 < ssim < 1 for ssim in published.ssim.values())


@pytest.mark.parametrize("file", ["attention", "bbcu_sr", "denoise", "jpeg"])
def test_the_docstring_has_the_published_costs(file):
    module = runpy.run_path(f"{PACKAGED}/{file}.py")
    for published in module["ROWS"].values():
        if (operations := published.operations) is not None:
            texts = (f"{operations:.1f} ", f"{operations:.2f} ")
            assert any(text in module["__doc__"] for text in texts), published


def test_recipes_of_the_specification():
    config = open_recipe("bbcu_sr:row=bbcu_m,scale=4").config
    assert (config.data.patch, config.train.batch, config.train.steps) == (128, 16, 300_000)
    assert (config.train.beta1, config.train.beta2) == (0.9, 0.99)
    for file in ("denoise", "jpeg"):
        config = open_recipe(file).config
        assert (config.data.patch, config.train.batch, config.train.beta2) == (64, 32, 0.999)
        assert config.train.milestones == (200_000, 300_000, 400_000)
        assert config.model.amplification == 130.0
    for row, k in (("bnn", 1), ("v1", 1), ("v2", 1), ("v3", 130), ("v4", 130)):
        assert open_recipe(f"bbcu_sr:row={row}").config.model.amplification == k
    last, large = (open_recipe(f"bbcu_sr:row={row}") for row in ("v4", "bbcu_l"))
    assert config_to_json(last.config) == config_to_json(large.config)


def test_the_files_in_a_clone_are_the_packaged_recipes():
    clone = list_recipes(ROOT / "configs")
    assert [recipe.published for recipe in clone] == [recipe.published for recipe in ALL]
    for ours, packed in zip(clone, ALL, strict=True):
        assert config_to_json(ours.config) == config_to_json(packed.config)


def test_a_mistyped_name_of_a_packaged_recipe():
    with pytest.raises(UserError, match=r"no recipe 'quickstrat': did you mean quickstart\?"):
        open_recipe("quickstrat")
    with pytest.raises(UserError, match=r"no recipe 'xyz': choose from attention, .*quickstart"):
        open_recipe("xyz")
