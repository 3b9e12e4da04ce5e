"""DFDNet: restores a face with features of eyes, noses and mouths from dictionaries.

Li et al., "Blind Face Restoration via Deep Multi-scale Component Dictionaries".
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.models.vgg import VGG19
from binsr_jax.ops.upsampling import upsample_bilinear

SIDE = 512  # of the image of a face

# The parts of a face, and the side of their entries in a dictionary, in pixels of the image.
PARTS = {"left_eye": 80, "right_eye": 80, "nose": 50, "mouth": 110}

# The levels, by the side of their features: the layers of VGG19, and how many features those have.
LEVELS = {
    256: ("relu2_2", 128),
    128: ("relu3_4", 256),
    64: ("relu4_4", 512),
    32: ("conv5_4", 512),
}

# Sides of the windows that parts are cut out with: each is compiled once. Most parts fit the first.
WINDOWS = (160, 256, SIDE)

# Entries ``[n, side, side, C]`` by level and part.
Dictionary = Mapping[int, Mapping[str, jax.Array]]

_EPSILON = 1e-5  # added to variances


def entry_shape(level: int, part: str) -> tuple[int, int, int]:
    """``(side, side, C)`` of the entries of a part in the dictionary of a level."""
    side = PARTS[part] * level // SIDE
    return side, side, LEVELS[level][1]


class DFDNet(nn.Module):
    """Called with a face ``[512, 512, 3]`` in -1..1, gives the restored face, in -1..1.

    At each of four levels, the features of the four parts move towards the most similar entry of a
    dictionary. The image is then built from the coarsest features upwards, modulated
    by those features.
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, boxes: jax.Array, dictionary: Dictionary, window: int = SIDE
    ) -> jax.Array:
        """Restores a face.

        Args:
            x: ``[512, 512, 3]``.
            boxes: Int ``[4, 4]``, for each of ``PARTS``: x1, y1, x2, y2 in pixels, inside the
                image; the second pair is exclusive.
            dictionary: Entries for all levels and parts.
            window: One of ``WINDOWS`` that the largest box fits into.
        """
        layers = VGG19([layer for layer, _ in LEVELS.values()], name="vgg")((x[None] + 1) / 2)
        guides = {}
        for level, (layer, channels) in LEVELS.items():
            features = guide = layers[layer][0]
            for i, part in enumerate(PARTS):
                attention = ConvPair(channels, name=f"attention_{part}_{level}")
                entries = dictionary[level][part]
                guide = replace_part(features, guide, entries, boxes[i], attention, window)
            guides[level] = guide[None]
        y = _Dilations(name="dilation")(layers["conv5_4"])
        for i, (level, features) in enumerate(((32, 512), (64, 256), (128, 128), (256, 64))):
            y = _Upsampling(features, name=f"upsample_{i}")(y, guides[level])
        y = _lrelu(_conv(64, name="fusion")(y))
        for i in range(2):
            y += ConvPair(64, name=f"residual_{i}")(y)
        return jnp.tanh(_conv(3, name="tail")(y))[0]


class ConvPair(nn.Module):
    """``conv(lrelu(conv(x)))``; both convolutions may be dilated.

    With a ``mask``, everything outside of it is zero, as if the image ended there.
    """

    features: int
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | bool = True) -> jax.Array:
        y = _conv(self.features, self.dilation, name="conv_0")(jnp.where(mask, x, 0))
        y = jnp.where(mask, _lrelu(y), 0)
        return _conv(self.features, self.dilation, name="conv_1")(y)


class _Dilations(nn.Module):
    """``x + fusion(branches of x)``, which look around a pixel at four distances."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        branches = [
            ConvPair(features, dilation, name=f"branch_{i}")(x)
            for i, dilation in enumerate((4, 3, 2, 1))
        ]
        return x + _conv(features, name="fusion")(jnp.concatenate(branches, axis=-1))


class _Upsampling(nn.Module):
    """Doubles an image of features, modulated by others of its size (spatial feature transform).

    h   = lrelu(conv(blur(x)), 0.04)
    out = lrelu(conv(enlarged(h * gain(guide) + shift(guide))))
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, guide: jax.Array) -> jax.Array:
        h = _lrelu(_conv(self.features, name="conv")(_blurred(x)), 0.04)
        shift = jax.nn.sigmoid(ConvPair(self.features, name="shift")(guide))
        h = h * ConvPair(self.features, name="scale")(guide) + shift
        return _lrelu(_conv(self.features, name="up")(upsample_bilinear(h, 2)))


def _conv(features: int, dilation: int = 1, name: str | None = None) -> nn.Conv:
    return nn.Conv(features, (3, 3), kernel_dilation=dilation, name=name)


def _lrelu(x: jax.Array, slope: float = 0.2) -> jax.Array:
    return nn.leaky_relu(x, slope)


