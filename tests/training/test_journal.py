"""What TensorBoard shows of latent weights."""

import numpy as np
from tensorboardX.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue]  # made at import by protobuf
)

from binsr_jax.training.journal import Journal


def _values(workdir):
    """{(tag, step): summary value} of the TensorBoard files of a work dir."""
    values = {}
    for path in (workdir / "tensorboard").iterdir():
        content, start = path.read_bytes(), 0
        while start < len(content):  # a record: length, its checksum, the event, its checksum
            length = int.from_bytes(content[start : start + 8], "little")
            event = Event.FromString(content[start + 12 : start + 12 + length])
            start += length + 16
            values |= {(value.tag, event.step): value for value in event.summary.value}
    return values


def test_histograms_of_latent_weights_and_the_share_of_flipped_signs(tmp_path):
    kernel = np.array([[0.5, -0.25, 0.0], [1.0, -1.0, 0.125]], np.float32)
    with Journal(tmp_path, 0, 10) as journal:
        journal.latent_weights(2, {"a/conv": kernel, "b/conv": kernel})
        journal.latent_weights(4, {"a/conv": kernel * [1, -1, 1], "b/conv": kernel / 2})
    values = _values(tmp_path)
    histogram = values["latent/a/conv", 2].histo
    assert (histogram.num, histogram.min, histogram.max) == (6, -1, 1)
    flips = {key: value.simple_value for key, value in values.items() if "sign_flips" in key[0]}
    assert flips == {("sign_flips/a/conv", 4): np.float32(2 / 6), ("sign_flips/b/conv", 4): 0}


def test_a_network_without_binary_layers_shows_none(tmp_path):
    with Journal(tmp_path, 0, 10) as journal:
        journal.latent_weights(2, {})
    assert _values(tmp_path) == {}
