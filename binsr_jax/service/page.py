"""The page: pictures in, restored pictures out, in a browser."""

import asyncio
import html
import logging
import os
import secrets
import time
import zipfile
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from fastapi import FastAPI

from binsr_jax.deploy.listing import Job, Options
from binsr_jax.errors import UserError
from binsr_jax.image_files import IMAGE_SUFFIXES
from binsr_jax.pretrained import Packaged
from binsr_jax.service.folders import jobs_in, new_folder, safe_name
from binsr_jax.service.networks import TASKS, Wish, choose, suffix_of
from binsr_jax.service.restorer import FullError, Order, Restorer, Result, Ticket
from binsr_jax.service.shut import Shut
from binsr_jax.service.views import MOST_PIXELS, write_views

log = logging.getLogger("binsr.page")

_LOOK = 0.2  # seconds between two looks at the progress
_AUTOMATIC = "automatic"
_LABELS = {True: "Bicubic | restored", False: "Before | restored"}  # by whether it enlarges
_WHOLE, _PART = "Whole picture", "Part at full size"
_FORMATS = {"as the picture": None, "PNG": "png", "JPEG": "jpg", "WebP": "webp", "TIFF": "tif"}
_CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_SCRIPT = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")


@dataclass
class _Done:
    """A picture of a visit that was restored, or the sentence why not."""

    job: Job
    result: Result | None
    sentence: str = ""


@dataclass(eq=False)
class _Visit:
    """What one open page has ordered."""

    folder: "TemporaryDirectory[str]"
    ticket: Ticket | None = None
    stopped: bool = False
    done: list[_Done] = field(default_factory=list)

    @property
    def restored(self) -> list[_Done]:
        return [done for done in self.done if done.result is not None]


