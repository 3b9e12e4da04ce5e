"""Encodes frames as H.264, HEVC or AV1 with PyAV's encoders."""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np
from av.codec.codec import UnknownCodecError
from av.codec.context import Flags
from av.container import OutputContainer

from binsr_jax.errors import UserError
from binsr_jax.video.colour import Coding, from_rgb
from binsr_jax.video.source import Video, output_coding

_FASTER = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium")
_X26 = (*_FASTER, "slow", "slower", "veryslow", "placebo")


@dataclass(frozen=True)
class Codec:
    """A codec for outputs.

    Attributes:
        encoder: FFmpeg's name of the encoder.
        crf: The default quality; a smaller number is better and gives a larger file.
        worst: The largest quality number.
        preset: The default compromise of speed and size.
        presets: All presets.
        even: Whether frames with halved chroma must have even sides.
        options: Other options of the encoder.
    """

    encoder: str
    crf: int
    worst: int
    preset: str
    presets: tuple[str, ...]
    even: bool
    options: tuple[tuple[str, str], ...] = ()


# The macroblock tree of x264 reads uninitialised memory, so it encodes the same frames differently
# from run to run: MALLOC_PERTURB_ shows it.
_STEADY = (("x264-params", "mbtree=0"),)
CODECS = {
    "h264": Codec("libx264", 18, 51, "medium", _X26, True, _STEADY),
    "hevc": Codec("libx265", 20, 51, "medium", _X26, True, (("x265-params", "log-level=error"),)),
    "av1": Codec("libsvtav1", 28, 63, "8", tuple(map(str, range(14))), False),
}


@dataclass(frozen=True)
class Encoding:
    """How the frames of an output are encoded.

    Attributes:
        codec: A key of ``CODECS``.
        crf: The quality.
        preset: The compromise of speed and size.
        width: The width of a frame.
        height: The height of a frame.
        form: FFmpeg's name of the pixel format.
        coding: The coding of colours.
        video: The input, whose time base, rate and colours the output has.
        notes: Short clauses about differences from the input.
    """

    codec: str
    crf: int
    preset: str
    width: int
    height: int
    form: str
    coding: Coding
    video: Video
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Packets:
    """Encoded frames, in decoding order.

    Attributes:
        times: Their time stamps, int64.
        keys: Whether each is a key frame, at which a decoder can start.
        data: The bytes of each.
        header: FFmpeg's extradata, which a decoder needs first.
    """

    times: np.ndarray
    keys: np.ndarray
    data: list[bytes]
    header: bytes


def encoding(
    video: Video, scale: int, codec: str, crf: int | None = None, preset: str | None = None
) -> Encoding:
    """The encoding of the output of a video.

    Args:
        video: The input.
        scale: The upscaling factor.
        codec: A key of ``CODECS``.
        crf: The quality; by default the codec's own.
        preset: The compromise of speed and size; by default the codec's own.

    Raises:
        UserError: This machine's PyAV has no such encoding.
    """
    kind = CODECS[codec]
    crf = kind.crf if crf is None else crf
    if not 0 <= crf <= kind.worst:
        raise UserError(f"--crf of {codec} is in 0..{kind.worst}, not {crf}.")
    preset = preset or kind.preset
    if preset not in kind.presets:
        raise UserError(f"{codec} has no preset {preset!r}: it has {', '.join(kind.presets)}.")
    coding, notes = output_coding(video.coding), list(video.notes)
    form = _form(coding)
    if form not in _forms(kind.encoder):
        coding = Coding(coding.matrix, coding.full, coding.bits)
        form = _form(coding)
        notes.append(f"its chroma is halved in both directions, as {codec} has it")
    width, height = scale * video.width, scale * video.height
    if kind.even:
        rows, columns = coding.halved
        padded = width + (columns and width % 2), height + (rows and height % 2)
        if padded != (width, height):
            notes.append(
                f"its last row or column is doubled, since {codec} has only even sides "
                f"({padded[0]}x{padded[1]})"
            )
        width, height = padded
    made = Encoding(codec, crf, preset, width, height, form, coding, video, tuple(notes))
    try:
        encode([], made)
    except av.error.FFmpegError as error:
        raise UserError(
            f"{kind.encoder} cannot encode {width}x{height} pixels in {form}: take another --codec "
            "or a smaller scale."
        ) from error
    return made


