"""The routes of a site on a free port, and a client for them."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from server.domain.ratelimit import Rate, RateLimiter
from server.routes.api import Api, ApiRules
from server.routes.edge import SOCKETIO_PATH, Edge, EdgeRules
from server.routes.system import System
from tests.services import Site

Client = TestClient[web.Request, web.Application]


def make_edge(
    site: Site,
    *,
    allowed_origins: tuple[str, ...] = (),
    trusted_proxies: tuple[str, ...] = (),
    connections_per_min: int | None = None,
    allows_localhost: bool = False,
) -> Edge:
    rules = EdgeRules(
        allowed_origins=allowed_origins,
        trusted_proxies=trusted_proxies,
        connections_per_min=connections_per_min,
        allows_localhost=allows_localhost,
    )
    return Edge(rules, site.health, RateLimiter())


class Backend:
    """What a test may look at: `handshakes` counts the requests that got through to Socket.IO."""

    def __init__(self, site: Site, edge: Edge, api: Api, static: Path, *, has_test_page: bool) -> None:
        self.handshakes = 0
        self.api = api
        self.app = web.Application(middlewares=[edge.middleware], client_max_size=65_536)
        system = System(
            site.health,
            static,
            started_at="2026-02-01T10:30:00.000Z",
            features=["accounts"],
            has_test_page=has_test_page,
        )
        self.app.add_routes([*api.routes(), *system.routes()])
        self.app.router.add_route("*", SOCKETIO_PATH, self._handshake)
        self.app.router.add_get("/api/bug", self._bug)

    async def _handshake(self, _request: web.Request) -> web.Response:
        self.handshakes += 1
        return web.Response(text="handshake")

    async def _bug(self, _request: web.Request) -> web.Response:
        raise ZeroDivisionError("a secret")


@contextlib.asynccontextmanager
async def open_backend(
    site: Site,
    static: Path,
    *,
    rates: Mapping[str, Rate] | None = None,
    logins_per_min: int | None = None,
    has_test_page: bool = False,
    **edge: Any,
) -> AsyncIterator[tuple[Backend, Client]]:
    """Serve for the length of a block."""
    site.health.is_started = True
    made = make_edge(site, **edge)
    rules = ApiRules(rates=rates, logins_per_min=logins_per_min)
    api = Api(site.accounts, site.rooms, site.messages, site.presence, made, RateLimiter(), rules)
    backend = Backend(site, made, api, static, has_test_page=has_test_page)
    async with TestClient(TestServer(backend.app)) as client:
        yield backend, client


@contextlib.asynccontextmanager
async def open_client(site: Site, static: Path, **rules: Any) -> AsyncIterator[Client]:
    """As `open_backend`, for those who look at answers alone."""
    async with open_backend(site, static, **rules) as (_, client):
        yield client


async def answer(client: Client, method: str, path: str, **request: Any) -> tuple[int, dict[str, Any]]:
    """(status, JSON)."""
    async with client.request(method, path, **request) as response:
        body: dict[str, Any] = await response.json()
        return response.status, body


async def error(client: Client, method: str, path: str, **request: Any) -> tuple[int, str, str | None]:
    """(status, code, field) of what is refused."""
    status, body = await answer(client, method, path, **request)
    assert body.keys() == {"error"}, body
    return status, body["error"]["code"], body["error"].get("field")
