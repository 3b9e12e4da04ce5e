"""Dependencies point one way: ops, nn, models, {training, deploy, cost}, evaluation, launcher."""

import ast
from pathlib import Path

import pytest

import binsr_jax

PACKAGE = Path(binsr_jax.__file__).parent
# What a part may import, beside itself; settings and errors are open to all but ops, files to all.
OPEN_TO_ALL = {
    "cache_folder",
    "config",
    "errors",
    "fields",
    "files",
    "image_files",
    "json_lines",
    "memory",
    "settings",
    "__version__",
}
ALLOWED: dict[str, set[str]] = {
    "cache_folder": set(),
    "errors": set(),
    "files": set(),
    "image_files": set(),
    "json_lines": set(),
    "memory": set(),
    "config": {"errors"},
    "fields": {"errors"},
    "settings": {"fields"},
    "recipes": set(),
    "configs": {"recipes"},
    "ops": {"cache_folder", "files"},
    "nn": {"ops"},
    "models": {"nn", "ops", "tasks"},
    "enhance": set(),
    "faces": {"models"},
    "video": {"deploy"},
    "tasks": {"ops"},
    "data": {"ops", "tasks"},
    "training": {"models", "nn", "ops", "data", "tasks"},
    "pretrained": set(),
    "deploy": {"pretrained", "models", "nn", "ops", "data", "tasks", "training", "cost", "enhance"},
    "service": {"deploy", "pretrained", "data"},
    "compress": {"models", "nn", "ops", "data", "tasks", "training", "deploy"},
    "trace": set(),
    "cost": {"models", "nn", "ops", "tasks", "trace"},
    "evaluation": {"models", "nn", "ops", "data", "tasks", "training", "deploy", "cost"},
    "studies": {
        *("models", "data", "tasks", "training", "evaluation", "recipes"),
        *("compress", "deploy", "cost"),
    },
}
# The scores need no network: they may be used wherever arrays are.
FREE = {"evaluation/metrics.py": {"ops"}}


def parts_imported(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts |= {name.split(".")[1] for name in names if name.startswith("binsr_jax.")}
    return parts


MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_dependencies_point_one_way(module):
    part = module.split("/")[0].removesuffix(".py")
    if part not in ALLOWED:  # launcher, commands and the package itself stand above all
        return
    allowed = FREE.get(module) or ALLOWED[part] | {part}
    if part != "ops":
        allowed = allowed | OPEN_TO_ALL
    assert parts_imported(PACKAGE / module) <= allowed


def test_every_part_is_known():
    parts = {module.split("/")[0].removesuffix(".py") for module in MODULES}
    assert parts - ALLOWED.keys() <= {"__init__", "__main__", "launcher", "commands", "kept"}
