"""Whatever is sent, the server answers with a result or with a sentence, and goes on."""

import http.client
import io
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fuzzing import damaged, damages, fuzzed
from servers import Answer, Client, form, png

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
ANIMATED = {"save_all": True, "append_images": [Image.fromarray(PIXELS).rotate(180)]}
TURNED = Image.Exif()
TURNED[274] = 6
FORMATS: dict[str, tuple[str, str, dict[str, Any]]] = {  # name → Pillow's name, mode, options
    "jpeg": ("JPEG", "RGB", {"exif": TURNED}),
    "progressive jpeg": ("JPEG", "RGB", {"progressive": True}),
    "cmyk jpeg": ("JPEG", "CMYK", {}),
    "mpo": ("MPO", "RGB", ANIMATED),
    "png": ("PNG", "RGBA", {"exif": TURNED}),
    "16-bit png": ("PNG", "I;16", {}),
    "palette png": ("PNG", "P", {"transparency": 3}),
    "apng": ("PNG", "RGB", ANIMATED),
    "gif": ("GIF", "P", ANIMATED),
    "webp": ("WEBP", "RGBA", {"lossless": True}),
    "webp animation": ("WEBP", "RGB", ANIMATED),
    "tiff": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "float tiff": ("TIFF", "F", {}),
    "tiff pages": ("TIFF", "L", {"compression": "tiff_adobe_deflate", **ANIMATED}),
    "bmp": ("BMP", "RGB", {}),
    "ppm": ("PPM", "RGB", {}),
    "tga": ("TGA", "RGB", {"compression": "tga_rle"}),
    "jpeg 2000": ("JPEG2000", "RGB", {}),
    "avif": ("AVIF", "RGB", {}),
}
LEAKS = re.compile(
    r"Traceback|File \"|site-packages|/src/|/usr/|/home/|/tmp/|\.py\b|0x[0-9a-f]{4}|Error\b|\b\d+\.\d+\.\d+\b|<[a-z_]+\."
)
CODES = {400, 408, 413, 415, 422}
WORDS = [b"form-data", b"name=images", b'name="images"', b"filename=a.png", b'filename="a.png"', b";", b'"', b"\\", b"=", b"*"]
OPTIONS = ["boundary=x", 'boundary="x"', "charset=utf-16", "boundary=y", 'a="', "boundary*=x"]


def encoded(name: str) -> bytes:
    kind, mode, options = FORMATS[name]
    image = Image.fromarray(PIXELS)
    image = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    if "append_images" in options:
        options = options | {"append_images": [each.convert(mode) for each in options["append_images"]]}
    image.save(file, kind, **options)
    return file.getvalue()


ENCODED = {name: encoded(name) for name in FORMATS}


def check(answer: Answer) -> None:
    """An answer is a result, or one plain sentence that says nothing about the inside of the server."""
    if answer.status == 200:
        assert list(answer.content) == ["images"]
        return
    assert answer.status in CODES or (answer.status == 503 and answer.headers["retry-after"].isdigit()), answer
    assert list(answer.content) == ["detail"]
    detail = answer.detail
    assert detail.isprintable()
    assert 10 < len(detail) < 700
    assert not LEAKS.search(detail), detail


def run(client: Client, test: Callable[[], None]) -> None:
    """Run a test, and see that the server still works after it."""
    test()
    assert client.predict(("a.png", png())).status == 200
    assert client.service.queue.images == client.service.queue.bytes == 0
    assert "cdetr_errors_total 0.0" in client.get("/metrics").body.decode()


UNBOUNDED = ("avif", "jpeg 2000", "ppm", "tga")  # names of FORMATS that a server does not read


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_if_its_cost_is_known(client, name: str):
    answer = client.predict(("a", ENCODED[name]))
    if name in UNBOUNDED:
        assert (answer.status, "unknown image format (supported: BMP, " in answer.detail) == (400, True)
        return
    assert sorted((answer.content["images"][0]["width"], answer.content["images"][0]["height"])) == [24, 32]


def test_damaged_images(client):
    @fuzzed(2)
    @given(name=st.sampled_from(sorted(FORMATS)), faults=st.lists(damages, min_size=1, max_size=5))
    def test(name: str, faults: list[tuple[str, float, bytes]]) -> None:
        check(client.predict(("a.png", damaged(ENCODED[name], faults))))

    run(client, test)


def test_images_that_are_cut_off(client):
    @fuzzed()
    @given(name=st.sampled_from(sorted(FORMATS)), share=st.floats(0, 1))
    def test(name: str, share: float) -> None:
        check(client.predict(("a.png", ENCODED[name][: int(share * len(ENCODED[name]))])))

    run(client, test)


