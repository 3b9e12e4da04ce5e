"""Aligns a face in a square, finds the boxes of its parts, and pastes the square back."""

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from binsr_jax.models.dfdnet import PARTS, SIDE

# Where the outer and inner corners of the eyes and the base of the nose lie in an aligned face:
# these landmarks in the square of FFHQ's faces, which DFDNet was trained on.
_CORNERS = (36, 39, 42, 45, 33)
_TEMPLATE = (
    np.array(
        [
            (337.91089109, 488.38613861),
            (437.95049505, 493.51485149),
            (586.77227723, 493.59405941),
            (686.77227723, 488.62376238),
            (513.58415842, 678.5049505),
        ]
    )
    * SIDE
    / 1024
)
# The landmarks of each of ``PARTS``: brow and eye, nose below its bridge, lips.
_LANDMARKS = {
    "left_eye": (*range(17, 22), *range(36, 42)),
    "right_eye": (*range(22, 27), *range(42, 48)),
    "nose": tuple(range(29, 36)),
    "mouth": tuple(range(48, 68)),
}
_LEAST_HALF_SIDE = 16
# The mask of a pasted face is 0 up to the first distance from the square's edge, and 1 from the
# second on.
_MASK_FROM, _MASK_TO = 16, 80


def alignment(landmarks: np.ndarray) -> Any:
    """The similarity transform, of scikit-image, from a picture to the square of its aligned face.

    Args:
        landmarks: ``[68, 2]``: x and y in the picture.
    """
    # Imported when it is needed, since it is not quick.
    transforms: Any = importlib.import_module("skimage.transform")
    return transforms.SimilarityTransform.from_estimate(landmarks[list(_CORNERS)], _TEMPLATE)


def part_boxes(landmarks: np.ndarray) -> np.ndarray:
    """The boxes of the parts of an aligned face.

    A box is a square around the mean of the part's landmarks, as large as their extent and at least
    32 pixels. A box beyond the image is moved inside, and cut if it is larger than the image.

    Args:
        landmarks: ``[68, 2]``: x and y in the aligned face.

    Returns:
        int32 ``[4, 4]``: x1, y1, x2, y2 of each of ``PARTS``; the second pair is exclusive.
    """
    boxes = np.empty((len(PARTS), 4), np.int32)
    for i, part in enumerate(PARTS):
        points = landmarks[list(_LANDMARKS[part])]
        centre = points.mean(axis=0)
        half = max(np.ptp(points, axis=0).max() / 2, _LEAST_HALF_SIDE)
        start, stop = np.trunc(centre - half + 1), np.trunc(centre + half)
        shift = np.maximum(-start, 0) - np.maximum(stop - SIDE, 0)
        boxes[i] = np.clip([*(start + shift), *(stop + shift)], 0, SIDE)
    return boxes


def aligned_face(pixels: np.ndarray, transform: Any) -> np.ndarray:
    """Cuts out a face; pixels beyond the picture are mirrored.

    Args:
        pixels: ``[H, W, C]`` of any type.
        transform: From ``alignment``.

    Returns:
        float32 ``[512, 512, C]``, in the range of the pixels, except for overshoot of the
        interpolation.
    """
    rows, columns = _region(pixels, transform, margin=4 + 4 / transform.scale)
    to_region = np.linalg.inv(_from_region(rows, columns, transform))
    return _sampled(pixels[rows, columns], to_region, (SIDE, SIDE), "reflect")


