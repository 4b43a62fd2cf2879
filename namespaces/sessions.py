"""The signed-in connections of this server: whose they are, which rooms they are in, and when they end."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple

from msgspec import Struct

from server.domain.errors import ChatError, NotFoundError, TokenRevokedError
from server.realtime.server import Connection
from server.services.accounts import Identity
from server.services.notices import Control, LoginEnded, MembershipChanged, SocketsEnded
from server.services.rooms import RoomService
from server.telemetry import get_logger
from server.views import ExpiresData, RoomJoined, RoomLeft, ServerDraining, SessionEnded

_LONGEST_TIMER_S = 24 * 3600.0
_READ_AT_A_TIME = 20
# Of so many comings and goings a session remembers that it knows them; an old notice of others is told again.
_MOST_KNOWN = 100
_ROOM = "room:"
_log = get_logger(__name__)


class SessionRules(Struct, frozen=True, kw_only=True):
    """Durations in seconds."""

    leeway_s: int
    expiring_notice_s: int


def room_channel(room_id: str) -> str:
    """The engine's room of a chat room."""
    return _ROOM + room_id


def room_of_channel(channel: str) -> str:
    """The chat room of an engine's room that `room_channel` names."""
    return channel.removeprefix(_ROOM)


def user_channel(user_id: str) -> str:
    """The engine's room of everything a user has open."""
    return f"user:{user_id}"


def told_channel(told: RoomJoined | RoomLeft) -> str:
    """The engine's room of those who know it already: when a notice of it comes they are not told."""
    return ("joined:" if isinstance(told, RoomJoined) else "left:") + told.room_id


class Session:
    """One accepted connection. `room_id`: it asked for that room alone."""

    def __init__(self, connection: Connection, identity: Identity, room_id: str | None) -> None:
        self.connection = connection
        self.identity = identity
        self.room_id = room_id
        self.is_live = False
        self.end: SessionEnded | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.was_warned = False
        # The engine's rooms of what it is not to be told by a notice, the oldest first.
        self.known: dict[str, None] = {}

    @property
    def user_id(self) -> str:
        return self.identity.user.id


