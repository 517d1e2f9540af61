"""The server, over HTTP."""

import io
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from conditional_detr.errors import ConfigError
from conditional_detr.inference.detector import Detector
from conditional_detr.serving import batcher
from conditional_detr.serving.app import PAGE, WHOLE
from conditional_detr.serving.guard import to_stderr
from conditional_detr.serving.limits import Access, Limits
from conditional_detr.serving.server import access_of
from conditional_detr.serving.uploads import Preparation
from servers import form, png, serving


def test_results_equal_the_detectors_for_many_clients_at_once(client, detector):
    images = {f"{i}.png": png(40 + 8 * (i % 3), 60, i) for i in range(9)}
    expected = {name: detector(Image.open(io.BytesIO(content)), conf=0.01)[0] for name, content in images.items()}
    assert min(map(len, expected.values())) > 5

    def ask(name: str) -> None:
        while (answer := client.predict((name, images[name]), query="?conf=0.01")).status == 503:
            time.sleep(0.05)
        (found,) = answer.content["images"]
        assert (found["file_name"], found["height"]) == (name, 40 + 8 * (int(name[0]) % 3))
        boxes = np.array([each["bbox"] for each in found["detections"]]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(boxes, expected[name].xyxy, atol=1e-2)
        assert [each["category_id"] for each in found["detections"]] == expected[name].data["category_id"].tolist()
        np.testing.assert_allclose([each["score"] for each in found["detections"]], expected[name].confidence, atol=1e-4)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, [*images] * 3))


def test_results_equal_the_detectors_for_tiles(detector):
    tiled = Detector(detector.model, device="cpu", tile=48)
    content = png(150, 200)
    (expected,) = tiled(Image.open(io.BytesIO(content)), conf=0.01)
    with serving(tiled, Limits(batch=3)) as client:
        (found,) = client.predict(("a.png", content), query="?conf=0.01").content["images"]
    assert len(expected) > 36  # more than a window can have
    boxes = np.array([each["bbox"] for each in found["detections"]]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    np.testing.assert_allclose(boxes, expected.xyxy, atol=1e-2)


def test_few_large_images_are_kept_at_a_time(detector, monkeypatch):
    gate, kept = Gate(monkeypatch), []
    decoded = Preparation.decoded
    monkeypatch.setattr(Preparation, "decoded", lambda *given: kept.append(1) or decoded(*given))
    with serving(Detector(detector.model, device="cpu", tile=48)) as client, ThreadPoolExecutor(10) as pool:
        going = [pool.submit(client.predict, ("a.png", png(100, 100))) for _ in range(10)]
        while client.service.queue.images < 10:
            time.sleep(0.01)
        time.sleep(0.3)
        assert len(kept) == WHOLE
        gate.opened.set()
        assert [each.result().status for each in going] == [200] * 10


def test_several_images_in_a_request_come_back_in_their_order(client):
    answer = client.predict(("a.png", png()), ("b.png", png(80, 60)), ("a.png", png(48, 60)))
    assert [(each["file_name"], each["height"]) for each in answer.content["images"]] == [
        ("a.png", 40),
        ("b.png", 80),
        ("a.png", 48),
    ]


def bomb() -> bytes:
    file = io.BytesIO()
    Image.new("1", (4000, 4000)).save(file, "PNG")
    return file.getvalue()


def animation() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("L", (200, 100), i) for i in range(6)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"hello", "x.png cannot be read as an image"),
        (b"", "x.png is an empty file"),
        (png()[:200], "x.png cannot be read as an image"),
        (bomb(), "x.png must not have more than 100000 pixels: it has 4000 x 4000"),
        (animation(), "x.png must not have more than 100000 pixels: it has 200 x 100 in 6 frames"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "x.png cannot be read as an image"),
    ],
    ids=["text", "empty", "cut off", "bomb", "frames", "eps"],
)
def test_what_is_no_image_is_refused_with_the_reason(client, content: bytes, text: str):
    answer = client.predict(("x.png", content))
    assert answer.status == 400
    assert text in answer.detail


def test_a_request_that_is_no_form_with_images_is_refused(client):
    body, kind = form([("a.png", png())], field="file")
    for content, headers, status, text in (
        (png(), {"Content-Type": "image/png"}, 415, "multipart/form-data"),
        (b"", {}, 415, "multipart/form-data"),
        (b"nothing", {"Content-Type": "multipart/form-data"}, 400, "cannot be read"),
        (b"nothing", {"Content-Type": "multipart/form-data; boundary=x"}, 400, "the form"),
        (body, {"Content-Type": kind}, 400, "unknown field 'file'"),
        (form([])[0], {"Content-Type": form([])[1]}, 400, "the form"),
    ):
        answer = client.ask("POST", "/predict", content, headers)
        assert answer.status == status, answer
        assert text in answer.detail
    text_only = b'--x\r\nContent-Disposition: form-data; name="images"\r\n\r\nhello\r\n--x--\r\n'
    answer = client.ask("POST", "/predict", text_only, {"Content-Type": "multipart/form-data; boundary=x"})
    assert (answer.status, "must be a file" in answer.detail) == (400, True)


