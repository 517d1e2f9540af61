"""Read the images of a request, and prepare them for the model."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
from starlette.requests import ClientDisconnect, Request

from conditional_detr.errors import ImageError
from conditional_detr.images.decoding import decode_bytes
from conditional_detr.inference.batching import Model, PreparedImage, stages_of
from conditional_detr.inference.tiles import Window
from conditional_detr.serving.forms import Part, read_form
from conditional_detr.serving.limits import Limits, Refused

FIELD = "images"  # name of the multipart field of the images
OTHER_FIELDS = 4  # fields without a file that are read, to name them in the answer
LONGEST_NAME = 255  # characters of a file name
DISCONNECTED = 499  # status in the log of a request whose client left


class Upload:
    """An image of a request: file name and content."""

    def __init__(self, name: str, content: bytes | bytearray) -> None:
        self.name, self.content = name, content

    @property
    def called(self) -> str:
        """The name in messages: without control characters, and without what could pass for a part of the sentence."""
        return "".join(c if c.isprintable() else "?" for c in self.name) or "the image"


async def read_uploads(request: Request, limits: Limits, take: Callable[[int], None]) -> list[Upload]:
    """Read the images of a request. `take` is told the bytes of each piece, and may refuse them.

    Raises
    ------
    Refused : the request is no form with images, or has too many
    """
    kind = request.headers.get("content-type", "")
    if kind.split(";")[0].strip().lower() != "multipart/form-data":
        raise Refused(415, f"send the images as multipart/form-data, in fields with the name {FIELD!r}")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refused(415, "send the form as it is: a compressed one is not read")

    async def body() -> AsyncIterator[bytes]:
        async for data in request.stream():
            take(len(data))
            yield data

    try:
        parts = await read_form(kind, body(), limits.images, OTHER_FIELDS)
    except ClientDisconnect:
        raise Refused(DISCONNECTED, "the client left") from None
    return [Upload((each.file_name or "")[:LONGEST_NAME], each.content) for each in _images(parts)]


def _images(parts: list[Part]) -> list[Part]:
    others = sorted({each.field for each in parts if each.field != FIELD})
    if others:
        raise Refused(400, f"unknown field {others[0][:LONGEST_NAME]!r}: send the images in fields with the name {FIELD!r}")
    if not parts:
        raise Refused(400, f"the form has no image: send at least one file in a field with the name {FIELD!r}")
    if any(each.file_name is None for each in parts):
        raise Refused(400, f"a field with the name {FIELD!r} has text: it must be a file with a file name")
    return parts


class Preparation:
    """Decodes and prepares the images of requests, in threads of a pool.

    Parameters
    ----------
    model : the model that the images are for
    limits : pixels of an image
    took : function that records the seconds of a stage
    """

    def __init__(self, model: Model, limits: Limits, took: Callable[[str, float], None]) -> None:
        self.model, self.limits, self.took = model, limits, took
        self.stages: Any = stages_of(model)

    def decoded(self, upload: Upload) -> np.ndarray:
        """The pixels of an image, uint8 [H, W, 3].

        Raises
        ------
        Refused : it cannot be read, or has too many pixels
        """
        started = time.monotonic()
        try:
            return decode_bytes(bytes(upload.content), upload.called, self.limits.pixels)
        except ImageError as error:
            raise Refused(400, str(error)) from None
        finally:
            upload.content = b""
            self.took("decode", time.monotonic() - started)

    def windows(self, rgb: np.ndarray, windows: Sequence[Window]) -> list[PreparedImage]:
        """Windows of an image, ready for the model. They keep the size of the image, but not its pixels."""
        started = time.monotonic()
        shape_only = np.broadcast_to(np.uint8(0), rgb.shape)
        prepared = [
            PreparedImage(0, shape_only, window, self.stages.prepare(window.of(rgb), self.model.preprocessor))
            for window in windows
        ]
        self.took("prepare", time.monotonic() - started)
        return prepared

    def whole(self, upload: Upload) -> PreparedImage:
        """A whole image, ready for the model."""
        rgb = self.decoded(upload)
        return self.windows(rgb, [Window(0, 0, rgb.shape[1], rgb.shape[0])])[0]
