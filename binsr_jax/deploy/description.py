"""The description in a model file: the network, which is checked, and its provenance.

``docs/model-format.md`` describes both versions. A later version of binsr-jax may write more
fields. Unknown fields of the provenance are ignored. An unknown field of the network is refused,
since it would change what the network computes.
"""

import json
from dataclasses import dataclass
from typing import Any

from flax.traverse_util import flatten_dict

from binsr_jax import __version__, models
from binsr_jax.config import (
    LOCAL_FIELDS,
    Config,
    config_from_json,
    default,
    field_value,
    flat_fields,
)
from binsr_jax.errors import UserError
from binsr_jax.models.limits import bounded, check_network, known_provenance
from binsr_jax.ops.quantise import FLOATS
from binsr_jax.tasks import task_of

# The version is raised only when an older reader would compute something else.
FORMAT_VERSION = 2

# The network fields that a file must have. Other fields of ``config.model`` may be missing; their
# default then computes what networks computed before the field existed.
NETWORK_FIELDS = (
    "task",
    "scale",
    "model.name",
    "model.unit",
    "model.features",
    "model.blocks",
    "model.residual_attention",
    "model.binary_attention",
    "model.attention_hidden",
    "model.head",
    "model.head_activation",
    "model.body_end",
    "model.upsampler",
    "model.hr_conv",
    "model.tail",
    "model.bias",
    "model.amplification",
    "model.residual_scale",
    "model.image_skip",
)
# Fields of ``config.model`` that affect only training: a packed network is the same without them.
TRAINING_FIELDS = (
    "model.surrogate",
    "model.weight_scale",
    "model.progressive",
    "model.progressive_until",
)
# Fields that files of version 1 may lack.
_LATER_THAN_1 = ("model.head", "model.hr_conv", "model.tail", "model.bias")


@dataclass(frozen=True)
class Description:
    """The description in a model file.

    Attributes:
        config: A full config. Its network fields come from the file. Its training fields come from
            the file if this version knows them, else they are the defaults.
        floats: A name of ``ops.quantise.FLOATS``.
        kernels: The shape of each kernel of signs, not yet compared with the network.
        provenance: See ``model_file.PackedModel``.
    """

    config: Config
    floats: str
    kernels: dict[str, Any]
    provenance: dict[str, Any]


def describe(
    config: Config, floats: str, kernels: dict[str, Any], provenance: dict[str, Any]
) -> dict[str, Any]:
    """The description to write; ``read_description`` returns its parts again.

    Raises:
        UserError: The network is outside of the limits for readers.
    """
    check_network(config)
    network, training = {}, {}
    defaults = flat_fields(default())
    for name, value in flat_fields(config).items():
        if not _is_of_network(name):
            if name not in LOCAL_FIELDS:
                training[name] = value
        elif name in NETWORK_FIELDS or value != defaults[name]:
            network[name] = value
    return {
        "format_version": FORMAT_VERSION,
        "floats": floats,
        "kernels": kernels,
        "network": _nested(network),
        "provenance": bounded({**provenance, "config": _nested(training)}),
    }


def read_description(description: dict[str, Any]) -> Description:
    """Reads a description of version 1 or 2 from an untrusted file.

    Raises:
        UserError: It describes no network that this version can build.
    """
    version = description.get("format_version")
    if type(version) is not int or version < 1:
        raise UserError("its description has no format_version")
    if version > FORMAT_VERSION:
        raise UserError(
            f"it is of format version {str(version)[:9]}, but binsr-jax {__version__} reads only "
            f"versions up to {FORMAT_VERSION}; upgrade binsr-jax"
        )
    kinds = {"format_version": int, "floats": str, "kernels": dict, "provenance": dict}
    kinds |= {"task": str, "config": dict} if version == 1 else {"network": dict}
    _require_fields("its description", description, kinds)
    if description["floats"] not in FLOATS:
        raise UserError(f"its description's floats are none of {', '.join(FLOATS)}")
    provenance = bounded(description["provenance"])
    if version == 1:
        network, training = _of_version_1(description)
    else:
        network, training = description["network"], provenance.get("config")
    config = _network_config(network, _LATER_THAN_1 if version == 1 else ())
    if version == 1 and description["task"] != task_of(config).name:
        raise UserError(f"its task is not {task_of(config).name}, as its config says")
    return Description(
        _with_training(config, training),
        description["floats"],
        description["kernels"],
        known_provenance(provenance),
    )


def without_training(config: Config) -> Config:
    """The config of the same network with defaults for all training fields."""
    return config_from_json(
        _nested({name: v for name, v in flat_fields(config).items() if _is_of_network(name)})
    )


def _of_version_1(description: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The network part and the rest of a version 1 config, which is one tree."""
    stored = description["config"]
    model = stored.get("model")
    if not isinstance(model, dict):
        return stored, {}
    network = {
        **{name: stored[name] for name in ("task", "scale") if name in stored},
        "model": {name: v for name, v in model.items() if f"model.{name}" not in TRAINING_FIELDS},
    }
    return network, bounded(stored)


def _network_config(network: dict[str, Any], optional: tuple[str, ...]) -> Config:
    """A config with the fields of a network, strictly checked, and defaults for the rest."""
    stored = flatten_dict(network, sep=".")
    for name in NETWORK_FIELDS:
        if name not in stored and name not in optional:
            raise UserError(f"its network has no field {name}")
    config = config_from_json(network)
    for name in stored:
        if not _is_of_network(name):
            raise UserError(f"its network has the field {name[:80]}, which only training uses")
    check_network(config)
    task_of(config)  # refuses an unknown task or scale
    return config


def _with_training(config: Config, stored: Any) -> Config:
    """The config with the stored training fields that this version knows.

    Their values are not checked, since running the network does not use them.
    """
    config = config.copy_and_resolve_references().unlock()
    for name, known in flat_fields(config).items():
        if _is_of_network(name) or name in LOCAL_FIELDS:
            continue
        *sections, field = name.split(".")
        value, target = stored, config
        for section in sections:
            value = value.get(section) if isinstance(value, dict) else None
            target = target[section]
        if isinstance(value, dict) and field in value:
            fitting = field_value(name, known, value[field])
            target[field] = known if fitting is None else fitting
    # A value that the network's own checks refuse would make it unusable.
    try:
        task_of(config)
    except UserError:
        config.eval.levels = ()
    try:
        models.build(config)
    except UserError:
        for name in TRAINING_FIELDS:
            field = name.removeprefix("model.")
            config.model[field] = default().model[field]
    return config.lock()


def _is_of_network(name: str) -> bool:
    """Whether a field of a config changes what a packed network computes."""
    return name in ("task", "scale") or (name.startswith("model.") and name not in TRAINING_FIELDS)


def _nested(fields: dict[str, Any]) -> dict[str, Any]:
    """Converts fields by name into a tree of JSON values."""
    tree: dict[str, Any] = {}
    for name, value in fields.items():
        *sections, field = name.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[field] = json.loads(json.dumps(value))
    return tree


def _require_fields(what: str, values: dict[str, Any], kinds: dict[str, type]) -> None:
    for name, value in values.items():
        if name not in kinds:
            raise UserError(f"{what} has a field {name[:80]!r}, unknown in this version")
        if type(value) is not kinds[name]:
            raise UserError(f"{what} has a {name} of a wrong type")
    for name in kinds:
        if name not in values:
            raise UserError(f"{what} has no {name}")
