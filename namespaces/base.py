"""Between the engine and the use cases: who may connect, and every event by the same steps.

known event? session? one object? rate? decode? call, answer.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from msgspec import Struct

from server import events
from server.domain.errors import (
    ChatError,
    InternalError,
    InvalidError,
    RateLimitedError,
    UnauthenticatedError,
    UnavailableError,
    UnknownEventError,
)
from server.domain.ratelimit import Rate, RateLimiter
from server.domain.rules import find_bad_text
from server.realtime.server import Connection, RefusedError, TransportClosedError
from server.services.accounts import AccountService, Identity
from server.services.health import Health
from server.services.presence import PresenceService
from server.services.views import error_view
from server.telemetry import Repeats, get_logger, new_error_id
from server.views import ErrorView, EventFailed

from .sessions import Session, Sessions, retry_after

_MOST_CLIENT_MSG_ID_CHARS = 64
_log = get_logger(__name__)

Handler = Callable[[Session, Any], Awaitable[Struct]]


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The ack of every event: `{ok: true, data}` or `{ok: false, error}`."""

    ok: bool
    data: Struct | None = None
    error: ErrorView | None = None


class NamespaceRules(Struct, frozen=True, kw_only=True):
    """`rates` None: no limits. `deadline_s` is how long an event may take."""

    rates: Mapping[str, Rate] | None
    deadline_s: float
    may_query_token: bool


class _Arrival(NamedTuple):
    """Who connects, as read when so many logins had ended: the end of one since then would be missed."""

    identity: Identity
    ended_logins: int


