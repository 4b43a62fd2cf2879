from collections.abc import Callable, Sequence
from logging import Logger
from typing import Any, TypeVar, overload

from aiohttp import web

from .async_socket import AsyncSocket
from .packet import Packet

_Handler = TypeVar("_Handler", bound=Callable[..., Any])

class AsyncServer:
    class reason:
        SERVER_DISCONNECT: str
        CLIENT_DISCONNECT: str
        PING_TIMEOUT: str
        TRANSPORT_CLOSE: str
        TRANSPORT_ERROR: str

    ping_interval: float
    ping_timeout: float
    max_http_buffer_size: int
    sockets: dict[str, AsyncSocket]
    handlers: dict[str, Callable[..., Any]]
    transports: list[str]
    # The driver's create_route, translate_request, make_response and websocket.
    _async: dict[str, Any]
    def __init__(
        self,
        async_mode: str | None = None,
        ping_interval: float = 25,
        ping_timeout: float = 20,
        max_http_buffer_size: int = 1_000_000,
        allow_upgrades: bool = True,
        http_compression: bool = True,
        compression_threshold: int = 1024,
        cookie: str | dict[str, Any] | None = None,
        cors_allowed_origins: str | list[str] | Callable[..., bool] | None = None,
        cors_credentials: bool = True,
        logger: bool | Logger = False,
        json: Any = None,
        async_handlers: bool = True,
        monitor_clients: bool | None = None,
        transports: str | Sequence[str] | None = None,
    ) -> None: ...
    @overload
    def on(self, event: str) -> Callable[[_Handler], _Handler]: ...
    @overload
    def on(self, event: str, handler: Callable[..., Any]) -> None: ...
    def transport(self, sid: str) -> str: ...
    def attach(self, app: web.Application, engineio_path: str = "engine.io") -> None: ...
    async def send(self, sid: str, data: str | bytes | list[Any] | dict[str, Any]) -> None: ...
    async def send_packet(self, sid: str, pkt: Packet) -> None: ...
    async def disconnect(self, sid: str | None = None) -> None: ...
    async def handle_request(self, request: web.Request) -> web.StreamResponse: ...
    async def shutdown(self) -> None: ...
