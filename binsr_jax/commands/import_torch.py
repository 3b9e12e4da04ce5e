"""Makes a work dir of official PyTorch weights, to be scored and packed like a trained one.

binsr import-torch BBCUL-x2.pth --arch bbcu_l --scale 2 -o runs/bbcu_l
python evaluate.py --workdir runs/bbcu_l --sets Set5
binsr pack --workdir runs/bbcu_l -o bbcu_l.binsr

FILE is a .safetensors or .npz of arrays under their PyTorch names, or a .pth, which PyTorch reads
without running code from it (pip install 'binsr-jax[torch]'). Channels, features and blocks are
found in it, and batch normalisation is folded.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp

from binsr_jax import models
from binsr_jax.errors import UserError
from binsr_jax.models.dncnn_weights import plain_dncnn
from binsr_jax.models.official import ARCHITECTURES, official_config
from binsr_jax.models.torch_files import read_state
from binsr_jax.models.torch_weights import from_torch
from binsr_jax.tasks import task_of
from binsr_jax.training.transfer import digest, start_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr import-torch``."""
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="the weights: .pth, .safetensors or .npz")
    add("--arch", required=True, choices=ARCHITECTURES, help="the network they are of")
    add("--scale", type=int, choices=(2, 3, 4), default=2, help="of super-resolution (default: 2)")
    add("-o", "--output", required=True, type=Path, metavar="DIR", help="the work dir to make")
    add("--amplification", type=float, metavar="K", help="k, where it is not the usual one")
    add("--residual-scale", type=float, metavar="S", help="of EDSR, where it is not the usual one")
    add("--norm-epsilon", type=float, metavar="E", help="of batch normalisation, likewise")


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr import-torch``."""
    state = read_state(args.file)
    try:
        if args.arch in ("dncnn", "dncnn3"):
            state = plain_dncnn(state, args.norm_epsilon)
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
    start_run(args.output, config.lock(), params, f"imported {digest(args.file)}")
    model = config.model
    print(
        f"{args.output}: {task_of(config).name}, {model.name} of {model.blocks} blocks of "
        f"{model.features} channels, k {model.amplification:g}"
    )
