"""The page without a browser: what it refuses to give away, and what it is made of."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stand_in import inverted, picture, pixels

from binsr_jax.service.views import PART, write_views

# A process of its own: Gradio reads variables when it is imported, and changes Pillow's settings.
PROGRAM = """
import json, os, sys
from pathlib import Path
folder = Path(sys.argv[1])
os.environ.update(GRADIO_TEMP_DIR=str(folder), GRADIO_ANALYTICS_ENABLED="False")
from starlette.testclient import TestClient
from binsr_jax.pretrained import NETWORKS
from binsr_jax.service.page import Page, create_app
from binsr_jax.service.restorer import Restorer

restorer = Restorer(most_pixels=10_000, most_waiting=3)
networks = {name: NETWORKS[name] for name in ("x2", "denoise")}
app = create_app(Page(restorer, networks, 5, folder), 4000)
secret = folder.parent / "secret.txt"
secret.write_text("secret")
(folder / "own.txt").write_text("own")
found = {}
with TestClient(app) as client:
    page = client.get("/")
    found["page"], found["headers"] = page.text, dict(page.headers)
    file = "/gradio_api/file="
    for path in [
        f"{file}{folder}/own.txt",
        f"{file}{secret}",
        f"{file}/etc/passwd",
        f"{file}{folder}/../secret.txt",
        f"{file}{folder}/..%2fsecret.txt",
        f"{file}http://127.0.0.1:1/",
        f"{file}https%3A//example.org/",
        f"/gradio_api/file/{secret}",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/info",
        "/gradio_api/runs",
        "/gradio_api/openapi.json",
        "/openapi.json",
        "/docs",
    ]:
        answer = client.get(path)
        found.setdefault("paths", []).append([path, answer.status_code, "secret" in answer.text])
    found["uploads"] = [
        client.post("/gradio_api/upload", files={"files": ("a.png", content)}).status_code
        for content in (b"x" * 3000, b"x" * 9000)
    ]
    many = [("files", (f"{i}.png", b"x" * 3000)) for i in range(400)]
    found["uploads"].append(client.post("/gradio_api/upload", files=many).status_code)
    # Orders that name a file of the machine, or an address, in place of an upload.
    config = client.get("/config").json()
    (number,) = [d["id"] for d in config["dependencies"] if d["api_name"] == "_restore"]
    found["orders"] = []
    for name in (str(secret), f"{folder}/../secret.txt", "http://127.0.0.1:1/a.png", None):
        files = [{"path": name, "meta": {"_type": "gradio.FileData"}}]
        data = [files, "upscale", 2, "automatic", 1, "PNG"]
        body = {"data": data, "fn_index": number, "session_hash": "abc"}
        answer = client.post("/gradio_api/queue/join", json=body)
        found["orders"].append([answer.status_code, answer.text])
    answer = client.post("/gradio_api/queue/join", content=b"[" * 100_000)
    found["no order"] = answer.status_code
    (folder / "much").write_bytes(bytes(64 * 4000))
    found["full"] = client.post(
        "/gradio_api/upload", files={"files": ("a.png", b"x")}
    ).status_code
restorer.close()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """What the program has seen of the page."""
    pytest.importorskip("gradio", reason="needs the extra demo")
    folder = tmp_path_factory.mktemp("page") / "own"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_no_file_of_the_machine_is_readable(found):
    (_, status, _), *others = found["paths"]
    assert status == 200
    assert all(status in (403, 404) and not secret for _, status, secret in others), others


def test_an_order_cannot_name_a_file_of_the_machine(found):
    assert found["orders"] == [[400, "The order names a file that was not uploaded."]] * 4
    assert found["no order"] == 400


def test_files_that_are_too_long_are_refused(found):
    assert found["uploads"] == [200, 413, 413]


def test_the_page_does_not_fill_the_disk(found):
    assert found["full"] == 507


def test_the_page_asks_no_other_host(found):
    assert "default-src 'self'" in found["headers"]["content-security-policy"]
    sources = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]+)"', found["page"])
    assert not [source for source in sources if not source.startswith("http://testserver")]


def test_views_are_of_one_size_and_show_the_same_place(tmp_path: Path):
    source, target = tmp_path / "a.png", tmp_path / "b.png"
    source.write_bytes(picture())
    Image.fromarray(inverted(pixels(), 2)).save(target)
    before, after = (Image.open(file) for file in write_views(source, target, tmp_path))
    assert before.size == after.size == (60, 40)
    bicubic = Image.fromarray(pixels()).resize((60, 40), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(before, int) - np.asarray(bicubic, int)).mean() < 6
    assert np.abs(np.asarray(after, int) - inverted(pixels(), 2)).mean() < 6

    # A part of a large picture: a gradient says which.
    ramp = np.repeat(np.linspace(0, 255, 1500).astype(np.uint8)[None], 1000, axis=0)
    Image.fromarray(ramp).save(source)
    Image.fromarray(np.repeat(np.repeat(ramp, 2, axis=0), 2, axis=1)).save(target)
    for place in (0.0, 0.5, 1.0):
        before, after = (
            np.asarray(Image.open(file), int)
            for file in write_views(source, target, tmp_path, (place, 0.5))
        )
        assert before.shape == after.shape == PART[::-1]
        middle = 255 * (place * (3000 - PART[0]) + PART[0] / 2) / 3000
        assert abs(after[:, PART[0] // 2].mean() - middle) < 2
        assert abs(before[:, PART[0] // 2].mean() - middle) < 2


def test_views_are_reduced_to_what_a_browser_shows(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("binsr_jax.service.views.MOST_PIXELS", 600)
    source, target = tmp_path / "a.png", tmp_path / "b.png"
    source.write_bytes(picture(channels=4))
    Image.fromarray(inverted(pixels(), 2)).save(target)
    before, after = (Image.open(file) for file in write_views(source, target, tmp_path))
    assert before.size == after.size == (30, 20)
