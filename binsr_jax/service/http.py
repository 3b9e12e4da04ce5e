"""The service that restores pictures over HTTP."""

import asyncio
import concurrent.futures
import contextlib
import functools
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

import prometheus_client as prometheus
import swagger_ui_bundle
from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from binsr_jax import __version__
from binsr_jax.deploy.cards import card_of, times
from binsr_jax.deploy.listing import Options
from binsr_jax.errors import TooLargeError, UserError
from binsr_jax.pretrained import Packaged
from binsr_jax.service.folders import jobs_in, new_folder, safe_name
from binsr_jax.service.gate import Gate, Limits, refused, too_long
from binsr_jax.service.networks import Wish, choose, suffix_of
from binsr_jax.service.restorer import FullError, Order, Restorer, Result, Ticket

_LOOK = 0.5  # seconds between two checks that a client is still connected

Task = Literal["upscale", "denoise", "dejpeg"]
Form_ = Literal["png", "jpg", "webp", "tif"]
_FIELDS = ("image", "task", "scale", "model", "strength", "format", "quality")


class Model(BaseModel):
    """A network, as ``/v1/models`` describes it."""

    name: str = Field(description="what the field model of a request takes")
    task: Task
    scale: int
    kind: str = Field(description="clean, photo or fast where there are several, else empty")
    about: str
    bytes: int = Field(description="of its file")
    scores: dict[str, float]
    terms: str = Field(description="of its weights")


class Refusal(BaseModel):
    """The sentence that says why a request is refused."""

    error: str


_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "The picture cannot be read or restored."},
    408: {"model": Refusal, "description": "The picture did not arrive in time."},
    413: {"model": Refusal, "description": "The picture has too many bytes or pixels."},
    422: {"model": Refusal, "description": "A field is wrong."},
    429: {"model": Refusal, "description": "The queue is full; see Retry-After."},
    503: {"model": Refusal, "description": "The service is stopping."},
    504: {"model": Refusal, "description": "The picture was not done in time."},
}
_PICTURE = {200: {"content": {"image/*": {}}, "description": "The restored picture."}}


class Metrics:
    """The counts and times that ``/metrics`` shows."""

    def __init__(self, restorer: Restorer) -> None:
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        make = functools.partial(prometheus.Counter, registry=self.registry)
        self._requests = make("binsr_requests", "Requests.", ["path", "status"])
        self.pixels = make("binsr_pixels", "Pixels of restored pictures, before.", ["network"])
        self.seconds = prometheus.Histogram(
            "binsr_restoring_seconds",
            "Work on a picture, without waiting.",
            ["network"],
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250),
            registry=self.registry,
        )
        self._answers = prometheus.Histogram(
            "binsr_request_seconds", "From request to answer.", ["path"], registry=self.registry
        )
        waiting = prometheus.Gauge(
            "binsr_waiting", "Pictures that wait in the queue.", registry=self.registry
        )
        waiting.set_function(lambda: restorer.waiting)

    def count(self, scope: Any, status: int, seconds: float) -> None:
        """Counts a request; all unknown paths are counted together."""
        path = getattr(scope.get("route"), "path", "other")
        self._requests.labels(path, str(status)).inc()
        self._answers.labels(path).observe(seconds)


