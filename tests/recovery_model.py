"""What a server owes each of some people who come and go, whatever becomes of their transports."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from server.realtime.application import RefusedError, TransportClosedError
from server.realtime.client import Client
from server.realtime.connection import Connection
from server.realtime.packets import Frame
from server.realtime.server import Server
from server.realtime.session import Reason, Session

AWAY_S, PING_S, SETTLE_S, REPLAY_S = 120.0, 45.0, 5.0, 10.0
ALL = 10_000


def now_s() -> float:
    return asyncio.get_running_loop().time()


class Stay:
    """A time in a room. It is void once its membership was found to have ended while the person was away."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.is_void = False


class Event:
    """An event as it concerns one person: the times in rooms by which it is due.

    `position` is that of the log's head then; `link` is where a volatile one may arrive.
    """

    def __init__(self, number: int, position: int, due_by: list[Stay], link: "Link | None") -> None:
        self.number = number
        self.position = position
        self.due_by = due_by
        self.link = link
        self.at_s = now_s()

    @property
    def is_due(self) -> bool:
        return any(not stay.is_void for stay in self.due_by)


class Story:
    """What the server owes somebody from a connection on that was not recovered."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.own = Stay("own")
        self.stays: dict[str, Stay] = {}
        self.events: dict[int, Event] = {}
        self.heard: list[int] = []
        # Since when it is away; None: it is, or seems to be, connected.
        self.away_since_s: float | None = None
        self.is_forgotten = False

    def owe(self, event: Event) -> None:
        if event.due_by:
            self.events[event.number] = event

    def missed(self) -> list[int]:
        owed = [event for event in self.events.values() if event.is_due and event.link is None]
        return [event.number for event in owed if event.number not in self.heard]


class Link(Client):
    """A session without a network, as the server has it and as the client reads it."""

    def __init__(self, server: Server, person: "Person", faults: list[str]) -> None:
        self.faults = faults
        self.pid, self.offset = person.pid, person.offset
        self.session = Session("request", server.options, lambda _: None)
        super().__init__(self.session, server)
        self.session.receiver = self
        self.session.start(is_websocket=True)
        self.came_at_s = now_s()
        self.claimed_at_s: float | None = None
        self.story: Story | None = None
        self.is_recovered = False
        self.accepted_at_s: float | None = None

    def say(self, text: str) -> None:
        if self.session.is_open:
            self.session.receive(Frame(text.encode()))

    def closed(self, reason: Reason) -> None:
        if reason is Reason.PARSE_ERROR:
            self.faults.append("the client broke the protocol")
        if self.accepted_at_s is not None and self.story is not None:
            self.story.away_since_s = now_s()
            if reason is Reason.SLOW_CONSUMER:
                self.story.is_forgotten = True
                if now_s() - self.accepted_at_s < REPLAY_S - 0.01:
                    self.faults.append("it had more time to be given all")
        super().closed(reason)


class Person:
    """A user, the only client that they have, and what they are members of."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.members: dict[str, str] = {}
        self.link: Link | None = None
        # What may be gone on with, by its pid.
        self.stories: dict[str, Story] = {}
        # What the client knows.
        self.pid: str | None = None
        self.offset: str | None = None

    def find_recoverable(self, link: Link) -> Story | None:
        """What the link is to go on with."""
        story = self.stories.get(link.pid) if link.pid is not None else None
        if story is None or story.is_forgotten:
            return None
        assert link.claimed_at_s is not None
        is_late = story.away_since_s is not None and link.claimed_at_s >= story.away_since_s + AWAY_S
        return None if is_late else story

    def may_begin_anew(self, story: Story, link: Link) -> bool:
        """Why somebody who is back in time need not be recovered."""
        place = int(link.offset.rpartition(".")[2], 16) if link.offset else 0
        old_s = now_s() - AWAY_S - PING_S
        is_old = any(
            event.at_s < old_s and event.position > place and event.number not in story.heard
            for event in story.events.values()
        )
        return is_old or now_s() - link.came_at_s > SETTLE_S - 0.01

    def end(self, story: Story) -> None:
        """Nobody can go on with it."""
        self.stories = {pid: each for pid, each in self.stories.items() if each is not story}

    def read(self, most: int = ALL) -> None:
        """The client takes frames, and acts on them."""
        if self.link is None:
            return
        for frame in self.link.session._take_unsent(most):
            text = frame.payload.decode()
            if text == "2":
                self.link.say("3")
            elif text.startswith("40/chat,"):
                answer = json.loads(text.removeprefix("40/chat,"))
                assert self.link.is_recovered == (answer["pid"] == self.pid)
                self.pid = answer["pid"]
            elif text.startswith("42/chat,"):
                self._hear(self.link, *json.loads(text.removeprefix("42/chat,"))[1:])
            else:
                assert text[0] == "0" or text.startswith(("41", "44")), text

    def _hear(self, link: Link, number: int, offset: str) -> None:
        assert link.story is not None
        assert number in link.story.events, "it is none of theirs"
        event = link.story.events[number]
        assert number > max(link.story.heard, default=0), "once, and in order"
        assert event.is_due, "they were removed before it was sent"
        assert event.link in (None, link), "a volatile event does not come again"
        link.story.heard.append(number)
        self.offset = offset


