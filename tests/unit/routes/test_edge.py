import logging
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.http_exceptions import BadStatusLine
from aiohttp.test_utils import make_mocked_request
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from server.routes.edge import SOCKETIO_PATH, is_own_fault
from tests.services import Clock, Site, SiteRules, open_site
from tests.unit.routes.world import answer, error, make_edge, open_backend, open_client


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Its store is not open: nothing here asks it, but for one test."""
    return Site(tmp_path, SiteRules(), Clock())


HANDSHAKE = f"{SOCKETIO_PATH}?EIO=4&transport=polling"


def request(peer: str, *headers: tuple[str, str]) -> web.BaseRequest:
    made = make_mocked_request("GET", "/", headers=headers)
    return made.clone(remote=peer)


PROXIES = ("10.0.0.0/8", "fd00::/8")


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1, 10.2.3.4"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.1", "10.2.3.4"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, <script>, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [" , 198.51.100.1 ,, "], "198.51.100.1"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("fd00::1", ["198.51.100.1"], "198.51.100.1"),
        ("not an address", ["198.51.100.1"], "not an address"),
    ],
)
def test_the_client_is_the_last_one_that_no_proxy_of_ours_is(
    site: Site, peer: str, forwarded: list[str], address: str
) -> None:
    edge = make_edge(site, trusted_proxies=PROXIES)
    made = request(peer, *(("X-Forwarded-For", each) for each in forwarded))
    assert edge.client_address(made) == address  # type: ignore[arg-type]  # a clone is of the base class


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\r\n\0"), max_size=40), max_size=3))
@example(["127.0.0.1", "10.0.0.1"])
def test_nobody_else_says_where_they_come_from(site: Site, forwarded: list[str]) -> None:
    headers = [("X-Forwarded-For", each) for each in forwarded]
    for trusted in ((), PROXIES):
        edge = make_edge(site, trusted_proxies=trusted)
        made = request("203.0.113.9", *headers, ("Forwarded", "for=1.1.1.1"), ("X-Real-IP", "1.1.1.1"))
        assert edge.client_address(made) == "203.0.113.9"  # type: ignore[arg-type]  # as above


ORIGINS = (
    "https://chat.example.org",
    "https://*.example.com",
    "http://dev.example.net:*",
    "ionic://localhost",
)


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("https://chat.example.org", True),
        ("https://chat.example.org:8443", False),
        ("http://chat.example.org", False),
        ("https://chatXexample.org", False),
        ("https://chat.example.org.evil.net", False),
        ("https://a.example.com", True),
        ("https://a.b-c.example.com", True),
        ("https://example.com", False),
        ("https://evilexample.com", False),
        ("https://evil.net/.example.com", False),
        ("https://evil.net#.example.com", False),
        ("https://evil.net\\.example.com", False),
        ("https://a.example.com:444", False),
        ("http://dev.example.net", True),
        ("http://dev.example.net:5173", True),
        ("http://dev.example.net:5173.evil.net", False),
        ("ionic://localhost", True),
        ("null", False),
        ("", False),
        ("http://[", False),
        ("https://", False),
        ("http://localhost:3000", False),
    ],
)
async def test_an_origin_is_allowed_or_gets_nothing(
    site: Site, tmp_path: Path, origin: str, *, is_allowed: bool
) -> None:
    async with open_backend(site, tmp_path, allowed_origins=ORIGINS) as (backend, client):
        async with client.get(HANDSHAKE, headers={"Origin": origin}) as response:
            shown = response.headers.get("Access-Control-Allow-Origin")
            assert (response.status, shown) == ((200, origin) if is_allowed else (403, None))
            assert response.headers["Vary"] == "Origin"
        assert backend.handshakes == is_allowed
        async with client.options("/api/me", headers={"Origin": origin}) as response:
            shown = response.headers.get("Access-Control-Allow-Methods")
            assert (response.status, shown is not None) == ((204, True) if is_allowed else (403, False))


async def test_without_an_origin_everybody_may_ask_and_pages_are_for_all(site: Site, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("hello")
    async with open_client(site, tmp_path) as client:
        async with client.get(HANDSHAKE) as response:
            assert response.status == 200
        async with client.get("/", headers={"Origin": "https://evil.net"}) as response:
            assert response.status == 200
            assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    ("proxies", "headers", "status"),
    [
        ((), {"Host": "Chat.Example.org", "Origin": "https://chat.example.org"}, 200),
        ((), {"Host": "chat.example.org:8080", "Origin": "http://chat.example.org:8080"}, 200),
        ((), {"Host": "chat.example.org", "Origin": "ftp://chat.example.org"}, 403),
        ((), {"Host": "inner", "X-Forwarded-Host": "evil.net", "Origin": "https://evil.net"}, 403),
        (("127.0.0.0/8",), {"Host": "inner", "X-Forwarded-Host": "outer", "Origin": "https://outer"}, 200),
        (("127.0.0.0/8",), {"Host": "inner", "X-Forwarded-Host": "outer", "Origin": "https://inner"}, 403),
    ],
)
async def test_a_site_may_always_ask_itself(
    site: Site, tmp_path: Path, proxies: tuple[str, ...], headers: dict[str, str], status: int
) -> None:
    async with (
        open_client(site, tmp_path, trusted_proxies=proxies) as client,
        client.get(HANDSHAKE, headers=headers) as response,
    ):
        assert response.status == status


LOOPBACK = ("127.0.0.0/8",)


@pytest.mark.parametrize(
    ("proxies", "proto", "origin", "status"),
    [
        # Whoever is in front terminates TLS and is not known here: only the host can be compared.
        ((), None, "https://chat.example.org", 200),
        ((), None, "http://chat.example.org", 200),
        ((), "https", "http://chat.example.org", 200),
        (LOOPBACK, None, "https://chat.example.org", 200),
        (LOOPBACK, None, "http://chat.example.org", 200),
        (LOOPBACK, "https", "https://chat.example.org", 200),
        (LOOPBACK, "https", "http://chat.example.org", 403),
        (LOOPBACK, "HTTPS , http", "http://chat.example.org", 403),
        (LOOPBACK, "http", "http://chat.example.org", 200),
        # No page over TLS is less safe than its server, and an inner proxy may well say http.
        (LOOPBACK, "http", "https://chat.example.org", 200),
        (LOOPBACK, "wss", "http://chat.example.org", 403),
        (LOOPBACK, "", "http://chat.example.org", 200),
    ],
)
async def test_a_page_without_tls_is_another_site_where_the_site_is_known_to_have_it(
    site: Site, tmp_path: Path, proxies: tuple[str, ...], proto: str | None, origin: str, status: int
) -> None:
    headers = {"Host": "chat.example.org", "Origin": origin}
    if proto is not None:
        headers["X-Forwarded-Proto"] = proto
    async with (
        open_client(site, tmp_path, trusted_proxies=proxies) as client,
        client.get(HANDSHAKE, headers=headers) as response,
    ):
        shown = response.headers.get("Access-Control-Allow-Origin")
        assert (response.status, shown) == (status, origin if status == 200 else None)


async def test_what_is_refused_is_logged_with_what_it_was_compared_with_and_the_remedy(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy that does not pass the Host on is the common reason."""
    headers = {"Host": "127.0.0.1:8080", "Origin": "https://chat.example.org"}
    async with open_client(site, tmp_path) as client:
        for _ in range(3):
            assert (await error(client, "GET", HANDSHAKE, headers=headers))[0] == 403
    (line,) = [record.msg for record in caplog.records if "origin.refused" in str(record.msg)]
    assert isinstance(line, dict)
    assert (line["origin"], line["host"]) == ("https://chat.example.org", "127.0.0.1:8080")
    assert (line["add_to"], line["left_out"]) == ("server.allowed_origins", 0)


