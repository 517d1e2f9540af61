"""What `/openapi.json` says about requests and answers, beside the models in `answers`."""

from typing import Any

from fastapi import FastAPI

from conditional_detr.serving.answers import Problem
from conditional_detr.serving.uploads import FIELD

ABOUT = """Detect objects in images.

Send images as files of a form to `/predict`. If the server was started with a token, all paths but `/health/…` need the header
`Authorization: Bearer TOKEN`. A request that fails is answered with `{"detail": "…"}`. Answers carry the header `X-Request-ID`;
the log of the server has the request under this id. A request that is not valid HTTP is answered with 400, or with 431 if its
header is too large.
"""
REASONS = {
    400: ("An image cannot be read, or the form is wrong.", "cells.jpg is an empty file"),
    401: ("The token is missing or wrong.", "the header 'Authorization: Bearer TOKEN' is missing, or its token is wrong"),
    403: ("The request comes from a page of another site.", "requests from pages of other sites are refused"),
    408: ("The request was sent too slowly.", "the request was not complete within 30 s"),
    413: ("The request is too large.", "a request must not be larger than 32 MB"),
    415: ("The request is no form with files.", f"send the images as multipart/form-data, in fields with the name {FIELD!r}"),
    421: ("The host is not one of this server.", "the host of the request is not one of this server: add it with --allow-host"),
    422: ("A parameter has a wrong value.", "conf: input should be less than or equal to 1"),
    500: ("A fault of the server.", "the server failed; its log has the reason under the request id"),
    503: ("The server is busy or shutting down.", "the server is busy: its queue is full"),
}
RETRY = {"Retry-After": {"description": "seconds after which to try again", "schema": {"type": "integer"}}}
ALWAYS = (401, 403, 421, 503)  # statuses that every path can have


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Descriptions of answers with these statuses, and with those that every path can have."""
    return {status: _problem(status) for status in sorted({*statuses, *ALWAYS})}


def _problem(status: int) -> dict[str, Any]:
    description, example = REASONS[status]
    found: dict[str, Any] = {
        "model": Problem,
        "description": description,
        "content": {"application/json": {"example": {"detail": example}}},
    }
    return found | ({"headers": RETRY} if status == 503 else {})


def form(most: int) -> dict[str, Any]:
    """Description of an endpoint that takes a form with up to `most` images."""
    file = {"type": "string", "format": "binary"}
    files = {"type": "array", "items": file, "minItems": 1, "maxItems": most, "description": "JPEG, PNG, WebP and others"}
    schema = {"type": "object", "required": [FIELD], "properties": {FIELD: files}, "additionalProperties": False}
    body = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    return {"responses": problems(400, 408, 413, 415, 422, 500), "openapi_extra": {"requestBody": body}}


METRICS: dict[int | str, dict[str, Any]] = problems() | {
    200: {
        "description": "Counters and histograms",
        "content": {
            "text/plain": {
                "schema": {"type": "string"},
                "example": '# TYPE cdetr_requests_total counter\ncdetr_requests_total{path="/predict",status="200"} 12.0\n',
            }
        },
    }
}


def describe_token(app: FastAPI, is_needed: bool) -> None:
    """Add the token to the description of an application whose paths are complete."""
    schema = app.openapi()
    schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    schema["security"] = [{"token": []}] if is_needed else []
    for path, methods in schema["paths"].items():
        if path.startswith("/health/"):
            for method in methods.values():
                method["security"] = []
                method["responses"].pop("401")
