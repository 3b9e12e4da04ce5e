"""Model files taken apart and put together again, and the sentence that they are refused with."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from binsr_jax.deploy.model_file import (
    load_model_file,
)
from binsr_jax.errors import UserError


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the tensors of a file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def described(content: bytes, change) -> bytes:
    """The file with another description."""
    header, data = split(content)
    description = json.loads(header["__metadata__"]["binsr"])
    change(description)
    header["__metadata__"]["binsr"] = json.dumps(description)
    return joined(header, data)


def refusal(content: bytes, folder: Path) -> str:
    """The sentence that a file is refused with."""
    path = folder / "broken.binsr"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_model_file(path)
    sentence = str(caught.value)
    assert sentence.startswith(str(path))
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert len(sentence) < len(str(path)) + 400
    return sentence
