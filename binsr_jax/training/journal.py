"""The output of a run: terminal lines or a progress bar, ``log.jsonl`` and TensorBoard."""

import contextlib
import datetime
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue]  # made at import by protobuf
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tqdm import tqdm

from binsr_jax.files import printable, replace_text
from binsr_jax.json_lines import json_line
from binsr_jax.training.scores import Validation, read_log
from binsr_jax.training.workdir import writing_to


class Journal:
    """The log of a run; a context manager. Only the first process writes.

    ``log.jsonl`` has one row per log line, ``{"step", "loss", "gradient_norm", "learning_rate",
    "steps_per_second", "time"}``, and one per validation, ``{"step", "scores", "images", "time"}``.
    ``images`` holds the fingerprint of each set. Rows past the step from which a run resumes are
    dropped, since they will be written again. An infinite score is null.
    """

    def __init__(self, workdir: Path, start: int, steps: int, *, active: bool = True):
        """Continues the log of a work dir.

        Args:
            workdir: The folder of the files.
            start: The step from which the run continues; 0 for a new one.
            steps: The last step.
            active: Whether this process writes.

        Raises:
            UserError: The files cannot be written.
        """
        self._workdir, self._steps, self._active = workdir, steps, active
        self._path = workdir / "log.jsonl"
        self._bar: tqdm | None = None
        self._rows: list[dict[str, Any]] = []
        self._signs: dict[str, np.ndarray] = {}  # signs of latent weights, packed into bits
        self.restart_clock(start)
        if not active:
            return
        with writing_to(workdir):
            self._rows = [row for row in read_log(workdir) if row["step"] <= start]
            replace_text(self._path, "".join(map(json_line, self._rows)))
            self._board = _Board(workdir / "tensorboard", start)
        if sys.stderr.isatty():
            self._bar = tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._active:
            with contextlib.suppress(
                OSError
            ):  # everything is flushed, or the failure is being raised
                self._board.close()

    def has_scores(self, step: int) -> bool:
        """Whether the validation of a step was logged before the run resumed."""
        return any(row["step"] == step and "scores" in row for row in self._rows)

    def restart_clock(self, step: int) -> None:
        """Restarts the measurement of speed, after compilation, validation or saving."""
        self._clock, self._clock_step = time.monotonic(), step

    def advance(self) -> None:
        """Counts one step."""
        if self._bar is not None:
            self._bar.update()

    def say(self, line: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if self._bar is not None:
            tqdm.write(printable(line), file=sys.stderr)
        elif self._active:
            logging.info("%s", line)

    def progress(self, step: int, values: dict[str, float]) -> None:
        """Logs a training step.

        Args:
            step: The number of steps done.
            values: ``loss``, ``gradient_norm``, ``learning_rate``, and terms of the loss, if any.
        """
        done, seconds = step - self._clock_step, time.monotonic() - self._clock
        speed = done / seconds if done and seconds > 0 else None
        self.restart_clock(step)
        self._write({"step": step, **values, "steps_per_second": speed})
        self._scalars("train", {**values, "steps_per_second": speed}, step)
        loss, rate = f"{values['loss']:.4g}", f"{values['learning_rate']:.3g}"
        if self._bar is not None:
            self._bar.set_postfix(loss=loss, rate=rate)
            return
        line = f"step {step}/{self._steps}: loss {loss}, rate {rate}"
        if speed:
            left = datetime.timedelta(seconds=round((self._steps - step) / speed))
            line += f", {speed:.3g} steps/s, {left} left"
        self.say(line)

    def scores(self, step: int, validation: Validation) -> None:
        """Logs the validation after a step."""
        scores = validation.scores
        self._write({"step": step, "scores": scores, "images": validation.images})
        self._scalars("eval", scores, step)
        if self._active:
            with writing_to(self._workdir):
                for name, picture in validation.pictures.items():
                    self._board.add(summary.image(name, picture, dataformats="HWC"), step)
        listed = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        self.say(f"step {step}/{self._steps}: {listed}")

    def latent_weights(self, step: int, kernels: dict[str, np.ndarray]) -> None:
        """Writes latent binary weights and their share of flipped signs to TensorBoard.

        A layer's share compares its signs with the previous call. The first call of a process has
        no such share.

        Args:
            step: The number of steps done.
            kernels: Latent weights by layer.
        """
        if not self._active:
            return
        with writing_to(self._workdir):
            for name, kernel in kernels.items():
                values = summary.histogram(f"latent/{name}", kernel, bins="auto", max_bins=64)
                self._board.add(values, step)
        signs = {name: np.packbits(kernel > 0) for name, kernel in kernels.items()}
        flips = {
            name: float(np.bitwise_count(bits ^ self._signs[name]).sum() / kernels[name].size)
            for name, bits in signs.items()
            if name in self._signs
        }
        self._signs = signs
        self._scalars("sign_flips", flips, step)

    def _scalars(self, group: str, values: dict[str, Any], step: int) -> None:
        if self._active:
            with writing_to(self._workdir):
                for name, value in values.items():
                    if value is not None and math.isfinite(value):
                        self._board.add(summary.scalar(f"{group}/{name}", value), step)

    def _write(self, row: dict[str, Any]) -> None:
        if self._active:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            with writing_to(self._workdir), self._path.open("a", encoding="utf-8") as file:
                file.write(json_line({**row, "time": now}))


class _Board:
    """A TensorBoard file, written in this thread.

    The usual SummaryWriter writes in another thread. On a full disk that thread dies, and then the
    next caller waits for it forever.
    """

    def __init__(self, folder: Path, start: int):
        """Starts a file; TensorBoard hides the entries of earlier files after ``start``."""
        folder.mkdir(exist_ok=True)
        self._file = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        log = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(step=start + 1, wall_time=time.time(), session_log=log))

    def add(self, values: Any, step: int) -> None:
        """Writes a summary of a step."""
        self._file.write_event(Event(step=step, wall_time=time.time(), summary=values))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
