import json
import os
import pickle
import subprocess
import sys
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from binsr_jax.data import cache as cache_module
from binsr_jax.data.cache import PairCache, Undecoded, open_cache
from binsr_jax.errors import UserError


@dataclass
class Images:
    """Random pairs, and how many of them were decoded."""

    shapes: tuple = ((2, 3), (5, 1), (1, 1), (4, 7))  # of LQ images; None: smaller than the scale
    scale: int = 2
    seed: int = 0
    origin: str = "here"
    decoded: list = field(default_factory=list)

    def pair(self, i):
        rng = np.random.default_rng([self.seed, i])
        h, w = self.shapes[i]
        lq = rng.integers(0, 256, (h, w, 3), np.uint8)
        return lq, rng.integers(0, 256, (h * self.scale, w * self.scale, 3), np.uint8)

    def decode(self, i):
        self.decoded.append(i)
        return None if self.shapes[i] is None else self.pair(i)

    def undecoded(self):
        names = tuple(f"{i}.png" for i in range(len(self.shapes)))
        return Undecoded("test", self.origin, self.scale, names, self.decode)

    def check(self, cache):
        kept = [i for i, shape in enumerate(self.shapes) if shape is not None]
        assert len(cache) == len(kept)
        assert cache.names == tuple(f"{i}.png" for i in kept)
        for pair, i, size in zip(cache, kept, cache.sizes, strict=True):
            for actual, expected in zip(pair, self.pair(i), strict=True):
                np.testing.assert_array_equal(actual, expected)
            assert size == pair[1].shape[:2]


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_pairs_come_back(tmp_path, scale):
    images = Images(scale=scale)
    cache = open_cache(images.undecoded(), tmp_path)
    images.check(cache)
    assert cache.left_out == ()
    np.testing.assert_array_equal(cache[-1][1], cache[3][1])
    assert len(cache[1:3]) == 2
    with pytest.raises(IndexError):
        cache[4]


def test_images_are_decoded_once(tmp_path):
    images = Images()
    open_cache(images.undecoded(), tmp_path)
    images.check(open_cache(images.undecoded(), tmp_path))
    assert sorted(images.decoded) == [0, 1, 2, 3]


def test_pixels_are_mapped_read_only(tmp_path):
    lq, hq = open_cache(Images().undecoded(), tmp_path)[0]
    for image in (lq, hq):
        assert not image.flags.writeable
        assert not image.flags.owndata


def test_pickled_as_its_path(tmp_path):
    images = Images(shapes=((50, 50),))
    cache = open_cache(images.undecoded(), tmp_path)
    data = pickle.dumps(cache)
    assert len(data) < 500
    images.check(pickle.loads(data))


def test_other_origin_or_scale_is_another_cache(tmp_path):
    open_cache(Images().undecoded(), tmp_path)
    for other in (Images(origin="there", seed=1), Images(scale=3)):
        other.check(open_cache(other.undecoded(), tmp_path))
        assert other.decoded


def test_fingerprint_depends_on_content_only(tmp_path):
    def fingerprint(**changes):
        images = Images(**changes)
        return open_cache(images.undecoded(), tmp_path).fingerprint

    first = fingerprint()
    assert fingerprint(origin="another folder") == first
    assert fingerprint(origin="1", seed=1) != first
    assert fingerprint(origin="2", scale=3) != first
    assert fingerprint(origin="3", shapes=((2, 3), (5, 1), (1, 1), (7, 4))) != first


def test_images_smaller_than_the_scale_are_left_out(tmp_path):
    images = Images(shapes=(None, (2, 2), None))
    cache = open_cache(images.undecoded(), tmp_path)
    images.check(cache)
    assert cache.left_out == ("0.png", "2.png")


def test_no_image_left(tmp_path):
    with pytest.raises(UserError, match="All 2 images of test are smaller than the scale 2"):
        open_cache(Images(shapes=(None, None)).undecoded(), tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def _truncate(path):
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("hq.bin", _truncate),
        ("lq.bin", lambda path: path.write_bytes(path.read_bytes() + b"\0")),
        ("hq.bin", lambda path: path.unlink()),
        ("index.json", lambda path: path.unlink()),
        ("index.json", _truncate),
        ("index.json", lambda path: path.write_bytes(b"")),
        ("index.json", lambda path: path.write_bytes(b"\xff\xfe")),
        ("index.json", lambda path: path.write_text("[1]")),
        ("index.json", lambda path: path.write_text("{}")),
        ("index.json", lambda path: _change(path, version=-1)),
        ("index.json", lambda path: _change(path, sizes=[[2, 3]])),
        ("index.json", lambda path: _change(path, sizes=[["a", "b"]] * 4)),
        ("index.json", lambda path: _change(path, sizes=[[-2, -3]] * 4)),
        ("index.json", lambda path: _change(path, sizes=7)),
        ("index.json", lambda path: _change(path, names=None)),
        ("index.json", lambda path: _change(path, scale=0)),
    ],
)
def test_damaged_cache_is_rebuilt(tmp_path, file, damage):
    images = Images()
    folder = open_cache(images.undecoded(), tmp_path).folder
    damage(folder / file)
    with pytest.raises((ValueError, OSError)):
        PairCache(folder)
    images.decoded.clear()
    images.check(open_cache(images.undecoded(), tmp_path))
    assert len(images.decoded) == 4


