"""Tile plans, held against what they are for: a network that sees no further than its radius."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from binsr_jax.deploy.tiles import Tile, least_pixels, plan

PLANS = {
    "lengths": st.tuples(st.integers(1, 90), st.integers(1, 90)),
    "radius": st.integers(0, 12),
    "side": st.integers(1, 100),
    "pixels": st.integers(0, 3000),
    "automatic": st.booleans(),
}


def _plan(lengths, radius, side, pixels, automatic) -> list[Tile]:
    limit = {"pixels": least_pixels(radius) + pixels} if automatic else {"side": side}
    return plan(lengths[0], lengths[1], radius, **limit)


@given(**PLANS)
@settings(max_examples=300, deadline=None)
def test_every_pixel_is_kept_once_and_far_enough_from_every_cut(
    lengths, radius, side, pixels, automatic
):
    counted = np.zeros(lengths, int)
    for tile in _plan(lengths, radius, side, pixels, automatic):
        counted[tile.kept] += 1
        for length, seen, kept in zip(lengths, tile.seen, tile.kept, strict=True):
            assert 0 <= seen.start <= kept.start < kept.stop <= seen.stop <= length
            assert seen.start == 0 or kept.start - seen.start >= radius
            assert seen.stop == length or seen.stop - kept.stop >= radius
    assert (counted == 1).all()


@given(**PLANS)
@settings(max_examples=200, deadline=None)
def test_all_tiles_have_one_shape_within_the_limit(lengths, radius, side, pixels, automatic):
    tiles = _plan(lengths, radius, side, pixels, automatic)
    (shape,) = {tuple(s.stop - s.start for s in tile.seen) for tile in tiles}
    if automatic:
        assert shape[0] * shape[1] <= least_pixels(radius) + pixels
    else:
        assert max(shape) <= side + 2 * radius


def test_a_small_image_is_one_tile():
    whole = Tile((slice(0, 30), slice(0, 50)), (slice(0, 30), slice(0, 50)))
    assert plan(30, 50, 8, side=64) == [whole]
    assert plan(30, 50, 8, pixels=1500) == [whole]


def test_tiles_by_hand():
    # 20 long, 2 beyond each cut, 6 kept: (20 - 4) / 6 makes three tiles of 6 + 4.
    tiles = plan(1, 20, 2, side=6)
    seen = [(tile.seen[1].start, tile.seen[1].stop) for tile in tiles]
    kept = [(tile.kept[1].start, tile.kept[1].stop) for tile in tiles]
    assert seen == [(0, 10), (5, 15), (10, 20)]
    assert kept == [(0, 7), (7, 12), (12, 20)]


@pytest.mark.parametrize("lengths", [(3000, 4000), (4000, 3000), (10_000, 10_000), (500, 20_000)])
def test_the_overlap_costs_little(lengths):
    radius, pixels = 36, 2**20
    tiles = plan(lengths[0], lengths[1], radius, pixels=pixels)
    worked = sum(np.prod([s.stop - s.start for s in tile.seen]) for tile in tiles)
    # Square tiles of 1024 pixels, of which 1024 - 72 are kept in each direction, work 1.16 times
    # the image; the rest is what does not divide.
    assert worked / (lengths[0] * lengths[1]) < 1.35


def test_a_limit_below_the_overlap_is_an_error():
    with pytest.raises(ValueError, match="radius of 36"):
        plan(3000, 4000, 36, pixels=5000)
    with pytest.raises(ValueError, match="0x5"):
        plan(0, 5, 1, side=3)
