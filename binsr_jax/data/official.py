"""Official pairs: which low-resolution file belongs to which high-resolution one."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from binsr_jax.data.pairs import Pair, crop_to_multiple
from binsr_jax.errors import UserError


def pair_up(
    hr_files: Sequence[Path], lr_files: Sequence[Path], lr_folder: Path, scale: int
) -> list[Path]:
    """The LR file of each HR file: 0001x2.png of 0001.png, or else 0001.png.

    The endings may differ, unless two files differ in nothing else.

    Raises:
        UserError: an HR file has no LR file, or it is not clear which.
    """
    by_stem: defaultdict[str, list[Path]] = defaultdict(list)
    for file in lr_files:
        by_stem[file.stem].append(file)
    twins = Counter(file.stem for file in hr_files)
    found = []
    for hr in hr_files:
        known = by_stem.get(f"{hr.stem}x{scale}") or by_stem.get(hr.stem) or []
        fitting = known
        if len(known) > 1 or twins[hr.stem] > 1:
            fitting = [lr for lr in known if lr.suffix.lower() == hr.suffix.lower()]
        if len(fitting) == 1:
            found.append(fitting[0])
        elif known:
            raise UserError(_ambiguous(hr, hr_files, known))
        else:
            raise UserError(
                f"{hr} has no LR image {hr.stem}x{scale}{hr.suffix} in {lr_folder}; add it, or "
                "remove that folder to have all LR images made."
            )
    return found


def _ambiguous(hr: Path, hr_files: Sequence[Path], lr_files: Sequence[Path]) -> str:
    """The sentence about files that differ in their ending alone."""
    twins = [file.name for file in hr_files if file.stem == hr.stem]
    low = [file.name for file in lr_files]
    return (
        f"In {hr.parent} there is {' and '.join(twins)}, and in {lr_files[0].parent} "
        f"{' and '.join(low)}: remove all but one pair, since files of one name cannot be told "
        "apart."
    )


def official_pair(
    lq: np.ndarray, hq: np.ndarray, scale: int, lq_name: str, hq_name: str
) -> Pair | None:
    """Crops a given pair to HQ = scale x LQ; LQ may cover a last row or column that is cropped.

    Returns:
        The pair, or None if there is not one LQ pixel.

    Raises:
        UserError: the sizes are not those of a pair.
    """
    for low, high in zip(lq.shape[:2], hq.shape[:2], strict=True):
        if low not in (high // scale, -(-high // scale)):
            raise UserError(
                f"{lq_name} ({lq.shape[1]}x{lq.shape[0]}) is not {hq_name} "
                f"({hq.shape[1]}x{hq.shape[0]}) reduced {scale} times; replace one of them."
            )
    hq = crop_to_multiple(hq, scale)
    lq = lq[: hq.shape[0] // scale, : hq.shape[1] // scale]
    return (lq, hq) if lq.size else None
