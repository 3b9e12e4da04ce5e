"""A packed network as a function of images of any size and kind."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from PIL import Image

from binsr_jax import enhance
from binsr_jax.deploy import pictures
from binsr_jax.deploy.alpha import filled
from binsr_jax.deploy.engine import Engine
from binsr_jax.deploy.model_file import load_model_file
from binsr_jax.deploy.picture_files import picture_of
from binsr_jax.deploy.tiles import Tile, least_pixels, plan
from binsr_jax.errors import TooLargeError, UserError
from binsr_jax.memory import available_memory
from binsr_jax.ops.image import grey_of_rgb
from binsr_jax.pretrained import NETWORKS, file_of

# The network that is taken unless another is named.
PRETRAINED = NETWORKS["x2"].file

# The working memory of a tile unless another is asked for; or a quarter of what is available, if
# that is less.
DEFAULT_MEMORY = 2**30

_WHITE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65_535, np.dtype(np.float32): 1}
_NOISY = (-3, 4)  # an image with noise of the largest sigma lies within, one in 0..255 never


class TileEngine(Protocol):
    """What runs a network on one tile: ``deploy.engine.Engine``, or whatever has the same.

    ``run`` takes float32 ``[h, w, channels]`` in 0..1 to ``[scale h, scale w, channels]``, not
    clipped. ``radius`` is how many pixels of its input an output pixel depends on in each
    direction, apart from means over the whole image (``global_pooling``): those ``pooled_of`` an
    image are used instead of the tile's own where they are given. ``overlap``, if it is not None,
    is how many are enough for a result that is nearly exact. A tile that does not start at a
    multiple of ``stride`` is worked differently.
    """

    @property
    def scale(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def radius(self) -> int: ...
    @property
    def overlap(self) -> int | None: ...
    @property
    def stride(self) -> int: ...
    @property
    def global_pooling(self) -> bool: ...
    @property
    def bytes_per_pixel(self) -> float: ...
    def pooled_of(self, image: np.ndarray) -> Any: ...
    def run(self, image: np.ndarray, pooled: Any = None) -> np.ndarray: ...


@dataclass(frozen=True)
class Work:
    """How an image is worked.

    Attributes:
        tiles: its pieces.
        reduction: how many times the image is reduced before a network with squeeze-and-excitation
            takes the means of all of it; 1 where these are exact, or there is none.
        overlap: by how many pixels a tile goes beyond what is kept of it, where that is less than
            the network looks, so that the result is not exact; 0 where it is.
    """

    tiles: list[Tile]
    reduction: int = 1
    overlap: int = 0


@dataclass(frozen=True)
class Piece:
    """A finished part of the output: its place there, and its pixels ``[h, w, C]``."""

    rows: slice
    columns: slice
    pixels: np.ndarray


class Upscaler:
    """Enlarges or restores images with one network; ``binsr_jax.load`` makes it of a model file.

    A network of scale 1 gives images of the same size. One for grey images works a colour image's
    luma, and leaves its chroma as it is.

    Args:
        engine: runs the network.
        memory: bytes of working memory for a tile.

    Attributes:
        scale: how many times larger the output is.
    """

    def __init__(self, engine: TileEngine, memory: int | None = None) -> None:
        self._engine = engine
        self._memory = memory or min(DEFAULT_MEMORY, (available_memory() or math.inf) // 4)
        self.scale = engine.scale

    @overload
    def upscale(
        self,
        image: np.ndarray,
        *,
        tile: int = 0,
        ensemble: bool = False,
        pre: str = "",
        post: str = "",
    ) -> np.ndarray: ...

    @overload
    def upscale(
        self,
        image: Image.Image,
        *,
        tile: int = 0,
        ensemble: bool = False,
        pre: str = "",
        post: str = "",
    ) -> Image.Image: ...

    def upscale(
        self,
        image: np.ndarray | Image.Image,
        *,
        tile: int = 0,
        ensemble: bool = False,
        pre: str = "",
        post: str = "",
    ) -> np.ndarray | Image.Image:
        """Enlarges an image, of any size: large ones are worked in tiles, with the same result.

        Args:
            image: a Pillow image; or an array, uint8, uint16 or floats in 0..1, ``[H, W]`` or
                ``[H, W, C]`` with grey, grey and alpha, RGB or RGBA for C = 1 to 4. At scale 1
                floats may go beyond 0..1 as far as noise does, to -3 and 4.
            tile: the side of tiles, in pixels of ``image``; 0 chooses it by the memory.
            ensemble: whether to average over the eight flips and rotations of the image, which
                takes eight times as long for a slightly better result.
            pre: what is done to the image before, such as ``"median=0.5,clahe=0.3"``; see
                ``binsr_jax.enhance``. Alpha stays as it is.
            post: what is done to the result after, such as ``"unsharp=0.5,colour=1"``.

        Returns:
            The same kind: an array of the same type and number of axes, floats clipped to 0..1; or
            a Pillow image in grey ("L", "I;16", "LA") or colour ("RGB", "RGBA"), upright, with the
            ICC profile. Alpha is enlarged by bicubic interpolation; what is wholly clear is
            taken in the colours of the visible pixels around it.

        Raises:
            TypeError: the image is neither, or the array of another type.
            ValueError: the array has another shape, no pixels, or floats out of 0..1.
            UserError: a Pillow image of a mode that cannot be restored, or of a damaged file; too
                little memory; or steps that there are not.
        """
        before, after = enhance.parse(pre, "pre"), enhance.parse(post, "post")
        if isinstance(image, Image.Image):
            picture = picture_of(image)
            work = self.plan(*picture.pixels.shape[:2], tile=tile, pre=before)
            pixels, given = self.prepared(picture.pixels, before, after)
            canvas = pictures.canvas(picture, self.scale)
            for piece in self.run(pixels, work, ensemble=ensemble):
                pictures.paste(canvas, piece.rows, piece.columns, piece.pixels)
            pictures.enhance_canvas(canvas, after, given)
            pictures.finish(canvas, picture)
            return canvas
        return self._upscale_array(image, tile, ensemble, before, after)

    def prepared(
        self, pixels: np.ndarray, pre: Sequence[enhance.Step], post: Sequence[enhance.Step]
    ) -> tuple[np.ndarray, enhance.Input | None]:
        """An image after the steps before the network, and what those after it will want to know.

        Args:
            pixels: as in ``run``.
            pre: steps before the network.
            post: steps after it.
        """
        pixels = enhance.enhance(pixels, pre)
        if not post:
            return pixels, None
        colours = enhance.colours_of(enhance.rows_of(pixels), len(pixels))
        return pixels, enhance.Input(colours, self.scale)

    def plan(
        self, height: int, width: int, *, tile: int = 0, pre: Sequence[enhance.Step] = ()
    ) -> Work:
        """Cuts an image into tiles of a side, or with ``tile=0`` such as the memory allows.

        ``pre``, the steps before the network, count for the memory alone.

        Raises:
            ValueError: there are no pixels, or the side is negative.
            UserError: the output does not fit the machine's memory, or not one tile the budget.
        """
        if tile < 0:
            raise ValueError(f"a tile has a side of at least 1 pixel, not {tile}")
        self.require_memory(height, width, pre)
        radius, pixels = self._engine.radius, int(self._memory / self._bytes_per_pixel)
        least = (tile + 2 * radius) ** 2 if tile else least_pixels(radius)
        overlap = self._engine.overlap
        near = overlap is not None and overlap < radius and pixels < min(height * width, least)
        if near:
            assert overlap is not None
            radius = overlap
        if not tile and pixels < min(height * width, least_pixels(radius)):
            least = math.ceil(least_pixels(radius) * self._bytes_per_pixel)
            raise UserError(
                f"A memory budget of {_gib(self._memory)} is too small for this model: give it at "
                f"least {_gib(least)} with --memory."
            )
        stride = self._engine.stride
        tiles = plan(height, width, radius, side=tile, pixels=pixels, stride=stride)
        overlap = radius if near and len(tiles) > 1 else 0
        if not self._engine.global_pooling or len(tiles) == 1:
            return Work(tiles, overlap=overlap)
        reduction = math.ceil(math.sqrt(max(1, height * width / max(1, pixels))))
        return Work(tiles, reduction, overlap)

    def require_memory(self, height: int, width: int, pre: Sequence[enhance.Step] = ()) -> None:
        """Raises TooLargeError if the machine has too little memory for an image and its output."""
        # Pillow takes 4 bytes a pixel, and its encoders up to as much again.
        bytes_per_pixel = 8 + 8 * self.scale**2 + enhance.bytes_per_pixel(pre)
        needed = height * width * bytes_per_pixel + self._memory
        available = available_memory()
        if available is not None and needed > available:
            work = f"{width}x{height} pixels"
            work = f"Enlarging {work} {self.scale} times" if self.scale > 1 else f"Restoring {work}"
            raise TooLargeError(
                f"{work} takes {_gib(needed)} of memory, but only {_gib(available)} are available; "
                "cut the image into parts."
            )

    def run(self, pixels: np.ndarray, work: Work, *, ensemble: bool = False) -> Iterator[Piece]:
        """Works through the tiles of an image; together the pieces are the whole output.

        Args:
            pixels: uint8, uint16, or float32 in 0..1, ``[H, W, C]`` with C = 1 or 3.
            work: its tiles, from ``plan``.
            ensemble: see ``upscale``.
        """
        white = _WHITE[pixels.dtype]
        symmetries = _SYMMETRIES if ensemble else _SYMMETRIES[:1]
        pooled: list[Any] = [None] * len(symmetries)
        if self._engine.global_pooling and len(work.tiles) > 1:
            small = self._as_input(_reduced(pixels, work.reduction) / np.float32(white))
            pooled = [self._engine.pooled_of(turn(small)) for turn, _ in symmetries]
        for tile in work.tiles:
            seen = pixels[tile.seen].astype(np.float32) / np.float32(white)
            x = self._as_input(seen)
            results = (
                turn_back(self._engine.run(turn(x), means))
                for (turn, turn_back), means in zip(symmetries, pooled, strict=True)
            )
            y = functools.reduce(np.add, results) / np.float32(len(symmetries))
            if pixels.shape[-1] == 3 and y.shape[-1] == 1:
                # Added to R, G and B alike it changes luma by as much, and no colour difference.
                y = seen + (y - x)
            rows, columns = (
                slice(self.scale * kept.start, self.scale * kept.stop) for kept in tile.kept
            )
            top, left = (self.scale * seen.start for seen in tile.seen)
            y = y[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            if pixels.shape[-1] == 1 and y.shape[-1] == 3:
                y = grey_of_rgb(y)
            y = np.clip(y, 0, 1) * np.float32(white)
            if pixels.dtype != np.float32:
                y = np.rint(y)
            yield Piece(rows, columns, y.astype(pixels.dtype))

    @property
    def _bytes_per_pixel(self) -> float:
        """Working memory for a pixel of a tile: the engine's, and three float copies of output."""
        copies = 3 * self._engine.channels * self.scale**2 + self._engine.channels
        return self._engine.bytes_per_pixel + 4 * copies

    def _as_input(self, x: np.ndarray) -> np.ndarray:
        """The image with as many channels as the network has."""
        if x.shape[-1] == 1 and self._engine.channels == 3:
            return np.repeat(x, 3, axis=-1)
        if x.shape[-1] == 3 and self._engine.channels == 1 and self.scale == 1:
            return grey_of_rgb(x)
        if x.shape[-1] != self._engine.channels:
            raise UserError(
                "This model enlarges grey images only; convert the image to grey, or take a model "
                "for colour."
            )
        return x

    def _upscale_array(
        self,
        image: np.ndarray,
        tile: int,
        ensemble: bool,
        pre: Sequence[enhance.Step],
        post: Sequence[enhance.Step],
    ) -> np.ndarray:
        if not isinstance(image, np.ndarray):
            raise TypeError(f"an image is an array or a Pillow image, not {type(image).__name__}")
        floats = np.issubdtype(image.dtype, np.floating)
        if not floats and image.dtype not in _WHITE:
            raise TypeError(f"an image is uint8, uint16 or floats in 0..1, not {image.dtype}")
        channels = image.shape[2] if image.ndim == 3 else 1
        if image.ndim not in (2, 3) or channels not in (1, 2, 3, 4) or not image.size:
            raise ValueError(f"an image is [H, W] or [H, W, 1 to 4], not {list(image.shape)}")
        least, most = _NOISY if self.scale == 1 else (0, 1)
        if floats and not (image.min() >= least and image.max() <= most):
            raise ValueError("a float image is in 0..1: divide one in 0..255 by 255")
        pixels = image.reshape(*image.shape[:2], channels)
        pixels = pixels.astype(np.float32) if floats else pixels
        colours = 1 if channels < 3 else 3
        height, width = (self.scale * length for length in image.shape[:2])
        work = self.plan(*image.shape[:2], tile=tile, pre=pre)
        output = np.empty((height, width, channels), image.dtype)
        colour = pixels[..., :colours]
        if channels > colours:
            colour = filled(colour, pixels[..., colours])
        colour, before = self.prepared(colour, pre, post)
        for piece in self.run(colour, work, ensemble=ensemble):
            output[piece.rows, piece.columns, :colours] = piece.pixels
        output[..., :colours] = enhance.enhance(output[..., :colours], post, before)
        if channels > colours:
            output[..., colours] = pictures.bicubic(pixels[..., colours], self.scale)
        return output.reshape(height, width, *image.shape[2:])


