"""Flags and start of ``binsr demo`` and ``binsr serve``."""

import argparse
import contextlib
import importlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

from binsr_jax.commands.pictures import amount, whole
from binsr_jax.errors import UserError
from binsr_jax.files import printable


def add_arguments(parser: argparse.ArgumentParser, port: int) -> None:
    """Declares the flags.

    Args:
        parser: The subcommand's parser.
        port: The default port.
    """
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address (default: %(default)s, this machine alone)")
    add(
        "--port",
        type=whole(0, 65535),
        default=port,
        help="port; 0 takes a free one (default: %(default)s)",
    )
    add(
        "-m",
        "--model",
        action="append",
        default=[],
        metavar="FILE",
        help="a model file to offer beside the packaged networks; may be given again",
    )
    add(
        "--memory",
        type=amount,
        metavar="GIB",
        help="memory for a tile (default: 1, or 1/4 of the free memory)",
    )
    add(
        "--max-megabytes",
        type=amount,
        default=64,
        metavar="MIB",
        help="larger files are refused (default: %(default)g)",
    )
    add(
        "--max-megapixels",
        type=amount,
        default=50,
        metavar="MP",
        help="larger pictures are refused (default: %(default)g)",
    )
    add("--queue", type=whole(1), default=16, help="pictures that may wait (default: %(default)s)")


def require(command: str, *modules: str) -> None:
    """Imports the modules that a command needs.

    Raises:
        UserError: One is not installed; the sentence says how to install it.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f"binsr {command} needs {module}, which is not installed: "
                "pip install 'binsr-jax[demo]'."
            ) from error


def make_restorer(args: argparse.Namespace) -> Any:
    """The ``Restorer`` that the flags describe."""
    from binsr_jax.service.restorer import Restorer  # here, since it imports JAX

    return Restorer(
        most_pixels=int(args.max_megapixels * 1e6),
        most_waiting=args.queue,
        memory=round(args.memory * 2**30) if args.memory else None,
    )


def serve(app: Any, args: argparse.Namespace, *, connections: int, grace: int) -> None:
    """Answers requests until Ctrl-C or SIGTERM, then finishes the open ones.

    Args:
        app: An ASGI application.
        args: The flags of ``add_arguments``.
        connections: The largest number of connections.
        grace: The seconds that open requests have at the end.

    Raises:
        UserError: The address is in use or not available.
    """
    import uvicorn

    from binsr_jax.service.connections import PatientProtocol

    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    try:
        listener = socket.create_server((args.host, args.port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"Cannot listen at {args.host}, port {args.port} ({reason}): choose another --host or "
            "--port."
        ) from error
    with listener:
        _log_to_stderr()
        host = f"[{args.host}]" if ":" in args.host else args.host
        print(printable(f"http://{host}:{listener.getsockname()[1]}"), flush=True)
        config = uvicorn.Config(
            app,
            http=PatientProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=connections,
            timeout_graceful_shutdown=grace,
        )
        with _quiet_signals():
            uvicorn.Server(config).run(sockets=[listener])


@contextlib.contextmanager
def _quiet_signals() -> Iterator[None]:
    """Lets the program end normally after Ctrl-C and SIGTERM, which Uvicorn raises again."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    usual = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, usual, strict=True):
            signal.signal(number, handler)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    for name, level in (("binsr", logging.INFO), ("uvicorn", logging.WARNING)):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(level)
