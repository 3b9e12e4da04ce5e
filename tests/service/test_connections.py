"""Clients that hold a connection and do not go on."""

import socket
import time
from collections.abc import Iterator

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="needs the extra demo")
from binsr_jax.service import connections  # noqa: E402

PATIENCE = 0.5
LENGTH = 64 << 20  # bytes of the long answer: more than buffers hold


@pytest.fixture
def ended() -> list[str]:
    """The paths whose answers were sent, or given up."""
    return []


@pytest.fixture
def port(ended, monkeypatch, served) -> Iterator[int]:
    """Of a program that answers any path shortly, and /long with many bytes."""
    monkeypatch.setattr(connections, "PATIENCE", PATIENCE)

    async def app(scope, receive, send) -> None:
        path = scope["path"]
        length = LENGTH if path == "/long" else 2
        headers = [(b"content-length", str(length).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        step = min(length, 1 << 16)
        for start in range(0, length, step):
            more = start + step < length
            await send({"type": "http.response.body", "body": bytes(step), "more_body": more})
        ended.append(path)

    with served(app, http=connections.PatientProtocol, lifespan="off") as port:
        yield port


def is_ended(client: socket.socket) -> bool:
    """Whether the other side ends the connection."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "a part"])
def test_who_does_not_ask_is_given_up(port, sent) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        started = time.monotonic()
        client.sendall(sent)
        assert is_ended(client)
        assert time.monotonic() - started > PATIENCE / 2


def test_a_second_request_that_does_not_come_whole_is_given_up(port) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while b"\r\n\r\n\0\0" not in client.recv(1000):
            pass
        client.sendall(b"GET / HTTP/1.1\r\n")
        assert is_ended(client)


def test_who_does_not_read_is_given_up_and_who_reads_is_not(port, ended) -> None:
    request = b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as idle,
        socket.create_connection(("127.0.0.1", port), timeout=10) as reader,
    ):
        idle.sendall(request)
        reader.sendall(request)
        read = 0
        pause = time.monotonic()
        while read < LENGTH:
            read += len(reader.recv(1 << 20))
            if time.monotonic() < pause + 2 * PATIENCE:
                time.sleep(PATIENCE / 20)  # slowly at first
        deadline = time.monotonic() + 10
        while len(ended) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
