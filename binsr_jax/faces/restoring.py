"""Restores the faces of pictures."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from binsr_jax.errors import NotFiniteError
from binsr_jax.faces.alignment import aligned_face, alignment, part_boxes, pasted

# Maps an aligned face, float32 [512, 512, 3] in 0..1, and the boxes of its parts to a new face.
FaceNetwork = Callable[[np.ndarray, np.ndarray], np.ndarray]

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # luma (ITU-R BT.601)


class Finder(Protocol):
    """Finds faces; ``faces.finding.FaceFinder`` implements it."""

    def find(self, pixels: np.ndarray) -> list[np.ndarray]: ...


def restore_faces(
    pixels: np.ndarray,
    finder: Finder,
    network: FaceNetwork,
    progress: Callable[[int, int], None] = lambda done, faces: None,
) -> tuple[np.ndarray, int]:
    """Restores all faces of a picture; the rest stays the same, bit for bit.

    Each face is rotated upright into a square of 512 pixels, restored, and pasted back under a mask
    with soft edges.

    Args:
        pixels: uint8 or uint16, ``[H, W, 1]`` (grey) or ``[H, W, 3]`` (RGB). Not changed.
        finder: Finds the faces.
        network: Restores one face.
        progress: Called with the number of finished faces and the number of faces.

    Returns:
        The picture (``pixels`` itself if there are no faces), and the number of faces.
    """
    white = np.float32(np.iinfo(pixels.dtype).max)
    faces = finder.find(_seen(pixels))
    result = pixels.copy() if faces else pixels
    for i, landmarks in enumerate(faces):
        progress(i, len(faces))
        transform = alignment(landmarks)
        # From the original picture: if two faces overlap, neither sees the other restored.
        face = np.clip(aligned_face(pixels, transform) / white, 0, 1)
        colour = np.repeat(face, 3, axis=-1) if face.shape[-1] == 1 else face
        restored = network(colour, part_boxes(transform(landmarks)))
        if not np.isfinite(restored).all():
            raise NotFiniteError
        restored = np.clip(restored, 0, 1)
        if face.shape[-1] == 1:
            restored = (restored @ _GREY)[..., None]
        place, new = pasted(result, restored * white, transform)
        result[place] = new
    progress(len(faces), len(faces))
    return result, len(faces)


def _seen(pixels: np.ndarray) -> np.ndarray:
    """The picture in the form that a finder takes: uint8 ``[H, W, 3]``."""
    eight = pixels if pixels.dtype == np.uint8 else (pixels // 257).astype(np.uint8)
    return np.repeat(eight, 3, axis=-1) if eight.shape[-1] == 1 else eight