def scores_of(detector: Detector) -> list[float]:
    """Scores of all detections in an image of `png()`."""
    return detector(Image.open(io.BytesIO(png())), conf=0)[0].confidence.tolist()


def test_the_threshold_of_a_server_is_that_of_requests_without_one(detector):
    scores = scores_of(detector)
    conf = float(np.median(scores))
    expected = [score for score in scores if score >= conf]
    assert 0 < len(expected) < len(scores)
    with serving(detector, conf=conf) as client:
        predicted = client.predict(("a.png", png())).content["images"][0]
        explained = client.predict(("a.png", png()), path="/explain").content
        for answer in (predicted, explained):
            np.testing.assert_allclose([each["score"] for each in answer["detections"]], expected, atol=1e-4)
        asked = client.predict(("a.png", png()), query="?conf=0").content["images"][0]
        assert len(asked["detections"]) == len(scores)
        assert client.get("/model").content["thresholds"] == [conf] * 3


def test_without_a_threshold_a_server_has_those_of_its_model(detector, client):
    expected = sum(score >= 0.3 for score in scores_of(detector))
    assert len(client.predict(("a.png", png())).content["images"][0]["detections"]) == expected
    assert client.get("/model").content["thresholds"] is None


@pytest.mark.parametrize("conf", ["7", "-0.1", "nan", "many", "inf"])
def test_a_wrong_threshold_is_refused(client, conf: str):
    answer = client.predict(("a.png", png()), query=f"?conf={conf}")
    assert answer.status == 422
    assert answer.detail.startswith("conf: ")


def test_too_many_files_and_fields_are_refused_while_the_body_streams(client):
    assert "too many files: at most 3" in client.predict(*[(f"{i}.png", png(8, 8)) for i in range(500)]).detail
    fields = b"".join(f'--x\r\nContent-Disposition: form-data; name="f{i}"\r\n\r\n1\r\n'.encode() for i in range(500))
    answer = client.ask("POST", "/predict", fields + b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"})
    assert (answer.status, "too many fields" in answer.detail) == (400, True)


@pytest.mark.parametrize("is_honest", [True, False])
def test_a_body_that_is_too_large_is_refused_before_it_is_read_whole(client, is_honest: bool, monkeypatch):
    monkeypatch.setattr("conditional_detr.serving.bodies.REST_SECONDS", 0.3)
    body, kind = form([("a.png", b"0" * 300_000)])
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    if is_honest:
        received = client.raw(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())  # the answer comes without a body
    else:
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[i : i + 9000] for i in range(0, 250_000, 9000)))
        received = client.raw(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks)
    assert received.startswith(b"HTTP/1.1 413")
    assert b"must not be larger than 0.2 MB" in received


def test_paths_lead_nowhere_else(client):
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page.js/../../../etc/passwd",
        "//etc/passwd",
        "/ort/x",
        "/docs",
        "/redoc",
    ):
        answer = client.get(path)
        assert (answer.status, answer.detail) == (404, "Not Found")
    assert client.ask("DELETE", "/predict").status == 405
    assert client.ask("OPTIONS", "/predict").status == 405


def test_every_answer_has_the_headers_that_protect_a_browser(client):
    for answer in (
        client.get("/"),
        client.get("/nothing"),
        client.predict(("a.png", b"x")),
        client.get("/metrics", Host="evil.org"),
    ):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
        assert "server" not in answer.headers


