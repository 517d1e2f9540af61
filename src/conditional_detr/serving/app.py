"""The application: the endpoints of the server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from conditional_detr.device.threads import usable_cores
from conditional_detr.inference.batching import PreparedImage
from conditional_detr.inference.detector import Detector
from conditional_detr.inference.results import clip_to_image, rows_of, selected
from conditional_detr.inference.tiles import merged, windows
from conditional_detr.serving.answers import (
    Explanations,
    FoundObject,
    Health,
    ImageResult,
    ModelInfo,
    Predictions,
    info_of,
)
from conditional_detr.serving.batcher import Batcher, Record
from conditional_detr.serving.description import ABOUT, METRICS, describe_token, form, problems
from conditional_detr.serving.guard import Guard, refusal, state_of, to_stderr
from conditional_detr.serving.limits import Access, Limits, Refused
from conditional_detr.serving.metrics import Metrics
from conditional_detr.serving.queue import Queue
from conditional_detr.serving.uploads import DISCONNECTED, Preparation, Upload, read_uploads

DECODERS = 4  # threads that decode images, at most one for each core
WHOLE = 4  # images whose pixels are kept while the model works: those that are cut into tiles, or explained
SCRIPTS = ("attention.js", "camera.js", "drawing.js", "geometry.js", "gestures.js", "page.js", "results.js")
PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/backend.js": ("server.js", "text/javascript"),
    **{f"/{name}": (name, "text/javascript") for name in SCRIPTS},
}
Conf = Annotated[
    float | None,
    Query(
        ge=0,
        le=1,
        description="Score threshold. Without it, that of the server; if it has none, those of the model; else 0.3.",
        examples=[0.5],
    ),
]


class Service:
    """A model behind the application, and what all requests share. `conf` is the score threshold of requests without one."""

    def __init__(self, detector: Detector, name: str, limits: Limits, conf: float | None = None) -> None:
        self.model, self.tiling, self.name, self.limits = detector.model, detector.tiling, name, limits
        self.conf = conf
        self.metrics = Metrics()
        self.queue = Queue(limits, self.metrics)
        self.batcher = Batcher(self.model, limits.batch, limits.wait_ms / 1000, self.metrics)
        self.prepare = Preparation(self.model, limits, self.metrics.took)
        self.decoders = ThreadPoolExecutor(min(DECODERS, usable_cores()), thread_name_prefix="decode")
        self.whole = asyncio.Semaphore(WHOLE)
        self.is_ready = True

    @asynccontextmanager
    async def uploads(self, request: Request) -> AsyncIterator[list[Upload]]:
        """Read the images of a request. While they are used, they have places in the queue.

        Raises
        ------
        Refused : the server is busy or shutting down, the request is sent too slowly, or it has no images
        """
        if not self.is_ready:
            raise Refused(503, "the server is shutting down", retry_after=1)
        self.queue.check()
        with self.queue.memory() as take:
            started, found = time.monotonic(), list[Upload]()
            async with time_limit(self.limits.seconds, lambda: bool(found)):
                found += await read_uploads(request, self.limits, take)
                self.metrics.took("read", time.monotonic() - started)
                state_of(request.scope)["images"] = len(found)
                with self.queue.places(len(found)):
                    try:
                        async with ends_with_client(request):
                            yield found
                    finally:
                        for each in found:  # a thread may still know it, but its memory is given back
                            each.content = b""

    async def in_pool(self, function: Callable[..., Any], *given: Any) -> Any:
        """Run a function in a decoding thread."""
        return await asyncio.get_running_loop().run_in_executor(self.decoders, function, *given)

    async def detect_all(self, uploads: list[Upload], conf: float | None) -> list[ImageResult]:
        """Detect objects in images. If one fails, the others are dropped."""
        results = [asyncio.ensure_future(self.detect(each, conf)) for each in uploads]
        try:
            return await asyncio.gather(*results)
        finally:
            for each in results:
                each.cancel()

    async def detect(self, upload: Upload, conf: float | None) -> ImageResult:
        """Detect objects in an image, as `Detector` does."""
        if self.tiling.size:
            rgb, record = await self._tiled(upload)
            return await self.in_pool(self._result, upload.name, rgb, record, conf)  # of very many windows it takes a while
        prepared: PreparedImage = await self.in_pool(self.prepare.whole, upload)
        (record,) = await self._run([prepared])
        return self._result(upload.name, prepared.rgb, record, conf)

    def _result(self, name: str, rgb: np.ndarray, record: Record, conf: float | None) -> ImageResult:
        started = time.monotonic()
        rows = rows_of(selected(clip_to_image(rgb, record), self.model, conf))
        found = [
            FoundObject(
                category_id=self.model.category_ids[row.label],
                category_name=self.model.class_names[row.label],
                bbox=row.bbox,
                score=row.score,
            )
            for row in rows
        ]
        result = ImageResult(file_name=name, width=rgb.shape[1], height=rgb.shape[0], detections=found)
        self.metrics.took("answer", time.monotonic() - started)
        return result

    async def _tiled(self, upload: Upload) -> tuple[np.ndarray, Record]:
        """Run the model on an image that may be cut into tiles, a batch at a time: all of them would take much memory."""
        async with self.whole:
            rgb: np.ndarray = await self.in_pool(self.prepare.decoded, upload)
            height, width = rgb.shape[:2]
            parts, places = list[Record](), windows(height, width, self.tiling)
            for first in range(0, len(places), self.limits.batch):
                group = places[first : first + self.limits.batch]
                parts += await self._run(await self.in_pool(self.prepare.windows, rgb, group))
            return rgb, await self.in_pool(merged, parts, places, self.tiling)

    async def _run(self, prepared: list[PreparedImage]) -> list[Record]:
        return await asyncio.gather(*map(asyncio.wrap_future, self.batcher.detect(prepared)))

    async def explain(self, upload: Upload, conf: float | None) -> Explanations:
        """Detect objects in an image, with the attention that led to them."""
        from conditional_detr.serving.explanations import explained  # needs PyTorch, which exports do without

        async with self.whole:
            rgb = await self.in_pool(self.prepare.decoded, upload)
            work = self.batcher.call(lambda: explained(self.model, rgb, conf, upload.name))
            found: Explanations = await asyncio.wrap_future(work)
        return found

    def close(self) -> None:
        """Stop the threads after the work that has been accepted."""
        self.decoders.shutdown(cancel_futures=True)
        self.batcher.stop()


@asynccontextmanager
async def ends_with_client(request: Request) -> AsyncIterator[None]:
    """Stop the work of a request, whose body is complete, when its client leaves."""
    task, has_left = asyncio.current_task(), False
    assert task is not None

    async def watch() -> None:
        nonlocal has_left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        has_left = True
        task.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not has_left or task.uncancel() > 0:  # also for another reason, such as the time limit
            raise
        raise Refused(DISCONNECTED, "the client left") from None
    finally:
        watching.cancel()


@asynccontextmanager
async def time_limit(seconds: float, body_is_read: Callable[[], bool]) -> AsyncIterator[None]:
    """Limit the time of a request. A slow client gets 408; if the server is slow, 503."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        if body_is_read():
            raise Refused(503, f"the server is busy: there was no result within {seconds:g} s", retry_after=1) from None
        raise Refused(408, f"the request was not complete within {seconds:g} s", closes=True) from None


