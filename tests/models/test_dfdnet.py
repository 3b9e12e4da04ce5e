"""DFDNet equals the reference arrays; official weights and dictionaries load, or say why not."""

import importlib.util
import json
import re
import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from binsr_jax.errors import UserError
from binsr_jax.faces.model import save_face_model
from binsr_jax.models import vgg
from binsr_jax.models.dfdnet import (
    LEVELS,
    PARTS,
    WINDOWS,
    ConvPair,
    DFDNet,
    entry_shape,
    replace_part,
)
from binsr_jax.models.dfdnet_weights import (
    dfdnet_dictionary,
    dfdnet_params,
    read_dictionary_folder,
)
from binsr_jax.models.torch_files import read_nested
from binsr_jax.models.vgg import VGG19

# The weights, the reference and the memory of a picture of 512x512 are 1.7 GB.
pytestmark = pytest.mark.usefixtures("small_worker")


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array that the reference was made with, by its name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    z = rng.standard_normal(shape, dtype=np.float32)
    if len(shape) == 4:
        return z * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    return z / np.linalg.norm(z) if name.endswith("weight_u") else z * np.float32(0.05)


@pytest.fixture(scope="module")
def state(reference_dir) -> dict[str, np.ndarray]:
    """Weights under their official names."""
    file = reference_dir / "dfdnet_names.json"
    if not file.is_file():
        pytest.skip(f"{file} does not exist")
    shapes = json.loads(file.read_text())
    state = {name: drawn(name, tuple(shape)) for name, shape in shapes}
    state["vgg_extractor.mean"] = np.array(vgg.MEAN, np.float32)
    state["vgg_extractor.std"] = np.array(vgg.STD, np.float32)
    for u in [name for name in state if name.endswith("weight_u")]:
        matrix = state[u.replace("weight_u", "weight_orig")].reshape(len(state[u]), -1)
        v = matrix.T @ state[u]
        v /= np.linalg.norm(v)
        state[u.replace("weight_u", "weight_v")] = v
        state[u] = matrix @ v / np.linalg.norm(matrix @ v)
    return state


@pytest.fixture(scope="module")
def entries() -> dict[str, np.ndarray]:
    """Dictionaries by level and part, in PyTorch's layout."""
    return {
        f"{level}.{part}": drawn(f"dict.{level}.{part}", (6, channels, side, side))
        for level in LEVELS
        for part in PARTS
        for side, _, channels in [entry_shape(level, part)]
    }


def test_reference(reference, state, entries):
    arrays = reference("8_dfdnet")
    params, dictionary = dfdnet_params(state), dfdnet_dictionary(entries)
    x = jnp.asarray(arrays["x"].astype(np.float32))
    boxes = arrays["locations"]
    window = next(side for side in WINDOWS if side >= (boxes[:, 2:] - boxes[:, :2]).max())
    apply = jax.jit(DFDNet().apply, static_argnames="window")
    y = apply({"params": params}, x, jnp.asarray(boxes, jnp.int32), dictionary, window=window)
    y = np.asarray(y)
    np.testing.assert_allclose(y[::4, ::4], arrays["y_every_4th"], atol=1e-4)
    np.testing.assert_allclose(y[330:394, 190:254], arrays["y_mouth"], atol=1e-4)
    np.testing.assert_allclose([y.mean(), y.std()], arrays["y_mean_std"], atol=1e-5)


def test_a_file_holds_what_was_read(state, entries, tmp_path):
    params, dictionary = dfdnet_params(state), dfdnet_dictionary(entries)
    save_face_model(tmp_path / "dfdnet.safetensors", params, dictionary)
    arrays = load_file(tmp_path / "dfdnet.safetensors")
    flat: dict[str, Any] = flatten_dict(params, sep="/")
    for name, array in flat.items():
        np.testing.assert_array_equal(arrays[f"params/{name}"], array)
    for level, parts in dictionary.items():
        for part, array in parts.items():
            np.testing.assert_array_equal(arrays[f"dictionary/{level}/{part}"], array)


def test_features_of_the_reference(reference, state):
    arrays = reference("8_dfdnet")
    layers = [layer for layer, _ in LEVELS.values()]
    params = dfdnet_params(state)["vgg"]
    x = (jnp.asarray(arrays["x"].astype(np.float32))[None] + 1) / 2
    features = jax.jit(VGG19(layers).apply)({"params": params}, x)
    for layer in layers:
        expected = arrays[f"vgg_{layer}"]
        ours = np.asarray(features[layer][0])
        step = len(ours) // len(expected)
        ours = ours[::step, ::step, : expected.shape[-1]]
        np.testing.assert_allclose(ours, expected, atol=1e-4)


