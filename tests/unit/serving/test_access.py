"""Who may use the server: Host, Origin, token."""

import pytest

from conditional_detr.serving.limits import Access
from conditional_detr.serving.server import access_of
from servers import png, serving

OTHER_HOSTS = (
    *("evil.org", "127.0.0.1.evil.org", "localhost.evil.org", "localhost,evil.org", "evil.org#localhost", "localhost@evil.org"),
    *("", ":80", "a@localhost", "localhost:80:80", "localhost:x", "localhost/", "127.1", "2130706433", "0", "0.0.0.0"),
    *("[::ffff:7f00:1]", "[::1%25lo]", "loc\xe4lhost"),
)
OTHER_PATHS = ("http://evil.org/model", "http://localhost/model", "*", "localhost:80", "//model", "/model/", "/%2e/model")
CLOSED_PATHS = ("/", "/model", "/metrics", "/openapi.json", "/predict", "/explain", "/nothing", "/health", "/health/live/")
WRONG_TOKENS = (
    *("", "Bearer", "Bearer s3cre", "Bearer s3cret2", "bearer S3CRET", "Bearer \xff", "Bearer Bearer s3cret", "Digest s3cret"),
    *("s3cret", "Basic", "Basic \xe9\xe9", "Basic czNjcmV0", "Basic ="),
)


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_a_name_that_is_not_this_servers_is_refused(client, host: str):
    answer = client.get("/model", Host=host)
    assert (answer.status, answer.detail.startswith("the host of the request")) == (421, True)
    others = {
        "X-Forwarded-Host": "localhost",
        "X-Forwarded-For": "127.0.0.1",
        "Forwarded": "host=localhost",
        "X-Host": "localhost",
    }
    assert client.ask("GET", "/model", headers={"Host": host} | others).status == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:1", "[::1]", "[::1]:80"])
def test_names_of_this_machine_are_accepted(client, host: str):
    assert client.get("/model", Host=host).status == 200


def test_without_a_token_only_addresses_are_names_of_a_public_server(detector):
    """A page of evil.org could let evil.org point to this machine; it cannot choose an address as its name."""
    with serving(detector, access=access_of("0.0.0.0", "", True, [], [])) as made:
        for host in ("evil.org", "192.168.1.5.evil.org", "1.2.3.4.5", "cells"):
            assert made.get("/model", Host=host).status == 421
        for host in ("192.168.1.5:8000", "[fe80::1]:8000", "localhost", "127.0.0.1"):
            assert made.get("/model", Host=host).status == 200
    assert access_of("0.0.0.0", "s3cret", False, [], []).hosts == frozenset()
    named = access_of("0.0.0.0", "", True, ["Cells"], [])
    assert ("cells" in named.hosts, named.addresses) == (True, False)


def test_pages_of_an_allowed_site_may_send_requests_and_read_answers(detector):
    site = "https://example.org"
    access = access_of("127.0.0.1", "s3cret", False, [], [f"{site}/"])
    asked = {"Origin": site, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with serving(detector, access=access) as made:
        before = made.ask("OPTIONS", "/predict", headers=asked)
        assert (before.status, before.headers["access-control-allow-origin"], before.body) == (204, site, b"")
        assert "Authorization" in before.headers["access-control-allow-headers"]
        answer = made.predict(("a.png", png()), Origin=site, Authorization="Bearer s3cret")
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, site)
        assert "origin" in answer.headers["vary"].lower()
        for origin in ("https://evil.org", "null", f"{site}.evil.org", "http://example.org"):
            assert made.ask("OPTIONS", "/predict", headers=asked | {"Origin": origin}).status == 403
        refused = made.ask("OPTIONS", "/predict", headers={"Origin": site})  # no question before a request
        assert refused.status == 401
        assert "access-control-allow-origin" not in made.get("/model", Authorization="Bearer s3cret").headers


@pytest.mark.parametrize("target", OTHER_PATHS)
def test_only_the_paths_of_the_server_lead_somewhere(client, target: str):
    for method in ("GET", "POST", "OPTIONS", "CONNECT"):
        received = client.raw(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert received.startswith(b"HTTP/1.1 404")
        assert b"location:" not in received.lower()


def test_two_hosts_are_no_host(client):
    for hosts in ("", "Host: localhost\r\nHost: evil.org\r\n", "Host: evil.org\r\nHost: localhost\r\n"):
        received = client.raw(f"GET /model HTTP/1.1\r\n{hosts}\r\n".encode())
        assert received.startswith(b"HTTP/1.1 400")
        assert b'{"detail":"the request is not valid HTTP"}' in received


@pytest.mark.parametrize(
    ("site", "mode", "method", "status"),
    [
        ("cross-site", "no-cors", "GET", 403),
        ("same-site", "no-cors", "GET", 403),  # a page on another port of this machine
        ("cross-site", "navigate", "GET", 200),  # a link
        ("cross-site", "navigate", "POST", 403),  # a form
        ("same-site", "navigate", "POST", 403),
        ("cross-site", "cors", "POST", 403),
        ("same-origin", "cors", "POST", 200),
        ("none", "navigate", "GET", 200),  # typed by the user
    ],
)
def test_pages_of_other_sites_can_only_link_here(client, site: str, mode: str, method: str, status: int):
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
    answer = client.predict(("a.png", png()), **headers) if method == "POST" else client.ask("GET", "/model", headers=headers)
    assert answer.status == status


@pytest.mark.parametrize("path", CLOSED_PATHS)
@pytest.mark.parametrize("given", WRONG_TOKENS)
def test_without_the_token_every_path_but_health_is_closed(locked, path: str, given: str):
    answer = locked.ask("GET", path, headers={"Authorization": given} if given else {})
    assert answer.status == 401
    assert "TOKEN' is missing, or its token is wrong" in answer.detail


@pytest.fixture(scope="module")
def locked(detector):
    with serving(detector, access=Access("s3cret", frozenset({"127.0.0.1"}))) as made:
        yield made


def test_a_token_is_compared_in_constant_time(locked, monkeypatch):
    compared = []
    monkeypatch.setattr("conditional_detr.serving.guard.hmac.compare_digest", lambda a, b: compared.append((a, b)) or False)
    for given in ("Bearer s3cret", "Bearer wrong", "Basic YW55OndyYW5n"):
        assert locked.get("/model", Authorization=given).status == 401
    assert compared == [(b"s3cret", b"s3cret"), (b"wrong", b"s3cret"), (b"wrang", b"s3cret")]


def test_the_description_says_that_a_token_is_needed(locked, client):
    described = locked.get("/openapi.json", Authorization="Bearer s3cret").content
    assert described["security"] == [{"token": []}]
    assert described["paths"]["/health/live"]["get"]["security"] == []
    assert client.get("/openapi.json").content["security"] == []
