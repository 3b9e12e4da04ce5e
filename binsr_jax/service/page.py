"""The behaviour of the page on which visitors restore pictures in a browser."""

import asyncio
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from binsr_jax.deploy.listing import Options
from binsr_jax.errors import UserError
from binsr_jax.pretrained import Packaged
from binsr_jax.service import markup
from binsr_jax.service.folders import jobs_in, new_folder, safe_name
from binsr_jax.service.layout import AUTOMATIC, FORMATS, LABELS, PART, WHOLE, lay_out, models_of
from binsr_jax.service.networks import Wish, choose, suffix_of
from binsr_jax.service.restorer import FullError, Order, Restorer
from binsr_jax.service.shut import Shut
from binsr_jax.service.views import MOST_PIXELS, write_views
from binsr_jax.service.visits import Done, Visit, download

log = logging.getLogger("binsr.page")

_LOOK = 0.2  # seconds between two updates of the progress
_CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_SCRIPT = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")


class Page:
    """What the page does when a visitor clicks.

    Args:
        restorer: Restores the pictures, in turn for all visitors.
        networks: The networks that are offered, from ``networks.offered``.
        most_pictures: The largest number of pictures in one order.
        folder: Gradio's folder, in which visitors' files lie.
    """

    def __init__(
        self, restorer: Restorer, networks: dict[str, Packaged], most_pictures: int, folder: Path
    ) -> None:
        self._restorer, self._networks = restorer, networks
        self.most_pictures, self.folder = most_pictures, folder
        self._visits: dict[str, Visit] = {}
        self._viewing = asyncio.Semaphore(1)  # views of large pictures take memory

    def blocks(self) -> gr.Blocks:
        """The page as Gradio's blocks."""
        with gr.Blocks(
            title="binsr", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True
        ) as blocks:
            chosen, shown = lay_out(self._networks, self.most_pictures, self._restorer.most_pixels)
            for control in (chosen.task, chosen.scale):
                control.change(
                    self._choices,
                    [chosen.task, chosen.scale],
                    [chosen.scale, chosen.model, chosen.strength],
                    show_progress="hidden",
                )
            order = [chosen.files, chosen.task, chosen.scale, chosen.model]
            chosen.start.click(
                self._restore,
                [*order, chosen.strength, chosen.form],
                [*vars(shown).values(), chosen.start, chosen.stop],  # the order of ``_shown``
                concurrency_limit=64,
                show_progress="hidden",
            )
            chosen.stop.click(self._stop, show_progress="hidden")
            view = [shown.slider, shown.across, shown.down]
            for control in (shown.pick, shown.view):
                control.input(self._look, shown.places, view, show_progress="hidden")
            for control in (shown.across, shown.down):
                control.release(self._look, shown.places, view, show_progress="hidden")
            shown.position.input(
                lambda value: gr.ImageSlider(slider_position=value),
                shown.position,
                shown.slider,
                show_progress="hidden",
            )
            blocks.unload(self._leave)
        return blocks

    def _choices(self, task: str, scale: int) -> tuple[Any, Any, Any]:
        """Updates of the controls that depend on the task and the scale."""
        enlarges = task == "upscale"
        model = gr.Dropdown(choices=models_of(self._networks, task, scale), value=AUTOMATIC)  # pyright: ignore
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
        """Restores the pictures of an order in turn; yields updates for all of ``Results``."""
        if not files:
            yield self._shown(
                None, markup.note("There is no picture yet: drop one into the field.")
            )
            return
        if len(files) > self.most_pictures:
            sentence = f"These are {len(files)} pictures: choose at most {self.most_pictures}."
            yield self._shown(None, markup.note(sentence, wrong=True))
            return
        visit = await self._begin(str(request.session_hash))
        wish = Wish(task, scale if task == "upscale" else None, _named(model))
        try:
            orders = await asyncio.to_thread(
                self._orders, visit, files, wish, strength, FORMATS[form]
            )
        except UserError as error:
            yield self._shown(visit, markup.note(str(error), wrong=True))
            return
        started = time.monotonic()
        for i, order in enumerate(orders):
            async for state in self._one(visit, order, str(request.session_hash)):
                place = f"Picture {i + 1} of {len(orders)}: " if len(orders) > 1 else ""
                share = (i + (visit.ticket.share if visit.ticket else 0)) / len(orders)
                took = time.monotonic() - started
                yield self._shown(
                    visit, markup.progress(share, f"{place}{state}, {took:.0f} s"), working=True
                )
            if visit.stopped:
                break
        visit.ticket = None
        archive, views = None, None
        if visit.restored and not self._left(visit):
            yield self._shown(visit, markup.progress(1, "Preparing the comparison"), working=True)
            archive = await asyncio.to_thread(download, visit)
            views = await self._views(visit.restored[0], None)
            if self._left(visit):
                visit.folder.cleanup()  # files that were written since the page was closed
        yield self._shown(visit, markup.summary(visit, len(orders)), views=views, download=archive)

    async def _one(self, visit: Visit, order: Order, session: str) -> AsyncIterator[str]:
        """Restores one picture; yields its state in words, such as its place in the queue."""
        while True:
            try:
                ticket = await asyncio.to_thread(self._restorer.submit, order, session)
                break
            except FullError:
                yield "the queue is full, waiting for a place"
                await asyncio.sleep(1)
            except UserError as error:
                visit.done.append(Done(order.job, None, order.sentence(error)))
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
            visit.done.append(Done(order.job, ticket.future.result()))
        except CancelledError:
            visit.stopped = True
        except (UserError, OSError, MemoryError) as error:
            visit.done.append(Done(order.job, None, order.sentence(error)))
        except Exception:
            log.exception("A picture of %s failed", session)
            fault = UserError("the page's program failed; its log says why.")
            visit.done.append(Done(order.job, None, order.sentence(fault)))

    def _orders(
        self, visit: Visit, files: Sequence[str], wish: Wish, strength: float, form: str | None
    ) -> list[Order]:
        """One order per picture. Each gets a folder of its own, since two may have one name."""
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

    async def _begin(self, session: str) -> Visit:
        """A new visit in place of the page's last one."""
        self._end(session)
        folder = await asyncio.to_thread(new_folder, self.folder)
        visit = Visit(folder)
        self._visits[session] = visit
        return visit

    def _end(self, session: str) -> None:
        """Cancels what is left of a visit, and removes its folder."""
        visit = self._visits.pop(session, None)
        if visit is None:
            return
        visit.stopped = True
        if visit.ticket is None:
            visit.folder.cleanup()
        else:
            self._restorer.cancel(visit.ticket)
            # A tile may still be in progress, and write to the folder.
            visit.ticket.future.add_done_callback(lambda _: visit.folder.cleanup())

    def _left(self, visit: Visit) -> bool:
        return visit not in self._visits.values()

    def _leave(self, request: gr.Request) -> None:
        """Cancels the order of a page that was closed."""
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
        part = view == PART
        shown = gr.Slider(visible=part)
        if visit is None or pick is None or not 0 <= pick < len(visit.restored):
            return gr.skip(), shown, shown
        views = await self._views(visit.restored[pick], (across, down) if part else None)
        return gr.ImageSlider(value=views), shown, shown

    async def _views(self, done: Done, place: tuple[float, float] | None) -> tuple[str, str]:
        folder = (
            done.job.target.parent / f".{secrets.token_hex(8)}"
        )  # a new address, since browsers cache
        async with self._viewing:
            before, after = await asyncio.to_thread(
                write_views, done.job.source, done.job.target, folder, place
            )
        return str(before), str(after)

    def _shown(
        self,
        visit: Visit | None,
        status: str,
        *,
        working: bool = False,
        views: tuple[str, str] | None = None,
        download: str | None = None,
    ) -> tuple[Any, ...]:
        """Updates of the controls of ``Results``, in their order, and of the two buttons."""
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
            gr.ImageSlider(value=views, visible=there, slider_position=50, label=LABELS[enlarged]),
            gr.Slider(value=50, visible=there),
            gr.Dropdown(
                choices=choices, value=0 if there else None, visible=there and len(choices) > 1
            ),  # pyright: ignore[reportArgumentType]
            gr.Radio(value=WHOLE, visible=there and large),
            gr.Slider(visible=False),
            gr.Slider(visible=False),
            gr.DownloadButton(
                "Download all as a ZIP" if len(restored) > 1 else "Download",
                value=download,
                visible=download is not None,
            ),
            markup.table(visit.done if visit is not None else []),
            gr.Button(interactive=not working),
            gr.Button(interactive=working),
        )


def create_app(page: Page, most_bytes: int) -> FastAPI:
    """The application that answers the page's requests.

    Args:
        page: The page.
        most_bytes: The largest size of an uploaded file.
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
    return None if model == AUTOMATIC else model