def create_app(restorer: Restorer, networks: dict[str, Packaged], limits: Limits) -> FastAPI:
    """The application.

    Args:
        restorer: Restores the pictures; it is closed when the application ends.
        networks: The networks that are offered, from ``networks.offered``.
        limits: The limits of a request.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(restorer.close)

    app = FastAPI(
        title="binsr",
        description="Restores pictures with 1-bit networks.",
        version=__version__,
        docs_url=None,  # FastAPI's own page loads its scripts from another host
        redoc_url=None,
        lifespan=lifespan,
    )
    app.openapi_version = "3.0.3"  # the version that the packaged Swagger UI shows
    metrics = Metrics(restorer)
    app.add_middleware(Gate, restorer=restorer, limits=limits, count=metrics.count)
    _add_refusals(app)
    _add_docs(app)
    models = functools.cache(lambda: [_model(network) for network in networks.values()])

    @app.post(
        "/v1/restore",
        response_class=FileResponse,
        responses={**_PICTURE, **_REFUSALS},
        summary="Restore a picture",
    )
    async def restore(
        request: Request,
        image: Annotated[UploadFile, File(description="a PNG, JPEG, WebP, TIFF, GIF or BMP")],
        task: Annotated[Task | None, Form(description="default: the model's, or upscale")] = None,
        scale: Annotated[int | None, Form(ge=1, le=8, description="default: 2")] = None,
        model: Annotated[
            str | None,
            Form(max_length=100, description="a name of /v1/models, or clean, photo or fast"),
        ] = None,
        strength: Annotated[
            float, Form(ge=0, le=1, description="how much of the change is taken at scale 1")
        ] = 1.0,
        format: Annotated[Form_ | None, Form(description="default: the picture's, or png")] = None,
        quality: Annotated[int, Form(ge=1, le=100, description="of JPEG and WebP")] = 95,
    ) -> Response:
        await _require_known_fields(request)
        folder = await asyncio.to_thread(new_folder)
        work = _Work(restorer, networks, Path(folder.name), limits)
        options = Options(quality=quality, most_pixels=restorer.most_pixels)
        wish = Wish(task, scale, model)
        try:
            order = await asyncio.to_thread(work.order, image, wish, strength, format, options)
            client = request.client.host if request.client else ""
            ticket = await asyncio.to_thread(work.submit, order, client)
        except BaseException:
            folder.cleanup()
            raise
        try:
            result = await _finished(request, restorer, ticket)
        except BaseException:
            # A tile may still be in progress, and write to the folder.
            ticket.future.add_done_callback(lambda _: folder.cleanup())
            raise
        metrics.seconds.labels(result.network).observe(result.seconds)
        metrics.pixels.labels(result.network).inc(result.before[0] * result.before[1])
        request.state.log = "{} {}x{} to {}x{} in {:.3f} s".format(
            result.network, *result.before, *result.after, result.seconds
        )
        return FileResponse(
            result.file,
            filename=result.file.name,
            headers=_headers(result),
            background=BackgroundTask(folder.cleanup),
        )

    @app.get("/v1/models", summary="The networks that are offered")
    async def list_models() -> list[Model]:
        return await asyncio.to_thread(models)

    @app.get("/healthz", summary="Whether the service works")
    async def health() -> JSONResponse:
        state = {"status": "ok", "waiting": restorer.waiting, "version": __version__}
        if not restorer.alive:
            return JSONResponse({**state, "status": "the worker has stopped"}, 503)
        return JSONResponse(state)

    @app.get("/metrics", summary="Counts for Prometheus")
    async def show_metrics() -> Response:
        content = prometheus.generate_latest(metrics.registry)
        return Response(content, media_type=prometheus.CONTENT_TYPE_LATEST)

    return app


def _model(network: Packaged) -> Model:
    card = card_of(network, times()[1])
    return Model(
        name=card.name,
        task=network.task,  # pyright: ignore[reportArgumentType]
        scale=card.scale,
        kind=card.kind,
        about=card.about,
        bytes=card.size,
        scores=dict(card.scores),
        terms=card.terms,
    )


class _Work:
    """One request's picture, in its folder."""

    def __init__(
        self, restorer: Restorer, networks: dict[str, Packaged], folder: Path, limits: Limits
    ) -> None:
        self._restorer, self._networks = restorer, networks
        self._folder, self._limits = folder, limits

    def order(
        self, upload: UploadFile, wish: Wish, strength: float, form: str | None, options: Options
    ) -> Order:
        """Writes the picture to the folder, and chooses its network."""
        if (upload.size or 0) > self._limits.bytes:
            raise TooLargeError(too_long(self._limits.bytes))
        source = self._folder / safe_name(upload.filename or "")
        with open(source, "xb") as file:
            shutil.copyfileobj(upload.file, file)
        try:
            network = choose(self._networks, wish, source)
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        (job,) = jobs_in(self._folder, [source], suffix_of(network), form)
        return Order(job, network, strength, options)

    def submit(self, order: Order, client: str) -> Ticket:
        """Puts it into the queue."""
        try:
            return self._restorer.submit(order, client)
        except UserError as error:
            raise type(error)(order.sentence(error)) from error


