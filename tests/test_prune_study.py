"""``binsr study prune``: what it trains, measures and draws."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from binsr_jax import models
from binsr_jax.commands import main, study
from binsr_jax.config import default
from binsr_jax.deploy.model_file import load_model_file
from binsr_jax.studies import pruning
from binsr_jax.training.state import create_state, make_optimizer
from binsr_jax.training.trainable import Network, load_trainable, save_trainable


@pytest.fixture
def whole(tmp_path) -> Path:
    config = default()
    config.model.update({"features": 6, "blocks": 1, "amplification": 12.0})
    config.model.image_skip = "bilinear"
    state = create_state(config, models.build(config), make_optimizer(config.train))
    path = tmp_path / "whole.safetensors"
    save_trainable(path, Network(config, {"params": state.params}, {"steps": 1}))
    return path


def test_a_study_of_pruning(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study.launcher, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(pruning, "seconds_per_megapixel", lambda file, side: side / 1000)
    (tmp_path / "sets/Tiny").mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 256, (28, 24, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "sets/Tiny/a.png")
    output = tmp_path / "out"
    command = ["study", "prune", str(whole), "--features", "4", "--budget", "2", "--batch", "2"]
    command += ["--by", "scale", "--sets", "Tiny", "-o", str(output), "--side", "40"]
    settings = {"eval.data_dir": tmp_path / "sets", "data.cache_dir": tmp_path / "cache"}
    settings |= {"data.patch": 16, "devices": 1}
    for name, value in settings.items():
        command += ["--set", f"config.{name}={value}"]
    assert main(command) == 0
    assert "prune.png" in capsys.readouterr().out
    about, *rows = map(json.loads, (output / "prune.jsonl").read_text().splitlines())
    assert (about["by"], about["budget"]) == ("scale", 2)
    assert [row.get("kind") for row in rows] == ["whole", "pruned", "trained at this size", None]
    assert [row.get("features") for row in rows] == [6, 4, 4, None]
    for row in rows[:3]:
        assert row["seconds_per_megapixel"] == 0.04
        assert row["scores"]["Tiny/psnr"] > 5
    name = "pruned-b1-n4"
    assert (
        (output / f"{name}.binsr").stat().st_size == rows[1]["file_bytes"] < rows[0]["file_bytes"]
    )
    assert load_model_file(output / f"{name}.binsr").config.model.features == 4
    assert Image.open(output / "prune.png").size[0] > 100

    # The pruned row started where the pruning ended, the other one anew.
    start = load_trainable(output / f"{name}.safetensors").variables["params"]["head"]["kernel"]
    stored = [
        json.loads((output / "rows" / row / "config.json").read_text())["train"]
        for row in ("whole-b1-n6", name, "trained-b1-n4")
    ]
    files = [str(whole), str(output / f"{name}.safetensors"), ""]
    assert [train["init_from"] for train in stored] == files
    assert jax.numpy.isfinite(start).all()
    assert main(command) == 0  # which reads what is there

    # Scores are of the networks that they were measured on, not of others under their names.
    capsys.readouterr()
    network = load_trainable(whole)
    params = jax.tree.map(lambda leaf: leaf * 1.5, network.variables["params"])
    save_trainable(whole, replace(network, variables={"params": params}))
    assert main(command) == 1
    assert "an earlier network of config.train.init_from" in capsys.readouterr().err
