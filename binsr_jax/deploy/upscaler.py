"""Runs a packed network on images of any size and kind."""

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
from binsr_jax.deploy.loading import load_engine
from binsr_jax.deploy.picture_files import picture_of
from binsr_jax.deploy.tiles import Tile, least_pixels, plan
from binsr_jax.errors import NotFiniteError, TooLargeError, UserError
from binsr_jax.memory import available_memory
from binsr_jax.ops.image import grey_of_rgb
from binsr_jax.pretrained import NETWORKS

# The default network.
PRETRAINED = NETWORKS["x2"].file

# The default working memory of a tile; or a quarter of the available memory, if that is less.
DEFAULT_MEMORY = 2**30

_WHITE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65_535, np.dtype(np.float32): 1}
_NOISY = (-3, 4)  # contains images with noise of the largest sigma, but no image in 0..255


class TileEngine(Protocol):
    """Runs one or several networks on one tile, such as ``deploy.engine.Engine``.

    ``run`` maps float32 ``[h, w, channels]`` in 0..1 to ``[scale h, scale w, channels]``, not
    clipped. ``radius`` is the radius of the receptive field in input pixels, not counting means
    over the whole image (``global_pooling``). If ``run`` gets the result of ``pooled_of`` an image,
    it uses these means instead of the tile's own. ``overlap``, if not None, is a smaller radius
    with a nearly exact result. A tile must start at a multiple of ``stride`` to give the result of
    the whole image.
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
    """The plan for an image.

    Attributes:
        tiles: Its tiles.
        reduction: How many times the image is reduced to compute the means of
            squeeze-and-excitation over all of it; 1 if the means are exact, or not needed.
        overlap: The halo of a tile in pixels, if it is smaller than the receptive field, so that
            the result is not exact; 0 if it is exact.
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
    """Enlarges or restores images with one network; ``binsr_jax.load`` makes it from a model file.

    A network of scale 1 gives images of the same size. A network for grey images processes a colour
    image's luma and leaves its chroma unchanged.

    Args:
        engine: Runs the network.
        memory: Bytes of working memory for a tile.

    Attributes:
        scale: How many times larger the output is.
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
        """Enlarges an image of any size; large ones are processed in tiles, with the same result.

        Args:
            image: A Pillow image; or an array, uint8, uint16 or floats in 0..1, ``[H, W]`` or ``[H,
                W, C]`` with grey, grey and alpha, RGB or RGBA for C = 1 to 4. At scale 1 floats may
                exceed 0..1 as far as noise does, to -3 and 4.
            tile: The side of tiles, in pixels of ``image``; 0 chooses it by the memory.
            ensemble: Whether to average over the eight flips and rotations of the image, which
                takes eight times as long for a slightly better result.
            pre: Steps before the network, such as ``"median=0.5,clahe=0.3"``; see
                ``binsr_jax.enhance``. Alpha is not changed.
            post: Steps after the network, such as ``"unsharp=0.5,colour=1"``.

        Returns:
            An image of the same kind: an array of the same type and number of axes, floats clipped
            to 0..1; or a Pillow image in grey ("L", "I;16", "LA") or colour ("RGB", "RGBA"),
            upright, with the ICC profile; colours and alpha of 16 bits become 8, since Pillow has
            no mode for them. Alpha is enlarged by bicubic interpolation. Fully
            transparent pixels get the colours of the visible pixels around them.

        Raises:
            TypeError: The image is neither, or the array has another type.
            ValueError: The array has another shape, no pixels, or floats out of range.
            UserError: A Pillow image has an unsupported mode or a damaged file; there is too little
                memory; or a step is unknown.
        """
        before, after = enhance.parse(pre, "pre"), enhance.parse(post, "post")
        if isinstance(image, Image.Image):
            picture = picture_of(image)
            work = self.plan(*picture.pixels.shape[:2], tile=tile, pre=before)
            pixels, given = self.prepared(picture.pixels, before, after)
            canvas = pictures.canvas(picture, self.scale)
            assert isinstance(canvas, Image.Image)  # as of any picture from ``picture_of``
            for piece in self.run(pixels, work, ensemble=ensemble):
                pictures.paste(canvas, piece.rows, piece.columns, piece.pixels)
            pictures.enhance_canvas(canvas, after, given)
            pictures.finish(canvas, picture)
            if picture.profile is not None:
                canvas.info["icc_profile"] = picture.profile
            return canvas
        return self._upscale_array(image, tile, ensemble, before, after)

    def prepared(
        self, pixels: np.ndarray, pre: Sequence[enhance.Step], post: Sequence[enhance.Step]
    ) -> tuple[np.ndarray, enhance.Input | None]:
        """An image after the steps before the network, and the data that the steps after it need.

        Args:
            pixels: See ``run``.
            pre: Steps before the network.
            post: Steps after it.
        """
        pixels = enhance.enhance(pixels, pre)
        if not post:
            return pixels, None
        colours = enhance.colours_of(enhance.rows_of(pixels), len(pixels))
        return pixels, enhance.Input(colours, self.scale)

    def plan(
        self,
        height: int,
        width: int,
        *,
        tile: int = 0,
        pre: Sequence[enhance.Step] = (),
        deep: bool = False,
    ) -> Work:
        """Cuts an image into tiles of a given side; with ``tile=0`` the memory decides it.

        ``pre``, the steps before the network, and ``deep``, whether a picture has several channels
        of 16 bits, only count for the memory.

        Raises:
            ValueError: There are no pixels, or the side is negative.
            UserError: The output does not fit into the machine's memory, or a tile into the budget.
        """
        if tile < 0:
            raise ValueError(f"a tile has a side of at least 1 pixel, not {tile}")
        self.require_memory(height, width, pre, deep)
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

    def require_memory(
        self, height: int, width: int, pre: Sequence[enhance.Step] = (), deep: bool = False
    ) -> None:
        """Raises TooLargeError if the machine has too little memory for an image and its output."""
        # Pillow takes 4 bytes per pixel, and its encoders up to as much again; with 16 bits for
        # each of up to 4 channels it is twice as much.
        bytes_per_pixel = (16 if deep else 8) * (1 + self.scale**2) + enhance.bytes_per_pixel(pre)
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
        """Yields the output of each tile of an image; together they cover the whole output.

        Args:
            pixels: uint8, uint16, or float32 in 0..1, ``[H, W, C]`` with C = 1 or 3.
            work: Its tiles, from ``plan``.
            ensemble: See ``upscale``.

        Raises:
            NotFiniteError: The network's weights are damaged.
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
            y = functools.reduce(np.add, results)
            if ensemble:
                y = y / np.float32(len(symmetries))
            if pixels.shape[-1] == 3 and y.shape[-1] == 1:
                # Added equally to R, G and B, it changes only luma and no colour difference.
                y = seen + (y - x)
            rows, columns = (
                slice(self.scale * kept.start, self.scale * kept.stop) for kept in tile.kept
            )
            top, left = (self.scale * seen.start for seen in tile.seen)
            y = y[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            if pixels.shape[-1] == 1 and y.shape[-1] == 3:
                y = grey_of_rgb(y)
            if not np.isfinite(y).all():
                raise NotFiniteError
            y = np.clip(y, 0, 1)  # an array of its own, which is changed in place
            y *= np.float32(white)
            if pixels.dtype != np.float32:
                np.rint(y, out=y)
            yield Piece(rows, columns, y.astype(pixels.dtype))

    @property
    def _bytes_per_pixel(self) -> float:
        """Working memory per pixel of a tile: the engine's, and three float copies of output."""
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
        file: A model file, or the name of a packaged network (``binsr models`` lists them); the
            default enlarges twice.
        memory: Bytes of working memory for a tile; by default 1 GiB, or a quarter of the available
            memory if that is less. Images and their outputs need memory in addition.

    Raises:
        UserError: The file is missing, broken or from a later version.
    """
    return Upscaler(load_engine(file), memory)


_Turn = Callable[[np.ndarray], np.ndarray]


def _symmetry(quarters: int, flipped: bool) -> tuple[_Turn, _Turn]:
    """A flip and rotation of images ``[H, W, C]``, and its inverse."""

    def turn(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(x[:, ::-1] if flipped else x, quarters))

    def turn_back(x: np.ndarray) -> np.ndarray:
        x = np.rot90(x, -quarters)
        return x[:, ::-1] if flipped else x

    return turn, turn_back


# The eight symmetries of the square; the first is the identity.
_SYMMETRIES = [_symmetry(quarters, flipped) for flipped in (False, True) for quarters in range(4)]


def _reduced(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means over blocks of ``factor x factor``: float32, without incomplete blocks."""
    H, W = (max(1, length // factor) for length in pixels.shape[:2])
    small = np.empty((H, W, pixels.shape[-1]), np.float32)
    for i in range(H):  # one row of blocks at a time avoids a float copy of the image
        rows = pixels[i * factor : (i + 1) * factor, : W * factor]
        columns = np.add.reduceat(
            rows, np.arange(0, rows.shape[1], factor), axis=1, dtype=np.float64
        )
        small[i] = columns.mean(axis=0) / min(factor, rows.shape[1])
    return small


def _gib(amount: float) -> str:
    return f"{amount / 2**30:.2g} GiB"
