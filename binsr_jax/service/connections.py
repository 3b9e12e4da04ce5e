"""Closes connections whose clients neither send a request nor read the answer."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 30.0  # seconds


class PatientProtocol(H11Protocol):
    """Closes a connection after ``PATIENCE`` without a request's head, or with an unread answer.

    Uvicorn waits for both without a limit. ``gate.Gate`` limits the wait for a body.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Starts the time limit for a request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels all time limits."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Cancels the time limit if a request has arrived."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Starts the time limit for the next request."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._wait()

    def pause_writing(self) -> None:
        """Starts the time limit for the client to read."""
        super().pause_writing()
        self._wait()

    def resume_writing(self) -> None:
        """Cancels the time limit for the client to read."""
        super().resume_writing()
        self._stop_waiting()

    def _wait(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(PATIENCE, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