class Page:
    """The page's events.

    Args:
        restorer: does the work.
        networks: those that are offered, from ``networks.offered``.
        most_pictures: so many are taken at a time.
        folder: Gradio's own folder, in which visitors' files lie.
    """

    def __init__(
        self, restorer: Restorer, networks: dict[str, Packaged], most_pictures: int, folder: Path
    ) -> None:
        self._restorer, self._networks = restorer, networks
        self.most_pictures, self.folder = most_pictures, folder
        self._visits: dict[str, _Visit] = {}
        self._viewing = asyncio.Semaphore(1)  # views of large pictures take memory

    def blocks(self) -> gr.Blocks:
        """The page as Gradio's blocks."""
        tasks = [(TASKS[t], t) for t in TASKS if any(n.task == t for n in self._networks.values())]
        scales = sorted({n.scale for n in self._networks.values() if n.scale > 1})
        with gr.Blocks(
            title="binsr", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True
        ) as blocks:
            gr.HTML(
                "<h1>binsr</h1><p>Enlarge and clean pictures with 1-bit networks. "
                "They stay on the machine that runs this page.</p>",
                elem_id="head",
            )
            with gr.Row(equal_height=False):
                with gr.Column(scale=1, min_width=300, elem_id="choices"):
                    files = gr.File(
                        label="Pictures",
                        file_count="multiple",
                        file_types=list(IMAGE_SUFFIXES),
                        height=170,
                        elem_id="pictures",
                    )
                    task = gr.Radio(tasks, value=tasks[0][1], label="Task", elem_id="task")
                    scale = gr.Radio(
                        [(f"{s} times", s) for s in scales],
                        value=scales[0] if scales else None,
                        label="Scale",
                        elem_id="scale",
                        visible=tasks[0][1] == "upscale",
                    )
                    model = gr.Dropdown(
                        self._models(tasks[0][1], scales[0] if scales else 1),
                        value=_AUTOMATIC,
                        label="Model",
                        elem_id="model",
                    )
                    strength = gr.Slider(
                        0, 1, 1, step=0.05, label="Strength", visible=False, elem_id="strength"
                    )
                    form = gr.Dropdown(
                        list(_FORMATS), value="as the picture", label="Format", elem_id="form"
                    )
                    with gr.Row():
                        start = gr.Button(
                            "Restore", variant="primary", min_width=80, elem_id="start"
                        )
                        stop = gr.Button("Stop", interactive=False, min_width=80, elem_id="stop")
                with gr.Column(scale=2, min_width=320, elem_id="results"):
                    status = gr.HTML(self._welcome())
                    slider = gr.ImageSlider(
                        label=_LABELS[True],
                        type="filepath",
                        interactive=False,
                        visible=False,
                        max_height=560,
                        buttons=["fullscreen"],
                        elem_id="compare",
                    )
                    position = gr.Slider(
                        0,
                        100,
                        50,
                        step=1,
                        label="Move the line",
                        visible=False,
                        elem_id="position",
                    )
                    with gr.Row():
                        pick = gr.Dropdown(label="Picture", visible=False, elem_id="pick")
                        view = gr.Radio(
                            [_WHOLE, _PART],
                            value=_WHOLE,
                            label="Show",
                            visible=False,
                            elem_id="view",
                        )
                    with gr.Row():
                        across = gr.Slider(0, 1, 0.5, step=0.01, label="Across", visible=False)
                        down = gr.Slider(0, 1, 0.5, step=0.01, label="Down", visible=False)
                    download = gr.DownloadButton(
                        "Download", visible=False, variant="primary", elem_id="download"
                    )
                    table = gr.HTML(elem_id="table")

            places = [pick, view, across, down]
            for control in (task, scale):
                control.change(
                    self._choices, [task, scale], [scale, model, strength], show_progress="hidden"
                )
            start.click(
                self._restore,
                [files, task, scale, model, strength, form],
                [status, slider, position, *places, download, table, start, stop],
                concurrency_limit=64,
                show_progress="hidden",
            )
            stop.click(self._stop, show_progress="hidden")
            for control in (pick, view):
                control.input(self._look, places, [slider, across, down], show_progress="hidden")
            for control in (across, down):
                control.release(self._look, places, [slider, across, down], show_progress="hidden")
            position.input(
                lambda value: gr.ImageSlider(slider_position=value),
                position,
                slider,
                show_progress="hidden",
            )
            blocks.unload(self._leave)
        return blocks

    def _welcome(self) -> str:
        megapixels = self._restorer.most_pixels / 1e6
        return (
            '<div class="empty"><p>Drop pictures into the field, choose or paste them '
            f"(up to {self.most_pictures}, of {megapixels:g} megapixels each), and press "
            "Restore.</p><p>Here you then compare before and after: drag the line, zoom with the "
            "wheel or two fingers.</p></div>"
        )

    def _models(self, task: str, scale: int) -> list[tuple[str, str]]:
        """The choices of a task and a scale: what is shown, and its value."""
        fitting = [
            network
            for network in self._networks.values()
            if network.task == task and network.scale == (scale if task == "upscale" else 1)
        ]
        shown = [(f"{network.name}: for {network.about}", network.name) for network in fitting]
        return [("Automatic", _AUTOMATIC), *shown]

    def _choices(self, task: str, scale: int) -> tuple[Any, Any, Any]:
        """What can be chosen beside a task."""
        enlarges = task == "upscale"
        model = gr.Dropdown(choices=self._models(task, scale), value=_AUTOMATIC)  # pyright: ignore
        return gr.Radio(visible=enlarges), model, gr.Slider(visible=not enlarges)

    async def _restore(
        self,
        files: Sequence[str] | None,
        task: str,
        scale: int,
        model: str,
        strength: float,
        form: str,
        request: gr.Request,
    ) -> AsyncIterator[tuple[Any, ...]]:
        """Restores pictures one after the other, and shows how far it is."""
        if not files:
            yield self._shown(None, _note("There is no picture yet: drop one into the field."))
            return
        if len(files) > self.most_pictures:
            sentence = f"These are {len(files)} pictures, and {self.most_pictures} are taken."
            yield self._shown(None, _note(sentence, wrong=True))
            return
        visit = await self._begin(str(request.session_hash))
        wish = Wish(task, scale if task == "upscale" else None, _named(model))
        try:
            orders = await asyncio.to_thread(
                self._orders, visit, files, wish, strength, _FORMATS[form]
            )
        except UserError as error:
            yield self._shown(visit, _note(str(error), wrong=True))
            return
        started = time.monotonic()
        for i, order in enumerate(orders):
            async for note in self._one(visit, order, str(request.session_hash)):
                place = f"Picture {i + 1} of {len(orders)}: " if len(orders) > 1 else ""
                share = (i + (visit.ticket.share if visit.ticket else 0)) / len(orders)
                took = time.monotonic() - started
                yield self._shown(
                    visit, _progress(share, f"{place}{note}, {took:.0f} s"), working=True
                )
            if visit.stopped:
                break
        visit.ticket = None
        archive, views = None, None
        if visit.restored and not self._left(visit):
            yield self._shown(visit, _progress(1, "Making what is shown"), working=True)
            archive = await asyncio.to_thread(_download, visit)
            views = await self._views(visit.restored[0], None)
            if self._left(visit):
                visit.folder.cleanup()  # what was made since the page was closed
        yield self._shown(visit, _summary(visit, len(orders)), views=views, download=archive)

    async def _one(self, visit: _Visit, order: Order, session: str) -> AsyncIterator[str]:
        """Says what a picture is waiting for, until it is done or not to be done."""
        while True:
            try:
                ticket = await asyncio.to_thread(self._restorer.submit, order, session)
                break
            except FullError:
                yield "the queue is full, waiting for a place"
                await asyncio.sleep(1)
            except UserError as error:
                visit.done.append(_Done(order.job, None, order.sentence(error)))
                return
            if visit.stopped:
                return
        visit.ticket = ticket
        if visit.stopped:
            self._restorer.cancel(ticket)
        while not ticket.future.done():
            ahead = self._restorer.ahead(ticket)
            yield f"{ahead} before it" if ahead else f"{100 * ticket.share:.0f}%"
            await asyncio.sleep(_LOOK)
        try:
            visit.done.append(_Done(order.job, ticket.future.result()))
        except CancelledError:
            visit.stopped = True
        except (UserError, OSError, MemoryError) as error:
            visit.done.append(_Done(order.job, None, order.sentence(error)))
        except Exception:
            log.exception("A picture of %s failed", session)
            fault = UserError("something is wrong with this page's program; its log says what.")
            visit.done.append(_Done(order.job, None, order.sentence(fault)))

    def _orders(
        self, visit: _Visit, files: Sequence[str], wish: Wish, strength: float, form: str | None
    ) -> list[Order]:
        """The orders of a visit, whose pictures get a folder each, as names may be the same."""
        folder = Path(visit.folder.name)
        sources = []
        for i, file in enumerate(files):
            source = folder / str(i + 1) / safe_name(os.path.basename(file))
            source.parent.mkdir()
            os.link(file, source)
            sources.append(source)
        networks = [choose(self._networks, wish, source) for source in sources]
        jobs = jobs_in(folder, sources, suffix_of(networks[0]), form)
        options = Options(most_pixels=self._restorer.most_pixels)
        return [
            Order(job, network, strength, options)
            for job, network in zip(jobs, networks, strict=True)
        ]

    async def _begin(self, session: str) -> _Visit:
        """A new visit in place of the page's last one."""
        self._end(session)
        folder = await asyncio.to_thread(new_folder, self.folder)
        visit = _Visit(folder)
        self._visits[session] = visit
        return visit

    def _end(self, session: str) -> None:
        visit = self._visits.pop(session, None)
        if visit is None:
            return
        visit.stopped = True
        if visit.ticket is None:
            visit.folder.cleanup()
        else:
            self._restorer.cancel(visit.ticket)
            # A tile may still be worked, and the folder be written to.
            visit.ticket.future.add_done_callback(lambda _: visit.folder.cleanup())

    def _left(self, visit: _Visit) -> bool:
        return visit not in self._visits.values()

    def _leave(self, request: gr.Request) -> None:
        """Ends the work of a page that was closed."""
        self._end(str(request.session_hash))

    def _stop(self, request: gr.Request) -> None:
        visit = self._visits.get(str(request.session_hash))
        if visit is not None:
            visit.stopped = True
            if visit.ticket is not None:
                self._restorer.cancel(visit.ticket)

    async def _look(
        self, pick: int | None, view: str, across: float, down: float, request: gr.Request
    ) -> tuple[Any, Any, Any]:
        """Shows another picture, or another part of it."""
        visit = self._visits.get(str(request.session_hash))
        part = view == _PART
        shown = gr.Slider(visible=part)
        if visit is None or pick is None or not 0 <= pick < len(visit.restored):
            return gr.skip(), shown, shown
        views = await self._views(visit.restored[pick], (across, down) if part else None)
        return gr.ImageSlider(value=views), shown, shown

    async def _views(self, done: _Done, place: tuple[float, float] | None) -> tuple[str, str]:
        folder = done.job.target.parent / f".{secrets.token_hex(8)}"  # the browser keeps addresses
        async with self._viewing:
            before, after = await asyncio.to_thread(
                write_views, done.job.source, done.job.target, folder, place
            )
        return str(before), str(after)

    def _shown(
        self,
        visit: _Visit | None,
        status: str,
        *,
        working: bool = False,
        views: tuple[str, str] | None = None,
        download: str | None = None,
    ) -> tuple[Any, ...]:
        """Updates of all that ``_restore`` shows."""
        restored = visit.restored if visit is not None else []
        choices = [(done.job.target.name, i) for i, done in enumerate(restored)]
        there = views is not None
        enlarged = any(done.result.before != done.result.after for done in restored if done.result)
        large = any(
            done.result.after[0] * done.result.after[1] > MOST_PIXELS
            for done in restored
            if done.result
        )
        return (
            status,
            gr.ImageSlider(value=views, visible=there, slider_position=50, label=_LABELS[enlarged]),
            gr.Slider(value=50, visible=there),
            gr.Dropdown(
                choices=choices, value=0 if there else None, visible=there and len(choices) > 1
            ),  # pyright: ignore[reportArgumentType]
            gr.Radio(value=_WHOLE, visible=there and large),
            gr.Slider(visible=False),
            gr.Slider(visible=False),
            gr.DownloadButton(
                "Download all as a ZIP" if len(restored) > 1 else "Download",
                value=download,
                visible=download is not None,
            ),
            _table(visit.done if visit is not None else []),
            gr.Button(interactive=not working),
            gr.Button(interactive=working),
        )


