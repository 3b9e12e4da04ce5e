"""Open a page in which pictures are restored: drop, compare before and after, download.

The page is at http://127.0.0.1:7860. Only this machine can open it, unless --host says otherwise.
Several people can use it; they take turns, a picture each. Nothing is sent elsewhere. Results are
deleted when their page is closed, uploads within two hours. More: docs/demo.md.

    binsr demo
    binsr demo --port 8080 -m mine.binsr
"""

import argparse
import os
from pathlib import Path

from binsr_jax.commands import web
from binsr_jax.commands.pictures import whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of ``binsr demo``."""
    web.add_arguments(parser, 7860)
    help_ = "pictures in one order (default: %(default)s)"
    parser.add_argument("--max-pictures", type=whole(1), default=20, help=help_)


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr demo``."""
    from binsr_jax.service.folders import new_folder  # here and below, since they import JAX

    with new_folder() as name:
        folder = Path(name).resolve()
        # Read when Gradio is imported: where it keeps files, and that it tells nobody.
        os.environ.update(
            GRADIO_TEMP_DIR=str(folder), GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1"
        )
        web.require("demo", "gradio", "uvicorn")
        from binsr_jax.service.networks import offered
        from binsr_jax.service.page import Page, create_app

        restorer = web.make_restorer(args)
        page = Page(restorer, offered(args.model), args.max_pictures, folder)
        app = create_app(page, int(args.max_megabytes * 2**20))
        try:
            web.serve(app, args, connections=512, grace=3)
        finally:
            restorer.close()
