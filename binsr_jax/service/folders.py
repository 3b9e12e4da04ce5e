"""Private folders for visitors' pictures, and safe file names in them."""

import os
import re
import tempfile
from pathlib import Path

from binsr_jax.deploy.listing import Job, plan_jobs
from binsr_jax.image_files import IMAGE_SUFFIXES

_LONGEST = 100  # characters of a name


def new_folder(parent: Path | None = None) -> "tempfile.TemporaryDirectory[str]":
    """A folder that no other user of the machine can read; ``cleanup`` removes it."""
    return tempfile.TemporaryDirectory(prefix="binsr-", dir=parent, ignore_cleanup_errors=True)


def safe_name(name: str) -> str:
    """A safe file name for a name that a visitor sent: without folders and special characters."""
    base = re.split(r"[/\\]", name)[-1]
    stem, ending = os.path.splitext(base)
    stem = re.sub(r"[^\w .()+-]", "_", stem).strip(" .")[:_LONGEST]
    return (stem or "picture") + (ending.lower() if ending.lower() in IMAGE_SUFFIXES else "")


def jobs_in(folder: Path, files: list[Path], suffix: str, form: str | None) -> list[Job]:
    """Jobs with results in the subfolder ``out`` of a folder; see ``deploy.listing.plan_jobs``."""
    return plan_jobs(files, f"{folder / 'out'}/", suffix, form)
