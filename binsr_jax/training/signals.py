"""Stops a run on request: after SIGTERM or SIGINT it saves and ends at the next step."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(Exception):
    """Interrupts work that changes no state, such as a validation, on a request to stop."""


class StopRequest:
    """Catches SIGTERM and SIGINT while it is entered; a second signal ends the process as usual.

    With several processes, ``jax.distributed`` catches SIGTERM, so that all of them stop at the
    same step.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._interruptible = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        main = threading.current_thread() is threading.main_thread()
        if main and jax.process_count() == 1:
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def at(self, step: int) -> int | None:
        """The number of the signal that asks to stop after this step, or None."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            return signal.SIGTERM
        return self._received

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """A context for work that a request to stop interrupts at once with ``StoppedError``."""
        if self._received is not None:
            raise StoppedError
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    @contextlib.contextmanager
    def ignoring_interrupts(self) -> Iterator[None]:
        """Ignores SIGINT for a moment; processes started inside keep ignoring it.

        Ctrl-C on a terminal reaches all processes of a run. The workers that prepare batches must
        survive it, because this process still needs them to finish its step.
        """
        if signal.SIGINT in self._previous:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        finally:
            if signal.SIGINT in self._previous:
                signal.signal(signal.SIGINT, self._notice)

    def _notice(self, number: int, _: FrameType | None) -> None:
        self._received = number
        self._restore()
        if self._interruptible:
            raise StoppedError

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
