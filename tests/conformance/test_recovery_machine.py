"""Whatever becomes of clients, transports and memberships: each client is sent all, once, in order."""

import asyncio
import json
import os
from collections.abc import Coroutine
from itertools import count
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from msgspec import Struct

from server.realtime.server import Options, RecoveryOptions, Server
from server.realtime.session import Reason
from tests.recovery_model import ALL, AWAY_S, PING_S, Event, Link, Person, Stay, Town, link_of, now_s
from tests.virtual_time import VirtualLoop, settle

_T = TypeVar("_T")
EXAMPLES = int(os.environ.get("TERTULIA_TEST_EXAMPLES", "40"))
USERS = ("ana", "juan")
ROOMS = ("r", "s")
LOSSES = (Reason.TRANSPORT_CLOSE, Reason.TRANSPORT_ERROR, Reason.PING_TIMEOUT, Reason.FORCED_CLOSE)
HOLDS = ("nothing", "nothing", "authenticate", "connect")
VERDICTS = ("accept", "accept", "accept", "accept", "refuse", "fail")
users = st.sampled_from(USERS)
rooms = st.sampled_from(ROOMS)
some = st.sampled_from([ALL, ALL, 5, 3, 1, 0])


class Said(Struct, frozen=True, kw_only=True):
    """An event to some rooms, but not to one of the people."""

    to: frozenset[str]
    but: str | None
    is_volatile: bool
    is_alone: bool


class Done(Struct, frozen=True, kw_only=True):
    """Somebody joins or leaves a room, or is told something alone (None)."""

    name: str
    room: str | None
    is_alone: bool


Deed = Said | Done
said = st.builds(
    Said,
    to=st.frozensets(rooms, min_size=1),
    but=st.none() | st.none() | users,
    is_volatile=st.sampled_from([False, False, True]),
    is_alone=st.booleans(),
)
done = st.builds(Done, name=users, room=st.none() | rooms | rooms, is_alone=st.booleans())
deeds = st.lists(said | said | done, max_size=6)


