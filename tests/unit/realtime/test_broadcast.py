"""Broadcasts beside the plain thing: each member is sent each event by itself."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from server.realtime import packets
from server.realtime.broadcast import _MANY, Broadcast
from server.realtime.connection import Connection
from server.realtime.hold import Hold
from server.realtime.outlet import BEHIND_BYTES
from server.realtime.packets import Frame
from server.realtime.recovery import Recovery
from server.realtime.rooms import Rooms
from server.realtime.session import Options, Reason, Session
from tests.conformance.wire import Recorder
from tests.unit.realtime.test_session import Wire

OPTIONS = Options(max_buffer_bytes=4 * BEHIND_BYTES)
NAMES = ("a", "b")
COUNT = _MANY + 4


class Tap(Wire):
    """A client that takes what was written to it when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[bytes] = []

    def take(self) -> None:
        self.taken += self.written
        self.written.clear()


class Member:
    """A connection on a session with a wire; every third asks for recovery, every fourth has no websocket."""

    is_full = False

    def __init__(self, crowd: "Crowd", number: int) -> None:
        self.crowd = crowd
        self.auth: dict[str, object] = {"recovery": True} if number % 3 == 0 else {}
        self.session = Session("the request", crowd.options, lambda _: None, crowd.hold)
        self.session.receiver = self
        self.tap = Tap()
        self.connection = Connection(
            "/chat",
            self.session,
            application=crowd.application,
            rooms=crowd.rooms,
            recovery=crowd.recovery,
            options=crowd.options,
            owner=self,
        )
        if number % 4:
            self.upgrade()

    def upgrade(self) -> None:
        if not self.session.outlet.is_open and self.session.is_open and not self.tap.is_lost:
            self.tap.write(packets.encoded(*self.session._take_unsent()).wire)
            self.session.outlet.open(self.tap)

    def heard(self) -> tuple[bytes, bool]:
        """All that was sent, in the frames of a websocket, and whether it is open."""
        queued = packets.encoded(*self.session._unsent).wire
        return b"".join([*self.tap.taken, *self.tap.written]) + queued, self.connection.is_open

    def answered(self) -> None: ...

    async def wait_for_room(self) -> None: ...

    def received(self, frame: Frame) -> None: ...

    def closed(self, reason: Reason) -> None:
        self.connection.end(reason)

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self.crowd.tasks.append(task)
        return task

    def opened(self) -> None: ...

    def ended(self, connection: Connection, reason: Reason) -> None: ...