async def test_localhost_is_an_origin_in_development_alone(site: Site, tmp_path: Path) -> None:
    async with open_client(site, tmp_path, allows_localhost=True) as client:
        for origin, status in (
            ("http://localhost:5173", 200),
            ("http://127.0.0.1", 200),
            ("http://localhost.evil.net", 403),
        ):
            async with client.get(HANDSHAKE, headers={"Origin": origin}) as response:
                assert response.status == status


@pytest.mark.parametrize(
    "path", ["/", "/api/me", "/api/nothing", "/nothing", "/healthz", SOCKETIO_PATH, "/api/bug"]
)
async def test_every_answer_has_the_headers_of_safety(site: Site, tmp_path: Path, path: str) -> None:
    (tmp_path / "index.html").write_text("hello")
    async with open_client(site, tmp_path) as client, client.get(path) as response:
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        is_private = path.startswith(("/api/", SOCKETIO_PATH))
        assert response.headers["Cache-Control"] == ("no-store" if is_private else "no-cache")


@pytest.mark.parametrize(
    ("method", "path", "body", "refusal"),
    [
        ("GET", "/api/me", b"", (401, "unauthenticated", None)),
        ("GET", "/api/nothing", b"", (404, "not_found", None)),
        ("PUT", "/api/me", b"", (405, "invalid", None)),
        ("POST", "/api/auth/login", b"x" * 65_537, (413, "too_large", None)),
        ("POST", "/api/auth/login", b"{", (422, "invalid", None)),
    ],
)
async def test_every_refusal_has_a_code(
    site: Site, tmp_path: Path, method: str, path: str, body: bytes, refusal: tuple[int, str, str | None]
) -> None:
    async with open_client(site, tmp_path) as client:
        assert await error(client, method, path, data=body) == refusal


