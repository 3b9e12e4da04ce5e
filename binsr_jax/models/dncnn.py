"""DnCNN without batch normalisation, float and binary: it subtracts the noise it predicts."""

import jax

from binsr_jax.models.backbone import Backbone
from binsr_jax.ops.binarize import Progress
from binsr_jax.ops.image import product


class DnCNN(Backbone):
    """Head, ``units`` units, and a tail that returns the noise of the image.

        f   = unit(...unit(act(head(k x))))                                       (``extract``)
        out = (k x - tail(f)) / k                                             (``reconstruct``)

    With k = 1 and float units conv + ReLU it is the network of Zhang et al., "Beyond a Gaussian
    Denoiser: Residual Learning of Deep CNN for Image Denoising". With their own units it is that of
    Xia et al., "Basic Binary Convolution Unit for Binarized Image Restoration Network": without
    biases for colour denoising, and with biases in all convolutions and one channel (DnCNN-3) for
    JPEG artifacts. Of the papers' 20 convolutions 18 are in the body.
    """

    def extract(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        features = self._embed(self.amplification * x, progress)
        return self._through(self._body, features, train, progress)

    def reconstruct(self, features: jax.Array, x: jax.Array, progress: Progress = 0.0) -> jax.Array:
        return x - product(1 / self.amplification, self._tail(features, progress))
