from collections.abc import Awaitable, Callable, Mapping, Sequence
from logging import Logger
from typing import Any, TypeAlias, TypeVar, overload

_Handler = TypeVar("_Handler", bound=Callable[..., Any])
_Auth: TypeAlias = Mapping[str, Any] | Callable[[], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]

class AsyncClient:
    connected: bool
    sid: str | None
    namespaces: dict[str, str]
    # The Engine.IO client underneath.
    eio: Any
    def __init__(
        self,
        reconnection: bool = True,
        reconnection_attempts: int = 0,
        reconnection_delay: float = 1,
        reconnection_delay_max: float = 5,
        randomization_factor: float = 0.5,
        logger: bool | Logger = False,
        serializer: str = "default",
        json: Any = None,
        handle_sigint: bool = True,
        **engineio_options: Any,
    ) -> None: ...
    @overload
    def on(self, event: str, *, namespace: str | None = None) -> Callable[[_Handler], _Handler]: ...
    @overload
    def on(self, event: str, handler: Callable[..., Any], namespace: str | None = None) -> None: ...
    def get_sid(self, namespace: str | None = None) -> str | None: ...
    def transport(self) -> str: ...
    async def connect(
        self,
        url: str,
        headers: Mapping[str, str] = ...,
        auth: _Auth | None = None,
        transports: Sequence[str] | None = None,
        namespaces: str | Sequence[str] | None = None,
        socketio_path: str = "socket.io",
        wait: bool = True,
        wait_timeout: float = 1,
        retry: bool = False,
    ) -> None: ...
    async def wait(self) -> None: ...
    async def emit(
        self,
        event: str,
        data: Any = None,
        namespace: str | None = None,
        callback: Callable[..., Any] | None = None,
    ) -> None: ...
    async def call(
        self, event: str, data: Any = None, namespace: str | None = None, timeout: float = 60
    ) -> Any: ...
    async def disconnect(self) -> None: ...
    async def shutdown(self) -> None: ...
