"""Read the images of a request, and prepare them for the model."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from conditional_detr.errors import ImageError
from conditional_detr.images.decoding import decode_bytes
from conditional_detr.inference.batching import Model, PreparedImage, stages_of
from conditional_detr.inference.tiles import Tiling, windows
from conditional_detr.serving.limits import Limits, Refused

FIELD = "images"  # name of the multipart field of the images
OTHER_FIELDS = 4  # fields without a file that are read, to name them in the answer
FIELD_BYTES = 1000
LONGEST_NAME = 255  # characters of a file name
DISCONNECTED = 499  # status in the log of a request whose client left


class Upload:
    """An image of a request: file name and content."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name, self.content = name, content


async def read_uploads(request: Request, limits: Limits) -> list[Upload]:
    """Read the images of a request.

    Raises
    ------
    Refused : the request is no form with images, or has too many
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refused(415, f"send the images as multipart/form-data, in fields with the name {FIELD!r}")
    try:
        async with request.form(max_files=limits.images, max_fields=OTHER_FIELDS, max_part_size=FIELD_BYTES) as form:
            return [Upload(_name(each), await each.read()) for each in _files(form)]
    except HTTPException as error:
        raise Refused(400, f"the form cannot be read: {error.detail}") from None
    except ClientDisconnect:
        raise Refused(DISCONNECTED, "the client left") from None


def _files(form: FormData) -> list[UploadFile]:
    others = sorted({name for name, value in form.multi_items() if name != FIELD})
    if others:
        raise Refused(400, f"unknown field {others[0][:LONGEST_NAME]!r}: send the images in fields with the name {FIELD!r}")
    files = form.getlist(FIELD)
    if not files:
        raise Refused(400, f"the form has no image: send at least one file in a field with the name {FIELD!r}")
    if not all(isinstance(each, UploadFile) for each in files):
        raise Refused(400, f"a field with the name {FIELD!r} has text: it must be a file with a file name")
    return files  # type: ignore[return-value]


def _name(file: UploadFile) -> str:
    return (file.filename or "")[:LONGEST_NAME]


class Preparation:
    """Decodes and prepares the images of requests, in threads of a pool.

    Parameters
    ----------
    model : the model that the images are for
    tiling : how large images are cut
    limits : pixels of an image
    took : function that records the seconds of a stage
    """

    def __init__(self, model: Model, tiling: Tiling, limits: Limits, took: Callable[[str, float], None]) -> None:
        self.model, self.tiling, self.limits, self.took = model, tiling, limits, took
        self.stages: Any = stages_of(model)

    def decoded(self, upload: Upload) -> np.ndarray:
        """The pixels of an image, uint8 [H, W, 3].

        Raises
        ------
        Refused : it cannot be read, or has too many pixels
        """
        try:
            return decode_bytes(upload.content, upload.name or "the image", self.limits.pixels)
        except ImageError as error:
            raise Refused(400, str(error)) from None

    def __call__(self, upload: Upload) -> list[PreparedImage]:
        """The windows of an image, ready for the model. They keep the size of the image, but not its pixels."""
        started = time.monotonic()
        rgb = self.decoded(upload)
        shape_only = np.broadcast_to(np.uint8(0), rgb.shape)
        prepared = [
            PreparedImage(0, shape_only, window, self.stages.prepare(window.of(rgb), self.model.preprocessor))
            for window in windows(*rgb.shape[:2], self.tiling)
        ]
        self.took("decode", time.monotonic() - started)
        return prepared
