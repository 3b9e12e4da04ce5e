"""Restores a 12-megapixel picture in ``binsr demo`` with Chromium, and takes pictures of the page.

    python benchmarks/page.py                            # 4000x3000, at 2 times
    python benchmarks/page.py --images shots/ --size 800x600 --picture photo.png

Needs Chromium, its driver and selenium. The picture is a packaged photograph, repeated, or the one
of --picture. Prints the time that a visitor waits, and the memory of the program. With --images it
writes screenshots of the page, wide and narrow, light and dark.
"""

import argparse
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "service"))
from visitor import Visitor

SAMPLE = Path(__file__).parents[1] / "binsr_jax" / "data" / "samples" / "valid" / "colosseum.png"
_PAGES = {
    "wide": ((1280, 1000), "light"),
    "dark": ((1280, 1000), "dark"),
    "narrow": ((390, 844), "light"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="4000x3000", help="width x height of the picture")
    parser.add_argument("--picture", type=Path, help="a file in place of the packaged photograph")
    parser.add_argument("--images", type=Path, help="a folder for pictures of the page")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    content = args.picture.read_bytes() if args.picture else repeated(width, height)
    command = [sys.executable, "-m", "binsr_jax", "demo", "--port", "0"]
    with (
        tempfile.TemporaryDirectory() as name,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            for page in _PAGES if args.images else ("wide",):
                visit(url, Path(name) / page, page, content, args.images)
            print(f"most memory of the program: {most_memory(process.pid):.0f} MiB")
        finally:
            process.terminate()
            process.wait()


def visit(url: str, folder: Path, page: str, content: bytes, images: Path | None) -> None:
    """Restores a picture, and says how long it took."""
    folder.mkdir(exist_ok=True)
    size, scheme = _PAGES[page]
    visitor = Visitor(url, folder, size)
    try:
        visitor.look(scheme, size)
        shoot(visitor, images, page, "start")
        visitor.choose(content)
        started = time.perf_counter()
        visitor.start()
        visitor.until(lambda: visitor.all("#results progress"))
        time.sleep(1)
        shoot(visitor, images, page, "working")
        text = visitor.result(600)
        restored = time.perf_counter() - started
        visitor.until(
            lambda: (
                len(found := visitor.all("#compare img")) == 2
                and all(image.get_property("naturalWidth") for image in found)
            )
        )
        shown = time.perf_counter() - started
        # Where there is no part to look at, the picture is shown in full.
        if visitor.all("#view input"):
            before = visitor.one("#compare img").get_attribute("src")
            visitor.all("#view input")[1].click()
            visitor.until(lambda: visitor.one("#compare img").get_attribute("src") != before)
            time.sleep(1)
        shoot(visitor, images, page, "done")
        print(f"{page}: restored after {restored:.1f} s, shown after {shown:.1f} s")
        print("   ", text.splitlines()[0], "|", text.splitlines()[-1])
    finally:
        visitor.driver.quit()


def shoot(visitor: Visitor, images: Path | None, page: str, name: str) -> None:
    """Writes what the page looks like."""
    if images is not None:
        images.mkdir(parents=True, exist_ok=True)
        time.sleep(0.5)
        visitor.driver.save_screenshot(str(images / f"{page}-{name}.png"))


def repeated(width: int, height: int) -> bytes:
    """A JPEG file of a size, of the packaged photograph beside and below itself."""
    sample = np.asarray(Image.open(SAMPLE).convert("RGB"))
    times = (-(-height // sample.shape[0]), -(-width // sample.shape[1]), 1)
    file = io.BytesIO()
    Image.fromarray(np.tile(sample, times)[:height, :width]).save(file, "JPEG", quality=97)
    return file.getvalue()


def most_memory(pid: int) -> float:
    """The memory of a process at its highest, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
