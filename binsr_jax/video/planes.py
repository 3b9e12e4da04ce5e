"""The planes of a decoded frame as arrays."""

from typing import Any, cast

import av
import numpy as np
from av.video.reformatter import ColorRange


def planar(form: av.VideoFormat) -> str:
    """The name of the format with the same channels and depth, in a plane for each channel."""
    bits = max(component.bits for component in form.components)
    depth = "" if bits <= 8 else "10le" if bits <= 10 else "12le"
    if form.is_rgb or form.has_palette or form.is_bayer:
        return "gbrp" + depth
    if len(form.components) < 3:
        return "gray" + depth
    chroma = form.chroma_width(16), form.chroma_height(16)
    name = {(8, 8): "yuv420p", (8, 16): "yuv422p"}.get(chroma, "yuv444p")
    return name + depth


def planes_of(frame: av.VideoFrame) -> tuple[np.ndarray, ...]:
    """The planes of a frame, ``[H, W]`` each; ``colour.to_rgb`` makes an image of them."""
    form = planar(frame.format)
    if frame.format.name.replace("yuvj", "yuv") != form:
        # With the same range on both sides, FFmpeg leaves the numbers as they are.
        same = ColorRange.MPEG
        frame = frame.reformat(format=form, src_color_range=same, dst_color_range=same)
    dtype = np.uint8 if form[-2:] != "le" else np.dtype("<u2")
    return tuple(
        np.frombuffer(memoryview(cast(Any, plane)), dtype)
        .reshape(plane.height, -1)[:, : plane.width]
        .copy()
        for plane in frame.planes
    )
