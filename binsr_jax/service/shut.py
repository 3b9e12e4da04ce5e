"""Refuses requests that the page does not need before Gradio gets them."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from binsr_jax.service.gate import ROOM, Body

# The paths that the page requests; all others are refused.
_OPEN = (
    "/assets/",
    "/static/",
    "/svelte/",
    "/gradio_api/heartbeat/",
    "/gradio_api/queue/",
    "/gradio_api/startup-events",
    "/gradio_api/upload",
    "/gradio_api/cancel",
    "/gradio_api/reset",
    "/gradio_api/app_id",
)
_UPLOAD, _ORDER = "/gradio_api/upload", "/gradio_api/queue/join"
_UPLOADING = 3600.0  # seconds at most
_STORED = 64  # the page's folder holds at most so many times the largest size of a file
_OPEN_EXACTLY = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json")
# These headers forbid the browser to contact other hosts.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; frame-ancestors 'none'"
)


class Shut:
    """Wraps the page: refuses needless requests, and forbids the browser to contact other hosts.

    Args:
        app: Gradio's application.
        folder: Gradio's folder, in which visitors' files lie.
        most_bytes: The largest size of a file.
        most_pictures: The largest number of pictures in one order.
    """

    def __init__(self, app: ASGIApp, folder: Path, most_bytes: int, most_pictures: int) -> None:
        self._app, self._folder, self._most_bytes = app, folder, most_bytes
        self._most_upload = most_pictures * most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        try:
            receive = await self._admitted(unquote(scope["path"]), scope["method"], receive)
        except HTTPException as error:
            await PlainTextResponse(error.detail, error.status_code)(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self._app(scope, receive, answer)

    async def _admitted(self, path: str, method: str, receive: Receive) -> Receive:
        """The function that receives the body of an admitted request.

        Raises:
            HTTPException: The request is refused.
        """
        own = path.startswith(f"/gradio_api/file={self._folder}/") and ".." not in path
        if not (own or path in _OPEN_EXACTLY or path.startswith(_OPEN)):
            raise HTTPException(404, "There is no such page.")
        if method != "POST":
            return receive
        deadline = time.monotonic() + _UPLOADING
        if path == _UPLOAD:
            if await asyncio.to_thread(_bytes_in, self._folder) > _STORED * self._most_bytes:
                raise HTTPException(507, "There is no room for more pictures now: try again later.")
            return Body(receive, deadline, self._most_upload + ROOM).receive
        body = Body(receive, deadline, 2 * ROOM)
        if path == _ORDER:
            return _again(await _order(body, self._folder), receive)
        return body.receive


def _bytes_in(folder: Path) -> int:
    """The bytes of the files in a folder, of any depth."""
    sizes = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it has just been removed
                sizes += os.lstat(os.path.join(where, name)).st_size
    return sizes


async def _order(body: Body, folder: Path) -> bytes:
    """The body of an order, whose files must be uploads.

    Raises:
        HTTPException: It names another file, or an address, which Gradio would fetch.
    """
    content, more = b"", True
    while more:
        message = await body.receive()
        content += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    try:
        names = list(_files_of(json.loads(content)))
    except (ValueError, RecursionError):
        raise HTTPException(400, "The order is no JSON.") from None
    if not all(name.startswith(f"{folder}/") and ".." not in name for name in names):
        raise HTTPException(400, "The order names a file that was not uploaded.")
    return content


def _files_of(value: Any) -> Iterator[str]:
    """All names and addresses of files in a JSON value."""
    if isinstance(value, dict):
        if "path" in value:
            yield str(value["path"])
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _files_of(part)


def _again(content: bytes, receive: Receive) -> Receive:
    """A function that returns a body that was read already, and then the next messages."""
    messages: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def give() -> Message:
        return messages.pop() if messages else await receive()

    return give
