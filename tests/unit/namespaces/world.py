"""A connection without an engine: it remembers what is done to it."""

from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any

import jwt
import msgspec
import pytest

from namespaces.base import NamespaceRules
from namespaces.chat import ChatNamespace
from namespaces.sessions import Session, SessionRules, Sessions
from server.domain.ratelimit import Rate, RateLimiter
from server.realtime import packets
from server.realtime.server import Connection
from server.services.accounts import Identity
from tests.harness import SECRET
from tests.services import Site

NAMESPACE = "/chat"


class FakeConnection(Connection):
    """As the engine's for its application. `journal` is all that was done to it, in order.

    `tags` are the rooms it is in with the names of its memberships; `transient` are the events that a client
    which comes back is not to be sent again.
    """

    def __init__(
        self, sid: str = "1", *, headers: dict[str, str] | None = None, query: dict[str, str] | None = None
    ) -> None:
        """Without the engine's own parts: nothing here calls them."""
        self.sid = sid
        self.namespace = NAMESPACE
        self.request = SimpleNamespace(headers=headers or {}, query=query or {})
        self.state = None
        self.is_recovered = False
        self.journal: list[tuple[Any, ...]] = []
        self.tags: dict[str, str | None] = {}
        self.transient: set[str] = set()
        self._is_over = False

    @property
    def rooms(self) -> frozenset[str]:
        return frozenset(self.tags)

    @property
    def is_open(self) -> bool:
        return not self._is_over

    def emit(self, event: str, data: object, *, is_kept: bool = True) -> None:
        packets.encode_event(self.namespace, event, data)
        if self.is_open:
            self.journal.append(("emit", event, data))
            if not is_kept:
                self.transient.add(event)

    def enter(self, room: str, *, tag: str | None = None) -> bool:
        if self.is_open and room not in self.tags:
            self.tags[room] = tag
            self.journal.append(("enter", room))
        return False

    def leave(self, room: str) -> None:
        if room in self.tags:
            del self.tags[room]
            self.journal.append(("leave", room))

    def disconnect(self) -> None:
        self._end("disconnect")

    def close(self) -> None:
        self._end("close")

    def _end(self, how: str) -> None:
        if self.is_open:
            self._is_over = True
            self.tags.clear()
            self.journal.append((how,))

    def emitted(self, event: str) -> list[Any]:
        """What was sent with this event."""
        return [entry[2] for entry in self.journal if entry[:2] == ("emit", event)]

    def ending(self) -> list[str]:
        """How it ended."""
        return [entry[0] for entry in self.journal if entry[0] in ("disconnect", "close")]


class World:
    """The sessions of a site: they follow its notices, behind the directory.

    `forgotten` are those whose connections that were away were made unrecoverable, as often as they were.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        rules = SessionRules(leeway_s=5, expiring_notice_s=60)
        self.forgotten: list[str] = []
        self.listened: set[str] = set()
        self.sessions = Sessions(
            site.rooms,
            rules,
            forget_away=self.forgotten.append,
            listen_to=self._listen_to,
            connections_in=self._connections_in,
            has_ended=site.accounts.has_ended,
            clock=site.clock.s,
        )
        site.publisher.follow(self.sessions.handle)
        self._sids = iter(range(1, 1_000_000))

    def _connections_in(self, channel: str) -> list[Connection]:
        here = map(connection_of, self.sessions._sessions.values())
        return [each for each in here if channel in each.tags]

    async def _listen_to(self, room_ids: Collection[str]) -> None:
        self.listened.update(room_ids)

    def session(
        self, user_id: str, *, room_id: str | None = None, identity: Identity | None = None
    ) -> Session:
        """A session that has not been admitted yet."""
        return Session(
            FakeConnection(f"{next(self._sids)}"), identity or self.site.identity(user_id), room_id
        )

    async def connect(self, user_id: str, **session: Any) -> Session:
        """A session that is live."""
        made = self.session(user_id, **session)
        await self.sessions.admit(made)
        self.sessions.go_live(made)
        return made


def connection_of(session: Session) -> FakeConnection:
    assert isinstance(session.connection, FakeConnection)
    return session.connection


def rooms_of(session: Session) -> set[str]:
    """The rooms that it is in, of what people are in: not who knows what."""
    return {each for each in session.connection.rooms if each.startswith(("room:", "user:"))}


def codes(session: Session) -> list[tuple[str, str]]:
    """Why the session was ended, and what its client does next."""
    return [(end.code, end.retry) for end in connection_of(session).emitted("session_ended")]


class Chat(World):
    """The namespace over a site, as the engine calls it."""

    def __init__(
        self,
        site: Site,
        *,
        rates: Mapping[str, Rate] | None = None,
        deadline_s: float = 10,
        may_query_token: bool = False,
    ) -> None:
        super().__init__(site)
        site.health.is_started = True
        rules = NamespaceRules(rates=rates, deadline_s=deadline_s, may_query_token=may_query_token)
        self.namespace = ChatNamespace(
            site.accounts,
            site.rooms,
            site.messages,
            site.sync,
            site.presence,
            self.sessions,
            site.health,
            RateLimiter(),
            rules,
        )

    def token(self, user_id: str, **claims: Any) -> str:
        """A token of the site's own users."""
        now = int(self.site.clock.now_s)
        named = {"sub": user_id, "preferred_username": user_id, "iat": now, "exp": now + 900, **claims}
        return jwt.encode(named, SECRET, algorithm="HS256")

    async def connect_with(self, connection: FakeConnection, auth: Mapping[str, object]) -> None:
        """What the engine does with a CONNECT packet."""
        await self.namespace.authenticate(connection, auth)
        await self.namespace.connect(connection, auth)

    async def enter(self, user_id: str, **auth: Any) -> FakeConnection:
        """A connection that was accepted."""
        connection = FakeConnection(f"{next(self._sids)}")
        await self.connect_with(connection, {"token": self.token(user_id), **auth})
        self.namespace.connected(connection)
        return connection

    async def ask(self, connection: FakeConnection, event: str, *args: object) -> dict[str, Any]:
        """The ack of an event, as JSON."""
        answer = await self.namespace.event(connection, event, list(args), wants_ack=True)
        decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(answer))
        return decoded

    async def call(self, connection: FakeConnection, event: str, **payload: Any) -> dict[str, Any]:
        """The data of an event that is done."""
        answer = await self.ask(connection, event, payload)
        assert answer.keys() == {"ok", "data"}, answer
        data: dict[str, Any] = answer["data"]
        return data

    async def error(self, connection: FakeConnection, event: str, *args: object) -> dict[str, Any]:
        """The error of an event that is refused."""
        answer = await self.ask(connection, event, *args)
        assert answer.keys() == {"ok", "error"}, answer
        error: dict[str, Any] = answer["error"]
        return error

    async def is_forgotten(self, user_id: str) -> bool:
        """Whether nothing here knows of the user any more, once the grace is over."""
        self.site.clock.advance(5)
        await self.site.ephemeral.reap()
        return not self.sessions._people and not await self.site.ephemeral.online({user_id})


def logged(caplog: pytest.LogCaptureFixture, error_id: object) -> list[dict[str, Any]]:
    """The events of the log with this error id that have a stack trace."""
    found = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    return [event for event in found if event.get("error_id") == error_id and "Traceback" in str(event)]