def create_app(page: Page, most_bytes: int) -> FastAPI:
    """The application that answers the page's requests.

    Args:
        page: the page.
        most_bytes: of a file.
    """
    blocks = page.blocks()
    blocks.queue(max_size=256, default_concurrency_limit=16)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    theme = gr.themes.Soft(
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        allowed_paths=[],
        blocked_paths=[],
        max_file_size=most_bytes,
        ssr_mode=False,
        show_error=True,
        footer_links=[],
        run_history=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        theme=theme,
        css=_CSS,
        head=f"<script>{_SCRIPT}</script>",
    )
    app.add_middleware(
        Shut, folder=page.folder, most_bytes=most_bytes, most_pictures=page.most_pictures
    )
    return app


def _named(model: str) -> str | None:
    return None if model == _AUTOMATIC else model


def _download(visit: _Visit) -> str:
    """The one result, or a ZIP of all."""
    files = [done.job.target for done in visit.restored]
    if len(files) == 1:
        return str(files[0])
    archive = Path(visit.folder.name) / "restored.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as output:  # they are compressed
        for file in files:
            output.write(file, file.name)
    return str(archive)


def _note(sentence: str, *, wrong: bool = False) -> str:
    kind = "alert" if wrong else "status"
    return f'<p role="{kind}" class="{"wrong" if wrong else "note"}">{html.escape(sentence)}</p>'


