"""DnCNN without batch normalisation, float and binary: what is wrong with an image, taken off."""

import jax

from binsr_jax.models.backbone import Backbone
from binsr_jax.ops.binarize import Progress


class DnCNN(Backbone):
    """Head, ``units`` units and a tail that gives the noise of an image.

        f   = unit(...unit(act(head(k x))))                                       (``extract``)
        out = (k x - tail(f)) / k                                             (``reconstruct``)

    Zhang et al., "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising",
    with k = 1 and float units conv + ReLU; Xia et al., "Basic Binary Convolution Unit for Binarized
    Image Restoration Network", with theirs: bias-free for colour denoising, with biases in all
    convolutions (and one channel, DnCNN-3) for JPEG artifacts. The papers' 20 convolutions are 18
    in the body.
    """

    def extract(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        features = self._embed(self.amplification * x, progress)
        return self._through(self._body, features, train, progress)

    def reconstruct(self, features: jax.Array, x: jax.Array, progress: Progress = 0.0) -> jax.Array:
        return x - self._tail(features, progress) / self.amplification
