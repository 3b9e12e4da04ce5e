"""Official pairs: finds the low-resolution file of each high-resolution file."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from binsr_jax.data.pairs import Pair, crop_to_multiple
from binsr_jax.errors import UserError


def pair_up(
    hr_files: Sequence[Path], lr_files: Sequence[Path], lr_folder: Path, scale: int
) -> list[Path]:
    """The LR file of each HR file: 0001x2.png for 0001.png, or else 0001.png.

    File endings may differ, unless two files differ only in their ending.

    Raises:
        UserError: An HR file has no LR file, or more than one.
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
    """The message about files that differ only in their ending."""
    twins = [file.name for file in hr_files if file.stem == hr.stem]
    low = [file.name for file in lr_files]
    return (
        f"In {hr.parent} there is {' and '.join(twins)}, and in {lr_files[0].parent} "
        f"{' and '.join(low)}: remove all but one pair, since only their endings differ."
    )


def official_pair(
    lq: np.ndarray, hq: np.ndarray, scale: int, lq_name: str, hq_name: str
) -> Pair | None:
    """Crops a given pair so that HQ sides are exactly the scale times LQ sides.

    If an HQ side is no multiple of the scale, LQ may have one more row or column for the rest.

    Returns:
        The pair, or None if not one LQ pixel is left.

    Raises:
        UserError: The two sizes do not fit the scale.
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