async def test_a_body_without_a_length_is_limited_too(site: Site, tmp_path: Path) -> None:
    async def chunks() -> Any:
        for _ in range(5):
            yield b"x" * 16_384

    async with open_client(site, tmp_path) as client:
        assert (await error(client, "POST", "/api/auth/login", data=chunks()))[:2] == (413, "too_large")


async def test_a_bug_is_answered_with_an_id_and_nothing_else_of_it(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_client(site, tmp_path) as client:
        status, body = await answer(client, "GET", "/api/bug")
    assert (status, body["error"]["code"], "secret" in str(body)) == (500, "internal", False)
    found = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    traces = [event for event in found if event.get("error_id") == body["error"]["error_id"]]
    assert ["ZeroDivisionError" in str(event) for event in traces] == [True]


async def test_a_handshake_is_turned_away_while_others_are_served(tmp_path: Path) -> None:
    """A session that is there goes on; who comes anew comes back later, or elsewhere."""
    async with open_site(tmp_path) as site, open_backend(site, tmp_path) as (backend, client):
        site.health.store_failed()
        async with client.get(HANDSHAKE) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "2")
            assert (await response.json())["error"]["code"] == "unavailable"
        await site.health.tick()
        site.health.is_draining = True
        async with client.get(HANDSHAKE) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
            assert (await response.json())["error"]["code"] == "draining"
        for path in (f"{HANDSHAKE}&sid=1", "/healthz"):
            async with client.get(path) as response:
                assert response.status == 200
        assert backend.handshakes == 1


async def test_an_address_connects_so_often_a_minute(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules: dict[str, Any] = {"connections_per_min": 2, "trusted_proxies": ("127.0.0.0/8",)}
    async with open_backend(site, tmp_path, **rules) as (backend, client):

        async def statuses(address: str, path: str = HANDSHAKE) -> list[int]:
            headers = {"X-Forwarded-For": address}
            answers = [await client.get(path, headers=headers) for _ in range(4)]
            limited = [each for each in answers if each.status == 429]
            assert all(1 <= int(each.headers["Retry-After"]) <= 60 for each in limited)
            return [each.status for each in answers]

        assert await statuses("198.51.100.1") == [200, 200, 429, 429]
        assert await statuses("198.51.100.2") == [200, 200, 429, 429]
        assert await statuses("198.51.100.1", f"{HANDSHAKE}&sid=1") == [200] * 4
        assert backend.handshakes == 8
    lines = [record.msg for record in caplog.records if "conn.refused" in str(record.msg)]
    addresses = [line["address"] for line in lines if isinstance(line, dict)]
    assert addresses == ["198.51.100.1", "198.51.100.2"]


def test_what_is_not_http_leaves_no_trace_in_the_log() -> None:
    def record(failure: Exception | None) -> logging.LogRecord:
        info = None if failure is None else (type(failure), failure, None)
        return logging.LogRecord("aiohttp.server", logging.ERROR, "", 1, "Error handling request", (), info)

    ours, theirs = (None, ZeroDivisionError()), (BadStatusLine("x"), web.RequestPayloadError("x"))
    assert [is_own_fault(record(each)) for each in (*ours, *theirs)] == [True, True, False, False]
