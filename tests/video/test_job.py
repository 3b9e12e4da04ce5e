"""Videos through a network: what is kept, what is made again, and sentences for mistakes."""

import itertools
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from worker import HEIGHT, PART, WIDTH, settings, twice

from binsr_jax.deploy.listing import Job
from binsr_jax.errors import UserError
from binsr_jax.video import parts
from binsr_jax.video.frames import Span
from binsr_jax.video.job import restore_video
from binsr_jax.video.mux import decode_times
from binsr_jax.video.planes import planes_of

# Not evenly spaced, in a unit that milliseconds do not divide.
UNEVEN = [0, 3003, 5000, 9009, 12012, 12500, 18018, 20000, 30000, 30001, 45000, 60000, 63003]
UNIT = Fraction(1, 90_000)


def enlarge(source: Path, target: Path, restore=twice, scale: int = 2, **changes) -> Path:
    restore_video(Job(source, target), restore, scale, settings(**changes))
    return target


def unchanged(image: np.ndarray) -> np.ndarray:
    return image


def numbers(frame: Any) -> list[np.ndarray]:
    return [plane.astype(int) for plane in planes_of(frame)]


@pytest.mark.parametrize(
    ("codec", "ending"),
    [("h264", "mp4"), ("hevc", "mp4"), ("av1", "mp4"), ("h264", "mov"), ("h264", "mkv")],
)
def test_times_sound_and_rotation_are_kept(codec, ending, make_video, look, tmp_path):
    def turned(stream):
        stream.set_display_rotation(90)
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for name, value in (("color_range", 1), ("colorspace", 9), ("color_primaries", 9)):
            setattr(stream.codec_context, name, value)
        stream.codec_context.color_trc = 16

    unit = Fraction(1, 1000) if ending == "mkv" else UNIT  # which has only milliseconds
    times = [time // 10 for time in UNEVEN] if ending == "mkv" else UNEVEN
    times = sorted(set(times))
    # Without frames out of order, since FFmpeg counts the length of such an input wrong.
    source = make_video(
        tmp_path / f"in.{ending}", times, unit, sound=True, set_up=turned, options={"bf": "0"}
    )
    target = enlarge(source, tmp_path / f"out.{ending}", codec=codec, preset=None)
    before, after = look(source), look(target)
    assert after.times == before.times == [time * unit for time in times]
    assert after.length == before.length
    assert after.packets["audio"] == before.packets["audio"]
    with av.open(str(target)) as container:
        video = container.streams.video[0]
        assert video.codec_context.name == {"av1": "libdav1d"}.get(codec, codec)
        assert (video.width, video.height) == (2 * WIDTH, 2 * HEIGHT)
        assert video.sample_aspect_ratio == Fraction(4, 3)
        if codec == "hevc":
            assert video.codec_tag == "hvc1"
    first = after.frames[0]
    assert first.rotation == before.frames[0].rotation == 90
    assert (first.color_range, first.colorspace) == (1, 9)
    assert (first.color_primaries, first.color_trc) == (9, 16)
    assert not list(tmp_path.glob(".*"))


def test_subtitles_chapters_and_names_are_kept(make_video, look, tmp_path):
    chapters = [(0, 200, "one"), (200, 480, "two")]
    source = make_video(tmp_path / "in.mkv", sound=True, subtitles=True, chapters=chapters)
    after = look(enlarge(source, tmp_path / "out.mkv"))
    assert after.packets["subtitle"] == look(source).packets["subtitle"]
    assert [title for _, _, title in after.chapters] == ["one", "two"]
    assert after.chapters == look(source).chapters
    mp4 = look(enlarge(source, tmp_path / "out.mp4"))
    assert "subtitle" not in mp4.packets
    assert mp4.chapters == after.chapters
    assert mp4.times == after.times


@pytest.mark.parametrize(
    ("form", "full"),
    [("yuv420p", False), ("yuv420p", True), ("yuv444p", False), ("yuv420p10le", False)],
)
def test_colours_come_back_through_a_network_that_changes_nothing(
    form, full, make_video, look, tmp_path
):
    def ranged(stream):
        stream.codec_context.color_range = 2 if full else 1

    lossless = {"qp": "0"}
    source = make_video(tmp_path / "in.mp4", range(3), form=form, options=lossless, set_up=ranged)
    target = enlarge(source, tmp_path / "out.mp4", unchanged, 1, crf=0)
    for before, after in zip(look(source).frames, look(target).frames, strict=True):
        assert after.format.name.replace("yuvj", "yuv") == form
        assert after.color_range == (2 if full else 1)
        assert after.colorspace == 6  # as players take it where nothing is said, now said
        for a, b in zip(numbers(before), numbers(after), strict=True):
            assert np.abs(a - b).max() <= (8 if form.endswith("10le") else 2)


def test_floats_of_ten_bits_reach_the_network(make_video, tmp_path):
    seen = []

    def watching(image):
        seen.append(image)
        return image

    source = make_video(tmp_path / "in.mp4", range(2), form="yuv420p10le")
    enlarge(source, tmp_path / "out.mp4", watching, 1)
    assert seen[0].dtype == np.float32
    assert seen[0].shape == (HEIGHT, WIDTH, 3)
    levels = np.unique(np.round(seen[0] @ [0.299, 0.587, 0.114] * 876))
    assert len(levels) > 256


def test_still_frames_are_not_computed_twice(make_video, look, tmp_path):
    calls = []

    def counting(image):
        calls.append(1)
        return twice(image)

    pictures = [0, 0, 0, 1, 1, 0, 2, 2]
    source = make_video(
        tmp_path / "in.mp4",
        range(8),
        pictures=pictures,
        options={"crf": "0", "preset": "ultrafast"},
    )
    after = look(enlarge(source, tmp_path / "out.mp4", counting))
    assert len(calls) == 4
    assert len(after.frames) == 8


def test_from_and_to_take_a_part(make_video, look, tmp_path):
    chapters = [(0, 200, "one"), (200, 480, "two"), (480, 1000, "three")]
    source = make_video(
        tmp_path / "in.mkv",
        range(25),
        sound=True,
        subtitles=True,
        chapters=chapters,
        options={"g": "4"},
    )
    span = Span(Fraction(2, 10), Fraction(6, 10))
    after = look(enlarge(source, tmp_path / "out.mkv", span=span))
    assert after.times == [Fraction(i, 25) for i in range(10)]
    whole = look(source)
    sounds = [
        (time - span.start, data)
        for time, _, data in whole.packets["audio"]
        if span.start - Fraction(64, 1000) <= time < span.end  # a packet more, to start with
    ]
    assert [(time, data) for time, _, data in after.packets["audio"]] == sounds
    # The first was on from 100 to 250 ms, the second from 300 to 450.
    assert [row[:2] for row in after.packets["subtitle"]] == [
        (Fraction(0), Fraction(50, 1000)),
        (Fraction(100, 1000), Fraction(150, 1000)),
    ]
    assert after.chapters == [
        (Fraction(0), Fraction(28, 100), "two"),
        (Fraction(28, 100), Fraction(4, 10), "three"),
    ]
    parts_of = numbers(look(enlarge(source, tmp_path / "all.mkv")).frames[5])
    np.testing.assert_allclose(numbers(after.frames[0])[0], parts_of[0], atol=12)


@pytest.mark.parametrize("ending", ["ts", "avi", "mp4"])
def test_from_is_exact_where_frames_are_out_of_order(ending, make_video, look, tmp_path):
    source = make_video(tmp_path / f"in.{ending}", range(30), options={"g": "8", "bf": "3"})
    whole = look(enlarge(source, tmp_path / "whole.mkv"))
    seen: list[np.ndarray] = []

    def watching(image):
        seen.append(image)
        return twice(image)

    enlarge(source, tmp_path / "all.mkv", watching)
    every, seen = seen, []
    part = look(
        enlarge(source, tmp_path / "part.mkv", watching, span=Span(Fraction(48, 100), Fraction(1)))
    )
    with av.open(str(source)) as container:
        origin = Fraction(container.start_time or 0, 1_000_000)
    inside = [
        place for place, time in enumerate(whole.times) if Fraction(48, 100) <= time - origin < 1
    ]
    assert len(part.frames) == 13
    np.testing.assert_array_equal(seen[0], every[inside[0]])
    np.testing.assert_array_equal(seen[-1], every[inside[-1]])
    assert [b - a for a, b in itertools.pairwise(part.times)] == [
        b - a for a, b in itertools.pairwise(whole.times)
    ][inside[0] : inside[-1]]


def test_it_goes_on_after_a_kill_with_the_same_result(make_video, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "LENGTH", PART)
    times = list(itertools.accumulate([0, *(3003, 1501, 4200) * 6]))
    source = make_video(tmp_path / "in.mp4", times, UNIT, sound=True)
    target = tmp_path / "out.mp4"
    whole = enlarge(source, tmp_path / "whole.mp4").read_bytes()
    folder = tmp_path / ".out.mp4.parts"
    worker = [sys.executable, str(Path(__file__).with_name("worker.py"))]
    # With memory of other contents, which an encoder must not read before it is set.
    other = {**os.environ, "MALLOC_PERTURB_": "85"}
    process = subprocess.Popen([*worker, str(source), str(target), "0.3"], env=other)
    try:
        end = time.monotonic() + 120
        while not (folder / "000001.safetensors").exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    done = len(list(folder.glob("*.safetensors")))
    assert 2 <= done < 5
    assert not target.exists()
    calls = []

    def counting(image):
        calls.append(1)
        return twice(image)

    enlarge(source, target, counting)
    assert len(calls) == len(times) - done * PART
    assert target.read_bytes() == whole
    assert not folder.exists()


def test_parts_of_other_settings_are_not_taken(make_video, look, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "LENGTH", PART)
    source = make_video(tmp_path / "in.mp4")
    target = tmp_path / "out.mp4"

    left = iter(range(6))

    def failing(image):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return twice(image)

    with pytest.raises(KeyboardInterrupt):
        enlarge(source, target, failing)
    assert (tmp_path / ".out.mp4.parts" / "000000.safetensors").exists()
    calls = []

    def counting(image):
        calls.append(1)
        return twice(image)

    enlarge(source, target, counting, network={"models": ["another"]})
    assert len(calls) == 12


def test_frames_out_of_order_in_avi_and_a_time_code(make_video, look, tmp_path):
    source = make_video(tmp_path / "in.avi", range(12), options={"bf": "3"})
    after = look(enlarge(source, tmp_path / "out.mkv"))
    steps = np.diff([float(time) for time in after.times])
    np.testing.assert_allclose(steps, 1 / 25, atol=1e-9)
    assert len(after.frames) == 12

    def timed(stream):
        stream.metadata["timecode"] = "01:00:00:00"

    coded = make_video(tmp_path / "in.mov", range(3), set_up=timed)
    with av.open(str(enlarge(coded, tmp_path / "out.mov"))) as container:
        assert container.streams.video[0].metadata["timecode"] == "01:00:00:00"


def test_two_runs_do_not_share_an_output(make_video, tmp_path):
    source = make_video(tmp_path / "in.mp4")
    target = tmp_path / "out.mp4"
    with parts.claim(target, {}), pytest.raises(UserError, match="Another process is making"):
        enlarge(source, target)


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_odd_sides(codec, make_video, look, tmp_path):
    def odd(stream):
        stream.codec_context.width, stream.codec_context.height = 33, 25

    source = make_video(tmp_path / "in.mkv", range(3), codec="libsvtav1", size=(33, 25), set_up=odd)
    after = look(enlarge(source, tmp_path / "out.mkv", unchanged, 1, codec=codec, preset=None))
    frame = after.frames[0]
    assert (frame.width, frame.height) == ((34, 26) if codec == "h264" else (33, 25))


def test_a_cover_and_data_beside_the_pictures(make_video, look, tmp_path, capfd):
    source = make_video(tmp_path / "plain.mp4")
    jpeg: Any = av.CodecContext.create("mjpeg", "w")
    jpeg.width, jpeg.height, jpeg.pix_fmt = 16, 16, "yuvj420p"
    jpeg.time_base = Fraction(1, 25)
    cover = bytes(jpeg.encode(av.VideoFrame(16, 16, "yuvj420p"))[0])
    with av.open(str(source)) as given, av.open(str(tmp_path / "in.mp4"), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0], opaque=True)
        picture = made.add_mux_stream("mjpeg", width=16, height=16)
        picture.disposition = Disposition.attached_pic
        made.start_encoding()
        packet = av.Packet(cover)
        packet.stream, packet.pts, packet.dts = picture, 0, 0
        made.mux(packet)
        for packet in given.demux(given.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                made.mux(packet)
    target = enlarge(tmp_path / "in.mp4", tmp_path / "out.mp4")
    with av.open(str(target)) as container:
        covers = [s for s in container.streams.video if s.disposition & Disposition.attached_pic]
        pictures = [
            s for s in container.streams.video if not s.disposition & Disposition.attached_pic
        ]
        assert len(covers) == len(pictures) == 1
        assert pictures[0].width == 2 * WIDTH
        assert [bytes(p) for p in container.demux(covers[0]) if p.size] == [cover]


def test_what_cannot_be_restored_is_one_sentence(make_video, tmp_path):
    target = tmp_path / "out.mp4"
    source = make_video(tmp_path / "in.mp4")
    interlaced = make_video(
        tmp_path / "interlaced.mp4", options={"x264-params": "interlaced=1:tff=1"}
    )
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXTINF:1,\n{source}\n#EXT-X-ENDLIST\n")
    for file, words in (
        (interlaced, "is interlaced"),
        (text, "it is broken, or no MP4"),
        (playlist, "it is broken, or no MP4"),
        (tmp_path / "missing.mp4", "No such file"),
        (tmp_path, "no regular file"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            enlarge(file, target)
        assert str(file) in str(caught.value)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"codec": "av1", "preset": "slow"}, "no preset 'slow'"),
        ({"crf": 70}, r"--crf of h264 is in 0\.\.51"),
        ({"most_pixels": 100}, "--max-megapixels"),
        ({"span": Span(Fraction(9))}, "no frame between"),
    ]
    for changes, words in wrong:
        with pytest.raises(UserError, match=words):
            enlarge(source, target, **changes)
    for name, words in (("out.webm", "WEBM does not hold h264"), ("out.xyz", "no format")):
        with pytest.raises(UserError, match=words):
            enlarge(source, tmp_path / name)
    assert not target.exists()


