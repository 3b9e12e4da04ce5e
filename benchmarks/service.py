"""Sends many pictures to ``binsr serve`` from several clients at once, some of them broken.

    python benchmarks/service.py                     # 1, 4 and 16 clients, 500 pictures each
    python benchmarks/service.py --clients 4 --pictures 50 --own-sizes 0

Every fifth picture is broken: truncated, no picture, or too large. A client that gets 429 waits as
long as the answer says and sends its picture again. Each answer is checked: a good picture must
come back twice as large, a broken one as one sentence with the right status. In the last round all
pictures have different sizes, and XLA compiles one program per size. The memory is the service's,
after a tenth of the pictures, after half of them and at the end. Prints Markdown.
"""

import argparse
import collections
import concurrent.futures
import io
import itertools
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import numpy as np
from PIL import Image

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Tally:
    """What came of the pictures of a round."""

    seconds: list[float] = field(default_factory=list)
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", default="1,4,16", help="numbers of clients")
    parser.add_argument("--pictures", type=int, default=500, help="of each round")
    parser.add_argument("--own-sizes", type=int, default=100, help="pictures of the last round")
    args = parser.parse_args()
    command = [sys.executable, "-m", "binsr_jax", "serve", "--port", "0", "--queue", "8"]
    command += ["--max-megapixels", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            print(
                "| round | pictures | 200 | 400 | 413 | 429, sent again | wrong or lost "
                "| pictures a second | median s | 95% s | MiB after 1/10 | after 1/2 | at the end |"
            )
            print("|---|" + "---:|" * 12)
            sizes = [(96 + 16 * i, 96 + 16 * j) for i in range(3) for j in range(4)]
            for clients in map(int, args.clients.split(",")):
                pictures = with_broken(itertools.cycle(sizes), args.pictures)
                report(f"{clients} clients", clients, pictures, url, process.pid)
            if args.own_sizes:
                own = ((64 + i * 7 % 97, 64 + i * 13 % 101) for i in itertools.count(1))
                pictures = with_broken(own, args.own_sizes)
                report("own sizes", 2, pictures, url, process.pid)
        finally:
            process.terminate()
            process.wait()


def with_broken(
    sizes: Iterator[tuple[int, int]], count: int
) -> Iterator[tuple[bytes, int, tuple[int, int]]]:
    """Pictures with the status and the size (width, height) that their answers are to have."""
    rng = np.random.default_rng(0)
    for i in range(count):
        height, width = next(sizes)
        pixels = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "PNG" if i % 2 else "JPEG", quality=95)
        content = file.getvalue()
        if i % 5 != 4:
            yield content, 200, (2 * width, 2 * height)
        elif i % 15 == 4:
            yield content[: len(content) // 2], 400, (0, 0)
        elif i % 15 == 9:
            yield bytes(1000), 400, (0, 0)
        else:
            file = io.BytesIO()
            Image.new("1", (1500, 1000)).save(file, "PNG")
            yield file.getvalue(), 413, (0, 0)


def report(
    name: str,
    clients: int,
    pictures: Iterator[tuple[bytes, int, tuple[int, int]]],
    url: str,
    pid: int,
) -> None:
    """Sends pictures and prints a row of the table."""
    waiting: queue.SimpleQueue[tuple[bytes, int, tuple[int, int]]] = queue.SimpleQueue()
    for picture in pictures:
        waiting.put(picture)
    count, tally = waiting.qsize(), Tally()
    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        for future in [pool.submit(client, url, waiting, tally, pid) for _ in range(clients)]:
            future.result()
    seconds = time.perf_counter() - started
    answered = sum(tally.statuses[status] for status in (200, 400, 413))
    wrong = len(tally.wrong) + count - answered
    took = sorted(tally.seconds)
    print(
        f"| {name} | {count} | {tally.statuses[200]} | {tally.statuses[400]} "
        f"| {tally.statuses[413]} | {tally.statuses[429]} | {wrong} | {count / seconds:.2f} "
        f"| {statistics.median(took):.2f} | {took[int(0.95 * len(took))]:.2f} "
        f"| {tally.memory[count // 10]:.0f} | {tally.memory[count // 2]:.0f} "
        f"| {tally.memory[-1]:.0f} |",
        flush=True,
    )
    for sentence in tally.wrong[:5]:
        print(sentence, file=sys.stderr)


def client(url: str, waiting: queue.SimpleQueue, tally: Tally, pid: int) -> None:
    """Sends pictures one after the other until none is left."""
    with httpx.Client(base_url=url, timeout=600) as connection:
        while True:
            try:
                content, status, size = waiting.get_nowait()
            except queue.Empty:
                return
            started = time.perf_counter()
            while True:
                answer = connection.post("/v1/restore", files={"image": ("a", content)})
                if answer.status_code != 429:
                    break
                with tally.lock:
                    tally.statuses[429] += 1
                time.sleep(int(answer.headers["Retry-After"]))
            with tally.lock:
                tally.seconds.append(time.perf_counter() - started)
                tally.statuses[answer.status_code] += 1
                tally.memory.append(resident(pid))
                if answer.status_code != status:
                    tally.wrong.append(f"{answer.status_code}, not {status}: {answer.text[:200]}")
                elif status == 200 and Image.open(io.BytesIO(answer.content)).size != size:
                    tally.wrong.append(f"a picture of another size than {size}")


def resident(pid: int) -> float:
    """The memory of a process in MiB."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * _PAGE / 2**20


if __name__ == "__main__":
    main()