class Part(nn.Module):
    """One part of a level replaced."""

    @nn.compact
    def __call__(self, features, entries, box, window: int):
        attention = ConvPair(features.shape[-1])
        return replace_part(features, features, entries, box, attention, window)


@pytest.mark.parametrize("box", [(96, 64, 205, 200), (0, 0, 40, 33), (420, 352, 512, 512)])
def test_a_part_does_not_depend_on_the_window(box):
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(32, 32, 4)), jnp.float32)
    entries = jnp.asarray(rng.normal(size=(3, 5, 5, 4)), jnp.float32)
    corners = jnp.asarray(box, jnp.int32)
    init, apply = (jax.jit(f, static_argnames="window") for f in (Part().init, Part().apply))
    params = init(jax.random.key(0), features, entries, corners, window=160)
    results = [np.asarray(apply(params, features, entries, corners, window=w)) for w in WINDOWS]
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], atol=1e-5)
    x1, y1, x2, y2 = (side // 16 for side in box)
    changed = np.abs(results[0] - features).max(axis=-1) > 0
    assert changed[y1:y2, x1:x2].all()
    assert changed.sum() == (y2 - y1) * (x2 - x1)


def test_unknown_layers_are_named():
    with pytest.raises(ValueError, match="relu6_1"):
        jax.eval_shape(VGG19(["relu6_1"]).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def without(state: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: array for key, array in state.items() if key != name}


def test_weights_that_do_not_fit_are_named(state):
    with pytest.raises(UserError, match=r"no value for tail/bias"):
        dfdnet_params(without(state, "upsample4.4.bias"))
    with pytest.raises(UserError, match=r"no place for upsample9\.4\.weight"):
        dfdnet_params({**state, "upsample9.4.weight": np.zeros((1, 1, 3, 3), np.float32)})
    with pytest.raises(UserError, match=r"upsample0\.convup\.1 has a weight_orig, but no weight_u"):
        dfdnet_params(without(state, "upsample0.convup.1.weight_u"))
    with pytest.raises(UserError, match=r"another shape of upsample0\.conv1\.1\.bias"):
        dfdnet_params({**state, "upsample0.conv1.1.bias": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match=r"vgg_extractor\.std is not that of ImageNet"):
        dfdnet_params({**state, "vgg_extractor.std": np.ones(3, np.float32)})


def test_dictionaries_of_another_shape_are_named(entries):
    with pytest.raises(UserError, match=r"no nose of level 64"):
        dfdnet_dictionary(without(entries, "64.nose"))
    with pytest.raises(UserError, match=r"mouth of level 256 has shape \[6, 128, 40, 40\]"):
        dfdnet_dictionary({**entries, "256.mouth": entries["256.left_eye"]})


@pytest.fixture
def folder(tmp_path, entries):
    """The folder of the authors: flat entries, one file a level and part."""
    for name, array in entries.items():
        level, part = name.split(".")
        np.save(tmp_path / f"{part}_{level}_center.npy", array.reshape(len(array), -1))
    return tmp_path


def test_folder_of_npy(folder, entries):
    dictionary = dfdnet_dictionary(read_dictionary_folder(folder))
    for name, array in entries.items():
        level, part = name.split(".")
        ours = dictionary[int(level)][part]
        np.testing.assert_array_equal(ours, array.transpose(0, 2, 3, 1))


def test_one_file_of_dictionaries(tmp_path, entries):
    """As arrays by name; and, where PyTorch is, as dictionaries in a dictionary."""
    files = [tmp_path / "dictionary.npz"]
    np.savez(files[0], **{name: entries[name] for name in ("64.nose", "32.mouth")})
    if importlib.util.find_spec("torch") is not None:
        torch: Any = importlib.import_module("torch")
        levels = {
            level: {part: torch.from_numpy(entries[f"{level}.{part}"])}
            for level, part in (("64", "nose"), ("32", "mouth"))
        }
        files.append(tmp_path / "dictionary.pth")
        torch.save(levels, files[-1])
    for file in files:
        arrays = read_nested(file)
        assert arrays.keys() == {"64.nose", "32.mouth"}
        np.testing.assert_array_equal(arrays["64.nose"], entries["64.nose"])


def test_objects_are_not_unpickled(folder):
    file = folder / "nose_64_center.npy"
    np.save(file, np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match=rf"{re.escape(str(file))}.*not loaded; if you trust it"):
        read_dictionary_folder(folder)
    file.unlink()
    with pytest.raises(UserError, match=r"no file nose_64_center\.npy"):
        read_dictionary_folder(folder)
