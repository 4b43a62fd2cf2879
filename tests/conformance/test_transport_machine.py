"""Whatever real transports do: each client is sent all that it should be, once, in order."""

import asyncio
import os
from itertools import pairwise

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.realtime.server import Options
from tests.conformance.visitors import Host, Link, Visitor
from tests.conformance.wire import Site, eventually, running

EXAMPLES = int(os.environ.get("TERTULIA_TEST_EXAMPLES", "80"))
ROOMS = ("r", "s")
OPTIONS = Options(max_buffer_bytes=200_000)
SEND_BUFFER_BYTES = 20_000
LARGE_BYTES = 30_000
# By whether they ask for recovery.
NAMES = {"ana": True, "eva": True, "juan": False, "leo": False}

names = st.sampled_from(sorted(NAMES))
Step = tuple[str, str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *["emit"] * 5,
                *["burst", "large", "volatile", "both", "except", "held", "own", "ask"],
                *[
                    "join",
                    "leave",
                    "upgrade",
                    "stall",
                    "read",
                    "vanish",
                    "vanish",
                    "come",
                    "come",
                    "turn",
                    "calm",
                ],
            ]
        ),
        names,
        st.integers(0, 7),
    ),
    min_size=10,
    max_size=40,
)


class World:
    """The server, its visitors, and what each connection of theirs is owed, by its sid."""

    def __init__(self, site: Site, host: Host) -> None:
        self.site = site
        self.host = host
        self.visitors = {name: Visitor(site, name, is_recoverable=NAMES[name]) for name in NAMES}
        self.optional: set[int] = set()

    async def do(self, what: str, name: str, n: int) -> None:
        visitor = self.visitors[name]
        match what:
            case "join" | "leave":
                self.move(name, ROOMS[n % 2], is_in=what == "join")
            case "upgrade":
                await visitor.upgrade()
            case "stall" | "read":
                visitor.stall(is_stalled=what == "stall")
            case "vanish":
                await visitor.leave()
            case "come":
                visitor.remember()
                visitor.come(("websocket", "polling")[n % 2])
            case "turn":
                await asyncio.sleep(0)
            case "calm":
                await asyncio.sleep(0.01)
            case _:
                await self.send(what, name, n)

    async def send(self, what: str, name: str, n: int) -> None:
        room = ROOMS[n % 2]
        match what:
            case "own":
                self.host.tell(self.host.current[name])
            case "ask":
                await self.visitors[name].ask()
            case "both":
                self.emit(list(ROOMS))
            case "except":
                self.emit([room], [ROOMS[1 - n % 2]])
            case "volatile":
                self.emit([room], is_volatile=True)
            case "large":
                for _ in range(n):
                    self.emit([room], size_bytes=LARGE_BYTES)
            case _:
                if what == "held":
                    self.site.server.hold()
                for _ in range(1 if what == "emit" else 30):
                    self.emit([room])

    def emit(
        self,
        rooms: list[str],
        excepted: list[str] | None = None,
        *,
        size_bytes: int = 0,
        is_volatile: bool = False,
    ) -> None:
        number = next(self.host.numbers)
        if is_volatile:
            self.optional.add(number)
        for name, connection in self.host.current.items():
            inside = self.host.rooms[name] if NAMES[name] else connection.rooms
            if not set(rooms).isdisjoint(inside) and set(excepted or ()).isdisjoint(inside):
                self.host.owed[connection.sid].append(number)
        data = {"n": number, "text": "x" * size_bytes}
        self.site.server.emit(
            "e", data, namespace="/chat", rooms=rooms, except_rooms=excepted or (), volatile=is_volatile
        )

    def move(self, name: str, room: str, *, is_in: bool) -> None:
        connection = self.host.current[name]
        if not connection.is_open:
            return
        if is_in:
            tag = self.host.rooms[name].setdefault(room, f"{next(self.host.numbers)}")
            connection.enter(room, tag=tag)
        else:
            self.host.rooms[name].pop(room, None)
            connection.leave(room)

    async def end(self) -> None:
        """All are connected and have heard what was sent last; and all that each heard is right."""
        for name, visitor in self.visitors.items():
            is_heard = False
            while not is_heard:
                link = await visitor.come_home()
                last = self.host.tell(self.host.current[name])
                is_heard = await has_heard(link, last)
            self.check(visitor, last)

    def check(self, visitor: Visitor, last: int) -> None:
        (*_, present) = visitor.links
        for sid, links in visitor.links.items():
            owed = self.host.owed[sid]
            heard = [number for link in links for what, number in link.heard if what == "event"]
            assert heard == sorted(set(heard)), "once, and in order"
            assert set(heard) <= set(owed), "nothing that was for others"
            # What it asked for may still come.
            due = [number for number in owed if number <= last and number not in self.optional]
            received = [number for number in heard if number <= last and number not in self.optional]
            assert received == (due if sid == present else due[: len(received)]), "all, until it was lost"
            for link in links:
                for before, (what, number) in pairwise(link.heard):
                    if what == "ack" and number in self.host.at_once:
                        assert before == ("event", number), "an ack is behind what was sent before it"


async def has_heard(link: Link, number: int) -> bool:
    """False: it had been cut off, and did not know."""
    event = ("event", number)
    await eventually(lambda: event in link.heard or link.is_over)
    return event in link.heard


async def play(steps: list[Step]) -> None:
    host = Host()
    async with running(OPTIONS, host, send_buffer_bytes=SEND_BUFFER_BYTES) as site:
        world = World(site, host)
        for number, visitor in enumerate(world.visitors.values()):
            host.rooms[visitor.name] = dict.fromkeys(ROOMS, "1")
            visitor.come(("websocket", "polling")[number % 2])
            await visitor.arrived()
        try:
            for step in steps:
                await world.do(*step)
            await world.end()
        finally:
            for visitor in world.visitors.values():
                await visitor.leave()


def test_everybody_hears_over_real_transports_what_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.realtime.broadcast._MANY", 2)  # so that few are many

    @given(STEPS)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize="TERTULIA_TEST_EXAMPLES" not in os.environ,
        suppress_health_check=[HealthCheck.too_slow],
    )
    def play_all(steps: list[Step]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(play(steps))

    play_all()
