"""The queue: turns, bounds, cancelling, progress."""

from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from stand_in import HeldEngine, inverted, picture, pixels

from binsr_jax.deploy.listing import Job, Options
from binsr_jax.errors import TooLargeError, UserError
from binsr_jax.pretrained import NETWORKS
from binsr_jax.service import restorer as module
from binsr_jax.service.restorer import FullError, Order, Restorer

Make = Callable[..., Order]


@pytest.fixture
def order(tmp_path: Path) -> Make:
    """Makes an order for a picture of a name."""

    def make(name: str = "a", network: str = "x2", *, tile: int = 0, **rest) -> Order:
        source = tmp_path / f"{name}.png"
        source.write_bytes(rest.pop("content", None) or picture())
        job = Job(source, tmp_path / "out" / f"{name}.png")
        return Order(job, NETWORKS[network], options=Options(tile=tile), **rest)

    return make


def test_a_picture_is_restored(restorer: Restorer, order: Make):
    ticket = restorer.submit(order(), "someone")
    result = ticket.future.result(20)
    np.testing.assert_array_equal(np.asarray(Image.open(result.file)), inverted(pixels(), 2))
    assert (result.network, result.before, result.after) == ("x2", (30, 20), (60, 40))
    assert result.seconds > 0
    assert ticket.share == 1


def test_strength_takes_a_part_of_the_change(restorer: Restorer, order: Make):
    result = restorer.submit(order(network="denoise", strength=0.25), "someone").future.result(20)
    change = 255 - 2.0 * pixels()
    expected = np.rint(pixels() + 0.25 * change)
    assert np.abs(np.asarray(Image.open(result.file)) - expected).max() <= 1


def test_visitors_take_turns(restorer: Restorer, engines, order: Make):
    done: list[str] = []
    engines["x2"].may_go_on.clear()
    first = restorer.submit(order("first"), "x")  # worked, so that all others wait
    assert engines["x2"].started.acquire(timeout=20)
    tickets = {}
    for name, visitor in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        tickets[name] = restorer.submit(order(name), visitor)
        tickets[name].future.add_done_callback(lambda _, name=name: done.append(name))
    assert [restorer.ahead(tickets[name]) for name in ("a1", "b1", "a2")] == [1, 2, 3]
    assert restorer.ahead(first) == 0
    engines["x2"].may_go_on.set()
    tickets["a2"].future.result(20)
    assert done == ["a1", "b1", "a2"]


def test_a_full_queue_refuses(restorer: Restorer, engines, order: Make):
    engines["x2"].may_go_on.clear()
    restorer.submit(order("first"), "x")
    assert engines["x2"].started.acquire(timeout=20)
    waiting = [restorer.submit(order(name), "x") for name in "abc"]
    assert restorer.waiting == 3
    with pytest.raises(FullError) as caught:
        restorer.submit(order("d"), "y")
    assert caught.value.seconds >= 1
    restorer.cancel(waiting[1])
    restorer.submit(order("d"), "y")


def test_cancelling_ends_work_at_the_next_tile(restorer: Restorer, engines, order: Make):
    engine: HeldEngine = engines["x2"]
    engine.may_go_on.clear()
    worked = restorer.submit(order("a", tile=4), "x")
    assert engine.started.acquire(timeout=20)
    waits, other = restorer.submit(order("b"), "x"), restorer.submit(order("c"), "y")
    restorer.cancel_all("x")
    assert waits.future.cancelled()
    engine.may_go_on.set()
    with pytest.raises(CancelledError):
        worked.future.result(20)
    assert not worked.order.job.target.exists()
    other.future.result(20)
    assert engine.tiles == 2  # one of each that was worked


def test_progress_goes_from_tile_to_tile(restorer: Restorer, engines, order: Make):
    engine: HeldEngine = engines["x2"]
    shares = []
    run = engine.run

    def noting(image, pooled=None):
        shares.append(ticket.share)
        return run(image, pooled)

    engine.may_go_on.clear()
    restorer.submit(order("first"), "x")
    engine.run = noting
    ticket = restorer.submit(order("a", tile=10), "x")
    engine.may_go_on.set()
    ticket.future.result(20)
    assert shares == sorted(shares)
    assert len(set(shares)) >= 4
    assert shares[-1] < ticket.share == 1


def test_what_cannot_be_read_is_refused_by_name(restorer: Restorer, order: Make):
    broken = order("broken", content=b"no picture")
    with pytest.raises(UserError) as caught:
        restorer.submit(broken, "x")
    sentence = broken.sentence(caught.value)
    assert "broken.png" in sentence
    assert str(broken.job.source.parent) not in sentence
    # Cut off after its header, which is found when it is decoded; the next picture is not harmed.
    cut = order("cut", content=picture()[:-200])
    with pytest.raises(UserError):
        restorer.submit(cut, "x").future.result(20)
    restorer.submit(order("good"), "x").future.result(20)


def test_too_many_pixels_are_refused(restorer: Restorer, order: Make):
    with pytest.raises(TooLargeError, match=r"more than 0.01 megapixels"):
        restorer.submit(order(content=picture(height=101, width=100)), "x")


def test_programs_of_many_sizes_are_forgotten(restorer: Restorer, order: Make, monkeypatch):
    cleared = []
    monkeypatch.setattr(module, "_MOST_SIZES", 3)
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(1))
    for i in (1, 2, 3, 3, 2, 1):
        content = picture(height=10 + i)
        restorer.submit(order(f"s{i}", content=content), "x").future.result(20)
    assert not cleared
    restorer.submit(order("s4", content=picture(height=14)), "x").future.result(20)
    assert cleared == [1]


def test_closing_cancels_what_waits_and_what_comes(restorer: Restorer, engines, order: Make):
    engines["x2"].may_go_on.clear()
    worked = restorer.submit(order("a"), "x")
    assert engines["x2"].started.acquire(timeout=20)
    waits = restorer.submit(order("b"), "x")
    engines["x2"].may_go_on.set()
    restorer.close()
    assert not restorer.alive
    assert waits.future.cancelled()
    assert worked.future.done()
    assert restorer.submit(order("c"), "x").future.cancelled()
