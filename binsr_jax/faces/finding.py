"""Finds faces and their landmarks in pictures, with dlib."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from binsr_jax.errors import UserError

# The default longest side of the picture in the face search. The detector finds faces from about 80
# pixels on.
SEARCH_SIDE = 1280

_MOST_ENLARGED = 4  # a larger factor finds nothing more
_EXTRA = "pip install 'binsr-jax[faces]'"


class FaceFinder:
    """Finds faces; loads dlib and its two networks when it is created.

    Args:
        search_side: The longest side of the picture in the search; the picture is reduced, or
            enlarged four times at most.

    Raises:
        UserError: Dlib or its networks are not installed; the message says how to get them.
    """

    def __init__(self, search_side: int = SEARCH_SIDE) -> None:
        try:
            dlib: Any = importlib.import_module("dlib")
        except ImportError as error:
            raise UserError(
                f"Faces are found by dlib, which is not installed: {_EXTRA}."
            ) from error
        self._search_side = search_side
        self._detector = dlib.cnn_face_detection_model_v1(_model("mmod_human_face_detector"))
        self._predictor = dlib.shape_predictor(_model("shape_predictor_68_face_landmarks"))

    def find(self, pixels: np.ndarray) -> list[np.ndarray]:
        """The faces of a picture, the surest first.

        Args:
            pixels: uint8 ``[H, W, 3]``, RGB.

        Returns:
            For each face its 68 landmarks as float ``[68, 2]``: x and y, in pixels of the picture,
            where the centre of the first pixel is (0, 0).
        """
        height, width = pixels.shape[:2]
        factor = min(self._search_side / max(height, width), _MOST_ENLARGED)
        size = (max(1, round(factor * width)), max(1, round(factor * height)))
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        searched = np.ascontiguousarray(image)
        back = np.array([width, height]) / size
        found = sorted(self._detector(searched, 0), key=lambda face: -face.confidence)
        faces = []
        for face in found:
            points = self._predictor(searched, face.rect).parts()
            landmarks = np.array([(point.x, point.y) for point in points], float)
            faces.append((landmarks + 0.5) * back - 0.5)
        return faces


def _model(name: str) -> str:
    """The file of one of dlib's networks, in the package that holds them."""
    package = importlib.util.find_spec("face_recognition_models")  # importing it is not needed
    for folder in (package and package.submodule_search_locations) or []:
        file = Path(folder) / "models" / f"{name}.dat"
        if file.is_file():
            return str(file)
    raise UserError(
        f"dlib's network {name} is not installed: it is in the package face_recognition_models; "
        f"{_EXTRA}."
    )