class _Person:
    """A user's sessions here, oldest first; `version` counts the notices about their memberships."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.version = 0


class _Moved(NamedTuple):
    """The chat rooms that a session was taken out of and put into."""

    session: Session
    left: list[str]
    entered: list[str]


class Sessions:
    """All sessions of this server."""

    def __init__(
        self,
        rooms: RoomService,
        rules: SessionRules,
        *,
        forget_away: Callable[[str], None],
        listen_to: Callable[[Collection[str]], Awaitable[None]],
        connections_in: Callable[[str], Collection[Connection]],
        has_ended: Callable[[Identity], Awaitable[bool]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`forget_away` makes the connections of a user that are away unrecoverable.

        `listen_to` has rooms told on this server: a session enters them behind it. `connections_in` are those
        in an engine's room. `has_ended` asks the store whether a login holds.
        """
        self._rooms = rooms
        self._rules = rules
        self._forget_away = forget_away
        self._listen_to = listen_to
        self._connections_in = connections_in
        self._has_ended = has_ended
        self._clock = clock
        self._people: dict[str, _Person] = {}
        self._sessions: dict[Connection, Session] = {}
        self.ended_logins = 0
        """How many logins have ended: a token that was read before the last of them is to be read again."""

    async def admit(self, session: Session) -> None:
        """Register the session and enter its rooms, before its CONNECT is written.

        Raises NotFoundError when the one room it asked for is not the user's, TokenRevokedError when its
        login ended meanwhile. A session that was refused is not registered.
        """
        person = self._people.setdefault(session.user_id, _Person())
        person.sessions[session.connection.sid] = session
        self._sessions[session.connection] = session
        try:
            await self._enter_rooms(session.user_id, [session])
            _require_admitted(session)
        except BaseException:
            self.remove(session)
            raise

    def go_live(self, session: Session) -> None:
        """CONNECT is written: start its clock; end it if it ended meanwhile."""
        session.is_live = True
        if session.end is not None:
            self._end(session, session.end)
        else:
            self._watch(session)

    def remove(self, session: Session) -> None:
        """The connection is over."""
        if session.timer is not None:
            session.timer.cancel()
        self._sessions.pop(session.connection, None)
        person = self._people.get(session.user_id)
        if person is not None:
            person.sessions.pop(session.connection.sid, None)
            if not person.sessions:
                del self._people[session.user_id]

    def renew(self, session: Session, identity: Identity) -> int:
        """The session goes on with another token of the same user; the seconds until that one expires."""
        session.identity = identity
        session.was_warned = False
        self._watch(session)
        return self.expires_in(session)

    def expires_in(self, session: Session) -> int:
        """Whole seconds until the token's `exp`, 0 when it is past."""
        return max(0, int(session.identity.expires_at - self._clock()))

    async def handle(self, notice: Control) -> None:
        """Do here what a notice says; when it returns it is done."""
        if isinstance(notice, LoginEnded):
            self.ended_logins += 1
            self._forget_away(notice.user_id)
            for session in self._sessions_of(notice.user_id):
                if notice.login_id in (None, session.identity.login_id):
                    self._end(session, _revoked())
        elif isinstance(notice, SocketsEnded):
            for session in self._sessions_of(notice.user_id):
                if session.connection.sid in notice.connection_ids and session.end is None:
                    self._end(session, _too_many(notice.limit))
        elif isinstance(notice, MembershipChanged):
            if notice.left_because is not None:
                self._leave(notice, RoomLeft(room_id=notice.room_id, reason=notice.left_because))
            await self._follow(notice)

    async def settle(self, room_id: str) -> None:
        """Have nobody in the room here who is in it no more, heard of or not. Raises UnavailableError."""
        here = self._connections_in(room_channel(room_id))
        people = list({self._sessions[each].user_id for each in here if each in self._sessions})
        members = await self._rooms.members_among(room_id, people)
        await self._refresh_all([user_id for user_id in people if user_id not in members])

    async def refresh(self) -> None:
        """Read anew who is in which room and whose login has ended: notices of it may have been missed.

        Raises UnavailableError.
        """
        await self._refresh_all(list(self._people))

    async def drain(self, spread_s: float) -> None:
        """Tell every session when it will be closed, and close them one after the other over `spread_s`."""
        live = [each for person in self._people.values() for each in person.sessions.values() if each.is_live]
        step_s = spread_s / max(1, len(live))
        for index, session in enumerate(live):
            delay_ms = int(index * step_s * 1000)
            told = ServerDraining(reconnect_in_ms=delay_ms)
            session.connection.emit("server_draining", told, is_kept=False)
        for session in live:
            session.connection.close()
            await asyncio.sleep(step_s)

    def _leave(self, notice: MembershipChanged, data: RoomLeft) -> None:
        for user_id in notice.user_ids & self._people.keys():
            for session in self._sessions_of(user_id):
                was_in = _leave(session, notice.room_id)
                if was_in and session.room_id == notice.room_id:
                    session.connection.emit("room_left", data)
                elif not was_in:
                    _know_already(session, data)

    async def _follow(self, notice: MembershipChanged) -> None:
        """Be in the room, or not, as the store says now. Of others there are notices, or `refresh` tells.

        Sessions whose rooms cannot be read are closed: they come back.
        """
        concerned = notice.user_ids & self._people.keys()
        for user_id in concerned:
            self._people[user_id].version += 1
        for user_id in concerned:
            sessions = self._sessions_of(user_id)
            try:
                for moved in await self._enter_rooms(user_id, sessions, only=notice.room_id):
                    _tell_unless_told(moved, notice)
            except ChatError as error:
                _log.warning("conn.closed", user_id=user_id, code=error.code)
                for session in sessions:
                    session.connection.close()

    async def _enter_rooms(
        self, user_id: str, sessions: list[Session], *, only: str | None = None
    ) -> list[_Moved]:
        """Put the sessions into the rooms that the store names, or into that one; out of those it does not.

        Reads again when a notice came meanwhile.
        """
        while (person := self._people.get(user_id)) is not None:
            version = person.version
            incarnations = await self._rooms.incarnations(user_id)
            await self._listen_to(incarnations.keys())
            if person.version == version:
                return [_settle(session, incarnations, only) for session in sessions]
        return []

    async def _refresh_all(self, user_ids: list[str]) -> None:
        for start in range(0, len(user_ids), _READ_AT_A_TIME):
            await asyncio.gather(*map(self._refresh, user_ids[start : start + _READ_AT_A_TIME]))

    async def _refresh(self, user_id: str) -> None:
        sessions = [each for each in self._sessions_of(user_id) if each.is_live]
        for moved in await self._enter_rooms(user_id, sessions):
            _tell(moved)
        for session in sessions:
            if session.end is None and await self._has_ended(session.identity):
                self._end(session, _revoked())

    def _sessions_of(self, user_id: str) -> list[Session]:
        person = self._people.get(user_id)
        return list(person.sessions.values()) if person is not None else []

    def _watch(self, session: Session) -> None:
        if session.timer is not None:
            session.timer.cancel()
        left_s = session.identity.expires_at - self._clock()
        if left_s <= -self._rules.leeway_s:
            self._end(session, _expired())
            return
        if left_s <= self._rules.expiring_notice_s and not session.was_warned:
            session.was_warned = True
            told = ExpiresData(expires_in=self.expires_in(session))
            session.connection.emit("auth_expiring", told, is_kept=False)
        next_s = (
            left_s + self._rules.leeway_s if session.was_warned else left_s - self._rules.expiring_notice_s
        )
        loop = asyncio.get_running_loop()
        session.timer = loop.call_later(min(max(next_s, 0.001), _LONGEST_TIMER_S), self._watch, session)

    def _end(self, session: Session, end: SessionEnded) -> None:
        session.end = end
        if not session.is_live:
            return
        if session.timer is not None:
            session.timer.cancel()
        _log.info("conn.ended", user_id=session.user_id, sid=session.connection.sid, code=end.code)
        session.connection.emit("session_ended", end, is_kept=False)
        if end.retry == "never":
            session.connection.disconnect()
        else:
            session.connection.close()


