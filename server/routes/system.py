"""Health, version, the pages, and where a stray client is told to go."""

from pathlib import Path

from aiohttp import web
from msgspec import Struct

from server.domain.errors import NotFoundError
from server.events import NAMESPACE, VERSION
from server.services.health import Health
from server.telemetry import get_logger

from .edge import SOCKETIO_PATH, json_response

# Not part of this project: `make web` fetches it.
_SOCKETIO_CLIENT = "vendor/socket.io.esm.min.js"
_log = get_logger(__name__)


class Version(Struct, frozen=True, kw_only=True):
    """What runs here and since when."""

    build: str
    started_at: str
    features: list[str]


class System:
    """The routes that are not /api. `static` is the folder of the web client.

    `has_test_page`: serve /test-chat/{room}, which is for development.
    """

    def __init__(
        self, health: Health, static: Path, *, started_at: str, features: list[str], has_test_page: bool
    ) -> None:
        self._health = health
        self._static = static
        self._files = {
            each.relative_to(static).as_posix(): each for each in static.rglob("*") if each.is_file()
        }
        self._has_test_page = has_test_page
        if _SOCKETIO_CLIENT not in self._files:
            _log.warning("web.client_missing", file=f"static/{_SOCKETIO_CLIENT}", remedy="make web")
        self._version = Version(build=VERSION, started_at=started_at, features=features)

    def routes(self) -> list[web.AbstractRouteDef]:
        """What to add to the application's router."""
        routes: list[web.AbstractRouteDef] = [
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/version", self.version),
            web.get("/", self.index),
            web.get("/static/{path:.+}", self.static_file),
            web.route("*", "/ws/{rest:.*}", self.websocket_elsewhere),
        ]
        if self._has_test_page:
            routes.append(web.get("/test-chat/{room}", self.two_panes))
        return routes

    async def healthz(self, _request: web.Request) -> web.Response:
        return json_response({"ok": True})

    async def readyz(self, _request: web.Request) -> web.Response:
        reasons = self._health.unready_because()
        told: dict[str, object] = {"ok": not reasons, "reasons": reasons}
        if degraded := self._health.degraded():
            told["degraded"] = degraded
        if undecodable := self._health.undecodable:
            told["undecodable"] = undecodable
        return json_response(told, status=503 if reasons else 200)

    async def version(self, _request: web.Request) -> web.Response:
        return json_response(self._version)

    async def index(self, _request: web.Request) -> web.FileResponse:
        return web.FileResponse(self._static / "index.html")

    async def two_panes(self, _request: web.Request) -> web.FileResponse:
        return web.FileResponse(self._static / "test-chat.html")

    async def static_file(self, request: web.Request) -> web.FileResponse:
        """One of the files that were there at the start: no path of a request ever reaches the disk."""
        file = self._files.get(request.match_info["path"])
        if file is None:
            raise NotFoundError(f"there is nothing at {request.path[:200]}")
        return web.FileResponse(file)

    async def websocket_elsewhere(self, _request: web.Request) -> web.Response:
        raise NotFoundError(
            "no plain WebSocket is served: connect a Socket.IO client to "
            f"{SOCKETIO_PATH}, namespace {NAMESPACE}"
        )
