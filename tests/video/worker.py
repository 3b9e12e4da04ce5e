"""Makes a video slowly, in parts of four frames, to be killed: ``worker.py IN OUT SECONDS``."""

import sys
import time
from pathlib import Path

import numpy as np

from binsr_jax.deploy.listing import Job
from binsr_jax.video import parts
from binsr_jax.video.frames import Span
from binsr_jax.video.job import Settings, restore_video

PART = 4
WIDTH, HEIGHT = 32, 24  # of the videos that tests make


def twice(image: np.ndarray) -> np.ndarray:
    """Each pixel as four."""
    return image.repeat(2, axis=0).repeat(2, axis=1)


def settings(**changes) -> Settings:
    """Those of the tests."""
    usual = {
        "codec": "h264",
        "crf": None,
        "preset": "fast",
        "span": Span(),
        "most_pixels": 10**8,
        "network": {},
    }
    return Settings(**{**usual, **changes})


def main(source: str, target: str, seconds: str) -> None:
    """Makes it."""
    parts.LENGTH = PART

    def slowly(image: np.ndarray) -> np.ndarray:
        time.sleep(float(seconds))
        return twice(image)

    restore_video(Job(Path(source), Path(target)), slowly, 2, settings())


if __name__ == "__main__":
    main(*sys.argv[1:])
