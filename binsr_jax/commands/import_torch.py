"""Import official PyTorch weights into a work dir, to score and pack them like a trained network.

binsr import-torch BBCUL-x2.pth --arch bbcu_l --scale 2 -o runs/bbcu_l
binsr evaluate --workdir runs/bbcu_l --sets Set5
binsr pack --workdir runs/bbcu_l -o bbcu_l.binsr

FILE is a .safetensors or .npz of arrays under their PyTorch names, or a .pth, which PyTorch reads
without running code from it (pip install 'binsr-jax[torch]'). The numbers of channels, features and
blocks come from the file, and batch normalisation is folded.

For DFDNet, the output is one file for binsr faces with its weights and its dictionary. The
dictionary is a file, or the folder of .npy files that its authors provide.

binsr import-torch DFDNet_official.pth --arch dfdnet --dictionary DictionaryCenter512 \\
    -o dfdnet.safetensors
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from binsr_jax import models
from binsr_jax.config import Config
from binsr_jax.errors import UserError
from binsr_jax.faces.model import save_face_model
from binsr_jax.files import printable
from binsr_jax.models.dfdnet_weights import (
    dfdnet_dictionary,
    dfdnet_params,
    read_dictionary_folder,
)
from binsr_jax.models.dncnn_weights import plain_dncnn
from binsr_jax.models.esrgan_weights import (
    rrdbnet_config,
    rrdbnet_names,
    srvgg_config,
    srvgg_names,
)
from binsr_jax.models.official import ARCHITECTURES, official_config
from binsr_jax.models.torch_files import read_nested, read_state
from binsr_jax.models.torch_weights import from_torch
from binsr_jax.tasks import task_of
from binsr_jax.training.transfer import digest, start_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr import-torch``."""
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="the weights: .pth, .safetensors or .npz")
    archs = (*ARCHITECTURES, "rrdbnet", "srvgg", "dfdnet")
    add("--arch", required=True, choices=archs, help="the network of the weights")
    scale = "the upscaling factor (default: 2; for rrdbnet and srvgg: as in the file)"
    add("--scale", type=int, choices=(1, 2, 3, 4), help=scale)
    output = "the work dir to create; for dfdnet, the file"
    add("-o", "--output", required=True, type=Path, metavar="DIR", help=output)
    add(
        "--amplification",
        type=float,
        metavar="K",
        help="the factor k of the input (default: the usual one)",
    )
    add(
        "--residual-scale",
        type=float,
        metavar="S",
        help="the factor of EDSR's branches (default: the usual one)",
    )
    add(
        "--norm-epsilon",
        type=float,
        metavar="E",
        help="epsilon of batch normalisation (default: the usual one)",
    )
    activation = "for srvgg: the activation, if the activation has no weights"
    add(
        "--dictionary",
        type=Path,
        metavar="PATH",
        help="for dfdnet: the dictionary, a folder of .npy files or a file",
    )
    add("--activation", choices=("relu", "leaky_relu"), help=activation)


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr import-torch``."""
    if args.arch == "dfdnet":
        _import_dfdnet(args)
        return
    state = read_state(args.file)
    try:
        config, params = _network(state, args)
    except UserError as error:
        raise UserError(f"{args.file} as {args.arch}: {error}.") from error
    start_run(args.output, config.lock(), {"params": params}, f"imported {digest(args.file)}")
    model = config.model
    k = f", k {model.amplification:g}" if args.arch in ARCHITECTURES else ""
    print(
        f"{printable(str(args.output))}: {task_of(config).name}, {model.name} of {model.blocks} "
        f"blocks of {model.features} channels{k}"
    )


def _network(state: dict[str, np.ndarray], args: argparse.Namespace) -> tuple[Config, Any]:
    """The config and the parameters of the network with these weights."""
    names = None
    if args.arch == "rrdbnet":
        config, names = rrdbnet_config(state), rrdbnet_names(state)
    elif args.arch == "srvgg":
        config, names = srvgg_config(state, args.activation), srvgg_names(state)
    else:
        if args.arch in ("dncnn", "dncnn3"):
            state = plain_dncnn(state, args.norm_epsilon)
        config = official_config(args.arch, args.scale or 2, state)
        for field in ("amplification", "residual_scale"):
            if (value := getattr(args, field)) is not None:
                config.model[field] = value
    if names is not None and args.scale not in (None, config.scale):
        raise UserError(f"its scale is {config.scale}, not {args.scale}: leave --scale out")
    return config, from_torch(state, models.shapes(config)["params"], names)


def _import_dfdnet(args: argparse.Namespace) -> None:
    """Writes the file of DFDNet's weights and dictionary."""
    if args.dictionary is None:
        raise UserError("DFDNet has a dictionary beside its weights: name it with --dictionary.")
    state, path = read_state(args.file), args.file
    try:
        params = dfdnet_params(state)
        path = args.dictionary
        arrays = read_dictionary_folder(path) if path.is_dir() else read_nested(path)
        dictionary = dfdnet_dictionary(arrays)
    except UserError as error:
        named = str(path) in str(error)
        raise error if named else UserError(f"{path} as dfdnet: {error}.") from error
    save_face_model(args.output, params, dictionary)
    entries = ", ".join(f"{len(dictionary[256][part])} of {part}" for part in dictionary[256])
    print(printable(f"{args.output}: DFDNet, with {entries.replace('_', ' ')}"))