class RecoveryMachine(RuleBasedStateMachine):
    """People who emit, come and go, over transports that break, against what each of them is owed."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.numbers = count(1)
        self.people = {name: Person(name) for name in USERS}
        self.town = Town(self.people)
        self.server = Server(Options(recovery=RecoveryOptions(max_away_s=AWAY_S)))
        self.server.register("/chat", self.town)
        self.log = self.server.namespaces["/chat"].recovery.log
        for person in self.people.values():
            person.members = {room: f"{next(self.numbers)}" for room in ROOMS}
            self.run(self.come_back(person, "nothing", "accept", ALL))

    def run(self, what: Coroutine[Any, Any, _T]) -> _T:
        result = self.runner.run(what)
        assert self.town.faults == []
        return result

    def teardown(self) -> None:
        try:
            self.run(self.everybody_comes_home())
            self.run(self.everybody_leaves())
        finally:
            self.runner.close()

    @rule(what=deeds)
    def happen(self, what: list[Deed]) -> None:
        self.run(self.do(what))

    @rule(name=users, most=some, is_noticed=st.booleans(), before=deeds, meanwhile=deeds)
    def be_away(
        self, name: str, most: int, before: list[Deed], meanwhile: list[Deed], *, is_noticed: bool
    ) -> None:
        """What happens before may not arrive any more."""

        async def act() -> None:
            person = self.people[name]
            await self.do(before)
            person.read(most)
            if person.link is not None and is_noticed:
                person.link.session.abort(Reason.TRANSPORT_CLOSE)
            await self.do(meanwhile)
            await self.come_back(person, "nothing", "accept")

        self.run(act())

    @rule(name=users, verdict=st.sampled_from(VERDICTS), meanwhile=deeds, after=deeds, most=some)
    def be_decided_on(
        self, name: str, verdict: str, meanwhile: list[Deed], after: list[Deed], most: int
    ) -> None:
        """For so long that something happens; and if not accepted, it tries again."""

        async def act() -> None:
            person = self.people[name]
            await self.come_back(person, "connect", verdict)
            await self.do(meanwhile)
            await self.open_gates()
            await self.do(after)
            person.read(most)
            if verdict != "accept":
                await self.come_back(person, "nothing", "accept")

        self.run(act())

    async def do(self, deeds: list[Deed]) -> None:
        """So much is said, and so many come to be members or cease to be."""
        for deed in deeds:
            if isinstance(deed, Said):
                self.emit(deed)
            elif deed.room is None:
                self.emit_to_one(self.people[deed.name])
            else:
                self.add_or_remove(self.people[deed.name], deed.room)
            if deed.is_alone:
                await settle()

    def emit(self, said: Said) -> None:
        number = next(self.numbers)
        except_rooms = [] if said.but is None else [f"own {said.but}"]
        self.server.emit(
            "e",
            number,
            namespace="/chat",
            rooms=said.to,
            except_rooms=except_rooms,
            volatile=said.is_volatile,
        )
        for person in self.people.values():
            for story in person.stories.values() if person.name != said.but else ():
                stays = [stay for room, stay in story.stays.items() if room in said.to]
                link = link_of(story.connection) if said.is_volatile else None
                story.owe(Event(number, self.log.head, stays, link))

    def emit_to_one(self, person: Person) -> None:
        for story in person.stories.values():
            if story.connection.is_open:
                number = next(self.numbers)
                story.connection.emit("e", number)
                story.owe(Event(number, self.log.head, [story.own], None))

    def add_or_remove(self, person: Person, room: str) -> None:
        present = [story for story in person.stories.values() if story.connection.is_open]
        if person.members.pop(room, None) is not None:
            for story in present:
                story.connection.leave(room)
                story.stays.pop(room)
        else:
            person.members[room] = tag = f"{next(self.numbers)}"
            for story in present:
                story.connection.enter(room, tag=tag)
                story.stays[room] = Stay(tag)

    @rule(name=users, most=some)
    def read(self, name: str, most: int) -> None:
        async def act() -> None:
            self.people[name].read(most)
            await settle()

        self.run(act())

    @rule(name=users, most=some, reason=st.sampled_from(LOSSES))
    def lose(self, name: str, most: int, reason: Reason) -> None:
        """The client got so many frames more."""

        async def act() -> None:
            person = self.people[name]
            if person.link is not None:
                person.link.session.close(reason)
                person.read(most)
                person.link.session.abort(reason)
                person.link = None
            await settle()

        self.run(act())

    @rule(name=users, most=some)
    def vanish(self, name: str, most: int) -> None:
        """The server does not know."""

        async def act() -> None:
            self.people[name].read(most)
            self.people[name].link = None

        self.run(act())

    @rule(name=users, hold=st.sampled_from(HOLDS), verdict=st.sampled_from(VERDICTS), most=some)
    def come(self, name: str, hold: str, verdict: str, most: int) -> None:
        self.run(self.come_back(self.people[name], hold, verdict, most))

    async def come_back(self, person: Person, hold: str, verdict: str, most: int = 0) -> None:
        person.link = Link(self.server, person, self.town.faults)
        known = {"pid": person.pid, "offset": person.offset}
        ticket = {"user": person.name, "recovery": True, "hold": hold, "verdict": verdict}
        ticket.update({name: value for name, value in known.items() if value is not None})
        person.link.say(f"40/chat,{json.dumps(ticket)}")
        await settle()
        person.read(most)

    @rule()
    def decide(self) -> None:
        self.run(self.open_gates())

    @rule()
    def hold_ends(self) -> None:
        self.town.end_gate.clear()

    async def open_gates(self) -> None:
        self.town.end_gate.set()
        self.town.gate.set()
        await settle()
        self.town.gate.clear()

    @rule(name=users, is_by_client=st.booleans())
    def disconnect(self, name: str, *, is_by_client: bool) -> None:
        async def act() -> None:
            person = self.people[name]
            link = person.link
            if link is None or not link._connections:
                return
            (connection,) = link._connections.values()
            if is_by_client:
                link.say("41/chat,")
            else:
                connection.disconnect()
            story = link.story or person.stories.get(str(link.pid))
            if link.claimed_at_s is not None and story is not None:
                person.end(story)
            link.story = person.link = None
            await settle()

        self.run(act())

    @rule(name=users)
    def forget(self, name: str) -> None:
        person = self.people[name]
        story = person.stories.get(str(person.pid))
        if story is not None:
            story.is_forgotten = True
            self.run(self.do_forget(story.connection.sid))

    async def do_forget(self, sid: str) -> None:
        self.server.forget("/chat", sid)

    @rule(seconds=st.sampled_from([1, 6, 30, 118, 121, 200]), readers=st.just(set(USERS)) | st.sets(users))
    def time_passes(self, seconds: int, readers: set[str]) -> None:
        async def act() -> None:
            until_s = now_s() + seconds
            while now_s() < until_s:
                await asyncio.sleep(min(4, until_s - now_s()))
                for name in readers:
                    self.people[name].read()
            await settle()

        self.run(act())

    @rule(name=users)
    def catch_up(self, name: str) -> None:
        self.run(self.hear_all(self.people[name]))

    async def hear_all(self, person: Person) -> None:
        await settle()
        while person.link is not None and person.link.session._unsent:
            person.read()
            await settle()
        link = person.link
        if link is not None and link.story is not None and link.accepted_at_s is not None:
            assert link.story.connection._phase.name in ("OPEN", "ENDED")
            if link.session.is_open:
                assert link.story.missed() == []

    async def everybody_comes_home(self) -> None:
        await self.open_gates()
        for person in self.people.values():
            await self.come_back(person, "nothing", "accept")
            await self.hear_all(person)
            assert person.link is not None
            assert person.link.accepted_at_s is not None
            assert person.link.session.is_open

    async def everybody_leaves(self) -> None:
        """And nothing is left of them."""
        for person in self.people.values():
            assert person.link is not None
            person.link.session.abort(Reason.TRANSPORT_CLOSE)
        await asyncio.sleep(PING_S + AWAY_S + 1)
        namespace = self.server.namespaces["/chat"]
        assert self.server.away("/chat", "ana") == []
        assert not namespace.connections
        assert not self.server._tasks
        assert not self.town.present
        assert not namespace.rooms._members
        assert not namespace.rooms._rooms
        assert not namespace.recovery._connected
        assert not namespace.recovery._away


def test_everybody_is_sent_each_event_that_they_should_be_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.realtime.replay.CHUNK_FRAMES", 2)  # to be found in the middle of it
    run_state_machine_as_test(
        RecoveryMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            derandomize="TERTULIA_TEST_EXAMPLES" not in os.environ,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
