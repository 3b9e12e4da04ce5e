"""Restore pictures over HTTP, for programs.

POST /v1/restore takes a form with the file image and the fields task, model, scale, strength,
format and quality; the answer is the picture. GET /v1/models lists the networks, /healthz says
whether the service works, /metrics counts for Prometheus, and /docs describes the interface.

One picture is restored at a time. A full queue answers 429 with Retry-After, a picture that is too
large 413, one that cannot be read 400. After Ctrl-C or SIGTERM open requests may finish. Standard
error has a line for each request, with its id. More: docs/service.md.

    binsr serve
    curl -F image=@photo.jpg -F scale=2 http://127.0.0.1:8000/v1/restore -o large.jpg
"""

import argparse

from binsr_jax.commands import web
from binsr_jax.commands.pictures import amount


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of ``binsr serve``."""
    web.add_arguments(parser, 8000)
    add = parser.add_argument
    add(
        "--timeout",
        type=amount,
        default=300,
        metavar="S",
        help="seconds until a request without a result gets 504 (default: %(default)g)",
    )
    add(
        "--grace",
        type=amount,
        default=30,
        metavar="S",
        help="seconds that open requests have after SIGTERM (default: %(default)g)",
    )


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr serve``."""
    web.require("serve", "fastapi", "uvicorn", "python_multipart", "prometheus_client")
    web.require("serve", "swagger_ui_bundle")
    from binsr_jax.service.gate import Limits  # here, since they import what is checked above
    from binsr_jax.service.http import create_app
    from binsr_jax.service.networks import offered

    networks = offered(args.model)
    limits = Limits(int(args.max_megabytes * 2**20), args.timeout)
    app = create_app(web.make_restorer(args), networks, limits)
    web.serve(app, args, connections=args.queue + 256, grace=max(1, round(args.grace)))