class Namespace:
    """The engine's application. A subclass has one method for each event of the contract."""

    def __init__(
        self,
        accounts: AccountService,
        presence: PresenceService,
        sessions: Sessions,
        health: Health,
        limiter: RateLimiter,
        rules: NamespaceRules,
    ) -> None:
        self._accounts = accounts
        self._presence = presence
        self._sessions = sessions
        self._health = health
        self._limiter = limiter
        self._rules = rules
        self._rejections = Repeats()
        self._handlers: dict[str, Handler] = {name: getattr(self, name) for name in events.CLIENT_EVENTS}

    async def authenticate(self, connection: Connection, auth: Mapping[str, object]) -> str:
        """The id of the user whose token it is, or a refusal with a code."""
        async with self._refusing(connection):
            arrival = await self._arrive(connection, auth)
        connection.state = arrival
        return arrival.identity.user.id

    async def connect(self, connection: Connection, auth: Mapping[str, object]) -> None:
        """Enter the rooms, or refuse with a code."""
        async with self._refusing(connection):
            await self._admit(connection, auth)

    @asynccontextmanager
    async def _refusing(self, connection: Connection) -> AsyncIterator[None]:
        """Nothing but what the engine understands ever leaves this block, and it does so in time."""
        try:
            async with asyncio.timeout(self._rules.deadline_s):
                yield
        except (UnavailableError, TimeoutError) as error:
            self._health.store_failed()
            _log.warning("conn.closed", sid=connection.sid, code="unavailable")
            raise TransportClosedError from error
        except ChatError as error:
            _log.info("conn.refused", sid=connection.sid, code=error.code)
            raise RefusedError(error.message, {"code": error.code, "retry": retry_after(error)}) from None
        except Exception:  # noqa: BLE001 - logged; a client must never be left without an answer
            error_id = new_error_id()
            _log.exception("conn.refused", sid=connection.sid, code="internal", error_id=error_id)
            data: dict[str, object] = {"code": "internal", "retry": "never", "error_id": error_id}
            raise RefusedError("something went wrong on the server", data) from None

    async def _arrive(self, connection: Connection, auth: Mapping[str, object]) -> _Arrival:
        ended_logins = self._sessions.ended_logins
        return _Arrival(await self.identify(self._token(connection, auth)), ended_logins)

    async def _admit(self, connection: Connection, auth: Mapping[str, object]) -> None:
        room_id = auth.get("room_id")
        if room_id is not None and not isinstance(room_id, str):
            raise InvalidError("auth.room_id is a string", field="room_id")
        arrival = connection.state
        assert isinstance(arrival, _Arrival)  # noqa: S101 - authenticate returned
        if arrival.ended_logins != self._sessions.ended_logins:
            arrival = await self._arrive(connection, auth)
        identity = arrival.identity
        session = Session(connection, identity, room_id)
        await self._sessions.admit(session)
        connection.state = session
        try:
            await self._presence.arrive(identity.user, connection.sid)
        except BaseException:
            await self.disconnected(connection, "refused")
            raise

    async def identify(self, token: str | None) -> Identity:
        """Whom the token stands for as this returns; the end of a login just read would miss its session."""
        while True:
            ended_logins = self._sessions.ended_logins
            identity = await self._accounts.authenticate(token)
            if ended_logins == self._sessions.ended_logins:
                return identity

    def _token(self, connection: Connection, fields: Mapping[str, object]) -> str | None:
        token = fields.get("token")
        if token is not None:
            return token if isinstance(token, str) else "not a token"
        scheme, _, bearer = connection.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and bearer:
            return str(bearer).strip()
        return connection.request.query.get("token") if self._rules.may_query_token else None

    def connected(self, connection: Connection) -> None:
        """CONNECT is written."""
        session = connection.state
        assert isinstance(session, Session)  # noqa: S101 - connect returned
        is_recovered = connection.is_recovered
        _log.info("conn.accepted", sid=connection.sid, user_id=session.user_id, is_recovered=is_recovered)
        self._sessions.go_live(session)

    async def disconnected(self, connection: Connection, reason: str) -> None:
        """The connection is over, accepted or cut off while it was being accepted."""
        session = connection.state
        if not isinstance(session, Session):
            return
        connection.state = None
        self._sessions.remove(session)
        _log.info("conn.closed", sid=connection.sid, user_id=session.user_id, reason=reason)
        try:
            await self._presence.leave(session.user_id, connection.sid)
        except ChatError as error:
            _log.warning("presence.failed", code=error.code)

    async def event(
        self, connection: Connection, name: str, args: list[object], *, wants_ack: bool
    ) -> object | None:
        """Every event is answered: by its ack, or where it asked for none, by `event_failed` if it failed."""
        try:
            async with asyncio.timeout(self._rules.deadline_s):
                answer = Answer(ok=True, data=await self._handle(connection, name, args))
        except ChatError as error:
            self._log_rejected(connection, name, error)
            answer = Answer(ok=False, error=error_view(error))
        except TimeoutError:
            _log.warning("msg.rejected", sid=connection.sid, name=name, code="unavailable")
            answer = Answer(ok=False, error=error_view(UnavailableError("it took too long")))
        except Exception:  # noqa: BLE001 - logged; every event is answered
            error_id = new_error_id()
            _log.exception("msg.rejected", sid=connection.sid, name=name, code="internal", error_id=error_id)
            answer = Answer(ok=False, error=error_view(InternalError(error_id)))
        if not wants_ack and answer.error is not None:
            shown_name = name[:64].encode(errors="replace").decode()
            failed = EventFailed(event=shown_name, client_msg_id=_client_msg_id(args), error=answer.error)
            connection.emit("event_failed", failed)
        return answer if wants_ack else None

    def _log_rejected(self, connection: Connection, name: str, error: ChatError) -> None:
        who = connection.state.user_id if isinstance(connection.state, Session) else connection.sid
        left_out = self._rejections.admit((who, error.code))
        if left_out is not None:
            about = {"name": name[:64], "code": error.code, "field": error.field, "left_out": left_out}
            _log.info("msg.rejected", sid=connection.sid, **about)

    async def _handle(self, connection: Connection, name: str, args: list[object]) -> Struct:
        session = connection.state
        if not isinstance(session, Session):
            raise UnauthenticatedError("this connection is not signed in")
        declared = events.CLIENT_EVENTS.get(name)
        self._take_rate(session.user_id, "query" if declared is None else declared.rate)
        if declared is None:
            raise UnknownEventError("the server knows no such event")
        payload = events.decode(_one_object(args, declared, session.room_id), declared.payload)
        return await self._handlers[name](session, payload)

    def _take_rate(self, user_id: str, rate_class: str) -> None:
        if self._rules.rates is None:
            return
        wait_s = self._limiter.take((user_id, rate_class), self._rules.rates[rate_class], time.monotonic())
        if wait_s > 0:
            raise RateLimitedError("too many events", retry_after_ms=int(wait_s * 1000) + 1)


def _one_object(args: list[object], declared: events.ClientEvent, room_id: str | None) -> dict[str, object]:
    payload = args[0] if args else {}
    if len(args) > 1 or not isinstance(payload, dict):
        raise InvalidError("an event carries one object")
    if room_id is None:
        return payload
    own = dict(payload)
    if own.get("type") == declared.name:
        del own["type"]
    if "room_id" in declared.payload.__struct_fields__ and "to_user_id" not in own:
        own.setdefault("room_id", room_id)
    return own


def _client_msg_id(args: list[object]) -> str | None:
    payload = args[0] if args else None
    given = payload.get("client_msg_id") if isinstance(payload, dict) else None
    if not isinstance(given, str) or len(given) > _MOST_CLIENT_MSG_ID_CHARS:
        return None
    return given if find_bad_text(given) is None else None
