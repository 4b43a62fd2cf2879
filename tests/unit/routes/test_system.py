from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from yarl import URL

from server.events import VERSION
from server.routes.system import System
from tests.services import Clock, Site, SiteRules
from tests.unit.routes.world import Client, answer, open_client


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Its store is not open: nothing here asks it."""
    return Site(tmp_path / "data", SiteRules(), Clock())


@pytest.fixture
async def client(site: Site, tmp_path: Path) -> AsyncIterator[Client]:
    """With two files to serve, and one beside their folder."""
    static = tmp_path / "static"
    (static / "js").mkdir(parents=True)
    (static / "index.html").write_text("<!doctype html>hello")
    (static / "js" / "main.js").write_text("hello()")
    (tmp_path / "secret").write_text("a secret")
    async with open_client(site, static) as opened:
        yield opened


async def test_a_server_that_runs_says_so_whatever_the_state_of_its_store(site: Site, client: Client) -> None:
    site.health.store_failed()
    site.health.is_leaving = True
    assert await answer(client, "GET", "/healthz") == (200, {"ok": True})


async def test_a_server_that_cannot_work_says_why(site: Site, client: Client) -> None:
    assert await answer(client, "GET", "/readyz") == (200, {"ok": True, "reasons": []})
    site.health.store_failed()
    site.clock.advance(10)
    site.health.is_leaving = True
    expected = {"ok": False, "reasons": ["draining", "store"]}
    assert await answer(client, "GET", "/readyz") == (503, expected)


async def test_a_server_says_how_much_of_its_store_it_skipped(site: Site, client: Client) -> None:
    site.health.undecodable = 3
    assert await answer(client, "GET", "/readyz") == (200, {"ok": True, "reasons": [], "undecodable": 3})


async def test_a_server_says_what_it_is(client: Client) -> None:
    assert await answer(client, "GET", "/version") == (
        200,
        {"build": VERSION, "started_at": "2026-02-01T10:30:00.000Z", "features": ["accounts"]},
    )


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_plain_websocket_is_told_where_to_go(client: Client, method: str) -> None:
    for path in ("/ws/", "/ws/chat/room/"):
        status, body = await answer(client, method, path)
        assert (status, body["error"]["code"]) == (404, "not_found")
        assert "/socket.io/" in body["error"]["message"]
        assert "/chat" in body["error"]["message"]


async def test_the_web_client_is_served(client: Client) -> None:
    for path, kind, text in (("/", "text/html", "hello"), ("/static/js/main.js", "javascript", "hello()")):
        async with client.get(path) as response:
            assert (response.status, kind in response.headers["Content-Type"]) == (200, True)
            assert text in await response.text()


async def test_the_test_page_is_served_in_development_alone(
    site: Site, client: Client, tmp_path: Path
) -> None:
    static = tmp_path / "static"
    (static / "test-chat.html").write_text("two panes")
    assert (await answer(client, "GET", "/test-chat/lobby"))[0] == 404
    async with (
        open_client(site, static, has_test_page=True) as developing,
        developing.get("/test-chat/any room") as page,
    ):
        assert (page.status, await page.text()) == (200, "two panes")


@pytest.mark.parametrize("has_client", [True, False])
def test_a_missing_socketio_client_is_told_at_the_start(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, has_client: bool
) -> None:
    (tmp_path / "vendor").mkdir()
    if has_client:
        (tmp_path / "vendor" / "socket.io.esm.min.js").touch()
    System(site.health, tmp_path, started_at="", features=[], has_test_page=False)
    assert ("web.client_missing" in caplog.text) is not has_client


@pytest.mark.parametrize(
    "path",
    [
        "/static/none.js",
        "/static/js",
        "/static/js/",
        "/static/../secret",
        "/static/%2e%2e/secret",
        "/static/js/..%2f..%2f..%2fsecret",
        "/static/js/main.js%00",
        "/static//etc/passwd",
    ],
)
async def test_nothing_else_of_the_disk_is_served(client: Client, path: str) -> None:
    raw = str(URL(path, encoded=True))
    assert raw == path
    async with client.get(URL(path, encoded=True)) as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "not_found"