def create_app(service: Service, access: Access = Access(), log: Callable[[str], None] = to_stderr) -> ASGIApp:  # noqa: B008
    """Make the application of a server.

    Parameters
    ----------
    service : the model
    access : who may use it
    log : function that receives a line of JSON for each request
    """
    app = FastAPI(
        title="cdetr serve",
        version="1",
        description=ABOUT,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # the address would be made of the header Host
    )
    _handle_errors(app, service)
    _add_health(app, service)
    _add_predictions(app, service)
    _add_page(app)
    describe_token(app, bool(access.token))
    paths = frozenset(route.path for route in app.routes if hasattr(route, "path"))
    return Guard(app, access, service.limits, service.metrics, paths, lambda: service.is_ready, log)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health/live", summary="Whether the process works", tags=["health"], responses=problems())
    async def live() -> Health:
        return Health(status="live")

    @app.get("/health/ready", summary="Whether requests are accepted", tags=["health"], responses=problems())
    async def ready() -> Health:
        if not service.is_ready:
            raise Refused(503, "the server is shutting down", retry_after=1)
        return Health(status="ready")

    @app.get(
        "/metrics",
        summary="Metrics in Prometheus' text format",
        tags=["health"],
        response_class=Response,
        responses=METRICS,
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_predictions(app: FastAPI, service: Service) -> None:
    @app.get("/model", summary="The model and its classes", tags=["detection"], responses=problems())
    async def model() -> ModelInfo:
        return info_of(service.model, service.name, service.conf)

    @app.post("/predict", summary="Detect objects in images", tags=["detection"], **form(service.limits.images))
    async def predict(request: Request, conf: Conf = None) -> Predictions:
        async with service.uploads(request) as uploads:
            return Predictions(images=await service.detect_all(uploads, service.conf if conf is None else conf))

    @app.post(
        "/explain", summary="Detect objects in one image, and show what the model looked at", tags=["detection"], **form(1)
    )
    async def explain(request: Request, conf: Conf = None) -> Explanations:
        async with service.uploads(request) as uploads:
            if service.model.takes_arrays:
                raise Refused(400, "an export cannot explain its detections: serve the checkpoint that it was made from")
            if len(uploads) > 1:
                raise Refused(400, f"send one image, not {len(uploads)}")
            return await service.explain(uploads[0], service.conf if conf is None else conf)


def _add_page(app: FastAPI) -> None:
    for path, (name, kind) in PAGE.items():
        content = files("conditional_detr").joinpath("page", name).read_bytes()
        app.add_api_route(path, _file(content, kind), include_in_schema=False)


def _file(content: bytes, kind: str) -> Callable[[], Any]:
    async def send() -> Response:
        return Response(content, media_type=kind)

    return send


def _handle_errors(app: FastAPI, service: Service) -> None:
    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refused)
        state_of(request.scope)["detail"] = error.detail
        return refusal(error)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return refusal(Refused(422, f"{first['loc'][-1]}: {first['msg'][0].lower()}{first['msg'][1:]}"))

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return JSONResponse({"detail": str(error.detail)}, error.status_code, dict(error.headers or {}))

    async def fault(request: Request, error: Exception) -> JSONResponse:
        service.metrics.errors.inc()
        state_of(request.scope)["error"] = f"{type(error).__name__}: {error}"[:500]
        return JSONResponse({"detail": "the server failed; its log has the reason under the request id"}, 500)

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, fault)