def _progress(share: float, words: str) -> str:
    text = html.escape(words)
    bar = f'<progress max="1" value="{share:.3f}" aria-label="done"></progress>'
    return f'<div class="note">{bar}<p role="status">{text}</p></div>'


def _summary(visit: _Visit, count: int) -> str:
    restored, failed = len(visit.restored), len(visit.done) - len(visit.restored)
    seconds = sum(done.result.seconds for done in visit.restored if done.result)
    parts = [f"{restored} of {count} restored in {seconds:.1f} s"]
    if failed:
        parts.append(f"{failed} failed")
    if visit.stopped:
        parts.append("stopped")
    return _note("; ".join(parts) + ".", wrong=bool(failed) and not restored)


def _table(done: Sequence[_Done]) -> str:
    """What became of each picture; names come from visitors, so that everything is escaped."""
    if not done:
        return ""
    head = ("Picture", "Before", "After", "File", "Network", "Time", "Notes")
    rows = []
    for one in done:
        name = one.job.source.name
        if one.result is None:
            rows.append(
                f'<tr><td>{html.escape(name)}</td><td colspan="6" class="wrong">'
                f"{html.escape(one.sentence)}</td></tr>"
            )
            continue
        result = one.result
        size = result.file.stat().st_size if result.file.exists() else 0
        cells = (
            name,
            "{} x {}".format(*result.before),
            "{} x {}".format(*result.after),
            f"{size / 1e6:.2f} MB",
            result.network,
            f"{result.seconds:.1f} s",
            "; ".join(result.notes),
        )
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    titles = "".join(f"<th>{title}</th>" for title in head)
    return f"<div class='wide'><table><tr>{titles}</tr>{''.join(rows)}</table></div>"