class Crowd:
    """Members, and what is the same for all of them."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.hold = Hold()
        self.rooms: Rooms[Connection] = Rooms()
        self.recovery = Recovery(options.recovery, ping_s=1)
        self.application = Recorder()
        self.tasks: list[asyncio.Task[None]] = []
        self.members = [Member(self, number) for number in range(COUNT)]

    async def begin(self) -> "Crowd":
        for number, member in enumerate(self.members):
            # Ids and times are their own; compared is what comes behind them.
            member.connection.sid, member.session.sid = f"sid{number}", f"session{number}"
            member.connection.begin(member.auth)
            await asyncio.wait([self.tasks[-1]])
            member.session._take_unsent()
            member.tap.written.clear()
            for room in NAMES:
                member.connection.enter(room)
        return self


CHANGES = ("take", "enter", "leave", "lose", "end", "upgrade")
SENDS = ("volatile", "both", "except", "ack", "hold", "turn")
# What is done, by or to which member, and how large it is.
Step = tuple[str, int, int]
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(
        st.sampled_from([*["emit"] * len(CHANGES + SENDS), *CHANGES, *SENDS]),
        st.integers(0, COUNT - 1),
        st.sampled_from([*[10] * 4, 2_000, BEHIND_BYTES // 3, BEHIND_BYTES]),
    ),
    min_size=10,
    max_size=40,
)
# One who takes nothing, by broadcasts alone, and with much that is for it alone.
STALLED: list[Step] = [("emit", 2, 2_000), ("volatile", 2, 10)] * 150
LOADED: list[Step] = [("emit", 2, 10), *[("ack", 5, BEHIND_BYTES)] * 2, ("volatile", 2, 10), ("emit", 2, 10)]
FULL: list[Step] = [("emit", 2, 10), *[("ack", 5, BEHIND_BYTES)] * 4, ("emit", 2, 10)]
LOST: list[Step] = [("emit", 1, 10), ("lose", 5, 0), ("emit", 1, 10)]


def send_each(crowd: Crowd) -> Callable[..., None]:
    def send(
        packet: packets.EventPacket,
        offset: str,
        rooms: list[str],
        except_rooms: list[str],
        *,
        volatile: bool,
    ) -> None:
        for connection in crowd.rooms.members(rooms, except_rooms):
            connection.deliver(packet, offset, volatile=volatile)

    return send


async def play(crowd: Crowd, steps: list[Step], send: Callable[..., None]) -> list[tuple[bytes, bool]]:
    for number, (what, who, size_bytes) in enumerate(steps):
        packet = packets.encode_event("/chat", "said", {"n": number, "text": "x" * size_bytes})
        if what in CHANGES:
            change(crowd, what, who)
        elif what == "ack":
            crowd.members[who].session.send(packet.plain())
        elif what == "hold":
            crowd.hold.begin()
        elif what == "turn":
            await asyncio.sleep(0)
        else:
            rooms = list(NAMES) if what == "both" else [NAMES[who % len(NAMES)]]
            except_rooms = [NAMES[0]] if what == "except" else []
            send(packet, f"at.{number}", rooms, except_rooms, volatile=what == "volatile")
    await asyncio.sleep(0)
    heard = [member.heard() for member in crowd.members]
    for member in crowd.members:
        member.session.abort(Reason.SHUTDOWN)
    await asyncio.wait(crowd.tasks)
    return heard


def change(crowd: Crowd, what: str, who: int) -> None:
    member, room = crowd.members[who], NAMES[who % len(NAMES)]
    match what:
        case "take":
            for each in crowd.members[who:]:
                each.tap.take()
        case "enter":
            member.connection.enter(room)
        case "leave":
            member.connection.leave(room)
        case "lose":
            member.tap.is_lost = True
        case "end":
            member.session.close(Reason.FORCED_CLOSE)
        case _:
            member.upgrade()


async def check(steps: list[Step], options: Options) -> None:
    each, together = await Crowd(options).begin(), await Crowd(options).begin()
    broadcast = Broadcast(together.rooms, together.hold, max_buffer_bytes=options.max_buffer_bytes)
    assert await play(together, steps, broadcast.send) == await play(each, steps, send_each(each))


@example(STALLED, OPTIONS)
@example(LOADED, OPTIONS)
@example(FULL, OPTIONS)
@example(LOST, OPTIONS)
@given(STEPS, st.sampled_from([OPTIONS, replace(OPTIONS, max_buffer_bytes=5_000)]))
@settings(max_examples=150, deadline=None)
def test_each_member_is_sent_what_it_would_be_sent_alone(steps: list[Step], options: Options) -> None:
    asyncio.run(check(steps, options))


async def test_the_idle_members_of_a_large_room_are_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = await Crowd(OPTIONS).begin()
    broadcast = Broadcast(crowd.rooms, crowd.hold, max_buffer_bytes=OPTIONS.max_buffer_bytes)
    asked: list[Connection] = []
    deliver = Connection.deliver

    def counted(connection: Connection, *args: Any, **rest: Any) -> None:
        asked.append(connection)
        deliver(connection, *args, **rest)

    monkeypatch.setattr(Connection, "deliver", counted)
    for _ in range(3):
        broadcast.send(packets.encode_event("/chat", "said", {}), "at.1", ["a"], volatile=False)
    by_polling = [member.connection for member in crowd.members if not member.session.outlet.is_open]
    assert asked == [member.connection for member in crowd.members] + 2 * by_polling
    for member in crowd.members:
        member.session.abort(Reason.SHUTDOWN)
    await asyncio.wait(crowd.tasks)
