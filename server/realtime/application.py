"""What a namespace provides: who may connect, and what events do."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from server.realtime.connection import Connection


class RefusedError(Exception):
    """Raised by `Application.connect`: the client is answered CONNECT_ERROR `{message, data}`."""

    def __init__(self, message: str, data: dict[str, object]) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class TransportClosedError(Exception):
    """Raised by `Application.connect`: the transport is closed unanswered; standard clients come back."""


class Application(Protocol):
    """What a namespace provides."""

    async def authenticate(self, connection: "Connection", auth: Mapping[str, object]) -> str:
        """Whose connection it is to be: only its owner may recover it. Raises as `connect`.

        `auth` is the CONNECT packet's object, {} where it had none.
        """

    async def connect(self, connection: "Connection", auth: Mapping[str, object]) -> None:
        """Decide whether `connection` may stay, and have it enter its rooms; also when it is recovered.

        On return CONNECT is sent. RefusedError: CONNECT_ERROR; TransportClosedError: the transport is closed;
        else: logged and refused with code `internal`. Cancelled when the connection ends meanwhile.
        """

    def connected(self, connection: "Connection") -> None:
        """CONNECT, and behind it what was held back, has been queued in this moment."""

    async def event(
        self, connection: "Connection", name: str, args: list[object], *, wants_ack: bool
    ) -> object | None:
        """Handle an event: one at a time a connection, in the order sent. Returns the ack's one argument.

        It should not raise: then the client gets no ack. `args` may hold bytes, of any client's making.
        """

    async def disconnected(self, connection: "Connection", reason: str) -> None:
        """The connection has ended. Called once, after `connect` and the last `event` have finished.

        Not called when `connect` raised while the connection was open: that connection never came to be.
        """