class Town:
    """The application: people enter the rooms that they are members of; it waits and refuses as told.

    `faults` is what is wrong: nobody would see an exception in here.
    """

    def __init__(self, people: Mapping[str, Person]) -> None:
        self.people = people
        self.faults: list[str] = []
        self.gate = asyncio.Event()
        self.end_gate = asyncio.Event()
        self.end_gate.set()
        self.present: set[str] = set()

    async def authenticate(self, connection: Connection, auth: Mapping[str, Any]) -> str:
        if auth["hold"] == "authenticate":
            await self.gate.wait()
        link_of(connection).claimed_at_s = now_s()
        return str(auth["user"])

    async def connect(self, connection: Connection, auth: Mapping[str, Any]) -> None:
        person = self.people[auth["user"]]
        if connection.sid in self.present:
            self.faults.append("the end of the one before has not been told")
        self.present.add(connection.sid)
        story = self._begin_or_go_on(person, connection)
        self._enter(person, story)
        if auth["hold"] == "connect":
            await self.gate.wait()
        if auth["verdict"] == "accept":
            return
        self.present.discard(connection.sid)
        if auth["verdict"] == "fail":
            raise TransportClosedError
        person.end(story)
        raise RefusedError("no", {})

    def _begin_or_go_on(self, person: Person, connection: Connection) -> Story:
        link = link_of(connection)
        assert connection._trail is not None
        found = person.find_recoverable(link)
        if found is None and connection.is_recovered:
            self.faults.append("it must not be recovered")
        if found is not None and not connection.is_recovered and not person.may_begin_anew(found, link):
            self.faults.append("it must be recovered")
        if not connection.is_recovered or found is None:
            person.stories.pop(str(link.pid), None)
            found = Story(connection)
        found.connection, link.story = connection, found
        link.is_recovered = connection.is_recovered
        person.stories[connection._trail.pid] = found
        return found

    def _enter(self, person: Person, story: Story) -> None:
        old, story.stays = story.stays, {}
        for room, tag in person.members.items():
            stay = old.get(room)
            goes_on = stay is not None and stay.tag == tag
            story.stays[room] = old.pop(room) if goes_on else Stay(tag)
            story.connection.enter(room, tag=tag)
        for stay in old.values():
            stay.is_void = True
        story.connection.enter(f"own {person.name}")

    def connected(self, connection: Connection) -> None:
        link = link_of(connection)
        assert link.story is not None
        link.story.away_since_s = None
        link.accepted_at_s = now_s()

    async def event(self, *_: object, **__: object) -> None: ...

    async def disconnected(self, connection: Connection, _reason: str) -> None:
        await self.end_gate.wait()
        self.present.discard(connection.sid)


def link_of(connection: Connection) -> Link:
    link = connection._owner
    assert isinstance(link, Link)
    return link
