"""SRResNet without batch normalisation, float and binary: BBCU's network for super-resolution."""

import jax

from binsr_jax.models.backbone import ACTIVATIONS, UPSAMPLING_STEPS, Backbone, Factory
from binsr_jax.nn.fence import fence
from binsr_jax.ops.binarize import Progress
from binsr_jax.ops.image import product
from binsr_jax.ops.upsampling import upsample_bilinear


class SRResNet(Backbone, kw_only=True):
    """Head, ``units`` units, upsampler, a convolution at high resolution, tail.

        f   = unit(...unit(act(head(k x))))                                       (``extract``)
        y   = tail(lrelu(hr_conv(upsampler(f))))     (+ k x enlarged, with image_skip "bilinear")
        out = y / k                                                           (``reconstruct``)

    There is no convolution after the units and no skip over all of them. A LeakyReLU of slope 0.1
    follows ``hr_conv`` and each step of a float upsampler, but not the steps of a binary one.

    The network is from Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a
    Generative Adversarial Network", in the form that Xia et al., "Basic Binary Convolution Unit for
    Binarized Image Restoration Network", binarise. Their BBCU-L has binary units; their BBCU-M also
    has a binary upsampler and a binary ``hr_conv``.

    Attributes:
        upsampler: Makes one upsampling step: ``upsampler(factor)``.
        upsampler_activation: The activation after each step, a key of ``ACTIVATIONS``.
        hr_conv: Makes the convolution at high resolution, which is called like a unit; or None.
        image_skip: ``"none"`` or ``"bilinear"``.
    """

    upsampler: Factory
    upsampler_activation: str
    hr_conv: Factory | None
    image_skip: str

    def setup(self) -> None:
        super().setup()
        steps = UPSAMPLING_STEPS[self.scale]
        self._upsamplers = [
            self.upsampler(step, name=f"upsampler_{i}") for i, step in enumerate(steps)
        ]
        self._hr_conv = None if self.hr_conv is None else self.hr_conv(name="hr_conv")

    def extract(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        features = self._embed(self.amplification * x, progress)
        return self._through(self._body, features, train, progress)

    def reconstruct(self, features: jax.Array, x: jax.Array, progress: Progress = 0.0) -> jax.Array:
        y = features
        for upsampler in self._upsamplers:
            y = ACTIVATIONS[self.upsampler_activation](upsampler(y, progress))
        if self._hr_conv is not None:
            y = ACTIVATIONS["leaky_relu"](fence(self._hr_conv)(y, progress=progress))
        y = self._tail(y, progress)
        if self.image_skip == "bilinear":
            y += upsample_bilinear(product(self.amplification, x), self.scale)
        return product(1 / self.amplification, y)