async def _require_known_fields(request: Request) -> None:
    """Raises HTTPException if a field is unknown or given twice, since FastAPI would ignore it."""
    if request.query_params:
        raise HTTPException(422, "Fields belong into the form, not into the address.")
    names = [name for name, _ in (await request.form()).multi_items()]
    for name in names:
        if name not in _FIELDS:
            fields = ", ".join(_FIELDS)
            raise HTTPException(422, f"There is no field {name[:50]!r}: choose from {fields}.")
        if names.count(name) > 1:
            raise HTTPException(422, f"The field {name} is given more than once.")


async def _finished(request: Request, restorer: Restorer, ticket: Ticket) -> Result:
    """The result of a ticket. Cancels the ticket when its client disconnects."""
    future = asyncio.wrap_future(ticket.future)
    try:
        while not future.done():
            left = request.state.deadline - time.monotonic()
            if left <= 0:
                raise HTTPException(504, "The picture was not done in time: try a smaller one.")
            await asyncio.wait({future}, timeout=min(_LOOK, left))
            if not future.done() and await request.is_disconnected():
                raise HTTPException(499, "The client has gone.")
        return ticket.future.result()
    except concurrent.futures.CancelledError:
        raise HTTPException(503, "The service is stopping.") from None
    except UserError as error:
        raise type(error)(ticket.order.sentence(error)) from error
    finally:
        restorer.cancel(ticket)
        if not future.cancel() and not future.cancelled():
            future.exception()  # else asyncio logs that the exception was never retrieved


def _headers(result: Result) -> dict[str, str]:
    headers = {
        "X-Binsr-Network": result.network.encode("ascii", "replace").decode(),
        "X-Binsr-Seconds": f"{result.seconds:.3f}",
        "X-Binsr-Size": "{}x{}".format(*result.after),
    }
    if result.notes:
        headers["X-Binsr-Notes"] = "; ".join(result.notes).encode("ascii", "replace").decode()
    return headers


def _add_refusals(app: FastAPI) -> None:
    """Turns every error into an answer with one sentence."""

    async def user_error(_: Request, error: Exception) -> Response:
        return refused(413 if isinstance(error, TooLargeError) else 400, str(error))

    async def full(_: Request, error: Exception) -> Response:
        assert isinstance(error, FullError)
        return refused(429, str(error), {"Retry-After": str(error.seconds)})

    async def http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return refused(error.status_code, error.detail, dict(error.headers or {}))

    async def wrong_field(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return refused(422, "; ".join(map(_mistake, error.errors())) + ".")

    app.add_exception_handler(UserError, user_error)
    app.add_exception_handler(FullError, full)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, wrong_field)


def _mistake(detail: dict[str, Any]) -> str:
    """The sentence about a wrong field."""
    # For text instead of a file, the library's own message names Python types.
    sentence = "A file is expected" if detail["type"] == "value_error" else detail["msg"]
    return f"{detail['loc'][-1]}: {sentence}"


def _add_docs(app: FastAPI) -> None:
    """Adds Swagger UI at ``/docs``, from files of this machine."""
    app.mount("/docs/files", StaticFiles(directory=swagger_ui_bundle.swagger_ui_path), "docs")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="binsr",
            swagger_js_url="/docs/files/swagger-ui-bundle.js",
            swagger_css_url="/docs/files/swagger-ui.css",
            swagger_favicon_url="/docs/files/favicon-32x32.png",
        )