def test_a_page_of_another_site_reaches_nothing(client):
    own = {"Host": f"127.0.0.1:{client.port}"}
    assert client.predict(("a.png", png()), **own, Origin=f"http://127.0.0.1:{client.port}").status == 200
    for headers in (
        {"Origin": "http://evil.org"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        assert client.predict(("a.png", png()), **own, **headers).status == 403
    assert (
        client.ask("GET", "/", headers=own | {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}).status == 200
    )  # a link
    for host in ("evil.org", "127.0.0.1.evil.org", "", "localhost@evil.org"):  # a name that leads to this machine
        assert client.get("/model", Host=host).status == 421, host
    for host in ("localhost", f"LOCALHOST:{client.port}", "127.0.0.1", "[::1]:80", "localhost."):
        assert client.get("/model", Host=host).status == 200, host


def test_the_page_comes_from_here_alone_and_names_are_text(client):
    page = client.get("/").body.decode()
    assert not re.search(r"https?://|//[a-z]", page)
    for path in PAGE:
        answer = client.get(path)
        assert answer.status == 200
        assert not re.search(r"https?://|innerHTML", answer.body.decode())
    assert client.get("/model").content["class_names"] == ["<b>a</b>", "b", "c"]
    assert client.get("/model").headers["content-type"] == "application/json"


def test_a_checkpoint_explains_what_it_found(client):
    found = client.predict(("a.png", png()), query="?conf=0").content["images"][0]["detections"]
    explained = client.predict(("a.png", png()), query="?conf=0", path="/explain").content
    assert (explained["width"], explained["height"]) == (60, 40)
    boxes = [each["bbox"] for each in explained["detections"]]
    for each in found[:3]:
        assert min(max(abs(a - b) for a, b in zip(each["bbox"], box, strict=True)) for box in boxes) < 0.1
    maps = explained["detections"][0]["maps"]
    assert (maps["layers"], maps["heads"], maps["rows"], maps["columns"]) == (2, 8, 4, 6)
    assert len(maps["combined"]) == 4 * -(-2 * 8 * 4 * 6 // 3)
    assert client.predict(("a.png", png()), ("b.png", png()), path="/explain").detail == "send one image, not 2"


def test_metrics_count_requests_images_and_times(client):
    client.predict(("a.png", png()))
    client.get("/nothing")
    text = client.get("/metrics").body.decode()
    assert re.search(r'cdetr_requests_total\{path="/predict",status="200"\} [1-9]', text)
    assert re.search(r'cdetr_requests_total\{path="other",status="404"\} [1-9]', text)
    assert "cdetr_queue_images 0.0" in text
    assert "cdetr_body_bytes 0.0" in text
    for stage in ("read", "decode", "prepare", "wait", "model", "answer"):
        assert re.search(rf'cdetr_stage_seconds_count\{{stage="{stage}"\}} [1-9]', text)


def test_the_log_has_a_line_of_json_for_each_request(client):
    client.ask("GET", "/nothing%0a%7b%22", headers={"X-Request-ID": "my-id.1"})
    client.ask("GET", "/nothing", headers={"X-Request-ID": "{bad}"})
    lines = [json.loads(line) for line in client.lines]
    mine = next(line for line in lines if line["request_id"] == "my-id.1")
    assert (mine["status"], mine["method"], mine["path"]) == (404, "GET", '/nothing\n{"')
    assert not any(line["request_id"] == "{bad}" for line in lines)
    assert all("\n" not in line for line in client.lines)
    client.predict(("a\n.png", b""), **{"X-Request-ID": "my-id.2"})
    mine = next(line for line in map(json.loads, client.lines) if line["request_id"] == "my-id.2")
    assert (mine["status"], mine["images"], mine["detail"]) == (400, 1, "a?.png is an empty file")


def test_a_log_that_cannot_be_written_stops_nothing(detector, monkeypatch):
    def broken(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", broken)
    to_stderr("{}")


def test_openapi_describes_every_path_and_answer(client):
    described = client.get("/openapi.json").content
    assert set(described["paths"]) == {"/health/live", "/health/ready", "/metrics", "/model", "/predict", "/explain"}
    predict = described["paths"]["/predict"]["post"]
    assert {"200", "400", "401", "403", "408", "413", "415", "421", "422", "503"} <= set(predict["responses"])
    assert predict["requestBody"]["content"]["multipart/form-data"]["schema"]["required"] == ["images"]
    assert described["components"]["schemas"]["Predictions"]["example"]["images"][0]["detections"]


class Gate:
    """Holds the model."""

    def __init__(self, monkeypatch) -> None:
        self.opened, run = threading.Event(), batcher.run_batch

        def held(*given):
            self.opened.wait(20)
            return run(*given)

        monkeypatch.setattr(batcher, "run_batch", held)


def test_a_full_queue_is_said_and_health_goes_on(detector, monkeypatch):
    gate = Gate(monkeypatch)
    with serving(detector, Limits(images=2, queue=2, batch=1)) as client, ThreadPoolExecutor(2) as pool:
        going = [pool.submit(client.predict, ("a.png", png())) for _ in range(2)]
        while client.service.queue.images < 2:
            time.sleep(0.01)
        refused = client.predict(("a.png", png()))
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert "queue is full" in refused.detail
        assert client.get("/health/live").status == 200
        assert client.get("/health/ready").status == 200
        gate.opened.set()
        assert [each.result().status for each in going] == [200, 200]
        assert client.service.queue.images == 0
        assert client.predict(("a.png", png())).status == 200


def test_a_server_that_is_too_slow_says_so_and_forgets_the_image(detector, monkeypatch):
    gate = Gate(monkeypatch)
    with serving(detector, Limits(seconds=0.5, batch=1)) as client:
        answer = client.predict(("a.png", png()))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "no result within 0.5 s" in answer.detail
        assert client.service.queue.images == 0
        gate.opened.set()


def test_the_work_for_a_client_that_left_is_dropped(detector, monkeypatch):
    gate, prepared = threading.Event(), []
    with serving(detector) as made:
        whole = made.service.prepare.whole

        def slowly(upload):
            gate.wait(10)
            prepared.append(upload.name)
            return whole(upload)

        monkeypatch.setattr(made.service.prepare, "whole", slowly)
        body, kind = form([(f"{i}.png", png()) for i in range(12)])
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        with made.connected() as connection:
            connection.sendall(head.encode() + body)
            while made.service.queue.images < 12:
                time.sleep(0.01)
        while made.service.queue.images:
            time.sleep(0.01)
        assert made.service.queue.bytes == 0
        gate.set()
        assert made.predict(("a.png", png())).status == 200
        assert len(prepared) <= 5, prepared  # those that had begun, and the last one
        assert any('"status": 499' in line for line in made.lines)


def test_a_client_that_sends_slowly_is_cut_off(detector, monkeypatch):
    monkeypatch.setattr("conditional_detr.serving.bodies.REST_SECONDS", 0.3)
    with serving(detector, Limits(seconds=0.5)) as client:
        head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        received = client.raw(head + b"Content-Length: 900\r\n\r\n--x")
        assert received.startswith(b"HTTP/1.1 408")
        assert b"was not complete within 0.5 s" in received


def test_a_connection_without_a_complete_header_is_closed(detector, monkeypatch):
    monkeypatch.setattr("conditional_detr.serving.connections.HEADER_SECONDS", 0.4)
    with serving(detector) as client:
        assert client.raw(b"GET / HTTP/1.1\r\nHost: local") == b""
        assert client.raw(b"") == b""
        first, *_ = client.raw(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT").split(b"\r\n")
        assert first == b"HTTP/1.1 200 OK"


def test_a_fault_of_the_model_is_answered_without_its_text(detector, monkeypatch):
    def broken(*_):
        raise RuntimeError("/secret/path: shapes differ")

    monkeypatch.setattr(batcher, "run_batch", broken)
    with serving(detector) as client:
        answer = client.predict(("a.png", png()))
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert b"shapes" not in answer.body
        assert "cdetr_errors_total 1.0" in client.get("/metrics").body.decode()
        assert "/secret/path" in client.lines[0]
        assert client.service.queue.images == 0


def test_a_token_is_needed_for_all_but_health(detector):
    with serving(detector, access=Access("s3cret", frozenset({"127.0.0.1"}))) as client:
        for path in ("/", "/page.js", "/model", "/metrics", "/openapi.json", "/nothing"):
            assert client.get(path).status == 401
            assert client.get(path, Authorization="Bearer s3cre").status == 401
            assert client.get(path, Authorization="Bearer s3cret\x80").status in (400, 401)
        answer = client.predict(("a.png", png()))
        assert (answer.status, answer.headers["www-authenticate"].startswith("Bearer")) == (401, True)
        assert client.predict(("a.png", png()), Authorization="Bearer s3cret").status == 200
        assert client.get("/", Authorization="Basic YW55OnMzY3JldA==").status == 200  # a browser's own dialogue
        for wrong in ("Basic", "Basic !!!", "Basic YW55OndyYW5n", "Digest s3cret", "s3cret"):
            assert client.get("/", Authorization=wrong).status == 401
        assert client.get("/health/live").status == client.get("/health/ready").status == 200


def test_other_machines_need_a_token_or_a_promise():
    with pytest.raises(ConfigError, match="--host 0.0.0.0 can be reached from other machines: set a token"):
        access_of("0.0.0.0", "", False, [], [])
    assert access_of("0.0.0.0", "abc", False, [], []).hosts == frozenset()
    assert access_of("0.0.0.0", "", True, [], []).token == ""
    assert access_of("0.0.0.0", "abc", False, ["Cells.org"], []).hosts == {"cells.org", "localhost", "127.0.0.1", "::1"}
    assert access_of("127.0.0.1", "", False, ["box"], ["https://a.org/"]) == Access(
        "", frozenset({"localhost", "127.0.0.1", "::1", "box"}), frozenset({"https://a.org"})
    )
    with pytest.raises(ConfigError, match="ASCII"):
        access_of("127.0.0.1", "a b", False, [], [])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"images": 0}, "--max-images must be at least 1, not 0"),
        ({"upload_bytes": -1}, "--max-bytes must be at least 1, not -1"),
        ({"queue": 3}, "room for the images of a request: --queue 3 is less than --max-images 16"),
        ({"seconds": float("nan")}, "--timeout must be at least 0.001, not nan"),
        ({"wait_ms": -1}, "--max-wait must be at least 0, not -1"),
    ],
)
def test_limits_that_cannot_work_are_refused(given: dict, text: str):
    with pytest.raises(ConfigError, match=text):
        Limits(**given).check()