def _change(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_failing_image_leaves_nothing_behind(tmp_path):
    images = Images()

    def decode(i):
        if i == 2:
            raise UserError("2.png is broken.")
        return images.pair(i)

    undecoded = Undecoded("test", images.origin, 2, tuple("0123"), decode)
    with pytest.raises(UserError, match=r"2\.png is broken"):
        open_cache(undecoded, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    images.check(open_cache(images.undecoded(), tmp_path))


def test_process_that_dies_while_building(tmp_path):
    script = """
import os, sys
from pathlib import Path
import numpy as np
from binsr_jax.data.cache import Undecoded, open_cache

def decode(i):
    if i == 30:
        os._exit(9)
    return np.zeros((1, 1, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)

open_cache(Undecoded("test", "here", 2, tuple(map(str, range(40))), decode), Path(sys.argv[1]))
"""
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert result.returncode == 9
    assert [path for path in tmp_path.iterdir() if path.suffix == ".partial"]
    images = Images(shapes=((1, 1),) * 40)
    images.check(open_cache(images.undecoded(), tmp_path))
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".partial"]


def test_two_builders_at_once_build_once(tmp_path):
    images = Images()
    started, finish = threading.Event(), threading.Event()
    caches = []

    def decode(i):
        started.set()
        assert finish.wait(30)
        return images.decode(i)

    undecoded = Undecoded("test", images.origin, 2, images.undecoded().names, decode)
    threads = [
        threading.Thread(target=lambda: caches.append(open_cache(undecoded, tmp_path)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert started.wait(30)
    finish.set()
    for thread in threads:
        thread.join(30)
    assert len(caches) == 3
    for cache in caches:
        images.check(cache)
    assert sorted(images.decoded) == [0, 1, 2, 3]


def test_only_a_few_images_are_decoded_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_THREADS", 2)
    written, decoded, most = 0, 0, 0
    lock = threading.Lock()

    def decode(i):
        nonlocal decoded, most
        with lock:
            decoded += 1
            most = max(most, decoded - written)
        return np.zeros((1, 1, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)

    class Bar(cache_module.tqdm):
        def update(self, n=1):
            nonlocal written
            written += 1

    monkeypatch.setattr(cache_module, "tqdm", Bar)
    open_cache(Undecoded("test", "", 2, tuple(map(str, range(100))), decode), tmp_path)
    assert (decoded, written) == (100, 100)
    assert most <= 6  # two a thread wait to be written, and a few are on their way


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Cannot write decoded images to .*file.*cache_dir"):
        open_cache(Images().undecoded(), tmp_path / "file")


def test_full_disk_is_named(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=r"No space left on device.*cache_dir"):
        open_cache(Images().undecoded(), tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_to_be_degraded_later_are_kept_once(tmp_path, channels):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, channels), np.uint8) for h, w in ((3, 5), (1, 1), (9, 2))]

    def undecoded(**changes):
        settings = {"channels": channels, "degraded": False} | changes
        return Undecoded(
            "test", "here", 1, tuple("abc"), lambda i: (images[i], images[i]), **settings
        )

    cache = open_cache(undecoded(), tmp_path)
    for (lq, hq), image in zip(cache, images, strict=True):
        np.testing.assert_array_equal(hq, image)
        assert lq is hq
    assert cache.channels == channels
    size = sum(file.stat().st_size for file in cache.folder.glob("*.bin"))
    assert size == sum(image.size for image in images)
    again = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(again[2][0], images[2])
    assert open_cache(undecoded(), tmp_path).folder == cache.folder
    # The same images with LQ images beside them are another cache.
    if channels == 3:
        assert open_cache(undecoded(degraded=True), tmp_path).folder != cache.folder
    _change(cache.folder / "index.json", scale=2)
    with pytest.raises(ValueError, match="contradicts itself"):
        PairCache(cache.folder)


def test_a_cache_of_before_there_were_other_tasks_still_opens(tmp_path):
    images = Images()
    folder = open_cache(images.undecoded(), tmp_path).folder
    index = json.loads((folder / "index.json").read_text())
    for name in ("channels", "degraded"):
        del index[name]
    (folder / "index.json").write_text(json.dumps(index))
    images.check(open_cache(images.undecoded(), tmp_path))
    assert sorted(images.decoded) == [0, 1, 2, 3]
