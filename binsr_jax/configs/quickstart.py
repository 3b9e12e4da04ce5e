"""Quick start: a small binary EDSR with attention, x2, on the packaged photographs.

    binsr train --config quickstart --workdir runs/quickstart
    binsr evaluate --workdir runs/quickstart --save-images runs/quickstart/images

It takes minutes on two CPU cores; the README says what comes of it.
"""

from binsr_jax.config import Config, default


def get_config() -> Config:
    """Returns the recipe."""
    config = default()
    config.model.features = 32
    config.model.blocks = 4
    config.model.residual_attention = "se"
    config.model.amplification = 65.0
    config.model.image_skip = "bilinear"
    config.data.patch = 48
    config.train.steps = 800
    config.train.batch = 8
    config.train.learning_rate = 2e-3
    config.train.schedule = "cosine"
    config.train.warmup = 50
    config.train.ema = 0.99
    config.train.checkpoint_every = 200
    config.eval.every = 400
    return config
