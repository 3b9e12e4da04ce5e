"""Makes a work dir of official PyTorch weights, to be scored and packed like a trained one.

binsr import-torch BBCUL-x2.pth --arch bbcu_l --scale 2 -o runs/bbcu_l
binsr evaluate --workdir runs/bbcu_l --sets Set5
binsr pack --workdir runs/bbcu_l -o bbcu_l.binsr

FILE is a .safetensors or .npz of arrays under their PyTorch names, or a .pth, which PyTorch reads
without running code from it (pip install 'binsr-jax[torch]'). Features and blocks are found in it.
"""

import argparse
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from binsr_jax import models
from binsr_jax.errors import UserError
from binsr_jax.models.official import ARCHITECTURES, official_config
from binsr_jax.models.torch_weights import from_torch
from binsr_jax.tasks import task_of
from binsr_jax.training.transfer import digest, start_run

# What training code wraps the weights in; an average of them is what its authors score.
_WRAPPERS = ("params_ema", "params", "state_dict")
_PARALLEL = "module."  # of names that torch.nn.DataParallel saved


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr import-torch``."""
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="the weights: .pth, .safetensors or .npz")
    add("--arch", required=True, choices=ARCHITECTURES, help="the network they are of")
    add("--scale", type=int, choices=(2, 3, 4), default=2, help="of super-resolution (default: 2)")
    add("-o", "--output", required=True, type=Path, metavar="DIR", help="the work dir to make")
    add("--amplification", type=float, metavar="K", help="k, where it is not the usual one")
    add("--residual-scale", type=float, metavar="S", help="of EDSR, where it is not the usual one")


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr import-torch``."""
    state = read_state(args.file)
    try:
        config = official_config(args.arch, args.scale, state)
        for field in ("amplification", "residual_scale"):
            if (value := getattr(args, field)) is not None:
                config.model[field] = value
        channels = task_of(config).channels
        network = models.build(config.model, config.scale, channels)
        image = jax.ShapeDtypeStruct((1, 1, 1, channels), jnp.float32)
        shapes = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
        params = from_torch(state, shapes)
    except UserError as error:
        raise UserError(f"{args.file} as {args.arch}: {error}.") from error
    start_run(args.output, config.lock(), {"params": params}, f"imported {digest(args.file)}")
    model = config.model
    print(
        f"{args.output}: {task_of(config).name}, {model.name} of {model.blocks} blocks of "
        f"{model.features} channels, k {model.amplification:g}"
    )


def read_state(path: Path) -> dict[str, np.ndarray]:
    """The weights in a file by their PyTorch names, out of what training code wraps them in.

    Raises:
        UserError: there is no such file, it cannot be read without running code, it needs PyTorch
            and there is none, or it holds something else than arrays of finite numbers.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}: name one of weights.")
    readers = {".safetensors": safetensors.numpy.load_file, ".npz": _read_npz}
    try:
        content: Any = readers.get(path.suffix, _read_torch)(path)
    except UserError:
        raise
    except Exception as error:  # of a damaged file the unpickler makes any kind
        raise UserError(
            f"{path} cannot be read as weights alone ({type(error).__name__}): it is damaged, or "
            "holds Python objects, which are not run; save its state_dict with torch.save."
        ) from error
    while wrapper := next((name for name in _WRAPPERS if _is_dict(content, name)), None):
        content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} holds no weights by name: save a state_dict in it.")
    state = {}
    for name, value in content.items():
        array = value.detach().cpu().float().numpy() if hasattr(value, "detach") else value
        kind = getattr(getattr(array, "dtype", None), "kind", "")
        if not isinstance(name, str) or kind not in tuple("fiu") or not np.isfinite(array).all():
            raise UserError(f"{path} holds {name!r}, which is no array of finite numbers.")
        state[name.removeprefix(_PARALLEL)] = np.asarray(array, np.float32)
    return state


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_torch(path: Path) -> Any:
    """What a file of torch.save holds; its pickle may only make tensors and plain containers."""
    try:
        torch: Any = importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise UserError(
            f"PyTorch, which reads {path}, is not installed: pip install 'binsr-jax[torch]', or "
            "save the weights as .safetensors where it is."
        ) from error
    return torch.load(path, map_location="cpu", weights_only=True)


def _is_dict(content: Any, name: str) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get(name), Mapping)
