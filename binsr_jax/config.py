"""Every setting of a run, with its default; the recipes in ``configs/`` start from these."""

import ast
import json
import reprlib
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from binsr_jax.errors import UserError

# An ml_collections.ConfigDict. Static checkers cannot know its fields, so its type says nothing.
Config: TypeAlias = Any

# Fields that name files and folders of the machine where a network is trained: they stay there.
LOCAL_FIELDS = (
    "data.dir",
    "data.sources",
    "data.cache_dir",
    "train.init_from",
    "train.teacher",
    "eval.data_dir",
)


def default() -> Config:
    """All fields of a config with neutral defaults; the papers' recipes are in ``configs/``."""
    config = ConfigDict()
    config.seed = 0  # of parameters and of the input sequence
    config.task = "sr"  # a key of binsr_jax.tasks.TASKS
    config.scale = 2  # upscaling factor; 1 where the task does not enlarge
    config.devices = 0  # how many devices share a batch; 0 means all there are
    config.parallel = "mesh"  # mesh (jax.jit over a device mesh) or pmap

    config.model = ConfigDict()
    config.model.name = "edsr"  # edsr, srresnet, dncnn, rrdbnet or srvgg: a key of MODELS
    config.model.unit = "attention"  # of the body: a key of binsr_jax.nn.units.UNITS
    config.model.features = 64  # channels of the body
    config.model.blocks = 16  # of two convolutions each; of dncnn: convolutions of the body
    config.model.residual_attention = "none"  # none, se, spatial, pixel or global
    config.model.binary_attention = "none"  # the same, on the binary branch
    config.model.attention_hidden = 4  # hidden features of squeeze-and-excitation
    config.model.surrogate = "parabola"  # gradient of the activations' sign: parabola, clip or tanh
    config.model.weight_scale = "mean"  # of binary weights: mean (|w|), learnable or libra
    config.model.progressive = "none"  # in training the body's signs come together or in_turn
    config.model.progressive_until = 0.5  # the part of the training after which all are signs
    config.model.head = "float"  # the first convolution: float or binary
    config.model.head_activation = "leaky_relu"  # after it: none, relu or leaky_relu (slope 0.1)
    config.model.body_end = "unit"  # what closes the body of edsr: one more unit, or a float conv
    config.model.upsampler = "binary"  # binary or float
    config.model.hr_conv = "none"  # of srresnet, after the upsampler: none, float or binary
    config.model.tail = "float"  # the last convolution: float or binary
    config.model.bias = "float"  # which convolutions have biases: none, the float ones, or all
    config.model.amplification = 130.0  # k: the image times k goes in, and k is undone at the end
    config.model.residual_scale = 1.0  # of the float unit's branch (0.1 in the large EDSR)
    config.model.growth = 32  # of rrdbnet: channels that a convolution of a dense block adds
    config.model.unshuffle = True  # of rrdbnet: below x4 pixels of the input become channels first
    config.model.activation = "prelu"  # of srvgg: prelu, relu or leaky_relu (slope 0.1)
    config.model.image_skip = "none"  # none or bilinear: the enlarged input is added to the output

    config.data = ConfigDict()
    config.data.source = "samples"  # tfds (DIV2K), folder, or samples (packaged with binsr_jax)
    config.data.dir = ""  # folder: where HR (and LR) images are; tfds: its data_dir
    config.data.sources = ()  # several instead: ("folder:DIR=3", "samples=1"), mixed by weight
    config.data.skip_broken = False  # leave out images that cannot be read, instead of refusing
    config.data.patch = 64  # side of an HR training patch, a multiple of the scale
    config.data.sigma = (0.0, 75.0)  # denoise, photo: range of the noise's deviation, of 0..255
    config.data.quality = (0, 50)  # jpeg, jpeg_colour, photo: range of quality, ends included
    config.data.subsampling = ("4:2:0", "4:4:4")  # jpeg_colour, photo: of chroma, drawn evenly
    config.data.grey = 0.1  # jpeg_colour: share of patches that are grey
    config.data.blur = (0.0, 0.5)  # photo: range of the blur's deviation, in LR pixels
    config.data.twice = 0.3  # photo: share of degraded patches reduced and compressed twice
    config.data.clean = 0.2  # photo: share of patches that are only reduced, by the bicubic
    config.data.flip = True  # random horizontal flips
    config.data.rotate = True  # random rotations by 90 degrees
    config.data.workers = 0  # processes that prepare batches; 0 prepares them in a thread
    config.data.cache_dir = ""  # where decoded images are kept; "" means ~/.cache/binsr-jax

    # Of the task real: Real-ESRGAN's degradation, in two rounds. Pairs are ranges, drawn evenly.
    config.real = ConfigDict()
    config.real.margin = 144  # pixels of a patch around what is trained on, at random places
    config.real.sharpen = 0.5  # the unsharp mask of targets and of what is degraded; 0: none
    config.real.sizes = (7, 21)  # sides of kernels, odd
    config.real.blur_1, config.real.blur_2 = 1.0, 0.8  # share of patches that are blurred
    # Shares of (an)isotropic Gaussian, generalised Gaussian and plateau-shaped kernels.
    config.real.kernels_1 = config.real.kernels_2 = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    config.real.sigma_1, config.real.sigma_2 = (0.2, 3.0), (0.2, 1.5)  # of kernels, in pixels
    config.real.generalised_1 = config.real.generalised_2 = (0.5, 4.0)  # exponents
    config.real.plateau_1 = config.real.plateau_2 = (1.0, 2.0)  # exponents
    config.real.sinc_1 = config.real.sinc_2 = 0.1  # share of kernels that are sinc filters
    config.real.cutoff_small = (1 / 3, 1.0)  # of sinc filters below 13 pixels, in units of pi
    config.real.cutoff_large = (1 / 5, 1.0)  # of those from 13 pixels on
    # Shares of patches that are enlarged, reduced and left, and the ends of the factor.
    config.real.resize_1, config.real.resize_2 = (0.2, 0.7, 0.1), (0.3, 0.4, 0.3)
    config.real.factor_1, config.real.factor_2 = (0.15, 1.5), (0.3, 1.2)
    config.real.gaussian_1 = config.real.gaussian_2 = 0.5  # share with Gaussian noise, not Poisson
    config.real.noise_1, config.real.noise_2 = (1.0, 30.0), (1.0, 25.0)  # deviation, of 0..255
    config.real.poisson_1, config.real.poisson_2 = (0.05, 3.0), (0.05, 2.5)  # factor of Poisson's
    config.real.grey_1 = config.real.grey_2 = 0.4  # share of noise that is grey
    config.real.quality_1 = config.real.quality_2 = (30.0, 95.0)  # of JPEG
    config.real.final_sinc = 0.8  # share of patches with ringing at the end
    config.real.final_cutoff = (1 / 3, 1.0)

    config.train = ConfigDict()
    config.train.steps = 1000
    config.train.batch = 16  # of all devices and processes together
    config.train.accumulate = 1  # a batch is worked in so many parts, one after the other
    config.train.compute = "float32"  # the type of products in convolutions, or bfloat16
    config.train.remat = False  # on accelerators: keep a unit's input alone for its gradient
    config.train.scan = False  # on accelerators: work equal units in a loop, compiled once
    config.train.loss = "l1"  # l1, l2, charbonnier or psnr
    config.train.loss_epsilon = 1e-3  # of charbonnier and psnr: its square is added to error^2
    config.train.luma_weight = 0.0  # this times the loss of the luma alone is added to the loss
    config.train.ssim_weight = 0.0  # this times (1 - SSIM) is added to the loss
    # A work dir, a trainable file (.safetensors) or a model file, whose
    config.train.init_from = ""  # parameters a new run starts from, where they fit,
    config.train.teacher = ""  # or whose network's output is a second target of the loss
    config.train.teacher_weight = 1.0  # with this weight
    config.train.learning_rate = 1e-4  # the highest rate
    config.train.schedule = "multistep"  # constant, multistep or cosine
    config.train.warmup = 0  # steps of linear warm-up from zero, at most half of all steps
    config.train.milestones = (200_000,)  # multistep: at these steps the rate is multiplied
    config.train.decay = 0.5  # by this
    config.train.final_rate = 0.0  # cosine: the rate at the last step
    config.train.beta1 = 0.9  # of Adam
    config.train.beta2 = 0.99
    config.train.epsilon = 1e-8
    config.train.clip_norm = 0.0  # the highest global norm of the gradients; 0: not clipped
    config.train.clip_weights = False  # keep latent binary weights in -1..1 after each update
    config.train.ema = 0.0  # decay of the moving average of the parameters that is scored; 0: none
    config.train.log_every = 50  # steps between log lines
    config.train.checkpoint_every = 500  # steps between checkpoints
    config.train.keep = 2  # latest checkpoints kept, beside the best

    config.eval = ConfigDict()
    config.eval.every = 1000  # steps between validations; the last step is always validated
    config.eval.sets = ("samples",)  # sets to score; samples: the packaged ones
    config.eval.levels = ()  # sigmas or qualities to score at; () means those of the task's papers
    config.eval.data_dir = ""  # folder of the other sets; "" means $BINSR_DATA
    return config