def _settle(session: Session, incarnations: Mapping[str, str], only: str | None) -> _Moved:
    connection = session.connection
    present = {room_of_channel(each) for each in connection.rooms if each.startswith(_ROOM)}
    wanted = set(incarnations)
    if session.room_id is not None:
        wanted &= {session.room_id}
    else:
        connection.enter(user_channel(session.user_id))
    left, entered = present - wanted, wanted - present
    if only is not None:
        left, entered = left & {only}, entered & {only}
    for room_id in left:
        _leave(session, room_id)
    for room_id in entered:
        goes_on = connection.enter(room_channel(room_id), tag=incarnations[room_id])
        if connection.is_recovered and session.room_id and not (goes_on or session.is_live):
            connection.emit("room_joined", RoomJoined(room_id=room_id))  # no notice tells it that
        _know_no_more(session, told_channel(RoomLeft(room_id=room_id, reason="removed")))
        _know_no_more(session, told_channel(RoomJoined(room_id=room_id)))
    if only is not None and only not in wanted:
        _leave(session, only)
    return _Moved(session, sorted(left), sorted(entered))


def _leave(session: Session, room_id: str) -> bool:
    """Whether it was in the room. While it is out nobody tells it that it joined: a notice may be old."""
    was_in = room_channel(room_id) in session.connection.rooms
    session.connection.leave(room_channel(room_id))
    _know(session, RoomJoined(room_id=room_id))
    return was_in


def _know(session: Session, told: RoomJoined | RoomLeft) -> None:
    """It is not to be told this by a notice, as a session of one room never is."""
    if session.room_id is None:
        session.connection.enter(told_channel(told))
        session.known.setdefault(told_channel(told))
        if len(session.known) > _MOST_KNOWN:
            _know_no_more(session, next(iter(session.known)))


def _know_no_more(session: Session, channel: str) -> None:
    session.known.pop(channel, None)
    session.connection.leave(channel)


def _know_already(session: Session, told: RoomJoined | RoomLeft) -> None:
    """It was so before the notice came. Who is recovered has not read it by `sync`, and is told."""
    if not session.connection.is_recovered:
        _know(session, told)


def _tell_unless_told(moved: _Moved, notice: MembershipChanged) -> None:
    """Tell a session where a notice put it, unless what is behind the notice does, or it knows.

    Who was put out and is back already may have missed what was said in between.
    """
    session = moved.session
    is_joining = notice.is_told and notice.left_because is None
    if is_joining and moved.entered and session.room_id is None:
        return
    _tell(moved)
    if is_joining:
        _know_already(session, RoomJoined(room_id=notice.room_id))


def _tell(moved: _Moved) -> None:
    """Tell a session out of which rooms and into which it was put, though no notice has come."""
    session = moved.session
    if not session.is_live:
        return
    told: list[tuple[str, RoomJoined | RoomLeft]] = [
        *(("room_left", RoomLeft(room_id=each, reason="removed")) for each in moved.left),
        *(("room_joined", RoomJoined(room_id=each)) for each in moved.entered),
    ]
    for event, data in told:
        # Who takes all of the user's rooms is told it by the notice yet, if it is lost on the way.
        session.connection.emit(event, data, is_kept=session.room_id is not None)
        _know(session, data)


def _require_admitted(session: Session) -> None:
    if session.end is not None:
        raise TokenRevokedError("this login was ended")
    if session.room_id is not None and room_channel(session.room_id) not in session.connection.rooms:
        raise NotFoundError("there is no such room, or you are not in it", field="room_id")


def _expired() -> SessionEnded:
    return SessionEnded(code="token_expired", message="the token has expired", retry="refresh")


def _revoked() -> SessionEnded:
    return SessionEnded(code="token_revoked", message="this login was ended", retry="never")


def _too_many(limit: int) -> SessionEnded:
    message = f"more than {limit} connections are open: the oldest one was ended"
    return SessionEnded(code="rate_limited", message=message, retry="never")


def retry_after(error: ChatError) -> str:
    """What a client that is refused does next: `refresh` its token, or `never` try again by itself."""
    return "refresh" if error.code == "token_expired" else "never"