def encode(frames: Iterable[tuple[int, list[np.ndarray]]], made: Encoding) -> Packets:
    """Encodes frames that can be decoded without any other frame.

    The encoder gets the numbers of frames as time stamps, so that the same frames always give the
    same packets; see also ``CODECS``.

    Args:
        frames: The time stamp and the planes of each frame; see ``planes``.
        made: The encoding.
    """
    context: Any = av.CodecContext.create(CODECS[made.codec].encoder, "w")
    _set_up(context, made)
    context.framerate = made.video.rate
    context.open()
    packets, times = [], []
    for number, (time, planes) in enumerate(frames):
        times.append(time)
        packets += context.encode(_frame(number, planes, made))
    packets += context.encode(None)
    return Packets(
        np.array([times[packet.pts] for packet in packets], np.int64),
        np.array([packet.is_keyframe for packet in packets], bool),
        [bytes(packet) for packet in packets],
        context.extradata or b"",
    )


def add_stream(container: OutputContainer, made: Encoding) -> Any:
    """Adds a video stream for ``encode``'s packets to a container, and returns it."""
    stream: Any = container.add_stream(
        CODECS[made.codec].encoder, rate=made.video.rate, time_base=made.video.time_base
    )
    _set_up(stream.codec_context, made)
    if made.codec == "hevc" and container.format.name in ("mp4", "mov"):
        stream.codec_context.codec_tag = "hvc1"  # the tag that Apple's players expect
    if made.video.display is not None:
        stream.set_display_matrix(made.video.display)
    return stream


def planes(rgb: np.ndarray, made: Encoding) -> list[np.ndarray]:
    """The planes of a frame, from its colours: float32 ``[H, W, 3]`` in 0..1."""
    missing = made.height - rgb.shape[0], made.width - rgb.shape[1]
    if any(missing):
        rgb = np.pad(rgb, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return from_rgb(rgb, made.coding)


def available() -> list[str]:
    """The codecs that this machine's PyAV can write."""
    return [name for name, codec in CODECS.items() if _forms(codec.encoder)]


def _forms(encoder: str) -> set[str]:
    """The pixel formats that an encoder takes; none if PyAV has no such encoder."""
    with contextlib.suppress(UnknownCodecError):
        return {form.name for form in av.Codec(encoder, "w").video_formats or ()}
    return set()


def _form(coding: Coding) -> str:
    name = {(True, True): "yuv420p", (False, True): "yuv422p"}.get(coding.halved, "yuv444p")
    return name if coding.bits == 8 else f"{name}{coding.bits}le"


def _set_up(context: Any, made: Encoding) -> None:
    codec, video = CODECS[made.codec], made.video
    os.environ.setdefault("SVT_LOG", "1")  # only errors
    context.width, context.height, context.pix_fmt = made.width, made.height, made.form
    context.options = {"crf": str(made.crf), "preset": made.preset, **dict(codec.options)}
    context.sample_aspect_ratio = video.aspect or Fraction(0)
    context.color_range = 2 if made.coding.full else 1
    context.colorspace = made.coding.matrix
    context.time_base = 1 / video.rate
    context.color_primaries, context.color_trc = video.primaries, video.transfer
    context.flags |= Flags.global_header


def _frame(number: int, planes: list[np.ndarray], made: Encoding) -> av.VideoFrame:
    frame = av.VideoFrame(made.width, made.height, made.form)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((values.shape[0], plane.line_size // values.itemsize), values.dtype)
        rows[:, : values.shape[1]] = values
        plane.update(rows.tobytes())
    frame.pts, frame.time_base = number, 1 / made.video.rate
    return frame