def variant_fields(variant: str, **choices: tuple[str, ...]) -> dict[str, str]:
    """The fields that the text after the colon in ``--config FILE:VARIANT`` sets.

    Args:
        variant: ``"name=value,name=value"``, or nothing.
        **choices: the names there are, each with its values; the first is the default.

    Returns:
        A value for every name.

    Raises:
        UserError: a name or a value that there is not; the sentence names those there are.
    """
    fields = {name: values[0] for name, values in choices.items()}
    for assignment in filter(None, variant.split(",")):
        name, _, value = assignment.partition("=")
        if value not in choices.get(name, ()):
            known = "; ".join(f"{n} = {', '.join(values)}" for n, values in choices.items())
            raise UserError(f"This recipe has no variant {assignment!r}: it has {known}.")
        fields[name] = value
    return fields


def flat_fields(config: Config, prefix: str = "") -> dict[str, Any]:
    """The fields of a config, or of a part of it, by name: ``{"train.steps": 1000}``."""
    fields: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            fields |= flat_fields(value, f"{prefix}{key}.")
        else:
            fields[f"{prefix}{key}"] = value
    return fields


def config_to_json(config: Config) -> dict[str, Any]:
    """The config as plain JSON values; tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def config_from_json(values: dict[str, Any]) -> Config:
    """A config from JSON values; fields that they lack keep their defaults.

    Raises:
        UserError: they hold a field that this version does not know, or a value of another type.
    """
    config = default()
    _fill(config, values, "")
    return config.lock()


# What tuples hold: the first type, and others that become it. Floats in ``real``, and else texts,
# unless they are named here.
_ELEMENTS: dict[str, tuple[type, ...]] = {
    "data.sigma": (float, int),
    "data.blur": (float, int),
    "data.quality": (int,),
    "train.milestones": (int,),
    "eval.levels": (int,),
    "real.sizes": (int,),
}


def _fill(target: Config, values: dict[str, Any], prefix: str) -> None:
    for key, value in values.items():
        if key not in target:
            raise _unknown_field(prefix + key, value)
        known = target[key]
        if isinstance(known, ConfigDict) and isinstance(value, dict):
            _fill(known, value, f"{prefix}{key}.")
        elif (fitting := field_value(prefix + key, known, value)) is not None:
            target[key] = fitting
        else:
            raise _unknown_field(prefix + key, value)


def field_value(name: str, known: Any, value: Any) -> Any:
    """A value as the type that a field has, or None if it cannot have it.

    Args:
        name: of the field, such as ``"eval.levels"``.
        known: what it is now.
        value: what it is to be; a list becomes a tuple, and a whole number a float.
    """
    if isinstance(known, tuple) and isinstance(value, list | tuple):
        kinds = _ELEMENTS.get(name, (float, int) if name.startswith("real.") else (str,))
        if all(type(e) in kinds and (type(e) is not int or abs(e) < 2**53) for e in value):
            return tuple(kinds[0](element) for element in value)
        return None
    if type(value) is int and abs(value) >= 2**53:
        return None
    if type(known) is float and type(value) is int:
        return float(value)
    return value if type(value) is type(known) else None


def list_value(name: str, text: str) -> tuple[Any, ...] | None:
    """A field that is a list, as it is written on a command line: ``Set5,B100`` or ``2,3``.

    Args:
        name: of the field, such as ``"eval.sets"``.
        text: the elements, with commas between them; or a Python tuple or list.

    Returns:
        The value, or None if the field cannot have it.
    """
    try:
        value = ast.literal_eval(text) if text.strip() else ()
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, tuple | list):
        value = () if value is None else (value,)
    fitting = field_value(name, (), value) if value or text.strip() in ("", "()", "[]") else None
    if fitting is None and name not in _ELEMENTS:
        fitting = tuple(filter(None, (part.strip() for part in text.split(","))))
    return fitting


def _unknown_field(name: str, value: Any) -> UserError:
    return UserError(
        f"The stored config has the field {reprlib.repr(name)[1:-1]} = {reprlib.repr(value)}, "
        "which this version of binsr-jax does not take: use the version that wrote it."
    )
