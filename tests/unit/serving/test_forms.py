"""Forms as attackers write them."""

import tempfile

import pytest

from conditional_detr.serving.forms import HEADER_BYTES
from conditional_detr.serving.limits import Limits
from servers import Answer, Client, form, png, serving

FILE = b'Content-Disposition: form-data; name="images"; filename="a.png"'


def send(client: Client, body: bytes, kind: str = "multipart/form-data; boundary=x", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.ask("POST", "/predict", body, {"Content-Type": kind} | named)


def part(header: bytes = FILE, content: bytes | None = None) -> bytes:
    return b"--x\r\n" + header + b"\r\n\r\n" + (png() if content is None else content) + b"\r\n"


@pytest.mark.parametrize("charset", ["idna", "punycode", "undefined", "unicode_escape", "utf-7", "utf-16", "zlib", "nonsense"])
@pytest.mark.parametrize("name", [b"a.png", b"\\ud800", b"+2AA-", b"\xff\xfe"])
def test_no_charset_that_a_client_names_is_used(client, charset: str, name: bytes):
    body = part(FILE.replace(b"a.png", name)) + b"--x--\r\n"
    answer = send(client, body, f"multipart/form-data; boundary=x; charset={charset}")
    assert answer.content["images"][0]["file_name"] == name.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (part(b""), "a part has no field name"),
        (part(b"Content-Disposition: form-data"), "a part has no field name"),
        (part(b"Content-Disposition: " + b";" * 4000), "a part has no field name"),
        (part(b"Bad Header"), "its parts are not as multipart/form-data says"),
        (part(b"X: " + b"y" * HEADER_BYTES + b"\r\n" + FILE), "cannot be read"),
        (part(b"\r\n".join(b"X%d: %s" % (i, b"y" * 900) for i in range(6)) + b"\r\n" + FILE), "larger than 4096 bytes"),
        (part(b'Content-Disposition: form-data; name="images"', b"a" * 2000), "'images' must be a file"),
        (part().replace(b"\r\n", b"\n"), "its parts are not as multipart/form-data says"),
        (b"preamble\r\n" + part(), "its parts are not as multipart/form-data says"),
        (b"--x\r\n\r\n" * 2000, "a part has no field name"),
        (part() + b"--y--\r\n", "its end is missing"),
        (b"", "its end is missing"),
    ],
)
def test_a_form_that_is_none_is_refused_with_the_reason(client, body: bytes, text: str):
    answer = send(client, body + b"--x--\r\n" if body and not body.endswith(b"--y--\r\n") else body)
    assert (answer.status, text in answer.detail) == (400, True), answer


ODD_PARAMETERS = (
    "{name}*0=a; {name}*=b",
    "{name}*" + "9" * 5000 + "=a",
    "{name}*=utf-8''%ff%",
    "{name}*1*=x; {name}*0*=''",
)


@pytest.mark.parametrize("odd", ODD_PARAMETERS)
def test_parameters_in_parts_cannot_fail(client, odd: str):
    """As in RFC 2231. What reads them raises several kinds of exceptions."""
    for answer in (
        send(client, part() + b"--x--\r\n", "multipart/form-data; " + odd.format(name="boundary")),
        send(client, part(b"Content-Disposition: form-data; " + odd.format(name="name").encode()[:3900]) + b"--x--\r\n"),
    ):
        assert (answer.status, "the form" in answer.detail or "unknown field" in answer.detail) == (400, True), answer
    assert not any('"error"' in line for line in client.lines)


@pytest.mark.parametrize("boundary", ["", '""', "x" * 71, "; charset=utf-8"])
def test_a_boundary_has_a_length(client, boundary: str):
    answer = send(client, part() + b"--x--\r\n", f"multipart/form-data; boundary={boundary}")
    assert (answer.status, "the boundary must have 1 to 70 characters" in answer.detail) == (400, True)


def test_odd_but_valid_forms_are_read(client):
    for body, kind in (
        (part(), "Multipart/Form-Data; Boundary=x"),
        (part(), 'multipart/form-data; charset=utf-8; boundary="x"'),
        (part(FILE + b"\r\nContent-Type: multipart/mixed; boundary=y\r\nContent-Transfer-Encoding: base64"), None),
        (part(b"content-DISPOSITION:form-data;filename=a.png;name=images"), None),
    ):
        answer = send(client, body + b"--x--\r\nepilogue", kind or "multipart/form-data; boundary=x")
        assert (answer.status, answer.content["images"][0]["width"]) == (200, 60), answer


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        (b"../../etc/passwd", "../../etc/passwd"),
        (b"<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
        ("猫.png".encode(), "猫.png"),
        (b"a" * 3000, "a" * 255),
        (b"\x00\x1b[31m\x7f", "\x00\x1b[31m\x7f"),
    ],
)
def test_a_file_name_is_only_text(client, name: bytes, seen: str):
    good = send(client, part(FILE.replace(b"a.png", name)) + b"--x--\r\n")
    assert good.content["images"][0]["file_name"] == seen
    bad = send(client, part(FILE.replace(b"a.png", name), b"hello") + b"--x--\r\n")
    assert bad.status == 400
    assert bad.detail.isprintable()
    assert bad.headers["content-type"] == "application/json"


def test_a_compressed_form_is_not_unpacked(client):
    for encoding in ("gzip", "deflate", "br", "GZIP, identity"):
        answer = send(client, b"\x1f\x8b", Content_Encoding=encoding)
        assert (answer.status, "compressed" in answer.detail) == (415, True)
    assert send(client, part() + b"--x--\r\n", Content_Encoding="identity").status == 200


def test_a_field_that_names_a_url_is_not_fetched(client):
    for body, kind in (
        (b'{"images": ["http://127.0.0.1/a.png"]}', "application/json"),
        (b"images=http://127.0.0.1/a.png", "application/x-www-form-urlencoded"),
        (part(b'Content-Disposition: form-data; name="images"', b"http://127.0.0.1/a.png") + b"--x--\r\n", None),
    ):
        answer = send(client, body, kind or "multipart/form-data; boundary=x")
        assert answer.status in (400, 415)
        assert "must be a file" in answer.detail or "multipart/form-data" in answer.detail


def test_no_file_is_written(detector, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a temporary file")

    for name in ("SpooledTemporaryFile", "TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    with serving(detector, Limits()) as client:
        assert client.predict(("a.png", png(1000, 1500))).status == 200  # 4 MB


def test_all_bodies_together_have_a_limit(detector, monkeypatch):
    monkeypatch.setattr("conditional_detr.serving.limits.BODIES", 2)
    with serving(detector, Limits(upload_bytes=100_000)) as client:
        body, kind = form([("a.png", bytes(90_000))])
        head = (
            f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        waiting = [client.connected() for _ in range(2)]
        for each in waiting:
            each.sendall(head + body[:-10])
        while client.service.queue.bytes < 170_000:
            pass
        answer = client.predict(("a.png", bytes(90_000)))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "too much is being sent" in answer.detail
        for each in waiting:
            each.close()
        while client.service.queue.bytes:
            pass
        assert client.predict(("a.png", png())).status == 200