def _blurred(x: jax.Array) -> jax.Array:
    """The binomial filter ``(1 2 1) x (1 2 1) / 16`` of ``[B, h, w, C]``, with zero padding."""
    for axis in (1, 2):
        size = x.shape[axis]
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(4)])
        before, after = (jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in (0, 2))
        x = (before + 2 * x + after) / 4
    return x


def replace_part(
    features: jax.Array,
    guide: jax.Array,
    entries: jax.Array,
    box: jax.Array,
    attention: nn.Module,
    window: int,
) -> jax.Array:
    """``guide`` with a part moved towards the most similar entry.

    ``part + chosen * attention(chosen - part)``. A box has any size, so the part is cut out with a
    window of a fixed one, in which a mask says what lies in the box.

    Args:
        features: ``[h, w, C]``; the part is read from them.
        guide: ``[h, w, C]``; the part is written into them.
        entries: ``[n, d, d, C]``.
        box: ``(x1, y1, x2, y2)`` in pixels of the image.
        attention: A ``ConvPair``.
        window: The side of the window in pixels of the image.
    """
    level = len(features)
    x1, y1, x2, y2 = box // (SIDE // level)
    # A box that is rounded to the level may be one wider than its share.
    side = min(level, -(-window * level // SIDE) + 1)
    top, left = (jnp.clip(start, 0, level - side) for start in (y1, x1))
    rows, columns = (
        _Span(*(places.astype(jnp.float32) for places in (jnp.arange(side) + first, length)))
        for first, length in ((top - y1, y2 - y1), (left - x1, x2 - x1))
    )
    inside = (rows.inside()[:, None] & columns.inside())[..., None]

    def window_of(array: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(array, (top, left, 0), (side, side, array.shape[-1]))

    part = window_of(features)
    size = entries.shape[1]
    resized = jnp.einsum("dh,hwc,ew->dec", rows.bilinear(size), part, columns.bilinear(size))
    chosen = entries[_most_like(resized, entries)]
    chosen = _adapted(chosen, resized)[rows.nearest(size)][:, columns.nearest(size)]
    moved = part + chosen * attention((chosen - part)[None], inside)[0]
    moved = jnp.where(inside, moved, window_of(guide))
    return jax.lax.dynamic_update_slice(guide, moved, (top, left, 0))


@dataclasses.dataclass(frozen=True)
class _Span:
    """Where the rows of a window lie in a box, or its columns.

    Attributes:
        position: Whole numbers ``[n]``, counted from the start of the box; outside of it below
            zero, or at least ``length``.
        length: Of the box; it is not known when the network is compiled.
    """

    position: jax.Array
    length: jax.Array

    def inside(self) -> jax.Array:
        """Whether a row lies in the box: ``[n]``."""
        return (self.position >= 0) & (self.position < self.length)

    def bilinear(self, size: int) -> jax.Array:
        """The matrix ``[size, n]`` that resizes the box to ``size`` rows, corners not aligned."""
        places = jnp.arange(size, dtype=jnp.float32)[:, None] + 0.5
        source = jnp.maximum(places * (self.length / size) - 0.5, 0)
        below = jnp.floor(source)
        above = jnp.minimum(below + 1, self.length - 1)
        share = source - below
        lower = jnp.where(self.position == below, 1 - share, 0.0)
        return lower + jnp.where(self.position == above, share, 0.0)

    def nearest(self, size: int) -> jax.Array:
        """The row, of ``size``, whose copy a row of the box is when the former are resized."""
        source = jnp.floor(self.position * (size / self.length))
        return jnp.clip(source, 0, size - 1).astype(jnp.int32)


def _most_like(part: jax.Array, entries: jax.Array) -> jax.Array:
    """The entry whose adapted form has the largest product with a part of the same size.

    The product is rewritten so that no second dictionary of adapted entries is needed:

        <part, adapted(e)> = sum_c ratio_c (<part_c, e_c> - mean(e_c) sum(part_c)) + constant
    """
    mean, deviation = _statistics(entries)
    ratio = _statistics(part)[1] / deviation
    products = jnp.einsum("hwc,nhwc->nc", part, entries)
    return jnp.argmax(jnp.sum(ratio * (products - mean * part.sum((0, 1))), axis=-1))


def _adapted(entry: jax.Array, part: jax.Array) -> jax.Array:
    """An entry with the mean and the standard deviation of a part, in each channel."""
    (mean, deviation), (new_mean, new_deviation) = _statistics(entry), _statistics(part)
    return (entry - mean) / deviation * new_deviation + new_mean


def _statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of ``[..., h, w, C]`` over h and w."""
    variance = jnp.var(x, axis=(-3, -2), ddof=1)
    return jnp.mean(x, axis=(-3, -2)), jnp.sqrt(variance + _EPSILON)