def test_a_file_that_is_cut_off_is_noted(make_video, look, tmp_path, capfd):
    source = make_video(
        tmp_path / "in.mp4",
        range(100),
        size=(64, 48),
        options={"movflags": "faststart", "g": "10"},
    )
    data = source.read_bytes()
    cut = tmp_path / "cut.mkv"
    whole = make_video(tmp_path / "whole.mkv", range(100), size=(64, 48), options={"g": "10"})
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    del data
    after = look(enlarge(cut, tmp_path / "out.mkv"))
    assert 10 < len(after.frames) < 90
    assert "may be cut off" in "".join(capfd.readouterr())


def test_decode_times_rise_and_do_not_pass_the_times_of_display():
    rng = np.random.default_rng(0)
    for _ in range(50):
        shown = np.cumsum(rng.integers(1, 100, 30))
        order = np.argsort(np.arange(30) + rng.integers(0, 4, 30), kind="stable")
        times = shown[order]
        decoded = decode_times(times, shown[-1] + 40)
        assert (np.diff(decoded) > 0).all()
        assert (decoded <= times).all()
        assert decoded[-1] - decoded[0] < shown[-1] + 40 - shown[0]
    np.testing.assert_array_equal(decode_times([5, 6, 7], 8), [5, 6, 7])


def test_sigterm_leaves_the_finished_parts(make_video, tmp_path):
    # What kill and a service manager send first.
    source = make_video(tmp_path / "in.mp4", range(40))
    worker = [sys.executable, str(Path(__file__).with_name("worker.py"))]
    folder = tmp_path / ".out.mp4.parts"
    process = subprocess.Popen([*worker, str(source), str(tmp_path / "out.mp4"), "0.2"])
    end = time.monotonic() + 120
    while not (folder / "000000.safetensors").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    process.wait()
    assert (folder / "000000.safetensors").exists()
