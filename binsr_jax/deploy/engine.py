"""Runs a packed network on images: bits on CPU, int8 on GPU and TPU, or floats for comparison.

Inference runs the two halves of a backbone (see ``binsr_jax.models.backbone``). ``extract`` runs on
a whole tile. ``reconstruct``, whose intermediates are several times larger, runs in strips of rows
that overlap by its receptive field. The strips give the same result as the whole tile.

The value of a pixel does not depend on the size of its tile. Signs are convolved as integers. XLA
adds the products of a float convolution in the same order for every shape, except for the matrix
products of a few dozen pixels. Nearly equal floats would not be enough, because a sign turns a
small difference into a large one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from binsr_jax import models
from binsr_jax.deploy.loading import Arithmetic
from binsr_jax.deploy.model_file import PackedModel
from binsr_jax.deploy.program import Half, Program, check_image, strip_rows
from binsr_jax.deploy.tracing import UntraceableError, half_of
from binsr_jax.models.backbone import pad_to_multiple
from binsr_jax.nn.attention import POOLED
from binsr_jax.nn.packed import PackedConv, PackedFloatConv
from binsr_jax.ops.native import choose

_CONVOLUTIONS = {"packed": PackedConv, "float": PackedFloatConv}

# Shapes whose compiled programs are kept: each takes some 12 MB, and a folder may hold any number.
# JAX frees all of a program only together with everybody's, so this is not done for a few.
_MOST_PROGRAMS = 32


class Engine:
    """A network that XLA compiles once for each tile shape; ``program`` is another way.

    Args:
        model: The result of ``deploy.model_file.load_model_file``.
        arithmetic: ``"packed"``, or ``"float"`` for the same network with float binary
            convolutions: slow, for checking the packed one.

    Attributes:
        scale: How many times larger the output is.
        channels: The channels of the image.
        radius: The radius of the receptive field in pixels, not counting means over the whole
            image.
        stride: A tile must start at a multiple of it.
        overlap: A halo with which a tile is nearly exact, for use if ``radius`` needs too much
            memory; None if a network has signs, of which not one may flip.
        global_pooling: Whether the network takes means over the whole image.
        bytes_per_pixel: Working memory per pixel of a tile, input and output included.
    """

    def __init__(self, model: PackedModel, arithmetic: Arithmetic = "packed") -> None:
        self.scale: int = model.task.scale
        self._shapes: set[tuple[int, ...]] = set()
        self.channels: int = model.task.channels
        self._params, self._features = model.params, model.config.model.features
        network: Any = models.build(model.config, _CONVOLUTIONS[arithmetic])
        self._network, self.stride = network, int(network.stride)
        # An empty batch, as in ``models.shapes``.
        image = jax.ShapeDtypeStruct((0, self.stride, self.stride, self.channels), jnp.float32)
        features, pooled = jax.eval_shape(partial(_extract, network), self._params, None, image)
        self.global_pooling: bool = bool(jax.tree.leaves(pooled))
        tail = jax.eval_shape(
            partial(network.init, method="reconstruct"), jax.random.key(0), features, image
        )
        self.overlap: int | None = network.overlap
        self.radius, self._halo = network.reach(self._params, tail["params"])
        pixels = self.channels * (1 + self.scale**2)
        maps = network.unit().feature_maps * features.shape[-1] / self.stride**2
        self.bytes_per_pixel: float = 4 * (maps + pixels)

        self._on_cpu = on_cpu = jax.default_backend() == "cpu"
        # Vectors of 512 bits, if the CPU has them: XLA's default is 256.
        options = {"xla_cpu_prefer_vector_width": "512"} if on_cpu else None
        strips = partial(_reconstruct, network, halo=max(1, self._halo))
        self._extract = jax.jit(partial(_extract, network), compiler_options=options)
        self._reconstruct = jax.jit(strips, compiler_options=options)

    def program(self) -> Program | None:
        """The network as a program, which needs no compilation and gives the same to the last bit.

        None where it cannot be one: on another backend than the CPU, without native code, or with
        parts that are neither native nor sums and products.
        """
        form = choose.chosen_form() if jax.default_backend() == "cpu" else "xla"
        if form == "xla" or self.stride != 1 or self.overlap is not None:
            return None
        network, channels = self._network, self.channels

        def half(method: str, *inputs: int) -> Half:
            def call(params: Any, *images: jax.Array) -> jax.Array:
                return network.apply({"params": params}, *images, method=method)

            return half_of(call, self._params, inputs, form)

        try:
            return Program(
                extract=half("extract", channels),
                reconstruct=half("reconstruct", self._features, channels),
                halo=max(1, self._halo),
                scale=self.scale,
                channels=channels,
                radius=self.radius,
                bytes_per_pixel=self.bytes_per_pixel,
            )
        except UntraceableError:
            return None

    def run(self, image: np.ndarray, pooled: Any = None) -> np.ndarray:
        """Restores an image.

        Args:
            image: float32 ``[h, w, channels]`` in 0..1.
            pooled: The result of ``pooled_of`` for the whole image, if this is a tile of it.

        Returns:
            float32 ``[scale h, scale w, channels]``, not clipped.

        Raises:
            ValueError: The image has another shape.
            TypeError: The image is not float32.
            MemoryError: The memory ran out.
        """
        x = self._input(image)
        height, width = (self.scale * side for side in image.shape[:2])
        try:
            features, _ = self._extract(self._params, pooled, x)
            return np.asarray(self._reconstruct(self._params, features, x))[0, :height, :width]
        except jax.errors.JaxRuntimeError as error:
            raise MemoryError(str(error)) from error

    def pooled_of(self, image: np.ndarray) -> Any:
        """The means over an image, which ``run`` takes for its tiles.

        ``run(image, pooled_of(image))`` equals ``run(image)``. Without ``global_pooling`` it is
        empty.
        """
        return self._extract(self._params, None, self._input(image))[1]

    def _input(self, image: np.ndarray) -> jax.Array:
        """The image as the programs take it, which are made room for if its shape is a new one."""
        check_image(image, self.channels)
        if (form := choose.chosen_form()) != "xla" and self._on_cpu:
            choose.has_handlers(form)  # JAX may have kept a trace for ``program``, which needs none
        x = pad_to_multiple(jnp.asarray(image)[None], self.stride)
        self._shapes.add(x.shape)
        if len(self._shapes) > _MOST_PROGRAMS:
            jax.clear_caches()
            self._shapes = {x.shape}
        return x


def _extract(network, params: Any, pooled: Any, x: jax.Array) -> tuple[jax.Array, Any]:
    """The features of an image, and its means or the given ones."""
    if pooled:
        variables = {"params": params, POOLED: pooled}
        return network.apply(variables, x, method="extract"), pooled
    features, variables = network.apply({"params": params}, x, method="extract", mutable=[POOLED])
    return features, variables.get(POOLED, {})


def _reconstruct(network, params: Any, features: jax.Array, x: jax.Array, halo: int) -> jax.Array:
    """The output, computed in strips of rows if the network would need too much memory."""
    held = network.apply({"params": params}, features, method="held_scale")

    def part(features: jax.Array, x: jax.Array) -> jax.Array:
        return network.apply({"params": params}, features, x, method="reconstruct")

    if held == 1:
        return part(features, x)
    return in_strips(part, (features, x), strip_rows(features.shape, held), halo)


def in_strips(
    f: Callable[..., jax.Array], inputs: tuple[jax.Array, ...], rows: int, halo: int
) -> jax.Array:
    """``f(*inputs)``, computed in strips of rows to bound the memory of intermediates.

    Args:
        f: Maps arrays ``[B, n H, W, _]``, each with its own integer n, to ``[B, s H, W, _]`` for
            some integer s. A row of its output depends on at most ``halo`` rows of H before and
            after it.
        inputs: The first has n = 1.
        rows: The rows of H in a strip, without the halo.
        halo: At least 0.

    Returns:
        The result of ``f``.
    """
    height, strip = inputs[0].shape[1], rows + 2 * halo
    if height <= strip:
        return f(*inputs)
    finer = [x.shape[1] // height for x in inputs]
    part = jax.eval_shape(
        f,
        *(
            jax.ShapeDtypeStruct((x.shape[0], n * strip, *x.shape[2:]), x.dtype)
            for x, n in zip(inputs, finer, strict=True)
        ),
    )
    scale = part.shape[1] // strip

    def write_strip(i: jax.Array, y: jax.Array) -> jax.Array:
        # The last strip is moved inward rather than shortened, so that all have one shape. It ends
        # at the border of the image, so that it gets the same padding.
        top = jnp.minimum(i * rows, height - rows)
        start = jnp.clip(top - halo, 0, height - strip)
        z = f(
            *(
                lax.dynamic_slice_in_dim(x, n * start, n * strip, axis=1)
                for x, n in zip(inputs, finer, strict=True)
            )
        )
        z = lax.dynamic_slice_in_dim(z, (top - start) * scale, rows * scale, axis=1)
        return lax.dynamic_update_slice_in_dim(y, z, top * scale, axis=1)

    shape = (part.shape[0], height * scale, *part.shape[2:])
    return lax.fori_loop(0, -(-height // rows), write_strip, jnp.zeros(shape, part.dtype))
