"""Connections of clients that are slow, too many, or no clients at all."""

import json
import socket
import time

import pytest

from conditional_detr.serving.guard import SECURITY_HEADERS
from conditional_detr.serving.limits import Limits
from servers import form, png, rest_of, serving

HEALTH = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
FORM = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
HALF = FORM + b"Content-Length: 900\r\n\r\n--x"
CHUNKED = HALF.replace(b"Content-Length: 900", b"Transfer-Encoding: chunked").removesuffix(b"--x")


def split(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),  # TLS
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Header: 1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\na: " + b"b" * 300_000, 431),
        (HALF.replace(b"900", b"-1"), 400),
        (HALF.replace(b"900", b"5\r\nContent-Length: 6"), 400),
        (HALF.replace(b"900", b"9" * 30), 400),
        (CHUNKED.replace(b"chunked", b"gzip, chunked"), 400),
        (CHUNKED + b"zz\r\n\r\n", 400),
        (CHUNKED + b"3\r\n--xxxx\r\n", 400),
        (CHUNKED + b"-1\r\n--xxxx\r\n", 400),
    ],
)
def test_what_is_no_http_is_answered_like_other_mistakes(client, content: bytes, status: int):
    found, headers, body = split(client.raw(content))
    assert found == status
    assert json.loads(body)["detail"] == ("the request is not valid HTTP" if status == 400 else "the header is too large")
    assert {name.lower() for name in SECURITY_HEADERS} | {"x-request-id"} <= set(headers)
    assert headers["connection"] == "close"
    assert headers["x-request-id"] in {json.loads(line)["request_id"] for line in client.lines}
    assert client.get("/health/live").status == 200


def test_an_answer_to_head_has_no_body_even_after_damaged_chunks(client):
    found, headers, body = split(client.raw(CHUNKED.replace(b"POST", b"HEAD") + b"zz\r\n\r\n"))
    assert (found, body) == (400, b"")
    assert int(headers["content-length"]) > 0


def test_a_client_that_asks_before_it_sends_can_read_why_it_is_refused(client):
    """It sends its body after "100 Continue"; the body is refused while it comes, and the rest of it is read."""
    asking = FORM + b"Content-Length: 200000\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="other"; filename="a"\r\n\r\na\r\n'
    with client.connected() as connection:
        connection.sendall(asking)
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        connection.sendall((part * 4000)[:200_000])
        assert split(rest_of(connection))[0] == 400


def test_health_is_answered_while_there_are_too_many_connections(detector, monkeypatch):
    monkeypatch.setattr("conditional_detr.serving.connections.CONNECTIONS", 4)
    with serving(detector) as made:
        held = [made.connected() for _ in range(4)]
        for each in held:
            each.sendall(HALF)
        time.sleep(0.3)
        assert made.get("/model").status == 503
        assert made.get("/health/live").status == 200
        for each in held:
            each.close()
        time.sleep(0.3)
        assert made.get("/model").status == 200


@pytest.mark.parametrize("first", [HEALTH, HALF.replace(b"localhost", b"evil.org")])
def test_bytes_that_follow_an_answer_break_nothing(client, first: bytes):
    received = client.raw(first + b"\x00\x01\r\n\r\n" * 200)
    assert received.startswith((b"HTTP/1.1 200", b"HTTP/1.1 421"))
    assert client.get("/health/live").status == 200


