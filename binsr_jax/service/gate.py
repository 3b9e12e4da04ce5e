"""Wraps the service: gives requests an id and a log line, and limits their bodies."""

import asyncio
import contextlib
import logging
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from binsr_jax.files import printable
from binsr_jax.service.restorer import FullError, Restorer

_ID = re.compile(r"[\w.-]{1,64}")
ROOM = 1 << 20  # bytes of a body in addition to its picture
_DISCARDING = 10  # seconds at most
_SILENCE = 30.0  # seconds between two pieces of a body

log = logging.getLogger("binsr.service")


@dataclass(frozen=True)
class Limits:
    """The limits of a request.

    Attributes:
        bytes: The largest size of its picture.
        seconds: The longest time until its answer, with upload and waiting.
    """

    bytes: int
    seconds: float


class Gate:
    """Wraps an application.

    A request that sends a picture is refused with 429 if the queue is full, with 413 if its body is
    too long, and with 408 if it arrives too slowly. All this happens before the picture is read.

    Args:
        app: The application. A request's state gives it ``id`` and ``deadline`` (a value of
            ``time.monotonic``).
        restorer: The queue.
        limits: The limits of a request.
        count: Called with the path, the status and the seconds of each request.
    """

    def __init__(self, app: ASGIApp, restorer: Restorer, limits: Limits, count: Any) -> None:
        self._app, self._restorer, self._limits, self._count = app, restorer, limits, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        wanted = Headers(scope=scope).get("x-request-id", "")
        state = scope.setdefault("state", {})
        state["id"] = wanted if _ID.fullmatch(wanted) else secrets.token_hex(8)
        state["deadline"] = started + self._limits.seconds
        status: int | None = None

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = state["id"]
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            if scope["method"] == "POST":
                await self._admit(scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        except Exception:
            log.exception("%s failed", state["id"])
            if status is None:
                sentence = "Something is wrong with the service; its log says what."
                await refused(500, sentence)(scope, receive, answer)
        finally:
            seconds = time.monotonic() - started
            self._count(scope, status or 500, seconds)
            client = scope["client"][0] if scope.get("client") else "-"
            words = [state["id"], client, scope["method"], scope["path"], str(status or 500)]
            log.info(printable(" ".join([*words, f"{seconds:.3f} s", state.get("log", "")])))

    async def _admit(self, scope: Scope, receive: Receive, answer: Send) -> None:
        most = self._limits.bytes
        body = Body(receive, scope["state"]["deadline"], most + ROOM)
        refusal = None
        try:
            self._restorer.require_place()
        except FullError as error:
            refusal = refused(429, str(error), {"Retry-After": str(error.seconds)})
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > most + ROOM:
            refusal = refused(413, too_long(most))
        if refusal is None:
            await self._app(scope, body.receive, answer)
        else:
            await body.discard()
            refusal.headers["Connection"] = "close"
            await refusal(scope, receive, answer)


def too_long(most: int) -> str:
    """The sentence for a picture of more than ``most`` bytes."""
    return f"The picture has more than {most / 2**20:g} MiB, the most that is taken here."


def refused(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer to a request that is refused."""
    return JSONResponse({"error": sentence}, status, headers)


class Body:
    """Counts the bytes of a body. Waits until a deadline, and at most ``_SILENCE`` for each piece.

    Args:
        receive: The application's function for the next message.
        deadline: A value of ``time.monotonic``.
        most: The largest number of bytes; the refusal names ``ROOM`` less.
    """

    def __init__(self, receive: Receive, deadline: float, most: int) -> None:
        self._receive, self._deadline, self._most = receive, deadline, most
        self._size, self._whole = 0, False

    async def receive(self) -> Message:
        """The next message.

        Raises:
            HTTPException: The body is too long, or did not arrive in time.
        """
        if self._whole:  # the next message says that the client has left
            return await self._receive()
        try:
            seconds = max(0.0, self._deadline - time.monotonic())
            message = await asyncio.wait_for(self._receive(), min(seconds, _SILENCE))
        except TimeoutError:
            raise HTTPException(408, "The picture did not arrive in time.") from None
        self._size += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._size > self._most:
            await self.discard()
            raise HTTPException(413, too_long(self._most - ROOM))
        return message

    async def discard(self) -> None:
        """Reads the rest, within limits: a client that still sends does not read an answer."""
        most = self._size + 2 * self._most
        deadline = min(self._deadline, time.monotonic() + _DISCARDING)
        with contextlib.suppress(TimeoutError):
            while not self._whole and self._size < most:
                seconds = max(0.0, deadline - time.monotonic())
                message = await asyncio.wait_for(self._receive(), seconds)
                self._size += len(message.get("body", b""))
                self._whole = not message.get("more_body", False)