def load(file: str | Path = PRETRAINED, *, memory: int | None = None) -> Upscaler:
    """Loads a packed model (``binsr pack`` makes one) to enlarge images with it.

    Args:
        file: a model file, or the name of a packaged network (``binsr models`` lists them); by
            default the one that enlarges twice.
        memory: bytes of working memory for a tile; 1 GiB by default, or a quarter of what is
            available if that is less. Images and their outputs come on top.

    Raises:
        UserError: the file is missing, broken or of a later version.
    """
    return Upscaler(Engine(load_model_file(file_of(file))), memory)


_Turn = Callable[[np.ndarray], np.ndarray]


def _symmetry(quarters: int, flipped: bool) -> tuple[_Turn, _Turn]:
    """A flip and rotation of images ``[H, W, C]``, and what undoes it."""

    def turn(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(x[:, ::-1] if flipped else x, quarters))

    def turn_back(x: np.ndarray) -> np.ndarray:
        x = np.rot90(x, -quarters)
        return x[:, ::-1] if flipped else x

    return turn, turn_back


# The eight symmetries of the square; the first changes nothing.
_SYMMETRIES = [_symmetry(quarters, flipped) for flipped in (False, True) for quarters in range(4)]


def _reduced(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means over blocks of ``factor x factor``: float32, without what does not fill a block."""
    H, W = (max(1, length // factor) for length in pixels.shape[:2])
    small = np.empty((H, W, pixels.shape[-1]), np.float32)
    for i in range(H):  # a row of blocks at a time, not to copy the image as floats
        rows = pixels[i * factor : (i + 1) * factor, : W * factor]
        columns = np.add.reduceat(
            rows, np.arange(0, rows.shape[1], factor), axis=1, dtype=np.float64
        )
        small[i] = columns.mean(axis=0) / min(factor, rows.shape[1])
    return small


def _gib(amount: float) -> str:
    return f"{amount / 2**30:.2g} GiB"