def test_requests_can_follow_each_other_without_waiting(client):
    received = client.raw(HEALTH * 50 + HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert received.count(b'{"status":"live"}') == 51


def test_a_request_for_another_protocol_is_an_ordinary_one(client):
    for protocol in (b"websocket", b"h2c"):
        upgrade = b"\r\nUpgrade: " + protocol + b"\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\n\r\n"
        with client.connected() as connection:
            connection.sendall(HEALTH.replace(b"\r\n\r\n", upgrade))
            assert connection.recv(20).startswith(b"HTTP/1.1 200")


def test_a_body_may_be_announced_first(client):
    body, kind = form([("a.png", png())])
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    with client.connected() as connection:
        connection.sendall(f"{head}Expect: 100-continue\r\nConnection: close\r\n\r\n".encode())
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert rest_of(connection).startswith(b"HTTP/1.1 200")
    received = client.raw(f"{head}Expect: 100-continue\r\nConnection: close\r\nOrigin: http://evil.org\r\n\r\n".encode())
    assert received.startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("headers", [{}, {"Host": "evil.org"}, {"Origin": "http://evil.org"}, {"Content-Type": "image/png"}])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_client_sees_the_answer_although_it_still_sends(detector, headers: dict[str, str], is_chunked: bool):
    with serving(detector, Limits(upload_bytes=1_000_000)) as client:
        body, kind = form([("a.png", bytes(12_000_000))])
        pieces = iter([body[at : at + 65_536] for at in range(0, len(body), 65_536)])
        sent = {"Content-Type": kind, "Connection": "close"} | headers
        answer = client.ask("POST", "/predict", pieces if is_chunked else body, sent)
        assert answer.status in (403, 413, 415, 421)
        assert answer.detail


def test_a_client_sees_that_the_server_is_shutting_down(detector):
    with serving(detector) as client:
        client.service.is_ready = False
        for _ in range(10):
            answer = client.predict(("a.png", bytes(3_000_000)))
            assert (answer.status, answer.detail, answer.headers["connection"]) == (503, "the server is shutting down", "close")
        assert client.get("/health/ready").status == 503
        assert client.get("/health/live").status == 200


def test_an_upload_that_has_begun_is_answered_while_the_server_shuts_down(detector):
    body, kind = form([("a.png", png())])
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with serving(detector) as client, client.connected() as connection:
        connection.sendall(head + body[:-10])
        while not client.service.queue.bytes:
            time.sleep(0.01)
        client.service.is_ready = False
        connection.sendall(body[-10:])
        assert split(rest_of(connection))[0] == 200


@pytest.mark.parametrize(
    ("begin", "reason"),
    [
        (b"--x\r\nContent-Disposition: form-data; name=images; filename=a\r\n\r\n", "the body comes in too many small chunks"),
        (b"no form", "the form cannot be read: its parts are not as multipart/form-data says"),
    ],
)
def test_a_body_in_tiny_chunks_is_soon_not_read_any_more(detector, begin: bytes, reason: str):
    with serving(detector) as client, client.connected() as connection:
        connection.sendall(CHUNKED + b"%x\r\n%s\r\n" % (len(begin), begin))
        sent = 0
        with pytest.raises(OSError):  # the server hangs up
            while sent < 30_000_000:
                sent += connection.send(b"1\r\n;\r\n" * 5000)
        while not client.lines:
            time.sleep(0.01)
        assert json.loads(client.lines[0])["detail"] == reason


def test_chunks_of_any_reasonable_size_are_read(client):
    body, kind = form([("a.png", png(200, 300))])  # 180 kB
    for size in (100, 1000, 50_000):
        pieces = iter([body[at : at + size] for at in range(0, len(body), size)])
        assert client.ask("POST", "/predict", pieces, {"Content-Type": kind}).status == 200


def test_idle_connections_make_room_for_others(detector, monkeypatch):
    monkeypatch.setattr("conditional_detr.serving.connections.CONNECTIONS", 20)
    with serving(detector) as client:
        idle = [client.connected() for _ in range(100)]
        assert client.predict(("a.png", png())).status == 200
        for each in idle:
            each.close()


def test_too_many_connections_at_work_are_said(detector, monkeypatch):
    monkeypatch.setattr("conditional_detr.serving.connections.CONNECTIONS", 20)
    with serving(detector, Limits(queue=16)) as client:
        busy = [client.connected() for _ in range(20)]
        for each in busy:
            each.sendall(HALF)
        while client.service.queue.bytes < 60:
            time.sleep(0.01)
        answer = client.get("/model")
        assert (answer.status, answer.headers["retry-after"], answer.headers["connection"]) == (503, "1", "close")
        assert answer.detail == "the server is busy: it has too many connections"
        for each in busy:
            each.close()
        while client.service.queue.bytes:
            time.sleep(0.01)
        assert client.get("/model").status == 200


def test_clients_that_send_slowly_do_not_block_others(detector):
    with serving(detector, Limits(images=2, queue=2, seconds=5)) as client:
        slow = [client.connected() for _ in range(20)]
        for each in slow:
            each.sendall(HALF)
        while client.service.queue.bytes < 60:
            time.sleep(0.01)
        assert client.predict(("a.png", png())).status == 200
        assert [split(each.recv(65_536))[0] for each in slow] == [408] * 20
        for each in slow:
            each.close()


def test_a_client_that_does_not_read_is_cut_off(detector, monkeypatch):
    monkeypatch.setattr("conditional_detr.serving.connections.HEADER_SECONDS", 0.4)
    with serving(detector, Limits(seconds=1)) as client, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", client.port))
        connection.setblocking(False)
        request = HEALTH.replace(b"/health/live", b"/page.js")
        sent = 0
        with pytest.raises(BlockingIOError):  # the server does not read more than it can answer
            while sent < 20_000_000:
                sent += connection.send(request * 200)
        connection.settimeout(20)
        with pytest.raises(ConnectionResetError):
            while connection.send(request):
                time.sleep(0.05)
        assert len(client.lines) < sent / len(request) / 10
        assert client.get("/health/live").status == 200
