"""The service: what it answers to good, wrong, large and many requests."""

import gc
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from stand_in import HeldEngine, inverted, picture, pixels

from binsr_jax.deploy.model_file import save_model
from binsr_jax.pretrained import NETWORKS

pytest.importorskip("fastapi", reason="needs the extra demo")
httpx = pytest.importorskip("httpx")
TestClient: Any = pytest.importorskip("starlette.testclient").TestClient

from binsr_jax.service import gate  # noqa: E402
from binsr_jax.service.gate import Limits  # noqa: E402
from binsr_jax.service.http import create_app  # noqa: E402

HERE = {name: NETWORKS[name] for name in ("x2", "denoise")}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def client(restorer, tmp_path, monkeypatch) -> Iterator[Any]:
    """Sends requests to a service whose temporary folders lie in ``tmp_path``."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with TestClient(create_app(restorer, HERE, Limits(100_000, 20))) as client:
        yield client
    assert not list(tmp_path.glob("binsr-*"))


def send(client: Any, content: bytes, name: str = "photo.png", **fields) -> Any:
    return client.post("/v1/restore", files={"image": (name, content)}, data=fields)


def image_of(answer: Any) -> Image.Image:
    return Image.open(io.BytesIO(answer.content))


def test_a_picture_comes_back_restored(client):
    answer = send(client, picture())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert 'filename="photo_x2.png"' in answer.headers["content-disposition"]
    assert answer.headers["x-binsr-network"] == "x2"
    assert answer.headers["x-binsr-size"] == "60x40"
    np.testing.assert_array_equal(np.asarray(image_of(answer)), inverted(pixels(), 2))


def test_alpha_exif_and_profile_are_kept(client):
    exif = Image.Exif()
    exif[0x0110] = "a camera"
    exif[0x0112] = 6  # lies on its side
    content = picture(channels=4, exif=exif, icc_profile=SRGB)
    image = image_of(send(client, content))
    assert (image.mode, image.size) == ("RGBA", (40, 60))
    assert image.info["icc_profile"] == SRGB
    assert image.getexif()[0x0110] == "a camera"
    assert image.getexif().get(0x0112, 1) == 1


def test_the_format_the_strength_and_the_task_are_as_asked(client):
    answer = send(client, picture(), "a.png", task="denoise", strength="0.5", format="webp")
    assert 'filename="a_denoised.webp"' in answer.headers["content-disposition"]
    assert image_of(answer).format == "WEBP"
    assert image_of(answer).size == (30, 20)


@pytest.mark.parametrize(
    ("content", "name", "fields", "status", "words"),
    [
        (b"", "a.png", {}, 400, "a.png"),
        (b"no picture at all", "a.png", {}, 400, "no PNG, JPEG"),
        (b"<svg xmlns=...", "a.svg", {}, 400, "an SVG"),
        (picture()[:300], "cut.png", {}, 400, "cut.png"),
        (picture(height=101, width=100), "a.png", {}, 413, "more than 0.01 megapixels"),
        (bytes(150_000), "a.png", {}, 413, "more than"),
        (bytes(9_000_000), "a.png", {}, 413, "more than"),
        (picture(), "a.png", {"scale": "9"}, 422, "scale"),
        (picture(), "a.png", {"scale": "7"}, 422, "7 times"),
        (picture(), "a.png", {"model": "x9"}, 422, "no network 'x9'"),
        (picture(), "a.png", {"model": "../x2.binsr"}, 422, "no network"),
        (picture(), "a.png", {"strength": "nan"}, 422, "strength"),
        (picture(), "a.png", {"strength": "2"}, 422, "strength"),
        (picture(), "a.png", {"task": "paint"}, 422, "task"),
        (picture(), "a.png", {"format": "gif"}, 422, "format"),
    ],
)
def test_what_is_wrong_is_one_sentence(client, tmp_path, content, name, fields, status, words):
    answer = send(client, content, name, **fields)
    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    assert words in answer.json()["error"]
    assert str(tmp_path) not in answer.text
    assert send(client, picture()).status_code == 200


def test_a_form_without_a_picture_is_refused(client):
    answer = client.post("/v1/restore", data={"scale": "2"})
    assert answer.status_code == 422
    assert "image" in answer.json()["error"]
    answer = client.post("/v1/restore", data={"image": "a.png"})
    assert answer.json() == {"error": "image: A file is expected."}
    assert client.post("/v1/restore", content=b"x").status_code == 422


def test_fields_that_would_be_left_out_are_refused(client):
    answer = send(client, picture(), scal="4")
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("There is no field 'scal': choose from image, task,")
    files = [("image", ("a.png", picture())), ("image", ("b.png", picture()))]
    answer = client.post("/v1/restore", files=files)
    assert answer.status_code == 422
    assert "image is given more than once" in answer.json()["error"]
    answer = client.post("/v1/restore?scale=4", files=files[:1])
    assert answer.status_code == 422
    assert "not into the address" in answer.json()["error"]


def test_a_full_queue_says_when_to_come_again(client, engines: dict[str, HeldEngine]):
    engines["x2"].may_go_on.clear()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(send, client, picture()) for _ in range(4)]
        while client.get("/healthz").json()["waiting"] < 3:
            time.sleep(0.01)
        answer = send(client, picture())
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert "full" in answer.json()["error"]
        engines["x2"].may_go_on.set()
        assert [future.result().status_code for future in waiting] == [200] * 4


def test_what_takes_too_long_is_given_up(restorer, engines, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engines["x2"].may_go_on.clear()
    with TestClient(create_app(restorer, HERE, Limits(100_000, 0.3))) as client:
        answer = send(client, picture())
        assert answer.status_code == 504
        assert "in time" in answer.json()["error"]
        engines["x2"].may_go_on.set()
        assert send(client, picture()).status_code == 200
    assert not list(tmp_path.glob("binsr-*"))
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_networks_health_and_counts(client):
    models = client.get("/v1/models").json()
    assert [model["name"] for model in models] == ["x2", "denoise"]
    assert models[0]["scale"] == 2
    assert models[0]["bytes"] == NETWORKS["x2"].file.stat().st_size
    assert client.get("/healthz").json()["status"] == "ok"
    send(client, picture())
    send(client, b"no picture")
    client.get("/somewhere/else")
    counts = client.get("/metrics").text
    for line in (
        'binsr_requests_total{path="/v1/restore",status="200"} 1.0',
        'binsr_requests_total{path="/v1/restore",status="400"} 1.0',
        'binsr_requests_total{path="other",status="404"} 1.0',
        'binsr_pixels_total{network="x2"} 600.0',
        'binsr_restoring_seconds_count{network="x2"} 1.0',
        "binsr_waiting 0.0",
    ):
        assert line in counts


def test_the_service_says_when_its_worker_is_dead(client, restorer):
    restorer.close()
    assert client.get("/healthz").status_code == 503


def test_every_request_has_an_id_in_the_log(client, caplog):
    caplog.set_level("INFO", "binsr.service")
    answer = client.get("/healthz", headers={"X-Request-ID": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert "mine-1" in caplog.text
    own = client.get("/healthz", headers={"X-Request-ID": "a b\x1b[31m"}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{16}", own)
    answer = send(client, picture(), "secret-name.png")
    (line,) = [message for message in caplog.messages if answer.headers["x-request-id"] in message]
    assert "POST /v1/restore 200" in line
    assert "x2 30x20 to 60x40" in line
    assert "secret-name" not in line


def test_a_fault_is_told_with_its_id_and_logged(client, caplog, engines):
    engines["x2"].run = lambda image, pooled=None: 1 / 0
    answer = send(client, picture())
    assert answer.status_code == 500
    assert "ZeroDivisionError" not in answer.text
    assert f"{answer.headers['x-request-id']} failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_the_documentation_needs_no_other_host(client):
    schema = client.get("/openapi.json").json()
    form = schema["paths"]["/v1/restore"]["post"]["requestBody"]["content"]
    assert "multipart/form-data" in form
    assert {"400", "413", "429", "504"} <= schema["paths"]["/v1/restore"]["post"][
        "responses"
    ].keys()
    page = client.get("/docs").text
    assert "http://" not in page
    assert "https://" not in page
    for address in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert client.get(address).status_code == 200


@pytest.fixture
def port(restorer, served) -> Iterator[int]:
    """Of a service in a thread, with stand-ins for networks and little time for a request."""
    with served(create_app(restorer, HERE, Limits(100_000, 1.5))) as port:
        yield port


def raw_request(content: bytes, length: int | None = None) -> bytes:
    """A request as it goes over the wire; ``length`` may claim more than there is."""
    head = 'Content-Disposition: form-data; name="image"; filename="a.png"'
    body = b"--edge\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n--edge--\r\n"
    lines = (
        "POST /v1/restore HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: multipart/form-data; boundary=edge",
        f"Content-Length: {len(body) if length is None else length}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_a_client_that_goes_away_ends_the_work(port, engines):
    engines["x2"].may_go_on.clear()
    with socket.create_connection(("127.0.0.1", port)) as one:
        one.sendall(raw_request(picture()))
        assert engines["x2"].started.acquire(timeout=20)
        with socket.create_connection(("127.0.0.1", port)) as two:
            two.sendall(raw_request(picture()))
            while httpx.get(f"http://127.0.0.1:{port}/healthz").json()["waiting"] < 1:
                time.sleep(0.01)
        while httpx.get(f"http://127.0.0.1:{port}/healthz").json()["waiting"] > 0:
            time.sleep(0.01)
        engines["x2"].may_go_on.set()
        assert b" 200 " in one.recv(100)
    assert engines["x2"].tiles == 1


def test_an_upload_that_does_not_arrive_is_given_up(port):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as one:
        one.sendall(raw_request(picture(), 50_000))
        answer = one.recv(10_000)
    assert b" 408 " in answer.splitlines()[0]


def test_an_upload_that_pauses_for_long_is_given_up_early(port, monkeypatch):
    monkeypatch.setattr(gate, "_SILENCE", 0.2)
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as one:
        one.sendall(raw_request(picture(), 50_000))
        answer = one.recv(10_000)
    assert b" 408 " in answer.splitlines()[0]
    assert time.monotonic() - started < 1.3  # the limit of the whole request is 1.5


def test_a_body_without_a_length_is_bounded(port):
    def parts() -> Iterator[bytes]:
        body = raw_request(bytes(4 << 20)).partition(b"\r\n\r\n")[2]
        yield body

    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    url = f"http://127.0.0.1:{port}/v1/restore"
    answer = httpx.post(url, content=parts(), headers=headers, timeout=20)
    assert answer.status_code == 413
    assert "MiB" in answer.json()["error"]


@pytest.fixture(scope="module")
def address(tmp_path_factory, small_model) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``binsr serve`` with a small network, in a process of its own."""
    folder = tmp_path_factory.mktemp("serve")
    save_model(folder / "small.binsr", small_model)
    command = [sys.executable, "-m", "binsr_jax", "serve", "--port", "0", "--timeout", "60"]
    command += ["-m", str(folder / "small.binsr"), "--max-megabytes", "1"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
        process.kill()


def test_uvicorn_serves_and_stops_gracefully(address):
    url, process = address
    assert url.startswith("http://127.0.0.1:")
    with httpx.Client(base_url=url, timeout=60) as client:
        small = {"model": "small"}
        answers = [
            client.post("/v1/restore", files={"image": ("a.png", content)}, data=small)
            for content in (picture(), b"no picture", bytes(3 << 20), picture())
        ]
        assert [answer.status_code for answer in answers] == [200, 400, 413, 200]
        assert image_of(answers[0]).size == (60, 40)

        # One that is being worked when the service is told to stop is finished. Its size is new, so
        # that it takes some time.
        with ThreadPoolExecutor(1) as pool:
            content = picture(height=300, width=400)
            last = pool.submit(send, client, content, **small)
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            assert last.result().status_code == 200
    assert process.wait(30) == 0
    errors = process.stderr.read()
    assert "Traceback" not in errors
    assert len(re.findall(r"POST /v1/restore 200", errors)) == 3


def test_a_port_that_is_taken_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "binsr_jax", "serve", "--port", port],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: Cannot listen at 127.0.0.1, port {port}")
    assert done.stderr.count("\n") == 1
