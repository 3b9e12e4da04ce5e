"""A packed network as StableHLO, for programs that run XLA and lack this package."""

import jax
from jax import export

from binsr_jax.deploy.export.tracing import free_images, function_of
from binsr_jax.deploy.model_file import PackedModel
from binsr_jax.nn.packed import PopcountConv
from binsr_jax.ops.native import choose

PLATFORMS = ("cpu", "cuda", "tpu")


def stablehlo(model: PackedModel) -> bytes:
    """The network as one artifact of ``jax.export`` for ``PLATFORMS``, weights included.

    ``jax.export.deserialize(artifact).call(x)`` takes float32 ``[b, h, w, channels]`` in 0..1 to
    ``[b, scale h, scale w, channels]``, not clipped. b, h and w are free, but h and w must be
    multiples of the network's stride, which is 1 unless it turns pixels into channels. Binary
    convolutions count bits (``popcnt``). There is no custom call but JAX's assertions about shapes,
    which go where sizes are known.
    """
    f, multiple = function_of(model, PopcountConv)
    exporting = export.export(jax.jit(f), platforms=PLATFORMS)
    with choose.without_native():
        return bytes(exporting(free_images(model.task.channels, multiple)).serialize())
