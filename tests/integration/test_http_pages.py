"""Health, version, the pages, and the headers that stand on every kind of answer."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from aiohttp import ClientResponse

from tests.harness import PATIENCE_S, ROOT, Api, ServerProcess, http_api, running_server, site_token

pytestmark = pytest.mark.asyncio(loop_scope="module")

FILES = sorted(each.relative_to(ROOT).as_posix() for each in (ROOT / "static").rglob("*") if each.is_file())
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """One server for all of this file; none of it may cost it a stack trace."""
    env = {"TERTULIA_LIMITS__ENABLED": "false", "TERTULIA_SERVER__DEVELOPMENT": "false"}
    async with running_server(tmp_path_factory.mktemp("pages"), env) as running:
        yield running
        assert running.faults() == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(server: ServerProcess) -> AsyncIterator[Api]:
    async with http_api(server) as opened:
        yield opened


async def exchange(url: str, request: bytes) -> bytes:
    """Bytes that no client library would send, and all that comes back."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(request)
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def raw_get(url: str, target: str) -> tuple[int, bytes]:
    """(status, body) of a request for exactly this target."""
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    head, _, body = (await exchange(url, request.encode())).partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def test_health_readiness_and_version(api: Api) -> None:
    assert await api.call("GET", "/healthz") == (200, {"ok": True})
    status, ready = await api.call("GET", "/readyz")
    assert (status, ready["ok"]) == (200, True)
    status, version = await api.call("GET", "/version")
    assert (status, set(version)) == (200, {"build", "started_at", "features"})
    assert re.fullmatch(r"\d+\.\d+\.\d+", version["build"])
    assert {"accounts", "polling", "websocket"} <= set(version["features"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", version["started_at"])
    assert datetime.fromisoformat(version["started_at"]).timestamp() > 0


@pytest.mark.parametrize("path", ["/", *(f"/{name}" for name in FILES)])
async def test_a_page_is_asked_for_each_time_and_sent_only_when_it_changed(path: str, api: Api) -> None:
    source = ROOT / (path[1:] or "static/index.html")
    async with api.session.get(api.url + path) as response:
        assert response.status == 200
        assert await response.read() == source.read_bytes()
        assert response.headers["Cache-Control"] == "no-cache"
        etag = response.headers["ETag"]
        assert_protected(response)
    for headers in ({"If-None-Match": etag}, {"If-None-Match": f'"other", {etag}'}):
        async with api.session.get(api.url + path, headers=headers) as response:
            assert (response.status, await response.read()) == (304, b"")
            assert response.headers["ETag"] == etag
            assert response.headers["Cache-Control"] == "no-cache"
            assert_protected(response)
    async with api.session.get(api.url + path, headers={"If-None-Match": '"other"'}) as response:
        assert response.status == 200


async def test_the_pages_have_the_types_that_browsers_run(api: Api) -> None:
    types = {".html": "text/html", ".js": "javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for name in FILES:
        async with api.session.get(f"{api.url}/{name}") as response:
            assert types.get(Path(name).suffix, "") in response.headers["Content-Type"], name


@pytest.mark.parametrize(
    "target",
    [
        *("/static", "/static/", "/static/nothing.js", "/static/%00", "/static/" + "a" * 300, "/static/a/b"),
        *("/static/../settings.yaml", "/static/../../etc/passwd", "/static//etc/passwd", "//etc/passwd"),
        *("/static/%2e%2e/settings.yaml", "/static/..%2fsettings.yaml", "/static/%2e%2e%2fsettings.yaml"),
        *(
            "/static/..%5csettings.yaml",
            "/static/%252e%252e/settings.yaml",
            "/static/index.html/..%2f..%2fMakefile",
        ),
        *("/static/%c0%ae%c0%ae/settings.yaml", "/static/index.html%00.js", "/%2e%2e/settings.yaml"),
        *(
            "/settings.yaml",
            "/server/app.py",
            "/.git/config",
            "/index.html",
            "/nothing",
            "/api",
            "/api/nothing",
        ),
        *("/api/rooms/a/b/c", "/socket.io", "/socket.io/nothing", "/ws/", "/ws/room", "/ws/a/b?token=c"),
    ],
)
async def test_where_nothing_is_the_answer_is_404_as_json(target: str, api: Api) -> None:
    status, body = await raw_get(api.url, target)
    assert status == 404, body
    assert body.startswith(b'{"error":{"code":"not_found","message":"')
    assert b"secret" not in body


@pytest.mark.parametrize("path", ["/ws/", "/ws/room-1", "/ws/chat/room-1"])
async def test_a_plain_websocket_is_told_where_socket_io_is(path: str, api: Api) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    for headers in ({}, {**upgrade, "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}):
        status, body = await api.call("GET", path, **headers)
        assert (status, body["error"]["code"]) == (404, "not_found")
        assert "/socket.io/" in body["error"]["message"]
        assert "/chat" in body["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/me", {"GET", "PATCH"}),
        ("POST", "/healthz", {"GET"}),
        ("DELETE", "/", {"GET"}),
        ("GET", "/api/auth/login", {"POST"}),
        ("PATCH", "/static/index.html", {"GET"}),
    ],
)
async def test_another_method_is_answered_405_with_those_there_are(
    method: str, path: str, allowed: set[str], api: Api
) -> None:
    async with api.session.request(method, api.url + path) as response:
        assert response.status == 405
        assert (await response.json())["error"]["code"] == "invalid"
        assert set(response.headers["Allow"].split(", ")) >= allowed
        assert_protected(response)


ANSWERS: list[tuple[str, str, dict[str, str], int]] = [
    ("GET", "/", {}, 200),
    ("HEAD", "/", {}, 200),
    ("GET", "/healthz", {}, 200),
    ("GET", "/readyz", {}, 200),
    ("GET", "/version", {}, 200),
    ("GET", "/api/me", {"Authorization": "{token}"}, 200),
    ("GET", "/api/me", {}, 401),
    ("GET", "/api/rooms/nothing", {"Authorization": "{token}"}, 404),
    ("POST", "/api/rooms", {"Authorization": "{token}"}, 422),
    ("GET", "/api/nothing", {}, 404),
    ("GET", "/nothing", {}, 404),
    ("GET", "/static/nothing", {}, 404),
    ("GET", "/ws/room", {}, 404),
    ("PUT", "/api/me", {}, 405),
    ("GET", "/api/me", {"Origin": "https://evil.example"}, 403),
    ("OPTIONS", "/api/me", {"Origin": "{own}"}, 204),
    ("OPTIONS", "/api/me", {"Origin": "https://evil.example"}, 403),
    ("GET", "/socket.io/?EIO=4&transport=polling", {}, 200),
    ("GET", "/socket.io/?EIO=3&transport=polling", {}, 400),
    ("GET", "/socket.io/?EIO=4&transport=polling", {"Origin": "https://evil.example"}, 403),
    ("GET", "/socket.io/?EIO=4&transport=polling&sid=nobody", {}, 400),
]


@pytest.mark.parametrize(("method", "path", "headers", "status"), ANSWERS)
async def test_every_kind_of_answer_is_protected(
    method: str, path: str, headers: dict[str, str], status: int, api: Api
) -> None:
    words = {"{token}": f"Bearer {site_token('eva')}", "{own}": api.url}
    given = {name: words.get(value, value) for name, value in headers.items()}
    async with api.session.request(method, api.url + path, headers=given) as response:
        assert response.status == status
        assert_protected(response)
        is_private = path.startswith(("/api/", "/socket.io/"))
        assert response.headers["Cache-Control"] == ("no-store" if is_private else "no-cache")


def assert_protected(response: ClientResponse) -> None:
    for name, value in HEADERS.items():
        assert response.headers[name] == value
    rules = [rule.split() for rule in response.headers["Content-Security-Policy"].split(";")]
    policy = {name: sources for name, *sources in rules}
    assert policy["default-src"] == ["'none'"]
    assert policy["frame-ancestors"] == ["'none'"]
    assert policy["base-uri"] == ["'none'"]
    assert policy["script-src"] == ["'self'"]
    assert policy["style-src"] == ["'self'"]
    assert not [each for sources in policy.values() for each in sources if "unsafe" in each or each == "*"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/users?query=\xff&token=a.b.c HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
    ids=range(9),
)
async def test_what_is_no_http_is_refused_and_costs_no_stack_trace(
    request_bytes: bytes, server: ServerProcess, api: Api
) -> None:
    answer = await exchange(api.url, request_bytes)
    assert answer == b"" or answer.split()[1] == b"400", answer
    assert await api.call("GET", "/healthz") == (200, {"ok": True})
    assert server.faults() == []


@pytest.mark.parametrize("origin", ["http://[", "http://", "://", "http:// x", "a" * 4000, "null, null"])
async def test_an_origin_that_is_none_is_refused(origin: str, server: ServerProcess, api: Api) -> None:
    status, body = await api.call("GET", "/api/me", Origin=origin)
    assert (status, body["error"]["code"]) == (403, "forbidden")
    assert server.faults() == []
