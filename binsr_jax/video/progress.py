"""Shows the progress of a video in a terminal or a log."""

import sys
import time

from tqdm import tqdm

from binsr_jax.deploy.jobs import say
from binsr_jax.files import printable

_LOG_SECONDS = 30  # between two lines if there is no terminal


class Progress:
    """Shows the number of finished frames, the speed and the time left.

    Args:
        name: The name of the video.
        total: The approximate number of its frames; 0 if it is unknown.
        done: The number of frames that an earlier run has finished.
    """

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        self._terminal = sys.stderr.isatty()
        self._name, self._total, self._done, self._begun = name, total, done, done
        self._started = self._said = time.monotonic()
        self._bar = tqdm(
            desc=printable(name),
            total=total or None,
            initial=done,
            unit=" frames",
            disable=not self._terminal,
            leave=False,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self) -> None:
        """Counts a frame."""
        self._done += 1
        self._bar.update()
        now = time.monotonic()
        if not self._terminal and now - self._said > _LOG_SECONDS:
            self._said = now
            say(self._line(now - self._started))

    def _line(self, seconds: float) -> str:
        rate = (self._done - self._begun) / seconds
        if not self._total:
            return f"{self._name}: {self._done} frames, {rate:.2f} frames/s"
        left = tqdm.format_interval(max(0, self._total - self._done) / rate)
        of = f"{self._done} of about {self._total} frames"
        return f"{self._name}: {of}, {rate:.2f} frames/s, {left} left"