def pasted(
    pixels: np.ndarray, face: np.ndarray, transform: Any
) -> tuple[tuple[slice, slice], np.ndarray]:
    """A picture with an aligned face back in its place, under a mask with soft edges.

    Args:
        pixels: uint8 or uint16, ``[H, W, C]``.
        face: Float ``[512, 512, C]``, in the range of the pixels.
        transform: From ``alignment``.

    Returns:
        The slices of the rows and columns that change, and their new pixels, of the same type.
    """
    rows, columns = _region(pixels, transform, margin=1)
    to_face = _from_region(rows, columns, transform)
    old = pixels[rows, columns].astype(np.float32)
    placed = _sampled(face, to_face, old.shape[:2], "nearest")
    mask = _sampled(_mask()[..., None], to_face, old.shape[:2], "constant")
    new = np.clip(old + np.clip(mask, 0, 1) * (placed - old), 0, np.iinfo(pixels.dtype).max)
    return (rows, columns), np.rint(new).astype(pixels.dtype)


@functools.cache
def _mask() -> np.ndarray:
    """The weight of each pixel of the pasted face: ``[512, 512]``, smooth, 0 to 1."""
    place = np.arange(SIDE)
    distance = np.minimum(place, SIDE - 1 - place)
    ramp = np.clip((distance - _MASK_FROM) / (_MASK_TO - _MASK_FROM), 0, 1)
    ramp = ramp**2 * (3 - 2 * ramp)
    return np.outer(ramp, ramp)


def _region(pixels: np.ndarray, transform: Any, margin: float) -> tuple[slice, slice]:
    """The rows and columns of a picture that an aligned face covers, and a margin around."""
    corners = transform.inverse(np.array([(x, y) for x in (0, SIDE - 1) for y in (0, SIDE - 1)]))
    rows, columns = (_clipped(corners[:, axis], pixels.shape[1 - axis], margin) for axis in (1, 0))
    return rows, columns


def _clipped(places: np.ndarray, length: int, margin: float) -> slice:
    """The pixels of a picture's side from the first to the last of some places, and around."""
    start = min(max(int(np.floor(places.min() - margin)), 0), length - 1)
    return slice(start, max(min(int(np.ceil(places.max() + margin)) + 1, length), start + 1))


def _from_region(rows: slice, columns: slice, transform: Any) -> np.ndarray:
    """The matrix of a transform from x, y, 1 in a part of the picture to those in the face."""
    return transform.params @ _scaled_and_moved((1, 1), (columns.start, rows.start))


def _scaled_and_moved(factors: Sequence[float], offsets: Sequence[float]) -> np.ndarray:
    """The matrix that takes (x, y, 1) to ``factors * (x, y) + offsets``, and 1."""
    matrix = np.diag([*factors, 1.0])
    matrix[:2, 2] = offsets
    return matrix


def _sampled(
    image: np.ndarray, to_image: np.ndarray, shape: tuple[int, ...], mode: str
) -> np.ndarray:
    """Pixels ``[*shape, C]`` from their places in an image ``[H, W, C]``, by cubic splines.

    An image that this would reduce is reduced before, with a filter against aliasing.

    Args:
        image: Of any type.
        to_image: Takes x, y, 1 of the result to those of the image.
        shape: Of the result.
        mode: What lies beyond the image: a mode of ``scipy.ndimage``.
    """
    image = image.astype(np.float32)
    shrinks = np.hypot(*to_image[:2, 0])
    if shrinks > 1:
        old = np.array(image.shape[1::-1])
        new = np.maximum(1, np.rint(old / shrinks)).astype(int)
        planes = [
            np.asarray(Image.fromarray(plane).resize(tuple(new), Image.Resampling.LANCZOS))
            for plane in np.moveaxis(image, -1, 0)
        ]
        image = np.stack(planes, axis=-1)
        factors = new / old
        to_image = _scaled_and_moved(factors, factors / 2 - 0.5) @ to_image
    # SciPy counts rows first.
    matrix = to_image[1::-1, 1::-1]
    offset: Any = to_image[1::-1, 2]  # SciPy takes an array, though its signature says a float
    return np.stack(
        [
            ndimage.affine_transform(plane, matrix, offset, shape, mode=mode)
            for plane in np.moveaxis(image, -1, 0)
        ],
        axis=-1,
    )
