"""Measures the frames per second of ``binsr video`` for a video of 640x360 pixels.

    python benchmarks/video.py [--frames 12]

Each packaged network restores a whole video: decoding, the network, H.264 with the default preset,
and the file. The network is compiled before. The video is a moving packaged photograph, so no frame
equals the one before. The machine should be idle.
"""

import argparse
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

import binsr_jax
from binsr_jax.deploy.listing import Job
from binsr_jax.pretrained import NETWORKS
from binsr_jax.video.frames import Span
from binsr_jax.video.job import Settings, restore_video

PHOTOGRAPH = Path(binsr_jax.__file__).parent / "data" / "samples" / "valid" / "skyline.png"
WIDTH, HEIGHT = 640, 360


def make_video(file: Path, frames: int) -> None:
    """Writes a video in which a photograph moves by two pixels a frame."""
    with Image.open(PHOTOGRAPH) as image:
        picture = np.asarray(image.convert("RGB").resize((WIDTH + 2 * frames, HEIGHT)))
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            part = np.ascontiguousarray(picture[:, 2 * number : 2 * number + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(part, "rgb24")))
        container.mux(stream.encode(None))


def frames_per_second(name: str, source: Path, frames: int, folder: Path) -> float:
    """How many frames a second a packaged network makes of a video."""
    upscaler = binsr_jax.load(name)
    upscaler.upscale(np.zeros((HEIGHT, WIDTH, 3), np.float32))  # compiles
    settings = Settings("h264", None, None, Span(Fraction(0)), 10**8, {"model": name})
    started = time.perf_counter()
    restore_video(Job(source, folder / f"{name}.mp4"), upscaler.upscale, upscaler.scale, settings)
    return frames / (time.perf_counter() - started)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=12)
    frames = parser.parse_args().frames
    print("| network | output | frames/s |\n|---|---|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in.mp4"
        make_video(source, frames)
        for network in NETWORKS.values():
            if network.there:
                rate = frames_per_second(network.name, source, frames, folder)
                size = f"{network.scale * WIDTH}x{network.scale * HEIGHT}"
                print(f"| `{network.name}` | {size} | {rate:.2f} |", flush=True)


if __name__ == "__main__":
    main()
