"""Rows of numbers in files: one JSON object per line."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def json_line(row: Row) -> str:
    """A row as a line of JSON, which has no infinity: the PSNR of equal images is ``null``."""
    return json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n"


def encoded(lines: str) -> bytes:
    """Lines of JSON as bytes; file names that are not UTF-8 become JSON escapes."""
    return lines.encode("utf-8", "backslashreplace")


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; incomplete lines, such as a killed process leaves, are dropped."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
    return rows


def _finite(value: Any) -> Any:
    """The value, with None in place of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
