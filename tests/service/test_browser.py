"""The page in a real Chromium without a window."""

import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stand_in import picture

from binsr_jax.deploy.model_file import load_model_file, save_model
from binsr_jax.deploy.upscaler import load

pytest.importorskip("selenium", reason="needs selenium")
from selenium.webdriver.common.keys import Keys
from visitor import CHROMIUM, DRIVER, PATIENCE, Visitor

if CHROMIUM is None or DRIVER is None:
    pytest.skip("needs Chromium and its driver", allow_module_level=True)
if find_spec("gradio") is None:  # whose import takes seconds, and is the page's own
    pytest.skip("needs the extra demo", allow_module_level=True)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory, small_model) -> Iterator[tuple[str, Path]]:
    """The address of ``binsr demo`` with a small network, and the folder of its files."""
    folder = tmp_path_factory.mktemp("demo")
    save_model(folder / "small.binsr", small_model)
    assert load_model_file(folder / "small.binsr").task.scale == 2
    command = [sys.executable, "-m", "binsr_jax", "demo", "--port", "0", "--max-megapixels", "4"]
    command += ["-m", str(folder / "small.binsr"), "--max-pictures", "3"]
    files = folder / "files"
    files.mkdir()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(files)}
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), files
        process.terminate()
        assert process.wait(30) == 0
    assert not list(files.glob("binsr-*"))


@pytest.fixture
def visit(page, tmp_path) -> Iterator[Callable[[], Visitor]]:
    """Opens the page in a browser of its own."""
    visitors: list[Visitor] = []

    def open_page() -> Visitor:
        folder = tmp_path / str(len(visitors))
        folder.mkdir()
        visitors.append(Visitor(page[0], folder))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        visitor.driver.quit()


def test_a_picture_is_restored_compared_and_downloaded(visit, page):
    visitor = visit()
    visitor.drop(picture(), "a.png")
    visitor.take_small()
    visitor.start()
    text = visitor.result()
    for words in ("1 of 1 restored", "30 x 20", "60 x 40", "small", "MB"):
        assert words in text
    images = visitor.until(
        lambda: (
            len(found := visitor.all("#compare img")) == 2
            and all(image.get_property("naturalWidth") == 60 for image in found)
            and found
        )
    )
    content = visitor.download("a_x2.png")
    expected = load(page[1].parent / "small.binsr").upscale(Image.open(io.BytesIO(picture())))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(expected))

    # The line is moved by keyboard, and is where the slider says.
    line = visitor.one("#position input[type=range]")
    before = images[1].get_attribute("style")
    for _ in range(20):
        line.send_keys(Keys.ARROW_RIGHT)
    visitor.until(lambda: visitor.all("#compare img")[1].get_attribute("style") != before)

    # Both are zoomed alike, at the end of a movement.
    visitor.zoom()
    visitor.until(
        lambda: (
            len(scales := {_scale(image) for image in visitor.all("#compare img")}) == 1
            and min(scales) > 1
        )
    )

    # Nothing was asked of another host.
    asked = [
        json.loads(entry["message"])["message"] for entry in visitor.driver.get_log("performance")
    ]
    urls = [
        message["params"]["request"]["url"]
        for message in asked
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert len(urls) > 10
    own = (visitor.url, "data:", "blob:", "chrome")
    assert not [url for url in urls if not url.startswith(own)]


def _scale(image: Any) -> float:
    match = re.search(r"scale\(([\d.]+)\)", image.get_attribute("style"))
    assert match is not None
    return float(match[1])


def test_several_pictures_become_a_zip_and_a_broken_one_a_sentence(visit):
    visitor = visit()
    visitor.choose(picture(), b"no picture", picture(height=24))
    visitor.take_small()
    visitor.start()
    text = visitor.result()
    assert "2 of 3 restored" in text
    assert "1 failed" in text
    assert "b.png (it is no PNG, JPEG, WebP, TIFF, BMP or GIF)" in text
    with zipfile.ZipFile(io.BytesIO(visitor.download("restored.zip"))) as archive:
        assert archive.namelist() == ["a_x2.png", "c_x2.png"]
        assert archive.testzip() is None


def test_too_many_pictures_and_none_are_sentences(visit):
    visitor = visit()
    visitor.look("dark", (390, 844))
    visitor.start()
    visitor.until(lambda: "no picture yet" in visitor.one("#results").text)
    visitor.choose(*[picture()] * 4)
    visitor.start()
    visitor.until(lambda: "4 pictures, and 3 are taken" in visitor.one("#results").text)
    assert visitor.all("body.dark")
    wide = "return document.documentElement.scrollWidth"
    assert visitor.driver.execute_script(wide) == 390  # nothing to scroll sideways


def test_a_pasted_picture_whose_result_is_large_is_shown_whole_and_in_parts(visit):
    visitor = visit()
    file = io.BytesIO()
    Image.linear_gradient("L").resize((2100, 1500)).save(file, "PNG", compress_level=1)
    visitor.paste(file.getvalue())
    visitor.take_small()
    visitor.start()
    assert "4200 x 3000" in visitor.result()

    def widths() -> list[int]:
        return [image.get_property("naturalWidth") for image in visitor.all("#compare img")]

    visitor.until(lambda: widths() == [round(4200 * (12 / 12.6) ** 0.5)] * 2)  # of 12 megapixels
    visitor.all("#view input[type=radio]")[1].click()
    visitor.until(lambda: widths() == [1200] * 2)


def test_two_visitors_share_and_a_closed_page_ends_its_work(visit, page):
    files = page[1]
    one, two = visit(), visit()
    one.choose(picture(height=900, width=1100), picture(height=901, width=1100))
    one.start()  # with the usual network, which takes seconds
    one.until(lambda: one.one("#stop").is_enabled())
    two.choose(picture())
    two.take_small()
    two.start()
    two.until(
        lambda: "restored" in two.one("#results").text or "before it" in two.one("#results").text
    )
    one.driver.quit()
    assert "1 of 1 restored" in two.result()
    # Of the closed page nothing is left: what remains is the folder of the other visitor.
    deadline = time.monotonic() + PATIENCE
    while len(list(files.glob("binsr-*/binsr-*"))) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_stopping_ends_the_work(visit):
    visitor = visit()
    visitor.choose(picture(height=900, width=1000), picture(height=902, width=1000))
    visitor.start()
    visitor.until(lambda: visitor.one("#stop").is_enabled())
    visitor.one("#stop").click()
    visitor.until(lambda: "stopped" in visitor.one("#results").text)
    assert "0 of 2" in visitor.one("#results").text
    assert visitor.one("#start").is_enabled()