def test_any_bytes_as_images(client):
    starts = st.sampled_from([b"", *(whole[:n] for whole in ENCODED.values() for n in (4, 12, 40))])

    @fuzzed()
    @given(files=st.lists(st.builds(bytes.__add__, starts, st.binary(max_size=300)), max_size=4))
    def test(files: list[bytes]) -> None:
        check(client.predict(*[("a.png", each) for each in files]))

    run(client, test)


def test_any_names(client):
    @fuzzed()
    @given(name=st.text(max_size=300), is_image=st.booleans())
    def test(name: str, is_image: bool) -> None:
        safe = name.encode("utf-8", "replace").decode().replace("\r", "").replace("\n", "").replace('"', "'").replace("\\", "")
        answer = client.predict((safe, png() if is_image else b"hello"))
        assert answer.status == (200 if is_image else 400)
        assert is_image or answer.detail.isprintable()
        assert not is_image or answer.content["images"][0]["file_name"] == safe[:255]

    run(client, test)


def test_forms_after_accidents(client):
    body, kind = form([("a.png", ENCODED["gif"]), ("b.png", b"hello")])

    @fuzzed()
    @given(faults=st.lists(damages, min_size=1, max_size=5))
    def test(faults: list[tuple[str, float, bytes]]) -> None:
        check(client.ask("POST", "/predict", damaged(body, faults), {"Content-Type": kind}))

    run(client, test)


def test_forms_of_odd_parts(client):
    lines = st.lists(st.sampled_from(WORDS) | st.binary(max_size=4), max_size=8).map(b"".join)
    names = st.sampled_from([b"Content-Disposition: ", b"Content-Type: ", b"content-disposition:form-data; ", b"X: ", b""])
    headers = st.lists(st.builds(bytes.__add__, names, lines), max_size=3).map(b"\r\n".join)
    contents = st.sampled_from([b"", ENCODED["gif"], b"--x\r\n", b"\r\n--x", b"a" * 1500]) | st.binary(max_size=40)
    ends = st.sampled_from([b"\r\n--x\r\n", b"\r\n--x--\r\n", b"\r\n--x--", b"\n--x\n", b"", b"\r\n--y\r\n"])
    parts = st.tuples(headers, st.sampled_from([b"\r\n\r\n", b"\r\n", b"\n\n"]), contents, ends).map(b"".join)
    kinds = st.sampled_from(["", "multipart/form-data", "multipart/mixed", "MULTIPART/form-data;"])
    options = st.lists(st.sampled_from(OPTIONS), max_size=3)

    @fuzzed()
    @given(parts=st.lists(parts, max_size=4), kind=kinds, options=options, last=st.sampled_from([b"", b"--\r\n"]))
    def test(parts: list[bytes], kind: str, options: list[str], last: bytes) -> None:
        body = b"--x\r\n" + b"".join(parts) + last
        check(client.ask("POST", "/predict", body, {"Content-Type": "; ".join([kind, *options])}))

    run(client, test)


def test_any_threshold(client):
    known = st.sampled_from(["nan", "inf", "-inf", "1e999", "0x1", "1_0", "", "null", "1,5", "0" * 5000, "１"])
    body, kind = form([("a.gif", ENCODED["gif"])])

    @fuzzed()
    @given(
        conf=known | st.floats().map(str) | st.text(max_size=20), name=st.sampled_from(["conf", "CONF", "conf[]", "conf&conf"])
    )
    def test(conf: str, name: str) -> None:
        query = "".join(c if c.isalnum() and c.isascii() else f"%{b:02x}" for c in conf for b in c.encode("utf-8", "replace"))
        check(client.ask("POST", f"/predict?{name}={query}", body, {"Content-Type": kind}))

    run(client, test)


def test_requests_after_accidents(client):
    body, kind = form([("a.gif", ENCODED["gif"])])
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    @fuzzed()
    @given(faults=st.lists(damages, min_size=1, max_size=4), of_head=st.booleans())
    def test(faults: list[tuple[str, float, bytes]], of_head: bool) -> None:
        content = damaged(head, faults) + body if of_head else damaged(head + body, faults)
        with client.connected() as connection:
            connection.sendall(content)
            connection.shutdown(1)  # an unfinished request ends here
            response = http.client.HTTPResponse(connection)
            try:
                response.begin()
                received = response.read()
            except (http.client.HTTPException, ConnectionError):  # it was not finished
                return
        assert response.status == 200 or 400 <= response.status < 500
        assert response.status == 200 or not received or list(json.loads(received)) == ["detail"]

    run(client, test)


def test_thousands_of_files(client):
    body, kind = form([("a.gif", ENCODED["gif"])] * 5000)
    for count in (0, 4, 100, 5000):
        answer = client.predict(*[("a.png", b"x")] * count)
        assert answer.status == (400 if count < 5000 else 413), answer
        check(answer)
    assert client.ask("POST", "/predict", body, {"Content-Type": kind}).status == 413
    run(client, lambda: None)
