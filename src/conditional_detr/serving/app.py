"""The application: the endpoints of the server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from conditional_detr.device.threads import usable_cores
from conditional_detr.inference.batching import PreparedImage
from conditional_detr.inference.detector import Detector
from conditional_detr.inference.results import clip_to_image, rows_of, selected
from conditional_detr.inference.tiles import merged
from conditional_detr.serving.answers import (
    Explanations,
    FoundObject,
    Health,
    ImageResult,
    ModelInfo,
    Predictions,
    Problem,
    info_of,
)
from conditional_detr.serving.batcher import Batcher
from conditional_detr.serving.guard import Guard, refusal, state_of, to_stderr
from conditional_detr.serving.limits import Access, Limits, Refused
from conditional_detr.serving.metrics import Metrics
from conditional_detr.serving.uploads import FIELD, Preparation, Upload, read_uploads

DECODERS = 4  # threads that decode images, at most one for each core
SCRIPTS = {"/page.js": "page.js", "/geometry.js": "geometry.js", "/results.js": "results.js", "/backend.js": "server.js"}
PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    **{path: (name, "text/javascript") for path, name in SCRIPTS.items()},
}
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {
                        FIELD: {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "minItems": 1,
                            "description": "image files: JPEG, PNG, WebP and others",
                        }
                    },
                }
            }
        },
    }
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "An image cannot be read, or the form is wrong."},
    401: {"model": Problem, "description": "The token is missing or wrong."},
    403: {"model": Problem, "description": "The request comes from a page of another site."},
    408: {"model": Problem, "description": "The request was sent too slowly."},
    413: {"model": Problem, "description": "The request is too large."},
    415: {"model": Problem, "description": "The request is no form with files."},
    421: {"model": Problem, "description": "The host is not one of this server."},
    422: {"model": Problem, "description": "A parameter has a wrong value."},
    503: {"model": Problem, "description": "The server is busy or shutting down; see the header Retry-After."},
}
Conf = Annotated[
    float | None,
    Query(
        ge=0, le=1, description="Score threshold. Without it, the thresholds of the model; 0.3 if it has none.", examples=[0.5]
    ),
]


class Service:
    """A model behind the application, and what all requests share."""

    def __init__(self, detector: Detector, name: str, limits: Limits) -> None:
        self.model, self.name, self.limits = detector.model, name, limits
        self.metrics = Metrics()
        self.batcher = Batcher(self.model, limits.batch, limits.wait_ms / 1000, self.metrics)
        self.prepare = Preparation(self.model, detector.tiling, limits, self.metrics.took)
        self.decoders = ThreadPoolExecutor(min(DECODERS, usable_cores()), thread_name_prefix="decode")
        self.is_ready = True
        self.in_queue = 0

    @contextmanager
    def room_for(self, images: int) -> Iterator[None]:
        """Take places in the queue.

        Raises
        ------
        Refused : there are not enough
        """
        if not self.is_ready:
            raise Refused(503, "the server is shutting down", retry_after=1)
        if self.in_queue + images > self.limits.queue:
            raise Refused(503, "the server is busy: its queue is full", retry_after=1)
        self.in_queue += images
        self.metrics.queue.set(self.in_queue)
        try:
            yield
        finally:
            self.in_queue -= images
            self.metrics.queue.set(self.in_queue)

    async def uploads(self, request: Request) -> list[Upload]:
        """Read the images of a request, and measure the time."""
        started = time.monotonic()
        found = await read_uploads(request, self.limits)
        self.metrics.took("read", time.monotonic() - started)
        state_of(request.scope)["images"] = len(found)
        return found

    async def in_pool(self, function: Callable[..., Any], *given: Any) -> Any:
        """Run a function in a decoding thread."""
        return await asyncio.get_running_loop().run_in_executor(self.decoders, function, *given)

    async def detect(self, upload: Upload, conf: float | None) -> ImageResult:
        """Detect objects in an image, as `Detector` does."""
        windows: list[PreparedImage] = await self.in_pool(self.prepare, upload)
        parts = await asyncio.gather(*map(asyncio.wrap_future, self.batcher.detect(windows)))
        shape = windows[0].rgb
        record = merged(parts, [each.window for each in windows], self.prepare.tiling)
        rows = rows_of(selected(clip_to_image(shape, record), self.model, conf))
        found = [
            FoundObject(
                category_id=self.model.category_ids[row.label],
                category_name=self.model.class_names[row.label],
                bbox=row.bbox,
                score=row.score,
            )
            for row in rows
        ]
        return ImageResult(file_name=upload.name, width=shape.shape[1], height=shape.shape[0], detections=found)

    def close(self) -> None:
        """Stop the threads after the work that has been accepted."""
        self.decoders.shutdown()
        self.batcher.stop()


@asynccontextmanager
async def time_limit(seconds: float, body_is_read: Callable[[], bool]) -> AsyncIterator[None]:
    """Limit the time of a request. A slow client gets 408; if the server is slow, 503."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        if body_is_read():
            raise Refused(503, f"the server is busy: there was no result within {seconds:g} s", retry_after=1) from None
        raise Refused(408, f"the request was not complete within {seconds:g} s") from None


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
        description="Detect objects in images. A bearer token is needed if the server was started with one.",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )
    _handle_errors(app, service)
    _add_health(app, service)
    _add_predictions(app, service)
    _add_page(app)
    paths = frozenset(route.path for route in app.routes if hasattr(route, "path"))
    return Guard(app, access, service.limits, service.metrics, paths, lambda: service.is_ready, log)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health/live", summary="Whether the process works", tags=["health"])
    async def live() -> Health:
        return Health(status="live")

    @app.get("/health/ready", summary="Whether requests are accepted", tags=["health"], responses={503: PROBLEMS[503]})
    async def ready() -> Health:
        if not service.is_ready:
            raise Refused(503, "the server is shutting down", retry_after=1)
        return Health(status="ready")

    @app.get("/metrics", summary="Metrics in Prometheus' text format", tags=["health"], response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_predictions(app: FastAPI, service: Service) -> None:
    @app.get("/model", summary="The model and its classes", tags=["detection"])
    async def model() -> ModelInfo:
        return info_of(service.model, service.name)

    @app.post("/predict", summary="Detect objects in images", tags=["detection"], responses=PROBLEMS, openapi_extra=FORM)
    async def predict(request: Request, conf: Conf = None) -> Predictions:
        uploads: list[Upload] = []
        async with time_limit(service.limits.seconds, lambda: bool(uploads)):
            with service.room_for(1):
                uploads += await service.uploads(request)
                with service.room_for(len(uploads) - 1):
                    results = [asyncio.ensure_future(service.detect(each, conf)) for each in uploads]
                    try:
                        found = await asyncio.gather(*results)
                    finally:
                        for each in results:
                            each.cancel()
        return Predictions(images=found)

    @app.post(
        "/explain",
        summary="Detect objects in one image, and show what the model looked at",
        tags=["detection"],
        responses=PROBLEMS,
        openapi_extra=FORM,
    )
    async def explain(request: Request, conf: Conf = None) -> Explanations:
        uploads: list[Upload] = []
        async with time_limit(service.limits.seconds, lambda: bool(uploads)):
            with service.room_for(1):
                uploads += await service.uploads(request)
                if service.model.takes_arrays:
                    raise Refused(400, "an export cannot explain its detections: serve the checkpoint that it was made from")
                if len(uploads) > 1:
                    raise Refused(400, f"send one image, not {len(uploads)}")
                from conditional_detr.serving.explanations import explained  # needs PyTorch, which exports do without

                rgb = await service.in_pool(service.prepare.decoded, uploads[0])
                work = service.batcher.call(lambda: explained(service.model, rgb, conf, uploads[0].name))
                result: Explanations = await asyncio.wrap_future(work)
        return result


def _add_page(app: FastAPI) -> None:
    for path, (name, kind) in PAGE.items():
        content = files("conditional_detr").joinpath("page", name).read_bytes()
        app.add_api_route(path, _file(content, kind), include_in_schema=False)


def _file(content: bytes, kind: str) -> Callable[[], Any]:
    async def send() -> Response:
        return Response(content, media_type=kind)

    return send


def _handle_errors(app: FastAPI, service: Service) -> None:
    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refused)
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
